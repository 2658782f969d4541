"""A real cluster on this machine: a scheduler and workers, each a process that knows nothing of this project."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FIRST = Path("first")


class Cluster:
    """A scheduler and its workers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.workers: list[subprocess.Popen[bytes]] = []
        until = time.monotonic() + 120
        while not (self.file.exists() and self.file.read_text(encoding="utf-8").endswith("}")):  # written in two steps
            assert time.monotonic() < until
            time.sleep(0.1)

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text(encoding="utf-8"))["address"])

    def add_worker(self, *options: str) -> subprocess.Popen[bytes]:
        threads = () if "--nthreads" in options else ("--nthreads", "1")
        plain = ("--no-nanny", "--no-dashboard", "--memory-limit", "0", "--host", "127.0.0.1")
        scratch = ("--local-directory", str(self.folder / "scratch"))
        self.workers.append(self._start("worker", *threads, *options, *plain, *scratch))
        return self.workers[-1]

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()

    def _start(self, what: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dask", what, "--scheduler-file", str(self.file), *options]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("THAW_", "PYTHONPATH"))}
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


@contextlib.contextmanager
def started(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """A cluster, for a while."""
    folder.mkdir(exist_ok=True)
    cluster = Cluster(folder)
    try:
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder / "scratch", ignore_errors=True)


def first_is_done(job: int, report: Callable[[int], None]) -> int:
    """The first to begin in a folder is done at once and writes its number, the others last longer than a test waits.

    Whichever that is: Dask keeps no order while workers are still joining.
    """
    with contextlib.suppress(FileExistsError), FIRST.open("x", encoding="utf-8") as first:
        first.write(str(job))
        return job
    until = time.monotonic() + 120
    while time.monotonic() < until:
        report(0)
        time.sleep(0.05)
    return job
