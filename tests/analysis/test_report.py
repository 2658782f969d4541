"""The report: every number recomputed, every case in words that follow from the data, the same bytes every time."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import findings, origins, report, wording
from analysis.answer import Answer, answer
from analysis.findings import COMPARISON_COLUMNS, Numbers, compute
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables

SWEEP = {"fine_tune_one_rate": (100.0, 10.0, 1.0, 0.1)}
TWO = {"feature_extraction": 0.75, "fine_tune": 0.80}


def numbers_of(folder: Path, plan: Plan) -> Numbers:
    return compute(load(write_tables(folder, plan)))


def answer_of(folder: Path, plan: Plan) -> Answer:
    numbers = numbers_of(folder, plan)
    return answer(numbers, numbers.tops[0])


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered report of a study like the embedded default, with everything that it can hold."""
    plan = Plan(sweep=SWEEP, ablations={"fine_tune_imagenet_normalisation": ("fine_tune", -3.0)})
    folder = write_tables(tmp_path_factory.mktemp("reports") / "quick", plan)
    report.write(folder)
    return folder


def table_under(text: str, first_cells: str) -> list[list[str]]:
    """The body of the first Markdown table whose header begins so."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_cells}"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def leading(cell: str) -> float:
    """The number that a cell begins with."""
    found = re.match(r"[+−-]?[\d.]+", cell)
    assert found, cell
    return float(found.group().replace("−", "-"))


def inside(cell: str) -> tuple[float, float]:
    """The interval in a cell."""
    found = re.search(r"\[([+−]?[\d.]+), ([+−]?[\d.]+)\]", cell)
    assert found, cell
    low, high = (float(number.replace("−", "-")) for number in found.groups())
    return low, high


def t_interval(values: np.ndarray) -> tuple[float, float]:  # type: ignore[type-arg]
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return values.mean() - half, values.mean() + half


def test_every_number_of_the_table_of_strategies_is_what_scipy_finds(quick: Path) -> None:
    runs = pd.read_csv(quick / "runs.csv")
    rows = table_under((quick / "report.md").read_text(), "Strategy | Test accuracy")
    assert [row[0].strip("`") for row in rows] == list(Plan().strategies)
    for name, test, balanced, train, gap, log_loss, ece, seconds, parameters, diverged in rows:
        assert (log_loss, ece) == ("0.50", "5.0")
        mine = runs[runs["strategy"] == name.strip("`")]
        values = mine["test_accuracy"].to_numpy() * 100
        assert leading(test) == pytest.approx(values.mean(), abs=0.0501)
        assert inside(test) == pytest.approx(t_interval(values), abs=0.0501)
        assert float(balanced) == pytest.approx(mine["balanced_accuracy"].mean() * 100, abs=0.0501)
        assert leading(train) == pytest.approx(100 * mine["train_accuracy"].mean(), abs=0.0501)
        expected = 100 * (mine["train_accuracy"] - mine["test_accuracy"]).mean()
        assert leading(gap) == pytest.approx(expected, abs=0.0501)
        assert leading(seconds) == pytest.approx(mine["seconds"].median(), rel=0.06)
        shares = mine["trainable_parameters"] / mine["total_parameters"]
        shown = re.search(r"\(([\d.]+)%\)", parameters)
        assert shown
        assert float(shown.group(1)) == pytest.approx(100 * shares.max(), rel=0.06)
        assert diverged == "0 of 5"


def test_every_number_of_the_comparisons_is_what_scipy_finds(quick: Path) -> None:
    runs = pd.read_csv(quick / "runs.csv")
    found = pd.read_csv(quick / "comparisons.csv")
    assert list(found.columns) == COMPARISON_COLUMNS
    names = list(Plan().strategies)
    assert list(zip(found["a"], found["b"], strict=True)) == list(combinations(names, 2))
    table = runs.pivot_table(index="seed", columns="strategy", values="test_accuracy") * 100
    for row in found.to_dict("records"):
        d = (table[row["b"]] - table[row["a"]]).to_numpy()
        test = stats.ttest_1samp(d, 0)
        low, high = test.confidence_interval(0.95)
        assert row["k"] == 5
        assert [row["difference"], row["low"], row["high"]] == pytest.approx([d.mean(), low, high], rel=1e-4, abs=1e-5)
        assert row["p"] == pytest.approx(test.pvalue, rel=1e-4)
        assert row["wins"] == (d > 0).sum()
        assert row["low_new_images"] <= row["low"] + 1.0
        assert row["low_new_images"] < row["difference"] < row["high_new_images"]
        assert abs(row["d_z"]) <= abs(d.mean() / d.std(ddof=1)) + 1e-4  # Hedges' correction shrinks
        assert row["smallest_detectable"] == pytest.approx(1.7 * d.std(ddof=1), rel=0.1)  # PROTOCOL.md, K = 5
    # Holm by its definition: the i-th smallest of m times (m - i), never falling, at most 1.
    order = found.sort_values("p", ignore_index=True)
    by_hand = np.minimum(np.maximum.accumulate(order["p"] * (len(order) - np.arange(len(order)))), 1)
    assert order["p_holm"].to_numpy() == pytest.approx(by_hand.to_numpy(), rel=1e-4)


def test_the_table_of_pairs_and_the_forest_data_repeat_the_comparisons(quick: Path) -> None:
    found = pd.read_csv(quick / "comparisons.csv").set_index(["a", "b"])
    for b, a, k, difference, _, p, wins, smallest in table_under((quick / "report.md").read_text(), "B | A | Seeds"):
        row = found.loc[(a.strip("`"), b.strip("`"))]
        assert int(k) == row["k"]
        assert leading(difference) == pytest.approx(row["difference"], abs=0.0501)
        assert inside(difference) == pytest.approx((row["low"], row["high"]), abs=0.0501)
        assert p == "<0.001" if row["p_holm"] < 0.001 else float(p) == pytest.approx(row["p_holm"], abs=0.00501)
        assert wins == f"{row['wins']} of 5"
        assert leading(smallest) == pytest.approx(row["smallest_detectable"], abs=0.0501)
    forest = pd.read_csv(quick / "figures" / "forest.csv").drop_duplicates("strategy").set_index("strategy")
    assert forest.loc["fine_tune", "difference"] == pytest.approx(
        found.loc[("feature_extraction", "fine_tune"), "difference"], rel=1e-4
    )
    assert forest.loc["scratch", "difference"] == pytest.approx(
        -found.loc[("scratch", "feature_extraction"), "difference"], rel=1e-4
    )


def test_the_ledger_shows_what_the_claims_file_holds_and_the_effects_are_what_scipy_finds(quick: Path) -> None:
    ledger = json.loads((quick / "claims.json").read_text())
    fields = {"id", "rule", "source", "condition", "effect", "low", "high", "p_adjusted", "margin", "verdict", "reason"}
    assert all(set(entry) == fields | {"needs"} for entry in ledger)
    text = (quick / "report.md").read_text()
    shown = {row[0].strip("`"): row for row in table_under(text, "Claim | Rule")}
    runs = pd.read_csv(quick / "runs.csv").pivot_table(index="seed", columns="strategy", values="test_accuracy")
    d = 100 * (runs["fine_tune"] - runs["scratch"]).to_numpy()
    entry = next(entry for entry in ledger if entry["id"] == "quick-transfer-beats-scratch")
    assert (entry["effect"], entry["low"], entry["high"]) == pytest.approx((d.mean(), *t_interval(d)))
    assert leading(shown[entry["id"]][3]) == pytest.approx(d.mean(), abs=0.0501)
    assert inside(shown[entry["id"]][3]) == pytest.approx(t_interval(d), abs=0.0501)
    assert shown[entry["id"]][2] == f"**{entry['verdict']}**"
    for entry in ledger:
        assert (entry["id"] in shown) == (entry["verdict"] != "not tested")
        assert f"`{entry['id']}`" in text


def test_metrics_are_a_file_a_strategy_with_the_judged_accuracy_of_each_size(quick: Path) -> None:
    assert {path.stem for path in (quick / "metrics").iterdir()} == set(Plan().strategies)
    runs = pd.read_csv(quick / "runs.csv")
    mean = 100 * runs.loc[runs["strategy"] == "lp_ft", "test_accuracy"].mean()
    assert json.loads((quick / "metrics" / "lp_ft.json").read_text()) == {"100": pytest.approx(mean, abs=0.00501)}


def test_the_report_has_its_headings_and_every_link_leads_somewhere(quick: Path) -> None:
    text = (quick / "report.md").read_text()
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    for heading in ("Forest plot", "Claims", "Limits", "How to cite", "Provenance"):
        assert headings.count(heading) == 1
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        assert (quick / link).is_file(), link


def test_every_figure_has_its_caption_its_svg_and_its_data(quick: Path) -> None:
    text = (quick / "report.md").read_text()
    shown = re.findall(r"^!\[[^\]]+\]\(figures/(\w+)\.png\)\n\n\*\*Figure (\d+)\.\*\* (.+)$", text, flags=re.MULTILINE)
    assert [int(number) for _, number, _ in shown] == list(range(1, len(shown) + 1))
    names = [name for name, _, _ in shown]
    for ending in ("png", "svg", "csv"):
        assert sorted(path.stem for path in (quick / "figures").glob(f"*.{ending}")) == sorted(names)
    needed = {"accuracy", "forest", "pairs", "curves_accuracy", "curves_loss", "cost", "phases", "drift", "ablations"}
    assert needed | {"sweep_curves", "sweep_rates", "recall", "claims"} <= set(names)
    for name, _, caption in shown:
        assert "seed" in caption, name
        assert re.search(r"unit|percent|nats|points|seconds", caption, flags=re.IGNORECASE), name
        assert len(pd.read_csv(quick / "figures" / f"{name}.csv")) > 0


def test_the_answer_names_the_reference_the_interval_the_cost_and_that_five_seeds_explore(quick: Path) -> None:
    text = (quick / "report.md").read_text()
    first = text.split("## Strategies")[0]
    assert "100 images a class (200 in all)" in first
    assert re.search(r"`fine_tune` \+\d\.\d points \[\+\d\.\d, \+\d+\.\d\]", first)
    assert "exploratory" in first
    assert "a run" in first
    assert "Not told apart does not mean equal" in first
    assert "`scratch`" not in first.split("Against")[0]


def test_rendering_twice_gives_the_same_bytes_and_leaves_no_old_figures(tmp_path: Path) -> None:
    plan = Plan(strategies=TWO, epochs=4, seeds=(0, 1, 2))
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
    differing = [str(name) for name in first if first[name] != second[name] and name.suffix != ".npz"]
    assert differing == []
    for name, content in first.items():
        if name.suffix in {".svg", ".png"}:
            assert not re.search(rb"<dc:date>|Matplotlib v|matplotlib.org", content), name


def test_a_planted_effect_is_found_and_a_null_is_not(tmp_path: Path) -> None:
    planted = numbers_of(tmp_path / "a", Plan(seeds=range(10)))
    top = planted.tops[0]
    assert "scratch" in top.beaten
    assert "feature_extraction" in top.beaten
    assert "fine_tune" in top.members
    null = numbers_of(tmp_path / "b", Plan(strategies=dict.fromkeys(Plan().strategies, 0.78), seeds=range(10)))
    assert null.tops[0].beaten == ()
    words = answer(null, null.tops[0])
    assert "no comparison is clear after correction" in words.headline
    assert "exploratory" not in words.caution


def test_a_winner_alone_comes_without_words_on_strategies_that_cannot_be_told_apart(tmp_path: Path) -> None:
    clear = numbers_of(tmp_path / "clear", Plan(strategies={"scratch": 0.5, "fine_tune": 0.8}, seeds=range(10)))
    assert clear.tops[0].members == ("fine_tune",)
    assert "Not told apart" not in answer(clear, clear.tops[0]).caution
    unclear = numbers_of(tmp_path / "unclear", Plan(strategies={"scratch": 0.8, "fine_tune": 0.8}, seeds=range(10)))
    assert "Not told apart" in answer(unclear, unclear.tops[0]).caution


def test_one_strategy_alone_is_described_and_not_compared(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "quick", Plan(strategies={"fine_tune": 0.8}, epochs=4))
    report.write(folder)
    text = (folder / "report.md").read_text()
    assert "only `fine_tune` was run" in text
    assert "## Forest plot" not in text
    assert len(pd.read_csv(folder / "comparisons.csv")) == 0


def test_below_five_seeds_nothing_is_decided(tmp_path: Path) -> None:
    found = answer_of(tmp_path / "quick", Plan(seeds=(0, 1, 2)))
    assert "nothing is decided: 3 seeds cannot carry a comparison" in found.headline
    assert "`feature_extraction` is itself" not in found.reference


def test_a_single_seed_and_no_validation_images_leave_a_report_without_intervals(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "quick", Plan(strategies=TWO, seeds=(0,), epochs=4, validation=False, sweep=SWEEP))
    report.write(folder)
    text = (folder / "report.md").read_text()
    assert "nothing is decided: 1 seed cannot carry a comparison" in text
    assert "No validation images were left" in text
    assert "Did each phase earn its place" not in text
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)


def test_a_strategy_that_diverged_is_not_rewarded_for_its_large_spread(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "quick", Plan(diverged=[("fine_tune", 1)]))
    top = numbers.tops[0]
    assert "fine_tune" in top.unstable
    assert "fine_tune" not in top.members
    words = answer(numbers, top)
    assert "`fine_tune`" not in words.headline
    assert "because runs diverged or gave all test images one class: `fine_tune` (1 of 5 runs)" in words.caution


def test_two_strategies_that_always_diverged_have_no_test_and_the_report_says_so(tmp_path: Path) -> None:
    gone = [(name, seed) for name in ("scratch", "fine_tune") for seed in range(5)]
    three = TWO | {"scratch": 0.66}
    folder = write_tables(tmp_path / "quick", Plan(strategies=three, diverged=gone, epochs=4))
    report.write(folder)
    pair = pd.read_csv(folder / "comparisons.csv").set_index(["a", "b"]).loc[("scratch", "fine_tune")]
    assert pair["k"] == 5
    assert pair[list(COMPARISON_COLUMNS[COMPARISON_COLUMNS.index("factor") :])].isna().all()
    text = (folder / "report.md").read_text()
    assert "**Pairs without a test**" in text
    assert "`scratch` and `fine_tune`" in text
    assert "5 of 5" in text
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)


def test_when_everything_diverged_nothing_is_recommended(tmp_path: Path) -> None:
    found = answer_of(tmp_path / "quick", Plan(strategies=TWO, diverged=[(name, s) for name in TWO for s in range(5)]))
    assert "no strategy can be recommended" in found.headline
    report.write(tmp_path / "quick")


def test_missing_runs_are_named_with_the_command_and_do_not_undo_the_others(tmp_path: Path) -> None:
    plan = Plan(missing=[("lp_ft", 3), ("lp_ft", 4)], missing_range_tests=2)
    numbers = numbers_of(tmp_path / "quick", plan)
    top = numbers.tops[0]
    assert top.state == "decided"
    assert top.thin == ("lp_ft",)
    words = answer(numbers, top)
    assert "Too few runs to judge: `lp_ft` (3 runs)" in words.caution
    assert "Some declared runs of strategies are missing" in words.caution
    assert wording.setting(numbers).endswith(
        " **Not complete:** still to run are 2 of 35 final runs and 2 range tests; *Limits* names them."
    )
    assert "and only 6 of 7 strategies complete so far, use" in words.headline
    missing = [line for line in wording.limits(numbers) if "missing" in line]
    assert missing == [
        "**Not complete.** Declared and not run yet: final runs: `lp_ft` (2 of 5); 2 range tests of the LR "
        "finder. With `active: [quick]` in `params.yaml`, `dvc repro` runs what is missing and nothing else; "
        "[declared.csv](declared.csv) names every run."
    ]


def test_missing_ablations_are_told_first_and_do_not_cast_doubt_on_the_answer(tmp_path: Path) -> None:
    name = "fine_tune_imagenet_normalisation"
    plan = Plan(ablations={name: ("fine_tune", -1.0)}, missing=[(name, 4)])
    numbers = numbers_of(tmp_path / "quick", plan)
    assert "**Not complete:** still to run are 1 of 5 runs of ablations;" in wording.setting(numbers)
    assert "missing" not in answer(numbers, numbers.tops[0]).caution


def test_an_ablation_that_does_better_is_named_beside_the_answer_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    better, worse = "fine_tune_imagenet_normalisation", "last_block_imagenet_normalisation"
    plan = Plan(ablations={better: ("fine_tune", 6.0), worse: ("last_block", -6.0)})
    numbers = numbers_of(tmp_path / "quick", plan)
    best = max(numbers.tops[0].members, key=lambda name: numbers.of(100, name)["test_accuracy"])
    mean = {name: rows["test_accuracy"].mean() * 100 for name, rows in numbers.tables.runs.groupby("strategy")}
    ours = numbers.tables.ablations.query("strategy == @better")["test_accuracy"].mean() * 100
    said = answer(numbers, numbers.tops[0]).caution
    assert f"paired over 5 seeds, `{better}` gains +{ours - mean['fine_tune']:.1f} points" in said
    assert f"; it gets {ours:.1f}% (log loss 0.50" in said
    assert "for what *Claims* says of it" in said
    assert (f"and +{ours - mean[best]:.1f} points" in said) == (best != "fine_tune")
    assert "the best of 2 ablations, chosen on the test images" in said
    assert worse not in said
    only_worse = numbers_of(tmp_path / "worse", Plan(ablations={worse: ("last_block", -6.0)}))
    assert "One change to look at" not in answer(only_worse, only_worse.tops[0]).caution
    two = {"last_block": 0.6, "fine_tune": 0.8}
    far = numbers_of(tmp_path / "far", Plan(strategies=two, ablations={worse: ("last_block", 10.0)}))
    assert far.ablations["low"].item() > 0  # better than what it changes, and still no match for the best strategy
    assert "One change to look at" not in answer(far, far.tops[0]).caution


def test_an_ablation_that_is_a_strategy_by_another_name_is_told_and_not_advised(tmp_path: Path) -> None:
    plan = Plan(strategies={"last_block": 0.8, "fine_tune": 0.7}, ablations={"from_stage4": ("fine_tune", 10.0)})
    tables = load(write_tables(tmp_path / "quick", plan))
    by_seed = tables.runs[tables.runs["strategy"] == "last_block"].set_index("seed")
    same = tables.ablations.assign(
        **{name: tables.ablations["seed"].map(by_seed[name]) for name in ("fingerprint", "judged")}
    )
    numbers = findings.compute(replace(tables, ablations=same))
    assert numbers.twins == {(100, "from_stage4"): "last_block"}
    assert wording.ablation_rows(numbers).rows[0][0] == "`from_stage4` (the same as `last_block`)"
    assert "One change to look at" not in answer(numbers, numbers.tops[0]).caution
    assert findings.compute(tables).twins == {}
    assert "One change to look at" in answer(findings.compute(tables), numbers.tops[0]).caution


def test_the_answer_says_who_gives_the_better_probabilities(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "quick", Plan(strategies={"scratch": 0.5, "fine_tune": 0.8}))
    assert "log loss" not in answer(numbers, numbers.tops[0]).caution
    losses = numbers.strategies.assign(log_loss=numbers.strategies["strategy"].map({"scratch": 0.4, "fine_tune": 0.9}))
    said = answer(replace(numbers, strategies=losses), numbers.tops[0]).caution
    assert "By log loss `scratch` is best (0.40; `fine_tune` 0.90)" in said
    alike = numbers_of(tmp_path / "alike", Plan(strategies={"scratch": 0.8, "fine_tune": 0.8}))
    first, second = alike.tops[0].members
    losses = alike.strategies.assign(log_loss=alike.strategies["strategy"].map({first: 0.9, second: 0.4}))
    said = answer(replace(alike, strategies=losses), alike.tops[0]).caution
    assert f"By log loss `{second}` is best (0.40; `{first}` 0.90)" in said
    losses = alike.strategies.assign(log_loss=alike.strategies["strategy"].map({first: 0.4, second: 0.9}))
    said = answer(replace(alike, strategies=losses), alike.tops[0]).caution
    assert f"By log loss `{first}` is best (0.40; `{second}` 0.90)" in said


def test_the_answer_names_a_swept_rate_that_beats_the_best_strategy(tmp_path: Path) -> None:
    # Swept runs get 79% at scale 1 and less at others, whatever the strategies get.
    plan = Plan(strategies={"scratch": 0.5, "fine_tune": 0.7}, sweep=SWEEP, sweep_seeds=(0, 1, 2), run_sd=0.3)
    numbers = numbers_of(tmp_path / "behind", plan)
    ours = numbers.tables.sweep.query("lr_scale == 1").set_index("seed")["test_accuracy"]
    runs = numbers.tables.runs.query("strategy == 'fine_tune'").set_index("seed")["test_accuracy"]
    gain = 100 * (ours - runs).dropna().mean()
    caution = answer(numbers, numbers.tops[0]).caution
    assert f"**Another rate to look at:** `fine_tune_one_rate` at 1e-4 gains +{gain:.1f} points" in caution
    assert "(paired over 3 seeds; the best of 4 rates, chosen on the watched images)" in caution
    assert "**Rates are the textbook's, not tuned:**" in caution
    ahead = numbers_of(tmp_path / "ahead", replace(plan, strategies={"scratch": 0.5, "fine_tune": 0.9}))
    assert "Another rate" not in answer(ahead, ahead.tops[0]).caution


def test_a_strategy_that_gives_all_images_one_class_is_named_and_never_advised(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path / "quick", Plan(strategies=TWO)))
    assert findings.one_class(tables, 100) == {}
    row = {str(name): i for i, name in enumerate(tables.predictions.fingerprints)}
    predicted = tables.predictions.predicted.copy()
    for name in tables.runs.query("strategy == 'fine_tune' and seed < 3")["fingerprint"]:
        predicted[row[name]] = 1
    flat = replace(tables, predictions=replace(tables.predictions, predicted=predicted))
    assert findings.one_class(flat, 100) == {"fine_tune": (3, 5)}
    numbers = findings.compute(flat)
    assert numbers.tops[0].unstable == ("fine_tune",)
    said = "because runs diverged or gave all test images one class: `fine_tune` (3 of 5 runs)."
    assert said in answer(numbers, numbers.tops[0]).caution


UNEVEN = Plan(
    strategies={"scratch": 0.95, "feature_extraction": 0.90, "fine_tune": 0.93},
    classes={"whole": 950, "cracked": 50},
    flat=["scratch"],
    seeds=range(10),
)


@pytest.mark.parametrize("judge_by", ["balanced_accuracy", None])
def test_a_model_that_always_answers_the_large_class_is_never_advised(tmp_path: Path, judge_by: str | None) -> None:
    numbers = numbers_of(tmp_path / "quick", replace(UNEVEN, judge_by=judge_by))
    assert (numbers.strategies["test_accuracy"] <= 95.0 + 1e-9).all()  # plain accuracy has `scratch` first
    top = numbers.tops[0]
    assert "scratch" not in (*top.members, *top.doubtful)
    assert "`scratch`" not in answer(numbers, top).headline
    if judge_by:
        assert numbers.baseline == 50
        assert "scratch" in top.beaten
        assert set(top.members) <= {"feature_extraction", "fine_tune"}


def test_everything_is_judged_by_the_accuracy_that_the_study_names(tmp_path: Path) -> None:
    plan = Plan(strategies={"scratch": 0.6, **TWO}, seeds=range(10), judge_by="balanced_accuracy", overlap=0.15)
    folder = write_tables(tmp_path / "quick", plan)
    report.write(folder)
    runs = pd.read_csv(folder / "runs.csv").pivot_table(index="seed", columns="strategy", values="balanced_accuracy")
    found = pd.read_csv(folder / "comparisons.csv").set_index(["a", "b"]).loc[("feature_extraction", "fine_tune")]
    d = 100 * (runs["fine_tune"] - runs["feature_extraction"])
    factor = (1 + 9 * 0.15) / (1 - 0.15)
    error = np.sqrt(factor / 10) * d.std()
    assert (found["metric"], found["overlap"], found["family"]) == ("balanced_accuracy", 0.15, "pairs")
    assert found["factor"] == pytest.approx(factor, rel=1e-5)
    assert found["difference"] == pytest.approx(d.mean(), rel=1e-4)
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(d.mean()) / error, 9), rel=1e-4)
    assert found["high"] - found["low"] == pytest.approx(2 * stats.t.ppf(0.975, 9) * error, rel=1e-4)
    text = (folder / "report.md").read_text()
    rows = {
        row[0].strip("`"): row for row in table_under(text, "Strategy | Balanced accuracy, % [95%] | Test accuracy, %")
    }
    assert leading(rows["fine_tune"][1]) == pytest.approx(100 * runs["fine_tune"].mean(), abs=0.0501)
    assert "% balanced accuracy" in answer(compute(load(folder)), compute(load(folder)).tops[0]).reasons
    forest = pd.read_csv(folder / "figures" / "forest.csv").query("strategy == 'fine_tune'")
    assert forest["seed_difference"].mean() == pytest.approx(d.mean(), rel=1e-4)


def test_above_half_of_shared_images_nothing_is_tested_and_the_report_says_why(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "quick", Plan(seeds=range(10), overlap=0.6))
    answers = report.write(folder)
    assert "this pool is too small for this size" in answers[0].headline
    found = pd.read_csv(folder / "comparisons.csv")
    assert found[["difference", "low", "p", "p_holm", "low_new_images", "factor"]].isna().all(axis=None)
    text = (folder / "report.md").read_text()
    assert "pool too small: no test" in text
    assert "*not tested*: there are no runs for it here, or they cannot speak of other draws." in text
    assert {row["verdict"] for row in json.loads((folder / "claims.json").read_text())} == {"not tested"}
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)


def test_with_all_images_the_factor_is_one_and_intervals_speak_of_reruns(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "quick", Plan(strategies=TWO, per_class=(0,)))
    (pair,) = numbers.pairs.to_dict("records")
    assert (pair["overlap"], pair["factor"]) == (1, 1)
    assert any(line.startswith("**One set of training images.**") for line in wording.limits(numbers))


MANY = Plan(
    strategies={
        **Plan().strategies,
        **{"norm_only": 0.79, "lda": 0.76, "nearest_mean": 0.7, "fine_tune_batch_norm_train": 0.74},
    },
    not_default=("nearest_mean", "fine_tune_batch_norm_train"),
    seeds=range(10),
)


def test_families_are_the_pairs_of_default_strategies_and_those_of_batch_norm(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "quick", MANY)
    pairs = numbers.pairs
    assert pairs["family"].value_counts().to_dict() == {"pairs": 36, "none": 18, "batch_norm": 1}
    family = pairs[pairs["family"] == "pairs"].sort_values("p")
    by_hand = np.minimum(np.maximum.accumulate(family["p"] * (36 - np.arange(36))), 1)
    assert family["p_holm"].to_numpy() == pytest.approx(by_hand.to_numpy())
    assert (pairs.query("family == 'batch_norm'")["p_holm"] == pairs.query("family == 'batch_norm'")["p"]).all()
    assert pairs.query("family == 'none'")["p_holm"].isna().all()
    shown = {(row[0], row[1]): row[5] for row in wording.pairs_rows(pairs).rows}
    assert shown["`nearest_mean`", "`scratch`"].endswith(", not adjusted")
    assert "adjusted" not in shown["`fine_tune_batch_norm_train`", "`fine_tune`"]
    assert list(numbers.names)[:9] == list(findings.DEFAULT_ORDER)


def test_a_strategy_that_is_no_default_is_compared_and_not_advised(tmp_path: Path) -> None:
    strategies = {**MANY.strategies, "fine_tune_batch_norm_train": 0.9}
    numbers = numbers_of(tmp_path / "better", replace(MANY, strategies=strategies))
    top = numbers.tops[0]
    assert set(top.others) == {"fine_tune_batch_norm_train", "nearest_mean"}
    assert not set(top.others) & {*top.members, *top.doubtful, *top.unstable, *top.thin, *top.beaten}
    words = answer(numbers, top)
    assert "not among the default strategies (not adjusted): `fine_tune_batch_norm_train` +" in words.caution
    assert "every other default strategy" in words.headline
    as_it_is = numbers_of(tmp_path / "worse", MANY)
    assert "not among the default strategies" not in answer(as_it_is, as_it_is.tops[0]).caution
    # Where a study names no two of them, all that it names are candidates.
    plan = Plan(strategies={"lda": 0.76, "nearest_mean": 0.7}, not_default=("nearest_mean",), seeds=range(10))
    named = numbers_of(tmp_path / "named", plan)
    top = named.tops[0]
    assert (top.others, top.members, top.beaten) == ((), ("lda",), ("nearest_mean",))
    (pair,) = named.pairs.to_dict("records")
    assert (pair["family"], pair["p_holm"]) == ("pairs", pair["p"])


def test_heads_in_closed_form_have_no_phases_no_curves_and_with_all_images_one_run(tmp_path: Path) -> None:
    lone = [("lda", seed) for seed in range(1, 5)]
    plan = Plan(strategies={**TWO, "lda": 0.76}, per_class=(0,), missing=lone, epochs=4)
    folder = write_tables(tmp_path / "quick", plan)
    declared = pd.read_csv(folder / "declared.csv")
    declared[~((declared["strategy"] == "lda") & (declared["seed"] > 0))].to_csv(folder / "declared.csv", index=False)
    report.write(folder)
    text = (folder / "report.md").read_text()
    row = next(row for row in table_under(text, "Strategy | Test accuracy") if row[0] == "`lda`")
    assert "[" not in row[1]
    assert "the head, in closed form" in text
    assert set(pd.read_csv(folder / "figures" / "curves_accuracy.csv")["strategy"]) == set(TWO)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", text)


def test_what_cannot_be_told_apart_is_counted_among_those_that_are_alike(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "quick", Plan(strategies={"scratch": 0.4, **TWO}, seeds=range(10), run_sd=4))
    top = replace(numbers.tops[0], members=("fine_tune", "feature_extraction"), doubtful=(), beaten=("scratch",))
    pairs = numbers.pairs.set_index(["a", "b"])["smallest_detectable"]
    found = pairs["feature_extraction", "fine_tune"]
    assert f"a true difference below about {found:.1f} points" in answer(numbers, top).caution


def test_how_much_draws_share_is_told(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "quick", Plan(strategies=TWO, per_class=(10, 100), overlap=0.1074))
    said = next(line for line in wording.limits(numbers) if line.startswith("**Draws overlap"))
    assert "two draws share 11% (10 images a class) and 11% (100 images a class) of their images" in said


def test_provenance_counts_a_training_once_and_names_what_range_tests_ran_on(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "quick", Plan(strategies=TWO))
    rows = dict(origins.provenance_rows(numbers).rows)
    assert rows["Runs"] == "10"
    numbers.tables.provenance.update(
        trainings=8,
        range_tests=[{"commit": "f" * 40, "command": "python -m pipeline.stages.lr_finder quick"}],
        notes=["Something happened."],
    )
    rows = dict(origins.provenance_rows(numbers).rows)
    assert rows["Runs"] == "10, 2 of them the training of another one, which is stored under both names"
    assert rows["Commits of the runs"].endswith(f"`{'f' * 40}`")
    assert rows["Commands"].endswith("`python -m pipeline.stages.lr_finder quick`")
    assert "**Also to know.** Something happened." in wording.limits(numbers)


def test_provenance_names_each_fact_once_and_none_that_is_not_there(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "quick", Plan(strategies=TWO))
    study = numbers.tables.provenance["parameters"]["study"]
    study |= {"precision": "float32", "rates_from": None, "learning_rates": 3.0}
    del study["dataset"]
    names = [name for name, _ in origins.provenance_rows(numbers).rows]
    assert len(names) == len(set(names))
    assert not {"Rates from", "Data set, options"} & set(names)
    assert dict(origins.provenance_rows(numbers).rows)["Learning rates"] == "3 times the textbook's"


def test_ablations_show_the_other_accuracy_where_classes_are_uneven(tmp_path: Path) -> None:
    ablations = {"fine_tune_dropout": ("fine_tune", 4.0)}
    numbers = numbers_of(tmp_path / "uneven", Plan(strategies=TWO, ablations=ablations))
    table = wording.ablation_rows(numbers)
    frames = [table.set_index("seed") for table in (numbers.tables.ablations, numbers.tables.runs)]
    theirs = frames[1][frames[1]["strategy"] == "fine_tune"]["balanced_accuracy"]
    low, high = t_interval((frames[0]["balanced_accuracy"] - theirs).to_numpy() * 100)
    cell = table.rows[0][table.header.index("Balanced accuracy, ablation − strategy [95%]")]
    assert inside(cell) == pytest.approx((low, high), abs=0.051)
    assert table.rows[0][table.header.index("Log loss")] == "0.50"
    even = numbers_of(tmp_path / "even", Plan(strategies=TWO, ablations=ablations, classes={"a": 300, "b": 300}))
    assert not any("Balanced" in head for head in wording.ablation_rows(even).header)


def test_tuning_shows_what_every_scale_reached_and_which_was_chosen(tmp_path: Path) -> None:
    tables = load(write_tables(tmp_path / "quick", Plan(strategies={"scratch": 0.5, "fine_tune": 0.8})))
    assert origins.tuning_rows(findings.compute(tables)).rows == ()
    reached = {"scratch": {0.1: (0.2, 0.4), 1.0: (0.5, 0.7)}, "fine_tune": {0.1: (0.5, 0.7), 1.0: (0.4, 0.8)}}
    pilots = [
        {
            **tables.runs.iloc[0],
            "role": "pilot",
            "strategy": name,
            "lr_scale": scale,
            "seed": 1000 + i,
            "val_accuracy": v,
        }
        for name, scales in reached.items()
        for scale, values in scales.items()
        for i, v in enumerate(values)
    ]
    numbers = findings.compute(replace(tables, tune=pd.DataFrame(pilots)))
    table = origins.tuning_rows(numbers)
    assert table.header == ("Images a class", "Strategy", "×0.1", "×1")
    assert table.rows == (("100", "`scratch`", "30.0", "**60.0**"), ("100", "`fine_tune`", "60.0", "**60.0**"))
    tried = {"1.0": {"right": 150, "of": 200, "log_loss": 0.5}, "3.0": {"right": 140, "of": 200, "log_loss": 0.5}}
    tables.provenance["parameters"]["tried"] = {"100": {"fine_tune": {"lr_scale": 1.0, "tried": tried}}}
    numbers = findings.compute(tables)
    assert origins.tuning_rows(numbers).rows == (("100", "`fine_tune`", "**75.0**", "70.0"),)
    assert numbers.tuned_on(100) == 200
    tables.provenance["parameters"]["tried"] = {"100": {"fine_tune": {"lr_scale": 3.0, "tried": {}}}}
    assert origins.tuning_rows(findings.compute(tables)).rows == ()


def test_the_best_rate_of_a_sweep_is_set_beside_the_strategies(tmp_path: Path) -> None:
    plan = Plan(strategies={"fine_tune": 0.6, "last_block": 0.7}, sweep={"fine_tune_one_rate": (10.0, 1.0)})
    numbers = numbers_of(tmp_path / "quick", plan)
    (sweep,) = numbers.sweeps
    runs = numbers.tables.runs.query("strategy == 'last_block' and seed < 2").set_index("seed")["test_accuracy"]
    ours = numbers.tables.sweep.query("lr_scale == 1").set_index("seed")["test_accuracy"]
    said = wording.sweep_words(numbers, sweep)[-1]
    assert f"1e-4 gets +{(ours - runs).mean() * 100:.1f} points" in said
    assert "against `last_block` (2 seeds)" in said


def test_a_sweep_without_validation_says_that_the_test_images_chose(tmp_path: Path) -> None:
    plan = Plan(strategies=TWO, sweep=SWEEP, validation=False)
    (sweep,) = numbers_of(tmp_path / "a", plan).sweeps
    assert sweep.chosen_on == "test"
    said = wording.sweep_words(numbers_of(tmp_path / "b", plan), sweep)
    assert any("the best**, by the test images themselves (" in line for line in said)
    assert "by the very test images on which it is set beside" in said[-1]
    balanced = numbers_of(tmp_path / "d", replace(plan, judge_by="balanced_accuracy"))
    said = wording.sweep_words(balanced, balanced.sweeps[0])
    assert any("points of balanced accuracy below the best rate" in line for line in said)
    assert "(balanced accuracy where there is no validation)" in wording.sweep_thresholds(balanced)
    watched = numbers_of(tmp_path / "c", replace(plan, validation=True))
    said = wording.sweep_words(watched, watched.sweeps[0])
    assert not any("test images themselves" in line for line in said)
    assert "with the help of the watched images" in said[-1]


def test_classes_that_gain_and_classes_that_lose_are_named(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "quick", Plan())
    row = replace(numbers.robust[0], classes_better=("functional",), classes_worse=("defective",))
    said = wording.robustness_words(replace(numbers, robust=(row,)))
    assert f"both ways: `{row.strategy}` is better on functional and worse on defective." in said
    assert "both ways" not in wording.robustness_words(replace(numbers, robust=(replace(row, classes_worse=()),)))


def test_times_name_the_machine_of_each_strategy_where_there_are_several(tmp_path: Path) -> None:
    two = ({"device": "A", "timed": ["scratch"]}, {"device": "B", "timed": ["fine_tune", "lp_ft"]})
    limits = wording.limits(numbers_of(tmp_path / "two", Plan(environments=two)))
    (times,) = [line for line in limits if line.startswith("**Times")]
    assert "On A: `scratch`. On B: `fine_tune` and `lp_ft`." in times
    limits = wording.limits(numbers_of(tmp_path / "one", Plan(environments=two[:1])))
    assert not any("On A:" in line for line in limits)


def test_the_recipe_of_an_ablation_names_the_scale_of_the_strategy_it_changes(tmp_path: Path) -> None:
    ablations = {"fine_tune_imagenet_normalisation": ("fine_tune", -1.0)}
    numbers = numbers_of(tmp_path / "quick", Plan(ablations=ablations))
    numbers.tables.provenance["parameters"]["lr_scales"] = {"100": {"fine_tune": 10.0}, "10": {"fine_tune": 3.0}}
    scales = {row[0]: row[-1] for row in origins.recipe_rows(numbers).rows}
    assert scales["`fine_tune_imagenet_normalisation`"] == scales["`fine_tune`"] == "×3 at 10; ×10 at 100"
    assert scales["`scratch`"] == "×1"


def test_a_study_without_the_reference_has_no_forest_plot(tmp_path: Path) -> None:
    plan = Plan(strategies={"fine_tune": 0.8, "scratch": 0.66}, epochs=4)
    folder = write_tables(tmp_path / "quick", plan)
    report.write(folder)
    text = (folder / "report.md").read_text()
    assert "`feature_extraction` was not run" in text
    assert "## Forest plot" not in text


def test_several_sizes_get_an_answer_each_and_a_size_sweep(tmp_path: Path) -> None:
    plan = Plan(strategies=TWO, per_class=(10, 100), epochs=4)
    folder = write_tables(tmp_path / "quick", plan)
    report.write(folder)
    text = (folder / "report.md").read_text()
    assert "With 10 images a class (20 in all)" in text
    assert "With 100 images a class (200 in all)" in text
    assert {"sizes", "drift_10", "drift_100"} <= {path.stem for path in (folder / "figures").glob("*.png")}
    assert set(json.loads((folder / "metrics" / "fine_tune.json").read_text())) == {"10", "100"}


def test_a_study_of_all_images_says_so_and_names_what_others_published(tmp_path: Path) -> None:
    others = [{"accuracy": 88.42, "what": "a CNN", "source": "Someone 2019"}]
    folder = write_tables(tmp_path / "quick", Plan(strategies=TWO, per_class=(0,), epochs=4, published=others))
    report.write(folder)
    text = (folder / "report.md").read_text()
    assert "With all 1,968 training images, " in text
    assert "88.42%: a CNN (Someone 2019)" in text
    assert "| Training images a class | all |" in text
    assert "**One set of training images.** Every seed trains on the same 1,968 images" in text
    assert not re.search("draws of (the )?training images|Training draws are balanced", text)
    assert "All images are trained on, as many of a class as there are" in text
    assert " 0 images" not in text
    # two proportions of 656 images each, both 88.42%: 1.96 sqrt(2 p (1 - p) / n)
    assert "would differ by as much as 3.5 points" in text
    assert set(json.loads((folder / "metrics" / "fine_tune.json").read_text())) == {"all"}


def test_rates_chosen_on_few_images_are_said_in_the_answer(tmp_path: Path) -> None:
    weak = Plan(strategies={"fine_tune": 0.55, "feature_extraction": 0.8}, tuning_images={"100": 8})
    caution = answer(numbers_of(tmp_path / "a", weak), numbers_of(tmp_path / "b", weak).tops[0]).caution
    assert "**Rates were chosen on only 8 images**" in caution
    assert "below 80% even on their training images: `fine_tune`)" in caution
    many = numbers_of(tmp_path / "c", Plan(strategies=TWO, tuning_images={"100": 100}))
    assert "Rates were chosen" not in answer(many, many.tops[0]).caution
    untuned = numbers_of(tmp_path / "d", Plan(strategies=TWO))
    assert "Rates were chosen" not in answer(untuned, untuned.tops[0]).caution


def test_what_went_wrong_at_each_rate_follows_from_drift_accuracy_and_loss(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "a", Plan(strategies=TWO, sweep=SWEEP))
    sweep = numbers.sweeps[0]
    assert [rate.what for rate in sweep.rates] == ["moved too far", "moved too far", "best", "moved too little"]
    words = wording.sweep_words(numbers, sweep)
    assert words[0].startswith("**1e-2: moved too far.**")
    assert words[2].startswith("**1e-4: the best**")
    assert words[3].startswith("**1e-5: moved too little.**")
    assert "lower in both seeds" in words[0]


def test_a_diverged_rate_is_called_so_and_never_the_best(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "a", Plan(strategies=TWO, sweep=SWEEP, sweep_diverged=(100.0, 1.0)))
    assert [rate.what for rate in numbers.sweeps[0].rates] == ["diverged", "best", "diverged", "moved too little"]
    every = numbers_of(tmp_path / "b", Plan(strategies=TWO, sweep=SWEEP, sweep_diverged=(100.0, 10.0, 1.0, 0.1)))
    assert every.sweeps[0].best is None
    assert all("diverged" in line for line in wording.sweep_words(every, every.sweeps[0]))


def test_equal_rates_show_no_clear_difference_and_the_edge_is_said(tmp_path: Path) -> None:
    numbers = numbers_of(tmp_path / "a", Plan(strategies=TWO, sweep={"fine_tune_one_rate": (3.0, 1.0)}, run_sd=0.1))
    sweep = numbers.sweeps[0]
    assert sorted(rate.what for rate in sweep.rates) == ["best", "no clear difference"]
    assert sweep.edge
    assert "a better one may lie outside" in " ".join(wording.sweep_words(numbers, sweep))


def test_gains_of_phases_are_paired_by_seed(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "quick", Plan())
    numbers = compute(load(folder))
    history = pd.read_csv(folder / "history.csv").query("split == 'val' and metric == 'accuracy'")
    mine = history[history["strategy"] == "gradual_unfreezing"].pivot_table(
        index="seed", columns="epoch", values="value"
    )
    gains = 100 * (mine[10] - mine[5]).to_numpy()
    row = numbers.gains.query("strategy == 'gradual_unfreezing' and phase == 3").iloc[0]
    assert row["gain"] == pytest.approx(gains.mean())
    assert (row["gain_low"], row["gain_high"]) == pytest.approx(t_interval(gains))
    assert set(numbers.gains["strategy"]) == {"gradual_unfreezing", "lp_ft"}
    read = pd.read_csv(folder / "history.csv").query("strategy == 'lp_ft' and metric == 'accuracy' and epoch == 5")
    row = numbers.gains.query("strategy == 'lp_ft' and phase == 1").iloc[0]
    assert row["train"] == pytest.approx(100 * read.query("split == 'train_end'")["value"].mean())
    # Without that split, as in the first edition, `train` was read in the same way.
    history = numbers.tables.history.query("split != 'train_end'")
    first = findings.phase_gains(replace(numbers.tables, history=history))
    row = first.query("strategy == 'lp_ft' and phase == 1").iloc[0]
    assert row["train"] == pytest.approx(100 * read.query("split == 'train'")["value"].mean())


def test_verdicts_on_phases_are_adjusted_over_all_phases_of_a_size(tmp_path: Path) -> None:
    """Gains that stand alone but not together: Holm by hand over two phases of one strategy and one of another."""
    spread = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / 100
    ends = {  # fractions at the end of each phase, five seeds; each later one gains its number plus the spread
        "gradual_unfreezing": [0.5 + 0 * spread, 0.52 + spread, 0.54 + 2 * spread],
        "lp_ft": [0.5 + 0 * spread, 0.6 + spread],
    }
    rows = [
        {"role": "final", "strategy": name, "per_class": 100, "lr_scale": 1.0, "seed": seed, "phase": phase}
        | {"epoch": phase, "split": "val", "metric": "accuracy", "value": value}
        for name, phases in ends.items()
        for phase, values in enumerate(phases, start=1)
        for seed, value in enumerate(values)
    ]
    tables = load(write_tables(tmp_path, Plan(strategies=TWO)))
    gains = findings.phase_gains(replace(tables, history=pd.DataFrame(rows))).set_index(["strategy", "phase"])
    small, large = (stats.ttest_1samp(100 * spread + gain, 0).pvalue for gain in (2, 10))
    assert small < 0.05 < 2 * small
    assert gains.loc[("lp_ft", 2), "p_holm"] == pytest.approx(3 * large)
    for phase in (2, 3):
        assert gains.loc[("gradual_unfreezing", phase), "p_holm"] == pytest.approx(2 * small)
    assert np.isnan(gains.loc[("lp_ft", 1), "p_holm"])
    verdicts = [wording.phase_verdict(row) for row in gains.reset_index().to_dict("records")]
    assert verdicts == ["first", "not shown", "not shown", "first", "earned"]
    lost = {"phase": 2, "k": 5, "gain": -3.0, "p_holm": 0.01}
    assert wording.phase_verdict(lost) == "cost"
    assert wording.phase_verdict({**lost, "k": 2}) == "open"


def test_ablations_are_paired_with_the_strategy_that_they_change(tmp_path: Path) -> None:
    plan = Plan(strategies=TWO, ablations={"fine_tune_batch_norm_frozen": ("fine_tune", -6.0)})
    folder = write_tables(tmp_path / "quick", plan)
    row = compute(load(folder)).ablations.iloc[0]
    ours = pd.read_csv(folder / "ablations.csv").sort_values("seed")["test_accuracy"].to_numpy()
    runs = pd.read_csv(folder / "runs.csv")
    theirs = runs[runs["strategy"] == "fine_tune"].sort_values("seed")["test_accuracy"].to_numpy()
    assert row["difference"] == pytest.approx(100 * (ours - theirs).mean())
    assert (row["low"], row["high"]) == pytest.approx(t_interval(100 * (ours - theirs)))


def test_per_class_recalls_are_the_shares_of_each_class(tmp_path: Path) -> None:
    folder = write_tables(tmp_path / "quick", Plan(strategies=TWO))
    numbers = compute(load(folder))
    table = numbers.recall.pivot_table(index=["strategy", "seed"], columns="class", values="recall")
    balanced = table.mean(axis=1)
    for run in pd.read_csv(folder / "runs.csv").to_dict("records"):
        assert balanced[(run["strategy"], run["seed"])] == pytest.approx(run["balanced_accuracy"])


def test_the_top_set_never_tests_against_a_winner_picked_on_test() -> None:
    strategies = pd.DataFrame(
        {"per_class": 100, "strategy": ["a", "b", "c"], "k": 10, "judged": [80.0, 79.0, 70.0], "diverged": 0}
    )
    pairs = pd.DataFrame(
        {
            "per_class": 100,
            "a": ["a", "a", "b"],
            "b": ["b", "c", "c"],
            "k": 10,
            "difference": [-1.0, -10.0, -9.0],
            "low": [-3.0, -19.0, -20.0],
            "high": [1.0, -1.0, 2.0],
            "p_holm": [0.3, 0.001, 0.06],
            "overlap": 0.1,
        }
    )
    top = findings.top_of(strategies, pairs, 100, frozenset("abc"), frozenset())
    assert (top.members, top.doubtful, top.beaten) == (("a", "b"), (), ("c",))
    # A sign that does not survive the correction is said, and beats nobody.
    top = findings.top_of(
        strategies, pairs.assign(p_holm=[0.3, 0.06, 0.3], high=[-0.1, -1.0, 2.0]), 100, frozenset("abc"), frozenset()
    )
    assert (top.members, top.doubtful, top.beaten) == (("a",), ("b", "c"), ())


def test_the_answer_is_printed_in_three_lines_with_the_path_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tables(tmp_path / "quick", Plan())
    before = sorted(folder.iterdir())
    report.main(["quick", "--reports", str(tmp_path), "--answer"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("With 100 images a class (200 in all), use ")
    assert "feature_extraction" in lines[1]
    assert lines[3] == f"Report: {folder / 'report.md'}"
    assert sorted(folder.iterdir()) == before


def test_an_unknown_study_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    write_tables(tmp_path / "quick", Plan(strategies=TWO, epochs=4))
    with pytest.raises(SystemExit, match=r"no tables of a study 'slow'.*choose from quick"):
        report.main(["slow", "--reports", str(tmp_path)])


def test_a_study_without_runs_is_refused_with_the_command(tmp_path: Path) -> None:
    write_tables(tmp_path / "quick", Plan(strategies=TWO, missing=[(name, s) for name in TWO for s in range(5)]))
    with pytest.raises(SystemExit, match=r"no final run yet.*dvc repro"):
        report.main(["quick", "--reports", str(tmp_path)])
