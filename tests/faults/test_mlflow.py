"""MLflow's server: there, away, silent; and what a browser shows of a mirrored study."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import tracking
from pipeline.stages.mirror import CHARTS, RUNS, as_experiment
from tests.pipeline.collected import Result, write_collected

pytestmark = [pytest.mark.faults, pytest.mark.filterwarnings("ignore")]  # mlflow's own

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1280,1200",
    "--virtual-time-budget=90000", "--dump-dom",
]  # fmt: skip
RESULTS: list[Result] = [
    ("final", strategy, 10, seed, accuracy + seed / 100)
    for strategy, accuracy in (("scratch", 0.4), ("feature_extraction", 0.7), ("fine_tune", 0.8))
    for seed in range(4)
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_health(server: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server has ended"
        try:
            with urllib.request.urlopen(f"{server}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(server)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real server; its files lie in memory where that can be had, since SQLite waits for the disk at every commit."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        port = free_port()
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/server.db",
                "--artifacts-destination", f"{folder}/artifacts", "--host", "127.0.0.1", "--port", str(port),
                "--workers", "1",
            ],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            await_health(f"http://127.0.0.1:{port}", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)  # its worker too
            process.wait(30)


def run_stage(folder: Path, uri: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`make mirror` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline.stages.mirror"],
        cwd=folder, text=True, capture_output=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri, **environment},
    )  # fmt: skip


def test_a_server_gets_every_study_once_in_three_requests_a_run(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient
    from mlflow.utils import rest_utils

    for name in ("one", "two"):
        write_collected(tmp_path / "reports" / name, RESULTS)
    done = run_stage(tmp_path, server)
    assert (done.returncode, done.stderr.count("16 new runs in MLflow")) == (0, 2)  # 12 runs, 3 means, the report
    done = run_stage(tmp_path, server)
    assert (done.returncode, done.stderr.count("0 new runs in MLflow")) == (0, 2)
    client = MlflowClient(tracking_uri=server)
    experiment = client.get_experiment_by_name("one")
    listed = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
    assert [run.info.run_name for run in listed][:4] == [
        "81.5% fine_tune · 10 a class", "71.5% feature_extraction · 10 a class", "41.5% scratch · 10 a class", "report",
    ]  # fmt: skip
    assert {run.info.status for run in listed} == {"FINISHED"}
    picture = client.download_artifacts(listed[3].info.run_id, "figures/accuracy.png", str(tmp_path))
    assert Path(picture).read_bytes() == b"\x89PNG"
    final = client.search_runs([experiment.experiment_id], "params.role = 'final' and params.strategy = 'scratch'")
    assert len(final) == 4

    sent: list[str] = []
    send = rest_utils._get_http_response_with_retries

    def counted(method: str, url: str, *given: object, **named: object) -> object:
        sent.append(url)
        return send(method, url, *given, **named)

    monkeypatch.setattr(rest_utils, "_get_http_response_with_retries", counted)
    more: list[Result] = [("pilot", "fine_tune", 10, 1000 + seed, 0.5) for seed in range(20)]
    before = as_experiment("one", tmp_path / "reports" / "one")
    after = as_experiment("one", write_collected(tmp_path / "more" / "one", [*RESULTS, *more]))
    shown = tracking.mirror(tracking.Experiment(**{**vars(before), "others": after.others}), server)
    assert shown is not None
    assert shown.written == 20
    assert len(sent) <= 3 * 20 + 10


def test_a_server_that_is_down_costs_one_warning_and_the_study_goes_on(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_collected(tmp_path / "reports" / name, RESULTS)
    since = time.monotonic()
    done = run_stage(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert time.monotonic() - since < 60  # seconds, and the client's own retries take 246
    assert done.returncode == 0
    (warning,) = done.stderr.splitlines()
    assert "can't be used" in warning
    assert "`make mirror` catches up" in warning


def test_a_server_that_never_answers_does_not_block(tmp_path: Path) -> None:
    write_collected(tmp_path / "reports" / "one", RESULTS)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = run_stage(tmp_path, address, MLFLOW_HTTP_REQUEST_TIMEOUT="1")
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_browser_shows_the_means_first_and_their_accuracy_as_a_chart(server: str, tmp_path: Path) -> None:
    shown = tracking.mirror(as_experiment("seen", write_collected(tmp_path / "seen", RESULTS)), server)
    assert shown is not None

    def page(address: str) -> str:
        profile = tmp_path / f"profile{len(list(tmp_path.iterdir()))}"
        done = subprocess.run(
            [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", f"{server}/{address}"],
            capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
        return done.stdout

    means = ["81.5% fine_tune · 10 a class", "71.5% feature_extraction · 10 a class", "41.5% scratch · 10 a class"]
    listed = page(RUNS.replace("{experiment}", shown.experiment))
    first_seen = [listed.find(name) for name in [*means, ">report<", "scratch · 10 a class · seed 0"]]
    assert first_seen == sorted(first_seen)
    assert first_seen[0] > 0
    charts = page(CHARTS.replace("{experiment}", shown.experiment))
    assert "share key" not in charts  # what MLflow says of a view that it can't read
    assert charts.find("test/accuracy") > 0
    assert re.findall(r'data-unformatted="(0\.\d\d)"[^>]*>0\.\d\d<', charts)[:3]
    assert "bartext" in charts
    assert "seed 0" not in charts
