"""Workers killed, a scheduler lost, Ctrl-C: what is finished on a cluster is kept, and the rest goes on or says why."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import cluster, execution
from pipeline.cluster import ClusterError
from pipeline.stages.progress import Progress
from tests.dask_cluster import FIRST, Cluster, first_is_done, started
from tests.pipeline.test_cluster import study as study
from tests.pipeline.test_cluster import trained
from tests.pipeline.test_execution import learned, sleeps, unheard

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.faults


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with started(tmp_path / "cluster") as made:
        monkeypatch.setenv("THAW_SCHEDULER", made.address)
        yield made


def interrupted_once(job: tuple[str, int], report: Callable[[int], None]) -> bytes:
    """Job 2, when it is first done, stands still in its middle."""
    folder, number = job
    mark = Path(folder) / f"pid{number}"
    if number == 2 and not mark.exists():
        mark.write_text(str(os.getpid()), encoding="utf-8")
        report(0)
        time.sleep(600)
    return learned(number, lambda _: None)


def test_a_worker_killed_in_the_middle_of_a_job_loses_nothing(workers: Cluster, tmp_path: Path) -> None:
    jobs = [(str(tmp_path), number) for number in range(6)]

    def kill(job: tuple[str, int], value: int) -> None:
        os.kill(int((tmp_path / "pid2").read_text(encoding="utf-8")), signal.SIGKILL)

    done = dict(cluster.each(interrupted_once, jobs, kill))
    assert sorted(worker.poll() or 0 for worker in workers.workers) == [-signal.SIGKILL, 0]
    assert {number: done[folder, number] for folder, number in jobs} == {
        number: learned(number, lambda _: None) for number in range(6)
    }


def test_a_study_whose_worker_is_killed_has_the_runs_of_an_unbroken_one(
    study: Path, workers: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Progress.advance

    def kill_at_first(self: Progress, steps: int = 1, where: str = "") -> None:
        if self.unit == "epoch":
            workers.workers[0].kill()
        advance(self, steps, where)

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "advance", kill_at_first)
        broken = trained(study, "fine_tune")
    assert workers.workers[0].wait() == -signal.SIGKILL
    monkeypatch.delenv("THAW_SCHEDULER")
    monkeypatch.setenv("THAW_WORKERS", "2")
    assert broken == trained(study, "fine_tune")


def kills(job: int, report: Callable[[int], None]) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def test_a_job_that_ends_every_worker_is_said_to_lack_memory(workers: Cluster) -> None:
    for _ in range(2):
        workers.add_worker()
    with pytest.raises(execution.WorkerKilled, match=r"want of memory.*resolution or batch_size"):
        list(cluster.each(kills, [0], unheard))


def test_a_lost_scheduler_is_one_line_and_finished_jobs_are_kept(
    workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = []
    since = time.monotonic()
    with pytest.raises(ClusterError, match="scheduler was lost") as caught:  # noqa: PT012
        for job, _ in cluster.each(first_is_done, range(3), unheard):
            finished.append(job)
            workers.scheduler.kill()
            since = time.monotonic()
    assert finished == [int(FIRST.read_text(encoding="utf-8"))]
    assert time.monotonic() - since < 20
    assert "\n" not in str(caught.value)


def test_a_worker_of_several_threads_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(tmp_path / "cluster", workers=0) as made:
        made.add_worker("--nthreads", "2")
        monkeypatch.setenv("THAW_SCHEDULER", made.address)
        with pytest.raises(ClusterError, match="--nthreads 1"):
            list(cluster.each(sleeps, [0.0], unheard))


def test_a_cluster_without_workers_is_said_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LOOK", 0.2)
    with started(tmp_path / "cluster", workers=0) as made:
        monkeypatch.setenv("THAW_SCHEDULER", made.address)
        monkeypatch.setattr(cluster.LOG, "warning", lambda message: made.add_worker())
        assert dict(cluster.each(sleeps, [0.0], unheard)) == {0.0: 0.0}
    assert len(made.workers) == 1


STAGE = """
import signal
from pathlib import Path
from pipeline import cluster
from pipeline.stages import command
from tests.dask_cluster import first_is_done

def stage():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
    for job, _ in cluster.each(first_is_done, range(8), lambda job, value: Path(f"busy{job}").touch()):
        Path(f"finished{job}").touch()

command.main(stage, "", ())
"""


def test_ctrl_c_ends_a_stage_within_seconds_keeps_what_is_finished_and_frees_the_workers(
    workers: Cluster, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    stage = subprocess.Popen(
        [sys.executable, "-c", STAGE], cwd=tmp_path, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not (any(tmp_path.glob("finished*")) and len(list(tmp_path.glob("busy*"))) >= 2):
            assert time.monotonic() < until
            assert stage.poll() is None, stage.communicate()
            time.sleep(0.05)
        since = time.monotonic()
        os.killpg(stage.pid, signal.SIGINT)
        told = stage.communicate(timeout=60)[1]
    finally:
        stage.kill()
        stage.communicate()
    assert time.monotonic() - since < 10
    assert stage.returncode == 1
    assert "Traceback" not in told, told
    first = (tmp_path / FIRST).read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.glob("finished*")} == {f"finished{first}"}
    assert dict(cluster.each(sleeps, [0.0, 0.1], unheard)) == {0.0: 0.0, 0.1: 0.1}
    assert time.monotonic() - since < 60  # the workers have stopped
