"""Do a stage's jobs on a Dask cluster: its workers may be on any machine that sees the project under the same path."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pickle
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from pipeline import execution
from pipeline.errors import UserError
from pipeline.execution import Job, Result, Work

LOG = logging.getLogger(__name__)

CONNECT, CLOSE = 10.0, 2.0  # seconds: for a scheduler to answer, and to be told that nobody waits any more
LOOK = 5.0  # seconds of silence after which to look whether there are workers at all
CODE = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))).hexdigest()


class ClusterError(UserError):
    """No scheduler, or a worker that can't do what the pool would."""


def scheduler() -> str:
    """What THAW_SCHEDULER names: a scheduler's address, or the file that it wrote; empty: no cluster is asked for."""
    return os.environ.get("THAW_SCHEDULER", "").strip()


def each(
    work: Work[Job, Result], jobs: Sequence[Job], watch: Callable[[Job, int], None], kind: str = "cpu"
) -> Iterator[tuple[Job, Result]]:
    """Do `jobs` on the cluster's workers and give each with its result as it finishes, like `execution.each`.

    A job whose worker is lost is done again by another; `watch` hears only what is further than before. Raises what a
    job raised, after the results that were finished before it, ClusterError and WorkerKilled. An interrupt, an error
    or a caller that stops early cancels what waits at once, and what runs at its next report.
    """
    if not jobs:
        return
    topic, furthest, told = f"thaw-{uuid.uuid4()}", dict.fromkeys(range(len(jobs)), -1), False
    heard: SimpleQueue[tuple[int, int | None]] = SimpleQueue()  # a job's number and how far it is; None: ended
    with _connected() as client:
        client.subscribe_topic(topic, lambda event: heard.put(event[1]))
        begin, futures = _beginning(kind), {}
        for number, job in enumerate(jobs):
            # With keys of their own: Dask takes equal calls for one.
            futures[number] = client.submit(begin, pickle.dumps((work, job)), key=(topic, number))
            futures[number].add_done_callback(lambda _, number=number: heard.put((number, None)))
        while futures:
            try:
                number, value = heard.get(timeout=LOOK)
            except Empty:
                with contextlib.suppress(OSError):  # a lost scheduler ends the jobs, too
                    if not told and not client.nthreads():
                        LOG.warning("the scheduler (THAW_SCHEDULER) has no workers; waiting for them")
                        told = True
                continue
            if value is None:
                what, result = _outcome(futures.pop(number))
                if what == "error":
                    ended = [(jobs[n], *_outcome(future)) for n, future in futures.items() if future.done()]
                    yield from ((job, value) for job, what, value in ended if what == "result")
                    raise result
                yield jobs[number], result
            elif number in futures and value > furthest[number]:
                furthest[number] = value
                watch(jobs[number], value)


@contextlib.contextmanager
def _connected() -> Iterator[Any]:
    """A client of the scheduler. Raises ClusterError where there is none."""
    try:
        from distributed import Client  # an extra
    except ImportError:
        raise ClusterError("THAW_SCHEDULER asks for Dask: install the extra `cluster`, or unset it") from None
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say of a lost scheduler, an error says better
    connect: Any = Client
    where = scheduler()
    try:
        address = where if "://" in where else json.loads(Path(where).read_text(encoding="utf-8"))["address"]
        client = connect(address, timeout=CONNECT, set_as_default=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"THAW_SCHEDULER is {where!r}, and no scheduler answers there: {error}") from None
    try:
        yield client
    finally:  # what nobody waits for any more is cancelled
        with contextlib.suppress(TimeoutError, OSError):
            client.close(CLOSE)


def _outcome(future: Any) -> tuple[str, Any]:
    """A job's result, or the error to raise."""
    from distributed import KilledWorker

    try:
        outcome: tuple[str, Any] = pickle.loads(future.result())
        return outcome
    except KilledWorker:
        lost = "several workers were lost in the same job, most likely for want of memory: start fewer on a machine, or"
        return "error", execution.WorkerKilled(f"{lost} lower resolution or batch_size in params.yaml")
    except Exception as error:
        if future.status != "error":
            lost = "the scheduler was lost; finished cells are kept, and a new start goes on from there"
            return "error", ClusterError(lost)
        needs = f"it needs {Path.cwd()} under the same path, and an environment from the same lock file"
        return "error", ClusterError(f"a worker can't begin: {error!r}; {needs}")


def _beginning(kind: str) -> Callable[[bytes], bytes]:
    """What a worker runs first. It is sent as it is, since nothing of ours can be found before it has run."""
    folder, source, code = str(Path.cwd()), str(Path(__file__).parent.parent), CODE

    def begin(content: bytes) -> bytes:
        os.chdir(folder)
        if source not in sys.path:
            sys.path.insert(0, source)
        from pipeline import cluster

        return cluster.serve(content, kind, code)

    return begin


def serve(content: bytes, kind: str, code: str) -> bytes:
    """Do a job as a worker of the pool would, and give what that would say: the result or the error."""
    from distributed import get_worker

    worker = get_worker()
    key: Any = worker.get_current_task()

    def report(value: int) -> None:
        if worker.state.tasks[key].state == "cancelled":
            raise ClusterError("nobody waits for this job any more")
        worker.log_event(key[0], (key[1], value))

    os.environ["OMP_NUM_THREADS"] = str(execution.THREADS)  # where torch is yet to be imported
    try:
        if code != CODE:
            raise ClusterError(f"the worker at {worker.address} runs other code than this stage; restart the workers")
        if worker.state.nthreads != 1:  # random states belong to processes
            raise ClusterError(f"the worker at {worker.address} does several jobs at once: it needs `--nthreads 1`")
        work, job = pickle.loads(content)
        execution.settle(kind)
        return pickle.dumps(("result", work(job, report)))
    except BaseException as error:  # whatever it is, the stage is to raise it
        return execution.as_sent(error)
