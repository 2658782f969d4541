"""A Dask cluster gives what the pool gives, and says what it lacks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import cluster, execution
from pipeline.cluster import ClusterError
from pipeline.errors import UserError
from pipeline.stages import cells, prepare, subset, tune
from pipeline.stages.noted import PreparedError
from pipeline.strategies import Cell
from tests.conftest import write_image_folder
from tests.dask_cluster import FIRST, Cluster, first_is_done, started
from tests.pipeline.test_execution import fails_at_2, fails_unreadably, learned, sleeps, tensor, unheard
from tests.test_end_to_end import PARAMS, run_bytes

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def workers(shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("THAW_SCHEDULER", shared_cluster.address)
    return shared_cluster


# --- without a cluster ----------------------------------------------------------------------------------------------


def test_dask_is_imported_only_where_a_scheduler_is_named() -> None:
    script = "import sys, pipeline.cluster; assert not {'dask', 'distributed'} & set(sys.modules), 'imported'"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_SCHEDULER", "tcp://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match="extra `cluster`"):
        list(cluster.each(learned, [0], unheard))


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:1", "nothing://here", "missing.json", "."])
def test_no_scheduler_is_one_line_within_seconds(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    monkeypatch.setenv("THAW_SCHEDULER", where)
    since = time.monotonic()
    with pytest.raises(ClusterError, match=r"THAW_SCHEDULER is .*no scheduler answers") as caught:
        list(cluster.each(learned, [0], unheard))
    assert time.monotonic() - since < 30
    assert "\n" not in str(caught.value)
    assert where in str(caught.value)


def test_no_job_asks_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_SCHEDULER", "tcp://127.0.0.1:1")
    assert list(cluster.each(learned, [], unheard)) == []


# --- jobs -----------------------------------------------------------------------------------------------------------


@pytest.mark.faults
def test_a_cluster_gives_the_bytes_and_reports_of_a_single_process(workers: Cluster) -> None:
    heard: dict[int, list[int]] = {}
    done = dict(cluster.each(learned, range(4), lambda job, value: heard.setdefault(job, []).append(value)))
    assert done == dict(execution.each(learned, range(4), unheard, 1))
    assert heard == {job: [0, 1, 2] for job in range(4)}
    assert {result[-1] for result in done.values()} == {execution.THREADS}


@pytest.mark.faults
def test_a_schedulers_file_names_it_too(workers: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THAW_SCHEDULER", str(workers.file))
    assert dict(cluster.each(sleeps, [0.0, 0.1], unheard)) == {0.0: 0.0, 0.1: 0.1}


@pytest.mark.faults
def test_equal_jobs_are_each_done_and_results_are_those_of_the_pool(workers: Cluster) -> None:
    assert [job for job, _ in cluster.each(whoami, [7, 7, 7], unheard)] == [7, 7, 7]
    assert len({made for _, made in cluster.each(whoami, [7, 7, 7], unheard)}) == 3
    results = dict(cluster.each(tensor, range(2), unheard))
    assert {job: result.unique().item() for job, result in results.items()} == {0: 0, 1: 1}


def whoami(job: int, report: Callable[[int], None]) -> float:
    return time.perf_counter()


@pytest.mark.faults
def test_an_error_reaches_the_caller_after_the_results_finished_before_it(workers: Cluster) -> None:
    finished: list[int] = []
    with pytest.raises(ValueError, match="job 2 can't be done"):
        finished.extend(job for job, _ in cluster.each(fails_at_2, range(3), unheard))
    assert sorted(finished) == [0, 1]
    with pytest.raises(RuntimeError, match="Unreadable: 0 and 2"):
        list(cluster.each(fails_unreadably, [0], unheard))


@pytest.mark.faults
def test_a_caller_that_leaves_frees_the_workers(
    workers: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    endless = cluster.each(first_is_done, range(3), unheard)
    since = time.monotonic()
    assert next(endless)[0] == int(FIRST.read_text(encoding="utf-8"))
    endless.close()  # type: ignore[attr-defined]
    assert dict(cluster.each(sleeps, [0.0, 0.1], unheard)) == {0.0: 0.0, 0.1: 0.1}
    assert time.monotonic() - since < 60


@pytest.mark.faults
def test_a_worker_that_runs_other_code_is_refused(workers: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CODE", "edited since")
    with pytest.raises(ClusterError, match=r"tcp://127.*runs other code.*restart"):
        list(cluster.each(sleeps, [0.0], unheard))


@pytest.mark.faults
def test_a_worker_that_lacks_the_folder_is_one_line(workers: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/nowhere/study"))
    with pytest.raises(ClusterError, match=r"/nowhere/study.*same path") as caught:
        list(cluster.each(sleeps, [0.0], unheard))
    assert "\n" not in str(caught.value)


# --- a study --------------------------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny study, ready for training: heads that train as one batch, fine-tunings and closed forms."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "_BENCH", None)
    write_image_folder(tmp_path / "images")
    Path("params.yaml").write_text(PARAMS, encoding="utf-8")
    for stage in (prepare.prepare, subset.subset, tune.tune):
        stage("tiny")
    return tmp_path


def trained(study: Path, strategy: str | None = None) -> dict[str, bytes]:
    """Every member of every final run but the manifests; the runs and the cache are gone then."""
    cells.complete("tiny", "final", strategy)
    found = run_bytes(study)
    shutil.rmtree("results/tiny/final")
    shutil.rmtree("data/tiny/.activations", ignore_errors=True)
    return found


def epochs(found: dict[str, bytes]) -> set[int]:
    """How many epochs the histories of fine-tunings have."""
    tables = [content for name, content in found.items() if name.endswith("history.csv") and "fine_tune" in name]
    return {len({line.split(b",")[1] for line in table.splitlines()[1:]}) for table in tables}


@pytest.mark.faults
def test_a_study_has_the_same_members_of_every_run_file_as_by_the_pool(
    study: Path, shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THAW_WORKERS", "2")
    pool = trained(study)
    assert epochs(pool)
    monkeypatch.setenv("THAW_SCHEDULER", str(shared_cluster.file))
    monkeypatch.setattr(execution, "each", None)  # not by the pool
    assert trained(study) == pool
    # The workers outlive the stage: they notice that the study has changed.
    Path("params.yaml").write_text(PARAMS.replace("epochs: 2", "epochs: 3"), encoding="utf-8")
    tune.tune("tiny")
    assert epochs(trained(study, "fine_tune")) == {count + 1 for count in epochs(pool)}


def a_job(cell: Cell, report: Callable[[int], None]) -> int:
    return cells.bench_of(cell.study).study.epochs


def test_a_worker_reads_a_changed_study_again_and_refuses_one_that_the_stage_does_not_see(study: Path) -> None:
    cell = Cell("tiny", "final", "fine_tune", 3, 1.0, 0)
    first = cells.Workbench("tiny")

    def elsewhere(seen: dict[str, str]) -> Any:
        return cells.elsewhere("tiny", seen, a_job, cell, lambda _: None)

    epochs, machine = elsewhere(first.seen)
    assert epochs == 2
    assert machine == first.machine
    Path("params.yaml").write_text(PARAMS.replace("epochs: 2", "epochs: 3"), encoding="utf-8")
    second = cells.Workbench("tiny")
    assert elsewhere(second.seen)[0] == 3
    with pytest.raises(PreparedError, match="another parameters of tiny"):
        elsewhere(first.seen)
    with pytest.raises(UserError, match="another torch, another device kind of tiny"):
        elsewhere({**second.seen, "torch": "1.0", "device kind": "cuda"})
    Path("data/tiny/subsets.json").unlink()
    with pytest.raises(UserError, match=r"subsets\.json is missing"):
        elsewhere(first.seen)
