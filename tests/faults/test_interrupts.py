"""Ctrl-C, SIGTERM and kill -9 in the middle of training: stage and workers are gone, finished results are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
LIMIT = 2.0  # seconds

STAGE = '''
import ctypes, os, signal, sys, time
from pathlib import Path
import numpy as np
if "torch" in sys.argv:
    import torch
from pipeline import execution

folder = Path(sys.argv[1])

def work(job, report):
    """Two short jobs; the rest never ends, in steps of a second and more."""
    (folder / f"pid{os.getpid()}").touch()
    if job < 2:
        return job
    report(job)
    if "torch" in sys.argv:
        layer, images = torch.nn.Conv2d(64, 64, 5), torch.randn(64, 64, 96, 96)
        while True:
            layer(images).square().mean().backward()
    a = np.random.default_rng(0).random((2500, 2500))  # as deaf to signals, and sooner imported
    while True:
        a = a @ a
        a /= a.max()

def main():
    # Heard as under a terminal, also where the tests themselves run in the background, which ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "no_prctl" in sys.argv:
        ctypes.CDLL = lambda name: object()  # forked workers lack it too
    if "in_process" in sys.argv:
        (folder / "finished0").touch()
        (folder / "finished1").touch()
        jobs, count = [2], 1
    else:
        jobs, count = range(6), 2
    for job, result in execution.each(work, jobs, lambda job, value: (folder / f"busy{job}").touch(), count):
        (folder / f"finished{job}").touch()
        if "slow_caller" in sys.argv and len(list(folder.glob("finished*"))) == 2:
            (folder / "busy9").touch()
            (folder / "busy8").touch()
            time.sleep(60)

if __name__ == "__main__":
    main()
'''


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # a zombie waits for somebody to ask how it ended


class Stage:
    """A stage in the middle of its training, in a session of its own as under a terminal."""

    def __init__(self, started: list[Stage], folder: Path, method: str, *options: str) -> None:
        self.folder = folder
        script = folder / "stage.py"
        script.write_text(STAGE, encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "THAW_START_METHOD": method, "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(folder), *options],
            env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(self)  # before anything can fail: it must not outlive the test
        busy = 1 if "in_process" in options else 2
        until = time.monotonic() + 60
        while len(list(folder.glob("busy*"))) < busy or len(list(folder.glob("finished*"))) < 2:
            assert time.monotonic() < until, "the stage didn't come to its training"
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)
        time.sleep(0.2)  # well into a step

    def pids(self) -> list[int]:
        return [self.process.pid, *(int(path.name.removeprefix("pid")) for path in self.folder.glob("pid*"))]

    def seconds_to_end(self) -> float:
        since = time.monotonic()
        pids = self.pids()
        while any(alive(pid) for pid in pids) or self.process.poll() is None:
            self.process.poll()
            if time.monotonic() - since > 3 * LIMIT:
                break
            time.sleep(0.01)
        return time.monotonic() - since


@pytest.fixture
def stages() -> Iterator[list[Stage]]:
    started: list[Stage] = []
    yield started
    for stage in started:
        for pid in stage.pids():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        stage.process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("method", "how", "options"),
    [
        ("fork", "SIGINT", ()),
        ("fork", "SIGINT to the group", ("torch",)),
        ("fork", "SIGINT", ("slow_caller",)),
        ("fork", "SIGINT", ("in_process",)),
        ("fork", "SIGTERM", ()),
        ("fork", "SIGKILL", ()),
        ("fork", "SIGKILL", ("no_prctl",)),
        ("spawn", "SIGINT to the group", ()),
        ("spawn", "SIGKILL", ()),
    ],
)
def test_stage_and_workers_are_gone_within_two_seconds_and_finished_results_are_kept(
    method: str, how: str, options: tuple[str, ...], tmp_path: Path, stages: list[Stage]
) -> None:
    stage = Stage(stages, tmp_path, method, *options)
    send = os.killpg if how.endswith("group") else os.kill
    send(stage.process.pid, getattr(signal, how.split()[0]))
    assert stage.seconds_to_end() < LIMIT
    assert stage.process.poll() not in (None, 0)
    assert {path.name for path in tmp_path.glob("finished*")} == {"finished0", "finished1"}
    told = stage.process.communicate()[1]
    # One traceback, the stage's own: workers don't hear Ctrl-C.
    assert told.count("Traceback") == (1 if how.startswith("SIGINT") else 0), told
