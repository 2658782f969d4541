"""The mirror: each run once, readable, and never in the way."""

from __future__ import annotations

import fcntl
import logging
import math
import multiprocessing
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import tracking
from pipeline.tracking import DatasetInput, Experiment, MirroredRun, Point, Shown, mirror

pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's own

DATASET = DatasetInput("ELPV", "d" * 64, "a package", 100, 2)
SEEDS = [
    MirroredRun(
        name=f"fine_tune · seed {seed}",
        params={"role": "final", "strategy": "fine_tune", "seed": str(seed)},
        tags={"role": "final", "fingerprint": "f" * 64},
        seconds=12.5,
        curves=[Point(e, name, 0.1 * e) for e in (1, 2) for name in ("train/loss", "val/loss")],
        final={"test/accuracy": 0.75},
    )
    for seed in range(3)
]
SUMMARY = replace(SEEDS[0], name="75.0% fine_tune", params={"role": "summary"}, tags={}, dataset=DATASET)
WORSE = replace(SUMMARY, name="50.0% scratch")


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database: making its tables takes seconds."""
    file = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    client(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def uri(tmp_path: Path, migrated: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)  # a database without a server keeps artifacts in ./mlruns
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def study(tmp_path: Path) -> Experiment:
    page = tmp_path / "report.md"
    page.write_text("# Report", encoding="utf-8")
    report = MirroredRun(
        "report", {"role": "report"}, {}, description="[page](#/{experiment}/{run})", files={"pages/report.md": page}
    )
    return Experiment("tiny", {"mlflow.note.content": "[report](#/{experiment}/{run})"}, 1e9, [SUMMARY, report], SEEDS)


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs(uri: str, view: int = 1) -> list[Any]:
    """The runs in the order of MLflow's list; `view` 3 counts the removed ones too."""
    (experiment,) = client(uri).search_experiments(filter_string="name = 'tiny'")
    return list(client(uri).search_runs([experiment.experiment_id], "", view, 1000, ["attributes.start_time DESC"]))


def names(uri: str) -> list[str]:
    return [run.info.run_name for run in runs(uri)]


def written(shown: Shown | None) -> int:
    assert shown is not None
    return shown.written


def test_a_mirrored_study_reads_like_the_study(uri: str, study: Experiment) -> None:
    assert written(mirror(study, uri)) == 5
    assert names(uri) == ["75.0% fine_tune", "report", *(seed.name for seed in SEEDS)]
    assert {run.info.status for run in runs(uri)} == {"FINISHED"}
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs(uri))
    summary, report, seed = runs(uri)[:3]
    assert summary.inputs.dataset_inputs[0].dataset.name == "ELPV"
    assert seed.data.params == SEEDS[0].params
    assert seed.info.end_time - seed.info.start_time == 12500
    steps = [(m.step, m.value) for m in client(uri).get_metric_history(seed.info.run_id, "val/loss")]
    assert steps == [(1, 0.1), (2, 0.2)]
    (last,) = client(uri).get_metric_history(seed.info.run_id, "test/accuracy")
    assert (last.step, last.value) == (0, 0.75)
    assert client(uri).list_artifacts(report.info.run_id, "pages")[0].path == "pages/report.md"
    experiment = client(uri).get_experiment(report.info.experiment_id)
    link = f"#/{experiment.experiment_id}/{report.info.run_id}"
    assert experiment.tags["mlflow.note.content"] == f"[report]({link})"
    assert report.data.tags["mlflow.note.content"] == f"[page]({link})"


def test_mirroring_twice_writes_nothing(uri: str, study: Experiment) -> None:
    mirror(study, uri)
    before = [run.info.run_id for run in runs(uri)]
    assert written(mirror(study, uri)) == 0
    assert [run.info.run_id for run in runs(uri, view=3)] == before


def test_only_what_changed_is_written_and_what_is_gone_goes(uri: str, study: Experiment) -> None:
    mirror(study, uri)
    before = {run.info.run_name: run.info.run_id for run in runs(uri)}
    changed = replace(SEEDS[1], final={"test/accuracy": 0.5})
    better = replace(WORSE, name="90.0% scratch")
    assert written(mirror(replace(study, first=[better, *study.first], others=[changed, SEEDS[0]]), uri)) == 4
    assert names(uri)[:3] == ["90.0% scratch", "75.0% fine_tune", "report"]  # moved down by one, so written anew
    assert sorted(names(uri)[3:]) == sorted(seed.name for seed in SEEDS[:2])
    after = {run.info.run_name: run.info.run_id for run in runs(uri)}
    assert [name for name in after if after[name] == before.get(name)] == [SEEDS[0].name]


