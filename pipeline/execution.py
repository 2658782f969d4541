"""Do a stage's jobs side by side: on a CPU in processes of one thread each, on a GPU in several processes a card."""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import UserError

if TYPE_CHECKING:  # imported where it is used: decoding images needs no torch
    import torch

THREADS = 1  # of one job on a CPU: two cells of one thread finish 1.3 times sooner than one after the other with two
CGROUPS = Path("/sys/fs/cgroup")
ORPHAN_LOOKS = 0.5  # seconds between two looks at whether the parent still lives, where the kernel doesn't tell

Job = TypeVar("Job")
Result = TypeVar("Result")
Report = Callable[[int], None]  # told how far a job is
Work = Callable[[Job, Report], Result]  # a function at the top of its module: spawned processes import it


class ExecutionError(UserError):
    """A setting of the environment that makes no sense."""


class WorkerKilled(UserError):
    """A worker was ended from outside, most likely for want of memory."""


# --- what there is --------------------------------------------------------------------------------------------------


def device() -> torch.device:
    """The GPU if there is one, else the CPU; THAW_DEVICE asks for one. Raises ExecutionError where it isn't there."""
    import torch

    wanted = os.environ.get("THAW_DEVICE", "").strip()
    if not wanted:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(wanted)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ExecutionError(f"THAW_DEVICE is {wanted!r}; choose from cpu, cuda, cuda:0, cuda:1, ...")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ExecutionError(f"THAW_DEVICE is {wanted!r}, and this machine has {torch.cuda.device_count()} GPUs")
    return chosen


def workers(memory_per_worker: int | None = None, kind: str = "cpu") -> int:
    """How many jobs run at once on a device of this kind: THAW_WORKERS, else one on a GPU, and on a CPU one a core.

    A CPU's cores are those this process may use and its container pays for, and no more than there is memory for, at
    `memory_per_worker` bytes each. Raises ExecutionError where THAW_WORKERS is no number from 1.
    """
    wanted = os.environ.get("THAW_WORKERS", "").strip()
    if wanted:
        if not (re.fullmatch("0*[1-9][0-9]{0,5}", wanted)):
            raise ExecutionError(f"THAW_WORKERS is {wanted[:40]!r}; it must be a whole number from 1")
        return int(wanted)
    if kind != "cpu":
        return 1
    count = cores()
    if memory_per_worker is not None and (free := available_memory()) is not None:
        count = min(count, free // memory_per_worker)
    return max(1, count)


def cores() -> int:
    """The cores that this process may use; a part of one that a container's quota grants counts as one."""
    # macOS has no affinity.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _cgroups("cpu"):
        with contextlib.suppress(OSError, ValueError):
            if (group / "cpu.max").exists():
                quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
            else:
                quota, period = (
                    (group / f"cpu.cfs_{part}_us").read_text(encoding="utf-8").strip() for part in ("quota", "period")
                )
            if quota not in ("max", "-1"):
                count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count)


def available_memory() -> int | None:
    """Bytes that this process and its children may still take; None where the system doesn't say."""
    free = []
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free.append(int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) * 1024)
    for group in _cgroups("memory"):
        for limit, used, reclaimable in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            with contextlib.suppress(OSError, ValueError):  # "max" is no number
                allowed = int((group / limit).read_text(encoding="utf-8"))
                taken = int((group / used).read_text(encoding="utf-8"))
                parts = (group / "memory.stat").read_text(encoding="utf-8").split()
                cached = int(parts[parts.index(reclaimable) + 1]) if reclaimable in parts else 0
                free.append(max(0, allowed - taken + cached))
    return min(free, default=None)


