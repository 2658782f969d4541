"""The tiny study of the end-to-end tests, its stages in real processes that can be killed, and what they leave."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.test_end_to_end import ROOT, run_bytes

NOBODY = 65534
BEFORE_TRAINING = ("prepare tiny", "subset tiny", "tune tiny")
TRAINING = ("train tiny fine_tune", "sweep tiny", "train tiny feature_extraction", "train tiny lda")
ALL_STAGES = (*BEFORE_TRAINING, *TRAINING, "collect tiny")

# Imports what stages import, which takes seconds, and forks a process for every line it is sent; each is the first of
# a session of its own and runs the stages it is told, one after the other.
NURSERY = """
import encodings.cp437, json, os, runpy, sys
import sklearn.discriminant_analysis, timm, torchvision.models
import pipeline.identity, pipeline.stages.cells, pipeline.stages.collect, pipeline.stages.range_tests
for line in sys.stdin:
    folder, told, stages, before = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        status = 0
        exec(before)
        try:
            for stage in stages:
                sys.argv = stage.split()
                runpy.run_module(f"pipeline.stages.{sys.argv[0]}", run_name="__main__")
        except SystemExit as error:
            print(error.code, file=sys.stderr)
            status = 1
        except BaseException:
            import traceback
            traceback.print_exc()
            status = 2
        sys.stderr.flush()
        os._exit(status)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Starts stages in processes of their own, without the seconds that importing torch takes each time."""

    def __init__(self, workers: int = 2) -> None:
        environment = {**os.environ, "THAW_WORKERS": str(workers), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", NURSERY],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, folder: Path, stages: Sequence[str], before: str = "") -> int:
        """Run stages in `folder`, after a piece of code; the number of the process, of its group and its session."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps([str(folder), str(folder / "told.txt"), stages, before]) + "\n")
        self.process.stdin.flush()
        return self._number()

    def outcome(self) -> int:
        """Wait for what was started last: its exit status, negative for the signal that ended it."""
        return self._number()

    def run(self, folder: Path, *stages: str, before: str = "") -> str:
        """Run stages to their end, which must be a good one; what they said."""
        self.start(folder, stages, before)
        status, told = self.outcome(), (folder / "told.txt").read_text(encoding="utf-8")
        assert status == 0, told
        return told

    def refusal(self, folder: Path, *stages: str, before: str = "") -> str:
        """Run stages that have to end in a message; what they said."""
        self.start(folder, stages, before)
        status, told = self.outcome(), (folder / "told.txt").read_text(encoding="utf-8")
        assert status == 1, told
        assert "Traceback" not in told
        return told

    def _number(self) -> int:
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def session(leader: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, its = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:4]
            if int(its) == leader and state != "Z":  # a zombie waits for somebody to ask how it ended
                found.append(int(stat.parent.name))
    return found


def seconds_until_gone(leader: int, limit: float = 10.0) -> float:
    """How long a session lives from now on; the limit, and its end, if that is longer."""
    since = time.monotonic()
    while alive := session(leader):
        if time.monotonic() - since > limit:
            for pid in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    return time.monotonic() - since


def tables(folder: Path) -> Mapping[str, Any]:
    """What `collect` has written, to the byte but for when and in what time runs were made."""
    found: dict[str, Any] = {}
    for file in sorted((folder / "reports" / "tiny").glob("[!.]*.*")):
        if file.name == "provenance.json":
            found[file.name] = json.loads(file.read_bytes())
            for key in ("environments", "started", "finished", "training_seconds", "trainings"):
                del found[file.name][key]
        elif file.suffix == ".csv":
            with file.open(newline="", encoding="utf-8") as lines:
                rows = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(lines)]
            found[file.name] = rows
        else:
            found[file.name] = file.read_bytes()
    return found


def left_by(folder: Path) -> Mapping[str, Any]:
    """Every run's members and every table."""
    return {**run_bytes(folder), **tables(folder)}


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[None]:
    """Mount a file system of its own at a folder, which is made; skips the test where that can't be done."""
    place.mkdir(parents=True, exist_ok=True)
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)