def test_a_changed_report_is_uploaded_again(uri: str, study: Experiment) -> None:
    mirror(study, uri)
    study.first[-1].files["pages/report.md"].write_text("# Another", encoding="utf-8")
    assert written(mirror(study, uri)) == 1


def test_runs_that_somebody_else_logged_there_stay(uri: str, study: Experiment) -> None:
    mirror(study, uri)
    experiment = runs(uri)[0].info.experiment_id
    client(uri).create_run(experiment, run_name="mine")
    mirror(replace(study, others=[]), uri)
    assert sorted(names(uri)) == ["75.0% fine_tune", "mine", "report"]


@pytest.mark.parametrize("closed", [True, False])  # False: kill -9, or a server that went away
def test_an_interrupted_run_is_closed_and_written_anew(
    uri: str, study: Experiment, monkeypatch: pytest.MonkeyPatch, closed: bool
) -> None:
    from mlflow.tracking import MlflowClient

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", interrupted)
        if not closed:
            patch.setattr(MlflowClient, "set_terminated", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mirror(study, uri)
    assert [run.info.status for run in runs(uri)] == ["KILLED" if closed else "RUNNING"]
    assert written(mirror(study, uri)) == 5
    assert sorted(run.info.status for run in runs(uri, view=3)) == ["FINISHED"] * 5 + ["KILLED"]
    assert len(runs(uri)) == 5


def test_another_writer_waits_and_then_finds_all_there(
    uri: str, study: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    log_inputs, outcomes = MlflowClient.log_inputs, list[Any]()
    waiting = threading.Thread(target=lambda: outcomes.append(mirror(study, uri)))

    def in_the_middle(*given: Any, **named: Any) -> None:
        waiting.start()
        waiting.join(0.5)
        assert outcomes == []
        log_inputs(*given, **named)

    monkeypatch.setattr(MlflowClient, "log_inputs", in_the_middle)
    assert written(mirror(study, uri)) == 5
    waiting.join(60)
    assert written(outcomes[0]) == 0
    assert len(runs(uri, view=3)) == 5


def test_a_lock_that_is_never_given_back_blocks_nothing(
    uri: str, study: Experiment, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "LOCK_SECONDS", 0.1)
    with Path(f"{uri.removeprefix('sqlite:///')}.lock").open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert mirror(study, uri) is None
    assert "another process has held" in caplog.text


def test_an_experiment_deleted_in_the_interface_comes_back(uri: str, study: Experiment) -> None:
    mirror(study, uri)
    client(uri).delete_experiment(runs(uri)[0].info.experiment_id)
    mirror(replace(study, others=SEEDS[:1]), uri)
    assert names(uri) == ["75.0% fine_tune", "report", SEEDS[0].name]


def test_a_diverged_run_keeps_its_nan(uri: str, study: Experiment) -> None:
    diverged = replace(SEEDS[0], curves=[Point(1, "train/loss", math.nan)])
    mirror(replace(study, others=[diverged]), uri)
    assert written(mirror(replace(study, others=[diverged]), uri)) == 0
    (logged,) = client(uri).get_metric_history(runs(uri)[-1].info.run_id, "train/loss")
    assert math.isnan(logged.value)


def test_a_database_that_is_none_costs_one_warning(
    tmp_path: Path, study: Experiment, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mlflow.db").write_text("no database, " * 100)
    since = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert mirror(study, f"sqlite:///{tmp_path}/mlflow.db") is None
    assert time.monotonic() - since < 60  # MLflow's own retries take 101 s
    assert sum("nothing else is affected" in record.message for record in caplog.records) == 1


def _mirror(uri: str, study: Experiment, outcomes: Any) -> None:
    tracking.LOCK_SECONDS = 300  # a loaded machine takes its time over a fresh file's tables
    outcomes.put(mirror(study, uri))


def test_two_writers_share_a_fresh_file(uri: str, study: Experiment) -> None:
    Path("mlflow.db").unlink()
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    writers = [context.Process(target=_mirror, args=(uri, study, outcomes)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(300)
    assert sorted(written(outcomes.get(timeout=5)) for _ in writers) == [0, 5]
    assert len(runs(uri, view=3)) == 5
