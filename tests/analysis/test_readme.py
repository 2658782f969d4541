"""README: in step with the committed reports, and short."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from analysis.readme import BLOCKS, benchmarks, renewed
from tests.analysis.conftest import Plan, write_tables

README, FAQ = Path("README.md"), Path("FAQ.md")


def test_readme_says_what_the_committed_reports_say() -> None:
    text = README.read_text(encoding="utf-8")
    assert renewed(text, Path("reports")) == text, "run `make readme`"


def test_readme_is_short_and_its_first_screen_has_figure_grid_and_both_commands() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    first = "\n".join(lines[: lines.index("## Your own images")])
    assert "reports/figures/guide.png" in first
    assert "make study" in first
    assert "make test" in first


@pytest.mark.parametrize("page", [README, FAQ])
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page.read_text(encoding="utf-8")):
        assert link.startswith("http") or Path(link).exists(), link


def test_every_number_of_an_answer_stands_in_a_page_that_it_links_to() -> None:
    answers = FAQ.read_text(encoding="utf-8").split("\n\n**")[1:]
    assert len(answers) >= 8
    for answer in answers:
        linked = " ".join(Path(link).read_text(encoding="utf-8") for link in links(answer))
        for figure in re.findall(r"[+−]?\d+\.\d", answer):
            assert figure in linked, f"{figure} of: {answer}"


def links(text: str) -> list[str]:
    """The files or addresses that a page links to."""
    return re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)


def test_every_block_is_written_between_its_marks_and_the_rest_stays(tmp_path: Path) -> None:
    write_tables(tmp_path / "leaves", Plan(study="leaves", seeds=range(10), epochs=4))
    (tmp_path / "benchmarks").mkdir()
    rounds = [("thaw", 2.0), ("thaw", 4.0), ("thaw", 3.0), ("fastai", 30.0)]
    rows = [{"workload": "fine-tuning, two seeds", "contender": name, "work_seconds": s} for name, s in rounds]
    content = {"machine": {"cpu": "a CPU", "cores": 2}, "results": rows}
    (tmp_path / "benchmarks" / "peers.json").write_text(json.dumps(content), encoding="utf-8")
    text = "".join(f"before {name}\n<!-- {name} -->\nold\n<!-- end of {name} -->\n" for name in BLOCKS) + "after\n"
    new = renewed(text, tmp_path)
    assert "\nold\n" not in new
    assert [line for line in new.splitlines() if line.startswith("before")] == [f"before {name}" for name in BLOCKS]
    assert renewed(new, tmp_path) == new
    assert "| fine-tuning, two seeds | 3\N{NO-BREAK SPACE}s | – | 30\N{NO-BREAK SPACE}s | – |" in benchmarks(tmp_path)


@pytest.mark.parametrize("name", list(BLOCKS))
def test_readme_has_a_place_for_every_block(name: str) -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(f"<!-- {name} -->") == text.count(f"<!-- end of {name} -->") == 1
