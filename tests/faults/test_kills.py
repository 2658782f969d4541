"""A study that is killed again and again: SIGKILL at random moments, then resumed, until its tables are there.

FAULTS.md 16, 17, 21, 22 and 47, on the stages themselves and on `dvc repro`.
"""

from __future__ import annotations

import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.files import PARTIAL
from tests.faults.tiny_study import ALL_STAGES, BEFORE_TRAINING, Nursery, left_by, seconds_until_gone
from tests.test_end_to_end import PARAMS, command, make_project, run_bytes, stored_runs

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

KILLS = 25


def ended_within(nursery: Nursery, seconds: float) -> bool:
    """Whether what was started last ends by itself in that time."""
    return bool(select.select([nursery.process.stdout], [], [], seconds)[0])


def test_a_study_killed_25_times_at_random_moments_ends_with_the_bytes_of_an_unbroken_one(
    nursery: Nursery, tmp_path: Path
) -> None:
    moments, kills = random.Random(20), {"the group": 0, "the parent alone": 0}
    unbroken = make_project(tmp_path / "unbroken")
    nursery.run(unbroken, "prepare tiny")  # whatever is slow the first time
    since = time.monotonic()
    nursery.run(unbroken, *ALL_STAGES)
    longest, expected = (time.monotonic() - since) / 3, left_by(unbroken)
    assert expected
    studies, found = 0, set[int]()
    while sum(kills.values()) < KILLS:
        broken, studies = tmp_path / f"broken{studies}", studies + 1
        make_project(broken)
        while True:
            process = nursery.start(broken, ALL_STAGES)
            if ended_within(nursery, moments.uniform(0, longest) if sum(kills.values()) < KILLS else 600):
                assert nursery.outcome() == 0, (broken / "told.txt").read_text(encoding="utf-8")
                break
            how = moments.choice(list(kills))
            (os.killpg if how == "the group" else os.kill)(process, signal.SIGKILL)
            assert nursery.outcome() == -signal.SIGKILL
            assert seconds_until_gone(process, 30) < 30  # workers too
            kills[how] += 1
            found.add(len(list((broken / "results").rglob("[!.]*.zip"))))
        assert left_by(broken) == expected
        for partial in broken.rglob(f"{PARTIAL}*"):
            assert partial.stat().st_size < 1 << 20  # what is left does no harm; it is swept once it is old
    assert min(kills.values()) >= 5
    assert len(found) > 3  # kills at several stages of completion


# --- dvc ------------------------------------------------------------------------------------------------------------

LONG = PARAMS.replace("epochs: 2", "epochs: 40")  # long enough to be met in the middle of it


@pytest.fixture(scope="module")
def prepared(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study as `dvc repro` has brought it to its training."""
    folder = make_project(tmp_path_factory.mktemp("dvc") / "project")
    (folder / "params.yaml").write_text(LONG, encoding="utf-8")
    command("dvc", "repro", "tune@tiny", folder=folder)
    return folder


class Repro:
    """`dvc repro` of one strategy in the middle of its training, in a session of its own as under a terminal."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, folder / "results" / "tiny" / "final" / "fine_tune"
        self.told, before = folder / "told.txt", len(stored_runs(self.place))
        # A background job ignores SIGINT, and so do its children.
        reset = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execvp('dvc', sys.argv[1:])"
        with self.told.open("wb") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-c", reset, "dvc", "repro", "train@tiny-fine_tune"],
                cwd=folder, env=environment(), start_new_session=True, stdout=told, stderr=subprocess.STDOUT,
            )  # fmt: skip
        until = time.monotonic() + 120
        while len(stored_runs(self.place)) == before:
            assert time.monotonic() < until, "the stage didn't come to its training"
            assert self.process.poll() is None, self.told.read_text(encoding="utf-8")
            time.sleep(0.02)

    def stop(self) -> None:
        seconds_until_gone(self.process.pid, 0)
        self.process.wait()


def slowness() -> float:
    """How many times as long as alone a process takes on this machine just now."""
    since, worked = time.monotonic(), time.thread_time()
    while time.thread_time() - worked < 0.3:
        pass
    return max(1.0, (time.monotonic() - since) / 0.3)


def environment() -> dict[str, str]:
    python = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{python}{os.pathsep}{os.environ['PATH']}", "THAW_WORKERS": "2"}


@pytest.fixture
def study(prepared: Path) -> Iterator[Path]:
    """The prepared study without a final run."""
    yield prepared
    shutil.rmtree(prepared / "results" / "tiny" / "final", ignore_errors=True)


def second(folder: Path) -> str:
    """What a second `dvc repro` says, which has to fail."""
    done = command("dvc", "repro", "train@tiny-fine_tune", folder=folder, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@contextmanager
def held(processes: list[psutil.Process]) -> Iterator[None]:
    """Still at what they do, however fast the machine is."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def test_the_second_of_two_dvc_repro_says_who_holds_the_lock_and_the_orphan_of_a_killed_one_refuses_writers(
    study: Path,
) -> None:
    first = Repro(study)
    try:
        stage = psutil.Process(first.process.pid).children(recursive=True)
        with held(stage):
            assert re.search(rf"\(PID {first.process.pid}\): .*dvc repro train@tiny-fine_tune", second(study))
        os.kill(first.process.pid, signal.SIGKILL)  # dvc alone: its child trains on
        first.process.wait()
        with held(stage):
            said = second(study)
        holder = re.search(r"results/tiny/final/fine_tune is being written by process (\d+) on ", said)
        assert holder, said
        assert int(holder[1]) != first.process.pid
        os.kill(int(holder[1]), 0)  # which is still there, at what it does
        assert seconds_until_gone(first.process.pid, 300) < 300  # to its end
    finally:
        first.stop()
    assert len(stored_runs(first.place)) == 4  # nothing was lost, and the next one finds it
    written = {path.name: path.stat().st_mtime_ns for path in stored_runs(first.place)}
    command("dvc", "repro", "train@tiny-fine_tune", folder=study)
    assert {path.name: path.stat().st_mtime_ns for path in stored_runs(first.place)} == written


def test_ctrl_c_ends_dvc_its_stage_and_its_workers_and_the_next_dvc_repro_goes_on_to_the_same_bytes(
    study: Path, nursery: Nursery, tmp_path: Path
) -> None:
    first = Repro(study)
    try:
        kept = {path.name: path.stat().st_mtime_ns for path in stored_runs(first.place)}
        os.killpg(first.process.pid, signal.SIGINT)
        assert seconds_until_gone(first.process.pid, 60) < 3 * slowness()  # two, and what measuring takes
    finally:
        first.stop()
    assert first.process.returncode not in (0, None)
    said = first.told.read_text(encoding="utf-8")
    assert "stopped; finished runs are kept, `dvc repro` goes on from here" in said
    assert said.count("Traceback") == 0, said
    after = {path.name: path.stat().st_mtime_ns for path in stored_runs(first.place)}
    assert kept.items() <= after.items()
    assert 1 <= len(after) < 4
    assert not list((study / "results").rglob(f"{PARTIAL}*"))
    command("dvc", "repro", "train@tiny-fine_tune", folder=study)
    resumed = {path.name: path.stat().st_mtime_ns for path in stored_runs(first.place)}
    assert after.items() <= resumed.items()
    unbroken = make_project(tmp_path / "unbroken")
    (unbroken / "params.yaml").write_text(LONG, encoding="utf-8")
    nursery.run(unbroken, *BEFORE_TRAINING, "train tiny fine_tune")
    assert run_bytes(study) == run_bytes(unbroken)
