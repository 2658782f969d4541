"""The report of one study: report.md answers in two pages, details.md holds the rest; two lists of sections."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
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
    write_csv(study.pairs, folder / "comparisons.csv")
    _write_json(list(study.verdicts), folder / "claims.json")
    files = {folder / "metrics" / f"{name}.json": values for name, values in metrics(study).items()}
    for path, values in files.items():
        _write_json(values, path)
    kept = {*files} | write_pictures([part for page in pages.values() for part in page], folder / "figures")
    for old in sorted([*(folder / "figures").iterdir(), *(folder / "metrics").iterdir()]):
        if old.suffix in {".png", ".svg", ".csv", ".json"} and old not in kept:
            old.unlink()
    titles = {"report.md": f"Which strategy? {study.study}", "details.md": f"Details: {study.study}"}
    for name, page in pages.items():
        text = markdown.page(titles[name], page, contents=name == "details.md")
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def write_pictures(page: Sequence[Section], folder: Path) -> set[Path]:
    """Draw every figure of these sections and write it with its data; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = set()
    for picture in (picture for section in page for picture in section.pictures):
        base = folder / picture.name
        write_csv(picture.data, base.with_suffix(".csv"))
        with style.theme():
            style.save(picture.draw(), base)
        written |= {base.with_suffix(f".{ending}") for ending in ("csv", "png", "svg")}
    return written


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


if __name__ == "__main__":
    main()
