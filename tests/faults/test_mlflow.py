"""MLflow that can't be reached: training and mirror go on with one warning, and `make mirror` catches up.

FAULTS.md 20, on the stage itself, with a port that is closed and one that takes connections and says nothing.
"""

from __future__ import annotations

import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.stages import mirror
from tests.faults.test_damage import collected as collected

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]  # mlflow's own

RUNS = 8


@pytest.fixture
def study(collected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained and collected study that MLflow knows nothing of."""
    shutil.copytree(collected, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture(params=["closed", "silent"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port of this machine behind which there is no MLflow."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen()
        yield server.getsockname()[1]


def mirrored(folder: Path) -> list[Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    found = client.get_experiment_by_name("tiny")
    return [] if found is None else list(client.search_runs([found.experiment_id]))


def test_a_server_that_cannot_be_reached_costs_one_warning_and_the_mirror_catches_up_later(
    study: Path, port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    import mlflow  # noqa: F401  (takes seconds, which are not the server's)

    since = time.monotonic()
    with caplog.at_level(logging.WARNING):
        mirror.mirror("tiny")
    assert time.monotonic() - since < 30  # the client's own retries take 246 s
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "training goes on, `make mirror` catches up" in warnings[0].getMessage()
    assert threading.active_count() < 10

    caplog.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{study}/mlflow.db")
    mirror.mirror()  # as `make mirror` does: every study that has run here
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(mirrored(study)) == RUNS
    mirror.mirror()
    assert len(mirrored(study)) == RUNS
