import json
import re
from pathlib import Path

import pytest

from analysis import guide
from analysis.comparison import Comparison
from analysis.guide import READING, decisions, default, mistakes, not_covered, questions
from analysis.situations import batch_norm, grid, published, tuned
from analysis.tables import ALL, TablesError
from tests.analysis.conftest import Plan, write_tables

FROZEN_WINS = {"scratch": 0.4, "feature_extraction": 0.7, "fine_tune": 0.8, "fine_tune_batch_norm_train": 0.74}
SAME = {"scratch": 0.65, "feature_extraction": 0.8, "fine_tune": 0.7, "fine_tune_batch_norm_train": 0.7}
CALM = {"seeds": range(10), "seed_sd": 0.5, "run_sd": 0.3, "not_default": ["fine_tune_batch_norm_train"]}
WRONG = {
    "fine_tune_no_normalisation": ("fine_tune", -9.0),
    "fine_tune_whole_image": ("fine_tune", -2.0),
    "fine_tune_imagenet_normalisation": ("fine_tune", 1.0),
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two published studies in which fine-tuning wins and loses, and one of this machine."""
    folder = tmp_path_factory.mktemp("reports")
    leaves, rays = {"data": "PlantVillage tomato", **CALM}, {"data": "chest X-ray", **CALM}
    tomato = Plan(study="tomato", per_class=(10, 50), strategies=FROZEN_WINS, ablations=WRONG, **leaves)
    write_tables(folder / "tomato", tomato)
    write_tables(folder / "xray", Plan(study="xray", per_class=(10, 100), strategies=SAME, **rays))
    write_tables(folder / "quick", Plan(strategies=SAME))
    guide.write(folder)
    return folder


@pytest.fixture(scope="module")
def studies(reports: Path) -> list[Comparison]:
    return published(reports)


def test_the_grid_has_a_row_a_situation_with_the_best_that_nothing_beats(studies: list[Comparison]) -> None:
    table, _ = grid(studies, "reports/")
    assert [row[:3] for row in table.rows] == [
        ("[tomato](reports/tomato/report.md): leaves", "10 (20)", "**fine_tune**"),
        ("[tomato](reports/tomato/report.md): leaves", "50 (100)", "**fine_tune**"),
        ("[xray](reports/xray/report.md): grey X-rays", "10 (20)", "feature_extraction"),
        ("[xray](reports/xray/report.md): grey X-rays", "100 (200)", "feature_extraction"),
    ]
    gain = studies[0].gain(50, "fine_tune", "feature_extraction")
    half = gain["difference"] - gain["low"]
    assert table.rows[1][4] == f"+{gain['difference']:.1f} ±{half:.1f}"
    assert table.rows[3][4] == "–"


def test_the_heat_map_shows_mean_differences_and_marks_what_nothing_beats(studies: list[Comparison]) -> None:
    data = grid(studies)[1].data
    runs = studies[0].tables.runs
    means = runs[runs["per_class"] == 50].groupby("strategy")["test_accuracy"].mean() * 100
    mine = data[(data["study"] == "tomato") & (data["per_class"] == 50)].set_index("strategy")
    assert list(mine.index) == ["scratch", "feature_extraction", "fine_tune"]
    assert mine.loc["scratch", "gain"] == pytest.approx(means["scratch"] - means["feature_extraction"], abs=1e-3)
    assert mine["unbeaten"].tolist() == [False, False, True]


def test_frozen_batch_norm_is_held_against_updated_wherever_both_ran(studies: list[Comparison]) -> None:
    picture = batch_norm(studies)
    assert picture is not None
    data = picture.data.set_index(["study", "per_class"])
    assert data["strategy"].unique().tolist() == ["fine_tune"]
    assert data.loc[("tomato", 50), "gain"] == pytest.approx(6, abs=1)
    assert data.loc[("xray", 100), "gain"] == pytest.approx(0, abs=1)
    assert (data["low"] < data["gain"]).all()


def test_freezing_is_advised_only_where_nothing_shows_it_to_lose(studies: list[Comparison], tmp_path: Path) -> None:
    updated = {**FROZEN_WINS, "fine_tune": 0.74, "fine_tune_batch_norm_train": 0.8}
    write_tables(tmp_path / "other", Plan(study="other", strategies=updated, **CALM))
    for found, advised in ((studies, True), (published(tmp_path), False)):
        (section,) = (section for section in guide.sections(found) if section.title.startswith("BatchNorm"))
        assert (guide.KEEP_FROZEN in section.body) is advised


def test_studies_that_ran_one_way_have_no_figure_of_batch_norm(tmp_path: Path) -> None:
    write_tables(tmp_path / "leaves", Plan(study="leaves", strategies={"scratch": 0.6, "fine_tune": 0.8}))
    assert batch_norm(published(tmp_path)) is None


def test_a_decision_that_holds_here_and_fails_there_depends_and_names_both(tmp_path: Path) -> None:
    better, worse = {"feature_extraction": 0.5, "fine_tune": 0.9}, {"feature_extraction": 0.9, "fine_tune": 0.5}
    for study, data, strategies in (("tomato", "PlantVillage tomato", better), ("tiny", "CIFAR-10 (JPEG copy)", worse)):
        write_tables(tmp_path / study, Plan(study=study, data=data, per_class=(10,), strategies=strategies, **CALM))
    verdict, shown = decisions(published(tmp_path)).rows[0][3:]
    assert verdict == "**depends**"
    told = re.sub(r" [+−]\S+ ±[\d.]+", "", shown)
    assert told == "holds: [tiny · 10](tiny/report.md); fails: [tomato · 10](tomato/report.md)"


def test_a_decision_that_some_studies_leave_open_says_in_how_many(tmp_path: Path) -> None:
    near = {**CALM, "seed_sd": 3.0, "run_sd": 3.0}
    better = {"feature_extraction": 0.5, "fine_tune": 0.9}
    write_tables(tmp_path / "tomato", Plan(study="tomato", data="PlantVillage tomato", strategies=better, **CALM))
    same = dict.fromkeys(better, 0.7)
    write_tables(tmp_path / "tiny", Plan(study="tiny", data="CIFAR-10 (JPEG copy)", strategies=same, **near))
    verdict, shown = decisions(published(tmp_path)).rows[0][3:]
    assert verdict == "**fails** in 1, open in 1"
    assert shown.startswith("fails: [tomato")
    assert "; open: [tiny" in shown


def test_a_decision_is_judged_on_data_of_its_kind_and_size_alone(studies: list[Comparison]) -> None:
    told = {row[:2]: (row[3], re.sub(r" [+−]\S+ ±\S+", " x", row[4] + " ")) for row in decisions(studies).rows}
    leaves = "[tomato · 10](tomato/report.md) x [tomato · 50](tomato/report.md) x "
    rays = "[xray · 10](xray/report.md) x [xray · 100](xray/report.md) x "
    assert told["similar, under 1,000", "feature extraction only"] == ("**fails**", f"fails: {leaves}")
    assert told["different, under 1,000", "feature extraction"] == ("**holds**", f"holds: {rays}")
    assert told["different, under 1,000", "careful fine-tuning"] == ("**fails**", f"fails: {rays}")
    assert told["similar, 1,000 to 10,000", "fine-tuning"] == ("**not tested**", "– ")
    kinds = "photographs: CIFAR-10 (JPEG copy) and PlantVillage tomato; different: EuroSAT, chest X-ray and ELPV."
    assert kinds in READING


def test_reruns_on_all_images_are_shown_and_judge_nothing(tmp_path: Path) -> None:
    many = {"strategies": {"scratch": 0.6, "fine_tune": 0.9}, "data": "chest X-ray", **CALM}
    write_tables(tmp_path / "xray_all", Plan(study="xray_all", per_class=(ALL,), pool_images=3750, **many))
    verdict, studies = decisions(published(tmp_path)).rows[-1][3:]
    assert verdict == "**no verdict**"
    assert studies.startswith("reruns alone: [xray_all · all](xray_all/report.md) −30")


def test_fewer_than_ten_seeds_are_shown_and_judge_nothing(tmp_path: Path) -> None:
    five = {**CALM, "seeds": range(5), "data": "PlantVillage tomato"}
    write_tables(tmp_path / "tomato", Plan(study="tomato", per_class=(10, 50), strategies=FROZEN_WINS, **five))
    studies = published(tmp_path)
    told = {row[:2]: row[3:] for row in decisions(studies).rows}
    verdict, shown = told["similar, under 1,000", "feature extraction only"]
    assert verdict == "**no verdict**"
    assert shown.startswith("few seeds: [tomato · 10](tomato/report.md) −")
    assert grid(studies)[0].rows[0][2] == "fine_tune"  # not bold


def test_mistakes_stand_in_order_of_what_they_cost(studies: list[Comparison]) -> None:
    costs = mistakes(studies[0])
    assert costs["no normalisation"] == pytest.approx(-9, abs=1)
    assert "ImageNet's normalisation" not in costs  # it did no harm
    plants, worse = questions(studies)
    assert "**fine_tune**" in plants
    order = ["no normalisation", "BatchNorm updated", "the whole image"]
    assert sorted(order, key=worse.index) == order


def test_one_mistake_alone_is_no_order_in_which_to_check(tmp_path: Path) -> None:
    write_tables(tmp_path / "leaves", Plan(study="leaves", strategies=FROZEN_WINS, **CALM))
    found = published(tmp_path)
    assert list(mistakes(found[0])) == ["BatchNorm updated"]
    assert questions(found) == []


def test_what_to_begin_with_is_most_often_unbeaten_and_what_is_missing_is_named(tmp_path: Path) -> None:
    write_tables(tmp_path / "a", Plan(study="a", per_class=(10, 50), strategies=FROZEN_WINS, **CALM))
    missing = (("scratch", 0), ("scratch", 1))
    write_tables(tmp_path / "b", Plan(study="b", strategies=SAME, missing=missing, **CALM))
    found = published(tmp_path)
    assert "it is shown to be better than `feature_extraction` in 2 of the 2 rows that are judged" in default(found)
    assert "and worse than another in 1 of all 3 (b · 100)." in default(found)
    assert "[b](b/report.md) (2 runs missing)" in not_covered(found)
    assert "More than 200 training images" in not_covered(found)


def test_the_rates_that_tuning_chose_are_counted_where_it_was_done(tmp_path: Path) -> None:
    tried = {"tried": {"1": {"right": 8, "of": 10, "log_loss": 0.5}}}
    both = {str(size): dict.fromkeys(FROZEN_WINS, tried) for size in (10, 50)}
    write_tables(tmp_path / "a", Plan(study="a", per_class=(10, 50), strategies=FROZEN_WINS, tried=both, **CALM))
    write_tables(tmp_path / "b", Plan(study="b", strategies=FROZEN_WINS, **CALM))  # another study's rates
    path = tmp_path / "a" / "provenance.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    written["parameters"]["lr_scales"]["10"]["feature_extraction"] = 3.0
    path.write_text(json.dumps(written), encoding="utf-8")
    found = published(tmp_path)
    said = "Begin its rate (AdamW) at 1e-3, chosen in 1 of the 2 rows where it was tuned (3e-3 in 1); the textbook has"
    assert tuned(found, "feature_extraction") == f"{said} 1e-3."
    assert tuned(found[1:], "feature_extraction") == ""
    assert tuned(found, "fine_tune") == ""  # each group has its own here


def test_the_guide_has_few_figures_and_tables_links_to_what_exists_and_leaves_out_this_machines_study(
    reports: Path,
) -> None:
    text = (reports / "guide.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\| ---", text, re.MULTILINE)) <= 3
    assert "quick" not in text
    targets = re.findall(r"\]\((figures/[^)]*)\)", text)
    assert len(targets) == 6
    assert all((reports / target).is_file() for target in targets)


def test_the_guide_is_written_the_same_again(reports: Path) -> None:
    files = [reports / "guide.md", *sorted((reports / "figures").iterdir())]
    before = [path.read_bytes() for path in files]
    guide.write(reports)
    assert [path.read_bytes() for path in files] == before


def test_without_a_published_study_there_is_no_guide(tmp_path: Path) -> None:
    write_tables(tmp_path / "quick")
    with pytest.raises(TablesError, match="no published study"):
        guide.write(tmp_path)
