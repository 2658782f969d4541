"""The report of one study: report.md answers in two pages, details.md holds the rest; two lists of sections."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import markdown, style
from analysis.claims import ClaimsError
from analysis.comparison import Comparison, compare
from analysis.markdown import Section
from analysis.sections import (
    ablations,
    answer,
    batch_norm,
    cite,
    claims,
    classes,
    cost,
    curves,
    depth,
    drift,
    exercises,
    limits,
    lr_finder,
    pairs,
    phases,
    provenance,
    published,
    recipes,
    strategies,
    sweep,
    trust,
)
from analysis.tables import TablesError, load

Question = Callable[[Comparison], Section | None]
REPORT: tuple[Question, ...] = (
    *(answer.section, strategies.section, batch_norm.section, claims.section),
    *(exercises.section, trust.section, cite.section),
)
DETAILS: tuple[Question, ...] = (
    *(pairs.section, strategies.details, curves.section, cost.section, sweep.section, lr_finder.section),
    *(phases.section, depth.section, drift.section, ablations.section, claims.details, classes.section),
    *(recipes.section, published.section, limits.section, provenance.section),
)


def write(folder: Path) -> None:
    """Read the tables in `folder` and write both pages, figures and numbers beside them."""
    study = compare(load(folder))
    questions = {"report.md": REPORT, "details.md": DETAILS}
    pages = {name: [found for ask in asked if (found := ask(study))] for name, asked in questions.items()}
    titles = {"report.md": f"Which strategy? {study.study}", "details.md": f"Details: {study.study}"}
    with replacing(folder) as new:
        write_csv(study.pairs, new / "comparisons.csv")
        _write_json(list(study.verdicts), new / "claims.json")
        for name, values in metrics(study).items():
            _write_json(values, new / "metrics" / f"{name}.json")
        write_pictures([part for page in pages.values() for part in page], new / "figures")
        for name, page in pages.items():
            text = markdown.page(titles[name], page, contents=name == "details.md")
            (new / name).write_text(text, encoding="utf-8", newline="\n")
        kept = {path.relative_to(new) for path in new.rglob("*.*")}
    for old in sorted([*(folder / "figures").iterdir(), *(folder / "metrics").iterdir()]):
        if old.suffix in {".png", ".svg", ".csv", ".json"} and old.relative_to(folder) not in kept:
            old.unlink()


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A place for new pages; they replace those in `folder` when all are written, none where a disk is full."""
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as temporary:
        new = Path(temporary)
        yield new
        for path in sorted(new.rglob("*.*")):
            place = folder / path.relative_to(new)
            place.parent.mkdir(exist_ok=True)
            path.replace(place)


def write_pictures(page: Sequence[Section], folder: Path) -> None:
    """Draw every figure of these sections and write it with its data."""
    folder.mkdir(exist_ok=True)
    for picture in (picture for section in page for picture in section.pictures):
        base = folder / picture.name
        write_csv(picture.data, base.with_suffix(".csv"))
        with style.theme():
            style.save(picture.draw(), base)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """A table to six digits, the same bytes on every system."""
    path.write_text(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"), encoding="utf-8", newline="\n")


def _write_json(value: object, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.write_text(text, encoding="utf-8", newline="\n")


def metrics(study: Comparison) -> dict[str, dict[str, float]]:
    """By strategy, the judged accuracy (percent) of each size: what `dvc metrics show` and `diff` put in a row."""
    found: dict[str, dict[str, float]] = {}
    for row in study.strategies.to_dict("records"):
        size = str(row["per_class"] or "all")
        found.setdefault(str(row["strategy"]), {})[size] = round(float(row["judged"]), 2)
    return found


def advice(study: Comparison) -> list[dict[str, Any]]:
    """What to expect of every strategy at the largest size, and which of them nothing beats, the one to use first."""
    size = study.unbeaten[-1]
    ends = {"judged": "judged", "low": "judged_low", "high": "judged_high"}
    found = []
    for name in dict.fromkeys([*size.advised, *study.ran(size.per_class)]):
        row, about = study.of(size.per_class, name), {"per_class": size.per_class, "metric": study.metric}
        numbers = {name: None if isnan(row[column]) else row[column] for name, column in ends.items()}
        found.append({"strategy": name, **about, "advised": name in size.advised, **numbers})
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of a study, or say its answer."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("study", help="the study's folder below --reports")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where the studies' folders are")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--answer", action="store_true", help="print the answer; write nothing")
    what.add_argument("--advice", action="store_true", help="print what to expect of each strategy as JSON")
    chosen = parser.parse_args(arguments)
    folder = chosen.reports / chosen.study
    try:
        if not folder.is_dir():
            known = sorted(path.parent.name for path in chosen.reports.glob("*/provenance.json"))
            names = f"choose from {', '.join(known)}" if known else "run `dvc repro` first"
            raise TablesError(f"there are no tables of a study {chosen.study!r} in {chosen.reports}; {names}")
        if chosen.answer:
            study = compare(load(folder))
            cautions = [line.replace("**", "").replace("`", "") for line in trust.lines(study)[:3]]
            print(answer.setting(study), markdown.plain(answer.table(study)), "\n".join(cautions), sep="\n\n")
            print(f"Report: {folder / 'report.md'}")
        elif chosen.advice:
            print(json.dumps(advice(compare(load(folder))), allow_nan=False))
        else:
            write(folder)
            print(f"wrote {folder / 'report.md'} and details.md")
    except (TablesError, ClaimsError) as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"error: {folder}: {error.strerror}; the pages are as they were")


if __name__ == "__main__":
    main()
