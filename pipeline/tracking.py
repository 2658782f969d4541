"""MLflow: the only importer of mlflow; an idempotent mirror of the run store."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.strategies import Cell

LOG = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
METRICS_AT_ONCE = 1000  # MLflow refuses larger batches
LOCK_SECONDS = 30.0  # a writer holds the lock for some milliseconds, on a fresh file for some seconds


@dataclass(frozen=True)
class Point:
    """One value of a learning curve."""

    epoch: int
    name: str  # such as train/loss
    value: float


@dataclass(frozen=True)
class DatasetInput:
    """The data set of a run."""

    name: str
    sha256: str
    source: str
    images: int
    classes: int


@dataclass(frozen=True)
class MirroredRun:
    """A stored run as MLflow is to show it."""

    cell: Cell
    params: Mapping[str, str | float | int]  # beside the cell's own
    curves: Sequence[Point]
    final: Mapping[str, float]
    tags: Mapping[str, str]  # `fingerprint` is one of them
    dataset: DatasetInput
    started: datetime
    seconds: float
    experiment: str
    description: str  # of the experiment

    @property
    def name(self) -> str:
        """What the run is called in the list of runs."""
        scale = "" if self.cell.lr_scale == 1 else f" ×{self.cell.lr_scale:g}"
        role = "" if self.cell.role == "final" else f" · {self.cell.role}"
        return f"{self.cell.strategy}{scale} · {self.cell.size} · seed {self.cell.seed}{role}"


Outcome = Literal["added", "present", "unavailable"]


class Mirror:
    """Runs go into MLflow once each, whoever asks and however often; where MLflow can't be had, one warning is all."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
        self.client: Any = None
        self.unavailable = False
        self.experiments: dict[str, str] = {}
        # experiment: (run's name, fingerprint): run id, finished; the same training may stand under two names
        self.present: dict[str, dict[tuple[str, str], tuple[str, bool]]] = {}

    def __enter__(self) -> Mirror:
        return self

    def __exit__(self, *_: object) -> None:
        self.client = None

    def add(self, run: MirroredRun) -> Outcome:
        """Mirror a run. A half-written one is written anew, one of an older fingerprint of the same cell removed."""
        if self.unavailable:
            return "unavailable"
        try:
            with _quiet():
                return self._add(run)
        except Exception as error:  # whatever a server, a database or a missing package does, training goes on
            self.unavailable = True
            LOG.warning(
                "MLflow at %s can't be used (%s); training goes on, `make mirror` catches up",
                self.uri, str(error).partition("\n")[0][:200],
            )  # fmt: skip
            return "unavailable"

    def _add(self, run: MirroredRun) -> Outcome:
        # One writer at a time, from migrations to the last write: several on a fresh file crash in its migrations, and
        # a run that another writer is in the middle of must not be taken for one that was left half-written.
        if self.client is None:
            _import_mlflow()  # takes seconds, and needs no lock
        with _one_at_a_time(self.uri):
            if self.client is None:
                self.client = _client(self.uri)
            return self._mirror(run)

    def _mirror(self, run: MirroredRun) -> Outcome:
        experiment = self._experiment(run)
        known, key = self.present[experiment], (run.name, run.tags["fingerprint"])
        if key in known:
            run_id, finished = known[key]
            if finished:
                return "present"
            self.client.delete_run(run_id)
        for old in self._same_cell(experiment, run):
            if old.data.tags.get("fingerprint") == key[1] and old.info.status == "FINISHED":  # another writer's, since
                self.present[experiment][key] = old.info.run_id, True
                return "present"
            self.client.delete_run(old.info.run_id)
        self.present[experiment][key] = self._write(experiment, run), True
        return "added"

    def _experiment(self, run: MirroredRun) -> str:
        if run.experiment not in self.experiments:
            found = self.client.get_experiment_by_name(run.experiment)
            made = found.experiment_id if found else self.client.create_experiment(run.experiment)
            if found and found.lifecycle_stage == "deleted":  # in the user interface; its name stays taken
                self.client.restore_experiment(made)
                for entry in self._search(made, ""):  # restored too, with those that newer ones had replaced
                    self.client.delete_run(entry.info.run_id)
            self.client.set_experiment_tag(made, "mlflow.note.content", run.description)
            # Opens the experiment on its training runs and charts rather than on traces of language models.
            self.client.set_experiment_tag(made, "mlflow.experimentKind", "custom_model_development")
            self.experiments[run.experiment] = made
            self.present[made] = {
                (entry.info.run_name, entry.data.tags["fingerprint"]): (
                    entry.info.run_id,
                    entry.info.status == "FINISHED",
                )
                for entry in self._search(made, "")
                if "fingerprint" in entry.data.tags
            }
        return self.experiments[run.experiment]

    def _search(self, experiment: str, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([experiment], condition, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _same_cell(self, experiment: str, run: MirroredRun) -> list[Any]:
        condition = " and ".join(f"params.{key} = '{value}'" for key, value in _cell_params(run.cell).items())
        return list(self._search(experiment, condition))

    def _write(self, experiment: str, run: MirroredRun) -> str:
        from mlflow import entities

        start = int(run.started.timestamp() * 1000)
        end = start + int(run.seconds * 1000)
        tags = {"mlflow.runName": run.name, **run.tags}
        made = self.client.create_run(experiment, start_time=start, tags=tags, run_name=run.name)
        run_id: str = made.info.run_id
        last = max((point.epoch for point in run.curves), default=1)
        metrics = [
            entities.Metric(p.name, p.value, start + (end - start) * p.epoch // last, p.epoch) for p in run.curves
        ] + [entities.Metric(name, value, end, last) for name, value in run.final.items()]
        params = [entities.Param(key, str(value)) for key, value in {**_cell_params(run.cell), **run.params}.items()]
        for first in range(0, max(len(metrics), 1), METRICS_AT_ONCE):
            batch = metrics[first : first + METRICS_AT_ONCE]
            self.client.log_batch(run_id, metrics=batch, params=params if first == 0 else ())
        self.client.log_inputs(run_id, datasets=[_dataset(run.dataset)])
        self.client.set_terminated(run_id, "FINISHED", end)
        return run_id


def _cell_params(cell: Cell) -> dict[str, str]:
    return {
        "strategy": cell.strategy,
        "per_class": str(cell.per_class),
        "seed": str(cell.seed),
        "lr_scale": f"{cell.lr_scale:g}",
        "role": cell.role,
    }


def _dataset(data: DatasetInput) -> Any:
    import json

    from mlflow import entities

    profile = json.dumps({"images": data.images, "classes": data.classes, "sha256": data.sha256})
    described = entities.Dataset(data.name, data.sha256[:8], "local", json.dumps({"uri": data.source}), None, profile)
    return entities.DatasetInput(described, [entities.InputTag("mlflow.data.context", "training")])


def _import_mlflow() -> None:
    """Import with telemetry off and retries low: the default ones block for 246 s where a server is down."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    from mlflow.tracking import MlflowClient  # noqa: F401

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    client.search_experiments(max_results=1)  # makes a fresh file's tables, finds a server that is down
    return client


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    if not uri.startswith("sqlite:///"):
        yield
        return
    place = Path(f"{uri.removeprefix('sqlite:///')}.lock")
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w", encoding="utf-8") as file:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(f"another process has held {place} for {LOCK_SECONDS:g} s") from None
                time.sleep(0.02)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
