"""How many workers, which start method, and that a pool gives what a single process gives."""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline import execution
from pipeline.errors import UserError
from pipeline.execution import ExecutionError, WorkerKilled, each

METHODS = ("fork", "spawn")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("THAW_WORKERS", "THAW_DEVICE", "THAW_START_METHOD"):
        monkeypatch.delenv(name, raising=False)


# --- jobs -----------------------------------------------------------------------------------------------------------


def learned(job: int, report: Callable[[int], None]) -> bytes:
    """A few steps of training, as bytes."""
    torch.manual_seed(job)
    layer = torch.nn.Conv2d(3, 8, 3)
    for step in range(3):
        layer(torch.randn(16, 3, 24, 24)).square().mean().backward()
        with torch.no_grad():
            layer.weight -= 0.1 * layer.weight.grad  # type: ignore[operator]
        report(step)
    return hashlib.sha256(layer.weight.detach().numpy().tobytes()).digest() + bytes([torch.get_num_threads()])


def fails_at_2(job: int, report: Callable[[int], None]) -> int:
    if job == 2:
        time.sleep(0.5)
        raise ValueError(f"job {job} can't be done")
    return job


class Unreadable(Exception):
    """Can't be made again from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fails_unreadably(job: int, report: Callable[[int], None]) -> int:
    raise Unreadable(job, 2)


def killed_at_2(job: int, report: Callable[[int], None]) -> int:
    if job == 2:
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return job


def leaves(job: int, report: Callable[[int], None]) -> int:
    os._exit(3)


def sleeps(job: float, report: Callable[[int], None]) -> float:
    time.sleep(job)
    return job


def tensor(job: int, report: Callable[[int], None]) -> torch.Tensor:
    return torch.full((1000, 1000), float(job))


def unheard(job: object, value: int) -> None:
    """Nobody watches."""


# --- the pool -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_pool_gives_the_bytes_and_reports_of_a_single_process(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_START_METHOD", method)
    heard: dict[int, list[int]] = {}
    pool = dict(each(learned, range(4), lambda job, value: heard.setdefault(job, []).append(value), 2))
    alone: dict[int, list[int]] = {}
    single = dict(each(learned, range(4), lambda job, value: alone.setdefault(job, []).append(value), 1))
    assert pool == single
    assert heard == alone == {job: [0, 1, 2] for job in range(4)}
    assert {result[-1] for result in pool.values()} == {execution.THREADS}


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_reaches_the_caller_after_the_results_finished_before_it(count: int) -> None:
    finished: list[int] = []
    with pytest.raises(ValueError, match="job 2 can't be done"):
        finished.extend(job for job, _ in each(fails_at_2, range(3), unheard, count))
    assert sorted(finished) == [0, 1]


def test_an_error_that_cannot_be_sent_arrives_as_its_text() -> None:
    with pytest.raises((RuntimeError, Unreadable), match="0 and 2"):  # as itself where Dask has taught pickle how
        list(each(fails_unreadably, [0], unheard, 2))


def test_a_killed_worker_is_an_error_that_names_what_to_lower() -> None:
    finished: list[int] = []
    with pytest.raises(WorkerKilled, match=r"signal 9.*THAW_WORKERS.*resolution.*batch_size") as caught:
        finished.extend(job for job, _ in each(killed_at_2, range(4), unheard, 2))
    assert issubclass(caught.type, UserError)
    assert {0, 1} <= set(finished)
    assert not multiprocessing.active_children()


def test_a_worker_that_ends_by_itself_is_not_said_to_lack_memory() -> None:
    with pytest.raises(RuntimeError, match="exit status 3"):
        list(each(leaves, [0], unheard, 2))


def test_results_come_as_they_finish_and_a_caller_that_leaves_ends_the_workers() -> None:
    since = time.monotonic()
    first, _ = next(each(sleeps, [60.0, 0.0], unheard, 2))
    assert first == 0.0
    assert time.monotonic() - since < 10
    assert not multiprocessing.active_children()


def test_results_outlive_the_worker_that_made_them() -> None:
    results = dict(each(tensor, range(3), unheard, 2))
    assert {job: result.unique().item() for job, result in results.items()} == {0: 0, 1: 1, 2: 2}


def test_there_are_no_more_workers_than_jobs_and_none_for_no_job() -> None:
    assert list(each(sleeps, [], unheard, 4)) == []
    results = each(sleeps, [0.0, 60.0], unheard, 8)
    next(results)
    assert len(multiprocessing.active_children()) <= 1
    results.close()  # type: ignore[attr-defined]


# --- what there is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "²"])
def test_a_senseless_number_of_workers_is_one_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_WORKERS", value)
    with pytest.raises(ExecutionError, match=r"THAW_WORKERS.*whole number from 1") as caught:
        execution.workers()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["gpu", "cuda:x", "meta", "mps", "cuda:99"])
def test_a_senseless_device_is_one_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_DEVICE", value)
    with pytest.raises(ExecutionError, match="THAW_DEVICE") as caught:
        execution.device()
    assert "\n" not in str(caught.value)


def test_a_senseless_start_method_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_START_METHOD", "knife")
    with pytest.raises(ExecutionError, match=r"THAW_START_METHOD.*fork, spawn"):
        execution.start_method()


def test_the_device_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_DEVICE", "cpu")
    assert execution.device() == torch.device("cpu")


def test_a_gpu_has_one_worker_unless_more_are_asked_for_and_they_are_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    assert execution.workers(kind="cuda") == 1
    monkeypatch.setenv("THAW_WORKERS", "3")
    assert execution.workers(kind="cuda") == 3
    monkeypatch.setenv("THAW_START_METHOD", "fork")
    assert execution.start_method("cuda") == "spawn"
    assert execution.start_method() == "fork"


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sixteen cores, and control groups as files."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(execution, "CGROUPS", tmp_path)
    read_text = Path.read_text

    def make(own: str, files: dict[str, str]) -> None:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content, encoding="utf-8")

        def read(path: Path, encoding: str | None = None) -> str:
            if str(path) == "/proc/meminfo":
                return "MemTotal: 99 kB\nMemAvailable: 33554432 kB\n"
            return own if str(path) == "/proc/self/cgroup" else read_text(path, encoding)

        monkeypatch.setattr(Path, "read_text", read)

    return make


MANY = 1 << 30


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),
        ("0::/host/path\n", {"cpu.max": "400000 100000\n"}, 4),
        ("3:cpu,cpuacct:/x\n0::/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("3:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "500000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, 5),
        ("0::/\n", {"memory.max": f"{4 * MANY}\n", "memory.current": f"{MANY}\n", "memory.stat": "anon 7\n"}, 3),
        (
            "0::/\n",
            {"memory.max": f"{4 * MANY}", "memory.current": f"{2 * MANY}", "memory.stat": f"inactive_file {MANY}\n"},
            3,
        ),
        ("0::/\n", {"memory.max": "max\n", "memory.current": f"{MANY}\n", "memory.stat": ""}, 16),
        (
            "9:memory:/x\n",
            {
                "memory/x/memory.limit_in_bytes": f"{6 * MANY}",
                "memory/x/memory.usage_in_bytes": f"{2 * MANY}",
                "memory/x/memory.stat": f"total_inactive_file {MANY}\n",
            },
            5,
        ),
        ("0::/\n", {"memory.max": f"{MANY}", "memory.current": f"{MANY}", "memory.stat": ""}, 1),
    ],
)
def test_workers_are_bounded_by_cores_quota_and_memory(
    own: str, files: dict[str, str], expected: int, cgroups: Callable[..., None]
) -> None:
    cgroups(own, files)
    assert execution.workers(MANY) == expected


def test_the_systems_free_memory_bounds_the_workers(cgroups: Callable[..., None]) -> None:
    cgroups("", {})
    assert execution.workers(16 * MANY) == 2  # 32 GiB are available
    assert execution.workers() == 16


# --- what other systems lack ----------------------------------------------------------------------------------------


def test_without_affinity_proc_or_control_groups_the_cores_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)

    def nothing(path: Path, encoding: str | None = None) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", nothing)
    assert execution.workers(MANY) == 6


def test_without_fork_processes_are_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert execution.start_method() == "spawn"
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")  # which has fork, and crashes after it
    assert execution.start_method() == "spawn"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_without_mallopt_and_prctl_a_pool_works(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    monkeypatch.setenv("THAW_START_METHOD", "fork")  # so that the workers lack them too
    assert dict(each(sleeps, [0.0, 0.1], unheard, 2)) == {0.0: 0.0, 0.1: 0.1}