def _cgroups(controller: str) -> list[Path]:
    """The control groups that bound this process, version 1 or 2, and those above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controller if controllers else CGROUPS
        own = root / path.lstrip("/")
        # In a container the path may be the host's; what counts there lies at the root.
        found += [group for group in (own, *own.parents) if group.is_relative_to(root)]
    return found


# --- doing the jobs -------------------------------------------------------------------------------------------------


def each(
    work: Work[Job, Result], jobs: Sequence[Job], watch: Callable[[Job, int], None], count: int, kind: str = "cpu"
) -> Iterator[tuple[Job, Result]]:
    """Do `jobs` in `count` processes, and give each with its result as it finishes; `watch` hears their reports.

    With one process it is this one. Which process does a job changes no byte of its result: on a CPU all have one
    thread. Raises what a job raised, after the results that were finished before it, and WorkerKilled. An interrupt,
    an error or a caller that stops early ends the workers at once, in the middle of whatever they do.
    """
    if count <= 1:
        settle(kind)
        for job in jobs:
            yield job, work(job, lambda value, job=job: watch(job, value))  # type: ignore[misc]
        return
    pool: dict[Connection, _Worker] = {}
    waiting = iter(enumerate(jobs))
    try:
        context: Any = multiprocessing.get_context(start_method(kind))
        for _, first in zip(range(count), waiting, strict=False):
            worker = _Worker(context, work, kind)
            pool[worker.pipe] = worker
            worker.give(first)
        failed: BaseException | None = None
        while pool and failed is None:
            wait([*pool, *(worker.process.sentinel for worker in pool.values())])
            for worker in [*pool.values()]:
                for what, value in worker.hear():
                    if what == "report":
                        watch(jobs[worker.job], value)
                    elif what == "result":
                        done, following = worker.job, next(waiting, None)
                        if following is None:
                            del pool[worker.pipe]
                            worker.end()
                        else:
                            worker.give(following)  # before the caller takes its time with the result
                        yield jobs[done], value
                    else:
                        failed = failed or value
        if failed is not None:
            for worker in pool.values():  # those heard before the failed one may have finished since
                yield from ((jobs[worker.job], value) for what, value in worker.hear() if what == "result")
            raise failed
    finally:
        for worker in pool.values():
            worker.end()


def start_method(kind: str = "cpu") -> str:
    """How processes start: forked on Linux, spawned elsewhere and for a GPU; THAW_START_METHOD asks for one."""
    if kind != "cpu":
        return "spawn"  # CUDA doesn't survive a fork
    there = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]
    wanted = os.environ.get("THAW_START_METHOD", "").strip()
    if not wanted:
        return there[0] if sys.platform == "linux" else "spawn"
    if wanted not in there:
        raise ExecutionError(f"THAW_START_METHOD is {wanted!r}; choose from {', '.join(there)}")
    return wanted


class _Worker:
    """One process and the pipe to it: jobs go in, reports, results and errors come out.

    Each has a pipe of its own, so one that is killed leaves no lock behind that others wait for.
    """

    def __init__(self, context: Any, work: Work[Any, Any], kind: str) -> None:
        self.pipe, theirs = context.Pipe()
        self.job = -1
        self.process = context.Process(target=_serve, args=(theirs, work, kind, os.getpid()), daemon=True)
        with _interrupts_held():
            self.process.start()
        theirs.close()

    def give(self, numbered: tuple[int, Any]) -> None:
        """Send the next job, with its number."""
        self.job, job = numbered
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has ended; `hear` will say so
            self.pipe.send_bytes(pickle.dumps(job))

    def hear(self) -> list[tuple[str, Any]]:
        """All that it has said since; that it was killed is an error like any other."""
        heard: list[tuple[str, Any]] = []
        ended = not self.process.is_alive()  # asked first: what it said before lies in the pipe then
        try:
            while self.pipe.poll():
                heard.append(pickle.loads(self.pipe.recv_bytes()))
        except (EOFError, OSError):  # also in the middle of a message
            ended = True
        if ended and not (heard and heard[-1][0] == "result"):
            heard.append(("error", self.why_ended()))
        return heard

    def why_ended(self) -> Exception:
        """What its end tells: a signal from outside, or a status of its own."""
        self.process.join(1.0)  # its pipe may close a moment before it ends
        status = self.process.exitcode
        if status is not None and status >= 0:
            return RuntimeError(f"a worker process ended with exit status {status}; it says why above")
        return WorkerKilled(
            f"a worker process was killed (signal {-(status or 0)}), most likely for want of memory: lower "
            "THAW_WORKERS, or resolution or batch_size in params.yaml; nothing was changed by itself"
        )

    def end(self) -> None:
        """End it, at once: it waits for a job, or for nobody."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Start a process that never hears Ctrl-C, not even while it starts: the parent does, and ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, work: Work[Any, Any], kind: str, parent: int) -> None:
    """What a worker does: one job after another, until it is ended."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(parent)
    os.environ["OMP_NUM_THREADS"] = str(THREADS)  # where torch is yet to be imported
    settle(kind)
    while True:
        job = pickle.loads(pipe.recv_bytes())
        try:
            result = work(job, lambda value: pipe.send_bytes(pickle.dumps(("report", value))))
            content = pickle.dumps(("result", result))
        except BaseException as error:  # whatever it is, the parent is to raise it
            content = as_sent(error)
        # Not `pipe.send`, with which torch would share tensors' memory: it is gone when this process is.
        pipe.send_bytes(content)


def as_sent(error: BaseException) -> bytes:
    """An error and where it came from, in a form that the parent can read."""
    trace = "".join(traceback.format_exception(error))
    error.add_note(f"in a worker process:\n{trace}")
    try:
        content = pickle.dumps(("error", error))
        pickle.loads(content)
    except Exception:  # an error whose class can't be made again from its arguments
        return pickle.dumps(("error", RuntimeError(trace)))
    return content


def settle(kind: str) -> None:
    """Make a process fit for jobs: on a CPU one thread, and freed memory kept."""
    if kind == "cpu":
        keep_memory()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(THREADS)


def _die_with(parent: int) -> None:
    """A stage that is killed leaves nobody training on."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
    else:
        threading.Thread(target=_look_after, args=(parent,), daemon=True).start()


def _look_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_LOOKS)
    os._exit(1)


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of giving every large block back to the kernel.

    Training allocates and frees the same tens of megabytes at every layer, and faulting them in anew took a fifth of a
    training step and half of an evaluation (2 cores, 96 px, EfficientNet-Lite0).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # musl has none
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block from mmap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep what is free
        mallopt(-2, 64 << 20)  # M_TOP_PAD: grow in steps of 64 MB
