"""Train cells side by side: one thread and one process each on a CPU, one after another on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import heads
from pipeline.heads import Watch
from pipeline.lr_finder import RangeTest, range_test
from pipeline.training import OutOfMemory, Run, Task, train

THREADS = 1  # of one cell on a CPU: two cells of one thread finish 1.3 times sooner than one after the other with two


def device() -> torch.device:
    """The GPU if there is one, else the CPU; THAW_DEVICE=cpu asks for the CPU."""
    wanted = os.environ.get("THAW_DEVICE", "")
    return torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))


def workers() -> int:
    """How many cells train at once on a CPU: one for each core this process may use, or THAW_WORKERS."""
    wanted = os.environ.get("THAW_WORKERS", "")
    return int(wanted) if wanted else len(os.sched_getaffinity(0))


def run_all(tasks: Sequence[Task], on: torch.device, state: Mapping[str, Tensor] | None, watch: Watch) -> Iterator[Run]:
    """Train all tasks and give each run as it finishes; which process trains a cell doesn't change its bytes.

    Cells that train only a head come first and together. Raises what a cell raised, after the runs that were finished
    before it.
    """
    if on.type == "cpu":
        keep_memory()
        torch.set_num_threads(THREADS)  # before the fork: OpenMP's threads don't survive one
    together = heads.Together(tasks, on, state)
    if on.type != "cpu":
        yield from together.train([together.extract(piece) for piece in range(len(together.pieces))], watch)
        for number in together.alone:
            yield train(tasks[number], on, lambda epoch, number=number: watch(number, epoch), state)  # type: ignore[misc]
        return
    epochs: Any = multiprocessing.get_context("fork").SimpleQueue()
    with _pool(len(together.pieces) + len(together.alone), (tasks, together, state, epochs)) as pool:
        pieces = [pool.submit(_extract, number) for number in range(len(together.pieces))]
        waiting = {pool.submit(_work, number) for number in together.alone}
        yield from together.train([piece.result() for piece in pieces], watch)
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            while not epochs.empty():
                watch(*epochs.get())
            for future in done:
                yield future.result()


def range_tests(
    tasks: Sequence[Task], on: torch.device, state: Mapping[str, Tensor] | None
) -> Iterator[tuple[int, RangeTest]]:
    """The learning-rate range test of each task, as it finishes, with the task's number."""
    if on.type != "cpu":
        yield from ((number, range_test(task, on, state)) for number, task in enumerate(tasks))
        return
    keep_memory()
    torch.set_num_threads(THREADS)
    with _pool(len(tasks), (tasks, None, state, None)) as pool:
        numbers = {pool.submit(_test, number): number for number in range(len(tasks))}
        for future in as_completed(numbers):
            yield numbers[future], future.result()


@contextlib.contextmanager
def _pool(jobs: int, shared: tuple[Any, ...]) -> Iterator[ProcessPoolExecutor]:
    """Forked workers that know `shared`, gone when the work is done; a caller that leaves early drops what waits."""
    context = multiprocessing.get_context("fork")
    count = max(1, min(workers(), jobs))
    with ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(*shared, os.getpid())) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            raise OutOfMemory(
                "a training process was killed from outside, most likely for want of memory: lower THAW_WORKERS "
                f"(now {workers()}), or resolution or batch_size in params.yaml"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_TASKS: Sequence[Task] = ()
_TOGETHER: heads.Together | None = None
_STATE: Mapping[str, Tensor] | None = None
_EPOCHS: Any = None


def _start_worker(
    tasks: Sequence[Task], together: heads.Together | None, state: Mapping[str, Tensor] | None, epochs: Any, parent: int
) -> None:
    global _TASKS, _TOGETHER, _STATE, _EPOCHS
    _TASKS, _TOGETHER, _STATE, _EPOCHS = tasks, together, state, epochs
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and stops the pool
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a killed stage leaves nobody training on
        if os.getppid() != parent:
            os._exit(1)
    torch.set_num_threads(THREADS)


def _extract(number: int) -> tuple[NDArray[np.float32], float]:
    assert _TOGETHER is not None
    return _TOGETHER.extract(number)


def _work(number: int) -> Run:
    return train(_TASKS[number], torch.device("cpu"), lambda epoch: _EPOCHS.put((number, epoch)), _STATE)


def _test(number: int) -> RangeTest:
    return range_test(_TASKS[number], torch.device("cpu"), _STATE)


def keep_memory() -> None:
    """Tell glibc to keep freed memory instead of giving every large block back to the kernel.

    Training allocates and frees the same tens of megabytes at every layer, and faulting them in anew took a fifth of a
    training step and half of an evaluation (2 cores, 96 px, EfficientNet-Lite0).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block from mmap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep what is free
        mallopt(-2, 64 << 20)  # M_TOP_PAD: grow in steps of 64 MB
