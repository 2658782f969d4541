"""README's results, between the marks that name them: the guide's grid, a report's figure, the benchmarks."""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from analysis.guide import default
from analysis.markdown import NONE, Table, block
from analysis.situations import grid, published
from analysis.tables import TablesError

REPORTS = Path("reports")
WORKLOADS = ("feature extraction, five seeds", "fine-tuning, two seeds", "seven strategies, five seeds")
CONTENDERS = ("thaw", "plain PyTorch", "fastai", "Lightning")


def guide(reports: Path) -> str:
    """The guide's first answer, figure and grid."""
    studies = published(reports)
    table, picture = grid(studies, "reports/")
    words = (
        "Points over `feature_extraction` (a new head alone; its accuracy in percent), by study and images a class. "
        "Framed: no 95% interval shows another to be better, and no run failed. What names and columns mean, "
        "and what follows: [the guide](reports/guide.md)."
    )
    figure = f"![{picture.alt}](reports/figures/{picture.name}.png)"
    return "\n\n".join((default(studies), figure, words, block(table)))


def report(reports: Path) -> str:
    """The figure of the first published study in the guide, as an example."""
    study = published(reports)[0].study
    folder = (reports / study).as_posix()
    figure = f"![Every strategy of {study}]({folder}/figures/strategies.png)"
    words = "shaded are, of the default strategies, those that nothing beats: use the highest."
    return f"{figure}\n\nFrom [{study}]({folder}/report.md): {words}"


def benchmarks(reports: Path) -> str:
    """Three rows: the same work by Thaw and its peers, seconds of work as medians over rounds."""
    path = reports / "benchmarks" / "peers.json"
    measured = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for workload in WORKLOADS:
        mine = [row for row in measured["results"] if row["workload"] == workload]
        seconds = ([row["work_seconds"] for row in mine if row["contender"] == name] for name in CONTENDERS)
        rows.append((workload, *(f"{statistics.median(found):.0f} s" if found else NONE for found in seconds)))
    table = Table(("Work", "Thaw", *CONTENDERS[1:]), tuple(rows), frozenset(range(1, 5)))
    machine = f"{measured['machine']['cpu']}, {measured['machine']['cores']} cores"
    more = f"[the benchmarks]({(path.parent / 'report.md').as_posix()})"
    return f"{block(table)}\n\n{machine}; –: not measured. More in {more}."


BLOCKS: Mapping[str, Callable[[Path], str]] = {"guide": guide, "report": report, "benchmarks": benchmarks}


def renewed(text: str, reports: Path) -> str:
    """The text with every block written anew. Raises TablesError where a study has no tables."""
    for name, write in BLOCKS.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        written = write(reports)
        text = mark.sub(lambda found, written=written: f"{found[1]}{written}\n{found[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    """Renew README.md in this folder."""
    path = Path("README.md")
    try:
        path.write_text(renewed(path.read_text(encoding="utf-8"), REPORTS), encoding="utf-8", newline="\n")
    except TablesError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
