"""Write the answers of published studies into README.md, between the marks that name them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from analysis import findings, wording
from analysis.answer import answer
from analysis.tables import TablesError, load, size_name
from analysis.words import bracket, percent

BLOCK = re.compile(r"(<!-- results of (?P<studies>[\w ]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def lines(reports: Path, study: str) -> list[str]:
    """One study: what was compared, every strategy's accuracy, and for each size what to use. Raises TablesError."""
    numbers = findings.compute(load(reports / study))
    said = [f"**[{study}]({(reports / study / 'report.md').as_posix()})**: {wording.setting(numbers)}", ""]
    said += [f"| Strategy | {' | '.join(size_name(size) for size in numbers.sizes)} |"]
    said += ["| --- |" + " ---: |" * len(numbers.sizes)]
    for name in numbers.names:
        cells = []
        for size in numbers.sizes:
            row = numbers.of(size, name)
            cells.append(
                f"{percent(row['judged'])} {bracket(row['judged_low'], row['judged_high'], 'without')}".strip()
            )
        said.append(f"| `{name}` | {' | '.join(cells)} |")
    means = f"{numbers.metric.capitalize()} in percent, mean over seeds [95% interval over {numbers.over}]."
    said += ["", means, ""]
    for top in numbers.tops:
        advice = answer(numbers, top)
        said += [f"- {advice.headline} {advice.caution}".rstrip()]
    return said


def renewed(text: str, reports: Path) -> str:
    """The text with every block of results written anew. Raises TablesError where a study has no tables."""

    def block(match: re.Match[str]) -> str:
        written = ["\n".join(lines(reports, study)) for study in match["studies"].split()]
        return f"{match[1]}\n" + "\n\n".join(written) + f"\n\n{match[3]}"

    return BLOCK.sub(block, text)


def main() -> None:
    """Renew README.md in this folder."""
    path = Path("README.md")
    try:
        path.write_text(renewed(path.read_text(encoding="utf-8"), Path("reports")), encoding="utf-8")
    except TablesError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
