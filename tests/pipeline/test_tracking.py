"""The mirror: once each, readable, and never in the way."""

from __future__ import annotations

import fcntl
import logging
import math
import multiprocessing
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import tracking
from pipeline.strategies import Cell
from pipeline.tracking import DatasetInput, Mirror, MirroredRun, Point

pytestmark = pytest.mark.filterwarnings("ignore")  # mlflow's own

RUN = MirroredRun(
    cell=Cell("tiny", "sweep", "fine_tune_one_rate", 10, 100.0, 3),
    params={"backbone": "efficientnet_lite0", "epochs": 2},
    curves=[
        Point(e, name, 0.1 * e) for e in (1, 2) for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
    ],
    final={"test/accuracy": 0.75, "test/log_loss": 0.5},
    tags={"fingerprint": "f" * 64, "commit": "abc", "status": "ok"},
    dataset=DatasetInput("ELPV", "d" * 64, "a package", 100, 2),
    started=datetime(2026, 1, 1, tzinfo=UTC),
    seconds=12.5,
    experiment="tiny",
    description="what it is",
)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def runs(uri: str) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    found = client.get_experiment_by_name("tiny")
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def test_a_run_arrives_with_name_params_curves_results_data_set_and_tags(uri: str) -> None:
    from mlflow.tracking import MlflowClient

    with Mirror(uri) as mirror:
        assert mirror.add(RUN) == "added"
    (run,) = runs(uri)
    assert run.info.run_name == "fine_tune_one_rate ×100 · 10 a class · seed 3 · sweep"
    assert run.info.status == "FINISHED"
    assert run.info.end_time - run.info.start_time == 12500
    assert run.data.params == {
        "strategy": "fine_tune_one_rate", "per_class": "10", "seed": "3", "lr_scale": "100", "role": "sweep",
        "backbone": "efficientnet_lite0", "epochs": "2",
    }  # fmt: skip
    assert run.data.metrics["test/accuracy"] == 0.75
    assert run.data.tags["commit"] == "abc"
    assert run.inputs.dataset_inputs[0].dataset.name == "ELPV"
    client = MlflowClient(tracking_uri=uri)
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "val/loss")] == [(1, 0.1), (2, 0.2)]
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.name == "tiny"
    assert experiment.tags["mlflow.note.content"] == "what it is"


def test_mirroring_twice_changes_nothing(uri: str) -> None:
    for expected in ("added", "present"):
        with Mirror(uri) as mirror:
            assert mirror.add(RUN) == expected
            assert mirror.add(RUN) == "present"
    assert len(runs(uri)) == 1


def test_a_run_of_a_new_fingerprint_takes_the_place_of_the_cells_old_one(uri: str) -> None:
    with Mirror(uri) as mirror:
        mirror.add(RUN)
        mirror.add(replace(RUN, cell=replace(RUN.cell, seed=4), tags={**RUN.tags, "fingerprint": "e" * 64}))
        assert mirror.add(replace(RUN, tags={**RUN.tags, "fingerprint": "a" * 64})) == "added"
    assert {run.data.tags["fingerprint"][0] for run in runs(uri)} == {"a", "e"}


def test_a_half_written_run_is_written_anew(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    with monkeypatch.context() as patch, Mirror(uri) as mirror:
        patch.setattr(MlflowClient, "log_inputs", lambda *_, **__: (_ for _ in ()).throw(OSError("killed")))
        assert mirror.add(RUN) == "unavailable"
    (half,) = runs(uri)
    assert half.info.status == "RUNNING"
    with Mirror(uri) as mirror:
        assert mirror.add(RUN) == "added"
    (whole,) = runs(uri)
    assert whole.info.status == "FINISHED"


def test_a_run_that_another_writer_is_in_the_middle_of_is_left_alone(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    first, second = Mirror(uri), Mirror(uri)
    other = replace(RUN, cell=replace(RUN.cell, seed=4), tags={**RUN.tags, "fingerprint": "e" * 64})
    assert (first.add(other), second.add(other)) == ("added", "present")
    log_inputs, outcomes = MlflowClient.log_inputs, list[str]()

    def interrupted(*given: Any, **named: Any) -> None:
        if not outcomes:  # the second writer comes in here, and has to wait
            outcomes.append("waits")
            waiting.start()
            waiting.join(0.5)
            assert outcomes == ["waits"]
        log_inputs(*given, **named)

    waiting = threading.Thread(target=lambda: outcomes.append(second.add(RUN)))
    monkeypatch.setattr(MlflowClient, "log_inputs", interrupted)
    assert first.add(RUN) == "added"
    waiting.join(30)
    assert outcomes == ["waits", "present"]
    assert len(runs(uri)) == 2


def test_a_lock_that_is_never_given_back_blocks_nothing(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "LOCK_SECONDS", 0.1)
    with Path(f"{uri.removeprefix('sqlite:///')}.lock").open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert Mirror(uri).add(RUN) == "unavailable"
    assert "another process has held" in caplog.text


def test_an_experiment_deleted_in_the_interface_comes_back_with_what_is_mirrored_anew(uri: str) -> None:
    from mlflow.tracking import MlflowClient

    with Mirror(uri) as mirror:
        mirror.add(RUN)
        mirror.add(replace(RUN, tags={**RUN.tags, "fingerprint": "a" * 64}))
    client = MlflowClient(tracking_uri=uri)
    client.delete_experiment(client.get_experiment_by_name("tiny").experiment_id)
    with Mirror(uri) as mirror:
        assert mirror.add(replace(RUN, tags={**RUN.tags, "fingerprint": "a" * 64})) == "added"
    assert [run.data.tags["fingerprint"][0] for run in runs(uri)] == ["a"]


def test_a_diverged_run_keeps_its_nan(uri: str) -> None:
    from mlflow.tracking import MlflowClient

    nan = Point(1, "train/loss", math.nan)
    assert Mirror(uri).add(replace(RUN, curves=[nan], tags={**RUN.tags, "status": "diverged"})) == "added"
    (run,) = runs(uri)
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "diverged")
    (logged,) = MlflowClient(tracking_uri=uri).get_metric_history(run.info.run_id, "train/loss")
    assert math.isnan(logged.value)


def test_a_server_that_is_down_costs_one_warning_and_no_time(caplog: pytest.LogCaptureFixture) -> None:
    since = time.monotonic()
    with caplog.at_level(logging.WARNING), Mirror("http://127.0.0.1:9") as mirror:
        assert mirror.add(RUN) == mirror.add(RUN) == "unavailable"
    assert time.monotonic() - since < 10
    assert sum("training goes on" in record.message for record in caplog.records) == 1


def _add(uri: str, seed: int, outcomes: Any) -> None:
    run = replace(RUN, cell=replace(RUN.cell, seed=seed), tags={**RUN.tags, "fingerprint": f"{seed:064d}"})
    with Mirror(uri) as mirror:
        outcomes.put(mirror.add(run))


def test_several_writers_share_a_fresh_file(uri: str) -> None:
    context = multiprocessing.get_context("spawn")
    outcomes = context.Queue()
    writers = [context.Process(target=_add, args=(uri, seed, outcomes)) for seed in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [outcomes.get(timeout=5) for _ in writers] == ["added"] * 3
    assert len(runs(uri)) == 3
