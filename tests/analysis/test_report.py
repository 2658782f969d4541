"""Both pages: every number from one place, every link leads somewhere, the same bytes every time, two pages long."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from analysis import report
from analysis.sections import trust
from tests.analysis.conftest import Plan, write_tables

TWO = {"feature_extraction": 0.75, "fine_tune": 0.80}
PUBLISHED = sorted(path.parent for path in Path("reports").glob("*/provenance.json"))
MOST_WORDS, MOST_FIGURES, MOST_TABLES = 900, 3, 3


def counts(page: str) -> tuple[int, int, int]:
    """Words, figures and tables of a page; links count by what is shown, code blocks and rules of tables do not."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    prose = re.sub(r"!\[([^\]]*)\]\([^)]*\)|\[([^\]]*)\]\([^)]*\)", r"\1\2", prose)
    words = [word for word in re.split(r"[\s|]+", prose) if re.search(r"\w", word)]
    return len(words), page.count("!["), len(re.findall(r"^\| ?:?-+", page, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered report of a study with everything that it can hold."""
    plan = Plan(
        per_class=(10, 100),
        strategies={**Plan().strategies, "norm_only": 0.79, "lda": 0.76, "fine_tune_batch_norm_train": 0.74},
        not_default=("fine_tune_batch_norm_train",),
        sweep={"fine_tune": (100.0, 10.0, 1.0, 0.1)},
        ablations={"fine_tune_imagenet_normalisation": ("fine_tune", -3.0)},
        lr_finder_seeds=(0, 1),
        published=[{"accuracy": 88.4, "what": "a CNN", "source": "somebody"}],
        overlap=0.1,
    )
    folder = write_tables(tmp_path_factory.mktemp("reports") / "quick", plan)
    report.write(folder)
    return folder


def test_the_first_page_has_its_headings_and_its_limits(quick: Path) -> None:
    page = (quick / "report.md").read_text(encoding="utf-8")
    headings = ["Rules of thumb", "The textbook's exercises", "Before you trust this", "Cite"]
    found = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
    assert [heading for heading in found if heading in headings] == headings
    assert "BatchNorm: frozen or updated?" in found
    assert page.startswith("# Which strategy? quick\n")
    assert "| Images a class | Use | Accuracy, % | Over feature extraction | A run | As good |" in page
    words, figures, tables = counts(page)
    assert (words <= MOST_WORDS, figures <= MOST_FIGURES, tables) == (True, True, MOST_TABLES), (words, figures)


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_every_published_report_keeps_to_two_pages(folder: Path) -> None:
    words, figures, tables = counts((folder / "report.md").read_text(encoding="utf-8"))
    assert words <= MOST_WORDS
    assert figures <= MOST_FIGURES
    assert tables <= MOST_TABLES


def test_every_link_and_figure_of_both_pages_leads_somewhere(quick: Path) -> None:
    shown = set()
    for name in ("report.md", "details.md"):
        page = (quick / name).read_text(encoding="utf-8")
        assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page)
        for link in re.findall(r"\]\(([^)#]*)(?:#[^)]*)?\)", page):
            assert not link or (quick / link).is_file(), link
        for anchor in re.findall(r"details\.md#([^)]+)\)", page):
            details = (quick / "details.md").read_text(encoding="utf-8")
            assert f"(#{anchor})" in details, anchor
        shown |= set(re.findall(r"figures/(\w+)\.png", page))
    for ending in ("png", "svg", "csv"):
        assert {path.stem for path in (quick / "figures").glob(f"*.{ending}")} == shown
    assert all(len(pd.read_csv(path)) for path in (quick / "figures").glob("*.csv"))
    assert len(shown) > 10


def test_the_files_beside_the_pages_keep_their_columns_and_keys(quick: Path) -> None:
    ledger = json.loads((quick / "claims.json").read_text(encoding="utf-8"))
    fields = {"id", "rule", "source", "condition", "effect", "low", "high", "p_adjusted", "margin", "verdict", "reason"}
    assert ledger
    assert all(set(entry) == fields | {"needs"} for entry in ledger)
    runs = pd.read_csv(quick / "runs.csv").query("strategy == 'lp_ft'").groupby("per_class")["test_accuracy"].mean()
    found = json.loads((quick / "metrics" / "lp_ft.json").read_text(encoding="utf-8"))
    assert found == {str(size): pytest.approx(100 * mean, abs=0.00501) for size, mean in runs.items()}


def test_rendering_twice_gives_the_same_bytes_and_leaves_no_old_figures(tmp_path: Path) -> None:
    plan = Plan(strategies=TWO, epochs=4)
    folders = [write_tables(tmp_path / name / "quick", plan) for name in ("one", "two")]
    (folders[1] / "figures").mkdir()
    (folders[1] / "figures" / "gone.png").write_bytes(b"old")
    for folder in folders:
        report.write(folder)
    first, second = (
        {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        for folder in folders
    )
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name] and name.suffix != ".npz"] == []


@pytest.mark.parametrize(
    "plan",
    [
        Plan(strategies=TWO, seeds=(0,), epochs=4, validation=False),
        Plan(strategies={"fine_tune": 0.8}, epochs=4),
        Plan(strategies={**TWO, "lda": 0.76}, per_class=(0,), epochs=4),
        Plan(strategies=TWO, diverged=[(name, seed) for name in TWO for seed in range(5)], epochs=4),
        Plan(strategies=TWO, overlap=0.6, epochs=4, classes={"$^$": 300, "*<b>|`x`\n": 100, "林木": 80}),
    ],
    ids=["one seed", "one strategy", "all images", "all diverged", "pool too small, odd names"],
)
def test_a_study_with_little_in_it_still_has_both_pages(tmp_path: Path, plan: Plan) -> None:
    folder = write_tables(tmp_path / "quick", plan)
    report.write(folder)
    for name in ("report.md", "details.md"):
        assert not re.search(r"\bnan\b|\bNone\b|\binf\b", (folder / name).read_text(encoding="utf-8"))


def test_the_answer_is_printed_as_a_table_with_at_most_three_cautions_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tables(tmp_path / "quick", Plan())
    before = sorted(folder.iterdir())
    report.main(["quick", "--reports", str(tmp_path), "--answer"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split("  ")[0] == "Images a class"
    assert lines[3].split()[:2] == ["100", "fine_tune"]
    assert 1 <= len(lines[5:-1]) <= 3
    assert all(len(line.split()) <= 25 for line in lines[5:-1])
    assert not any("`" in line or "**" in line for line in lines)
    assert lines[-1] == f"Report: {folder / 'report.md'}"
    assert sorted(folder.iterdir()) == before
    assert trust.MOST == 5


def test_the_advice_is_json_for_other_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tables(tmp_path / "quick", Plan(per_class=(10, 100)))
    report.main(["quick", "--reports", str(tmp_path), "--advice"])
    first, *others = json.loads(capsys.readouterr().out)
    assert set(first) == {"strategy", "per_class", "judged", "low", "high", "metric", "advised"}
    assert (first["strategy"], first["per_class"], first["metric"]) == ("fine_tune", 100, "test accuracy")
    assert first["low"] < first["judged"] < first["high"]
    assert len(others) == len(Plan().strategies) - 1
    assert first["advised"]
    write_tables(tmp_path / "open", Plan(seeds=(0, 1)))
    report.main(["open", "--reports", str(tmp_path), "--advice"])
    assert not any(entry["advised"] for entry in json.loads(capsys.readouterr().out))


def test_an_unknown_study_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    write_tables(tmp_path / "quick", Plan(strategies=TWO, epochs=4))
    with pytest.raises(SystemExit, match=r"no tables of a study 'slow'.*choose from quick"):
        report.main(["slow", "--reports", str(tmp_path)])
