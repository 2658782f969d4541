"""What MLflow is to show of a study's tables."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.statistics import mean_interval
from pipeline import tracking
from pipeline.stages import collect, mirror
from pipeline.stages.mirror import as_experiment
from tests.pipeline.collected import Result, write_collected

RESULTS: list[Result] = [
    *(("final", "fine_tune", 10, seed, accuracy) for seed, accuracy in enumerate((0.5, 0.6, 0.7))),
    *(("final", "scratch", 10, seed, 0.65) for seed in range(3)),
    *(("final", "fine_tune", 100, seed, 0.8) for seed in range(3)),
    *(("final", "scratch", 100, seed, 0.7) for seed in range(3)),
    ("final", "lda", 0, 0, 0.9),
    ("sweep", "fine_tune", 10, 0, 0.4),
    ("ablation", "fine_tune_longer", 10, 0, 0.4),
    ("pilot", "fine_tune", 10, 1000, 0.4),
]


def test_means_come_first_the_largest_size_before_the_others_and_there_the_best(tmp_path: Path) -> None:
    shown = as_experiment("tiny", write_collected(tmp_path / "tiny", RESULTS))
    assert [run.name for run in shown.first] == [
        "90.0% lda · all",
        "80.0% fine_tune · 100 a class",
        "70.0% scratch · 100 a class",
        "65.0% scratch · 10 a class",
        "60.0% fine_tune · 10 a class",
        "report",
    ]
    assert [run.params["role"] for run in shown.others] == ["final"] * 13 + ["sweep", "ablation", "pilot"]
    assert shown.others[-1].name == "fine_tune · 10 a class · seed 1000 · pilot"
    assert {run.tags["mlflow.runColor"] for run in shown.first if "fine_tune" in run.name} == {mirror.COLOURS[1]}


def test_a_mean_has_its_t_interval_and_its_mean_curves_and_one_run_alone_has_no_interval(tmp_path: Path) -> None:
    shown = as_experiment("tiny", write_collected(tmp_path / "tiny", RESULTS))
    mean = next(run for run in shown.first if run.name == "60.0% fine_tune · 10 a class")
    half = 4.302653 * 0.1 / 3**0.5  # the 97.5% quantile of t with two degrees of freedom; the deviation is 0.1
    assert mean.final["test/accuracy"] == 0.6
    assert mean.final["test/accuracy_low"] == pytest.approx(0.6 - half, abs=1e-4)
    assert mean.final["test/accuracy_high"] == pytest.approx(0.6 + half, abs=1e-4)
    values = {(point.epoch, point.name): point.value for point in mean.curves}
    assert values[1, "val/accuracy"] == pytest.approx(0.6)
    assert values[2, "val/accuracy"] == pytest.approx(1.2)
    assert (mean.params["role"], mean.params["seeds"], mean.params["per_class"]) == ("summary", "3", "10")
    assert "seed" not in mean.params
    assert "test/accuracy_low" not in shown.first[0].final


@pytest.mark.parametrize("overlap", [0.2, 0.6])
def test_intervals_are_those_of_the_report_where_draws_overlap(tmp_path: Path, overlap: float) -> None:
    place = write_collected(tmp_path / "tiny", RESULTS)
    provenance = json.loads((place / "provenance.json").read_text(encoding="utf-8"))
    provenance["dataset"]["overlap"] = {"10": overlap, "100": 0.0}
    (place / "provenance.json").write_text(json.dumps(provenance), encoding="utf-8")
    mean = next(run for run in as_experiment("tiny", place).first if run.name == "60.0% fine_tune · 10 a class")
    said = mean_interval([0.5, 0.6, 0.7], overlap)
    shown = [mean.final.get(f"test/accuracy_{end}", float("nan")) for end in ("low", "high")]
    assert shown == pytest.approx([said.low, said.high], abs=1e-4, nan_ok=True)


def test_the_accuracy_that_decides_orders_and_names_the_means_and_stands_first_in_the_view(tmp_path: Path) -> None:
    shown = as_experiment("tiny", write_collected(tmp_path / "tiny", RESULTS, judge_by="balanced_accuracy"))
    assert shown.first[0].name == "80.0% lda · all"
    assert "test/balanced_accuracy_low" in shown.first[1].final
    view = json.loads(shown.tags["mlflow.sharedViewState.means"])
    assert view["compareRunCharts"][0]["metricKey"] == "test/balanced_accuracy"


def test_a_pilot_is_judged_on_its_tuning_split(tmp_path: Path) -> None:
    pilot = as_experiment("tiny", write_collected(tmp_path / "tiny", RESULTS)).others[-1]
    assert {name for name in pilot.final if "/" in name} == {
        "tuning/balanced_accuracy",
        "tuning/log_loss",
        "tuning/ece",
    }


def test_the_report_run_holds_pages_tables_and_figures_and_leads_to_them(tmp_path: Path) -> None:
    shown = as_experiment("tiny", write_collected(tmp_path / "tiny", RESULTS))
    report = shown.first[-1]
    assert {"report.md", "details.md", "runs.csv", "provenance.json", "figures/accuracy.png"} <= set(report.files)
    assert [line.partition("]")[0] for line in report.description.splitlines()] == [
        "- [report.md",
        "- [details.md",
        "- [Accuracy by strategy",
    ]
    assert "runs/{run}/artifacts/report.md" in shown.tags["mlflow.note.content"].splitlines()[0]


def test_the_tables_are_those_that_collect_writes() -> None:
    assert set(mirror.TABLES) == set(collect.TABLES.values())
    assert set(mirror.CELL) == set(collect.KEY) - {"study"}
    assert set(mirror.METRICS.values()) <= set(collect.RUN_COLUMNS)


def test_mirroring_needs_no_torch() -> None:
    script = "import sys, pipeline.stages.mirror; print({'torch', 'mlflow', 'scipy', 'pandas'} & set(sys.modules))"
    root = Path(mirror.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"


def test_a_study_whose_tables_cannot_be_read_keeps_no_other_from_being_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_collected(Path("reports/whole"), RESULTS)
    write_collected(Path("reports/broken"), RESULTS)
    Path("reports/broken/history.csv").unlink()
    seen: list[str] = []

    def shown(experiment: tracking.Experiment) -> tracking.Shown:
        seen.append(experiment.name)
        return tracking.Shown(1, "http://127.0.0.1:5000", "7")

    monkeypatch.setattr(tracking, "mirror", shown)
    with caplog.at_level(logging.INFO):
        mirror.mirror()
    assert seen == ["whole"]
    assert "broken: not mirrored, its tables can't be read (FileNotFoundError" in caplog.text
    assert "http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning" in caplog.text
