"""MLflow: the only importer of mlflow; makes an experiment show a study, each run once, whoever asks and how often."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)

DEFAULT_URI = "sqlite:///mlflow.db"
METRICS_AT_ONCE = 1000  # MLflow refuses larger batches
BROWSER = "http://127.0.0.1:5000"  # `make ui`
APART = 60_000  # milliseconds between those at the top of the list and the others
LOCK_SECONDS = 30.0  # how long another process that mirrors into the same file is waited for
KEY = "mirror.key"  # the tag by which a run of ours is known again: a checksum of all that it shows


@dataclass(frozen=True)
class Point:
    """One value of a learning curve."""

    epoch: int
    name: str  # such as train/loss
    value: float


@dataclass(frozen=True)
class DatasetInput:
    """The data set of a study."""

    name: str
    sha256: str
    source: str
    images: int
    classes: int


@dataclass(frozen=True)
class MirroredRun:
    """A run as MLflow is to show it."""

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    seconds: float = 0.0
    curves: Sequence[Point] = ()
    final: Mapping[str, float] = field(default_factory=dict)
    dataset: DatasetInput | None = None
    description: str = ""  # Markdown; `{experiment}` and `{run}` stand for the ids
    files: Mapping[str, Path] = field(default_factory=dict)  # artifacts, by their paths in the run


@dataclass(frozen=True)
class Experiment:
    """A study as MLflow is to show it, the first of the runs at the top of the list.

    In the values of `tags`, `{experiment}` stands for its id and `{run}` for that of the last of the first runs.
    """

    name: str
    tags: Mapping[str, str]
    finished: float  # seconds since 1970; MLflow lists the run that started last first, so all start a bit before
    first: Sequence[MirroredRun]
    others: Sequence[MirroredRun]


@dataclass(frozen=True)
class Shown:
    """What came of mirroring a study."""

    written: int  # runs
    server: str  # where a browser finds it
    experiment: str  # id


def mirror(experiment: Experiment, uri: str | None = None) -> Shown | None:
    """Make MLflow show exactly these runs, beside those that somebody else has logged there.

    A run that is there stays as it is; one that is not shown any more, or was left half-written, is closed and removed.
    Whatever a server, a database or a missing package does, one warning is all that comes of it, and None.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _settle()
            with _one_at_a_time(uri):
                return _Mirror(uri).show(experiment)
    except Exception as error:
        LOG.warning(
            "MLflow at %s can't be used (%s); nothing else is affected, `make mirror` catches up",
            uri, str(error).partition("\n")[0][:200],
        )  # fmt: skip
        return None


class _Mirror:
    def __init__(self, uri: str) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(tracking_uri=uri)
        self.server = uri.rstrip("/") if uri.startswith("http") else BROWSER

    def show(self, experiment: Experiment) -> Shown:
        place = self._place(experiment.name)
        finished = int(experiment.finished * 1000)
        wanted = {_key(run, finished - i): (run, finished - i) for i, run in enumerate(experiment.first)}
        last = list(wanted)[-1]
        # Where one of the others stands among its like is no reason to write it anew.
        wanted |= {_key(run): (run, finished - APART - i) for i, run in enumerate(experiment.others)}
        present: dict[str, str] = {}
        for found in list(self._search(place)):  # all of them first: pages shift as runs go
            key = found.data.tags[KEY]
            if key in wanted and key not in present and found.info.status == "FINISHED":
                present[key] = found.info.run_id
                continue
            if found.info.status == "RUNNING":
                self.client.set_terminated(found.info.run_id, "KILLED")
            self.client.delete_run(found.info.run_id)
        missing = [key for key in wanted if key not in present]
        for key in missing:
            present[key] = self._write(place, key, *wanted[key])
        for name, value in experiment.tags.items():
            self.client.set_experiment_tag(place, name, _with_ids(value, place, present[last]))
        return Shown(len(missing), self.server, place)

    def _place(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return str(self.client.create_experiment(name))
        if found.lifecycle_stage == "deleted":  # in the user interface; its name stays taken
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _search(self, place: str) -> Iterator[Any]:
        token = None
        while True:
            page = self.client.search_runs([place], f"tags.`{KEY}` != ''", max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _write(self, place: str, key: str, run: MirroredRun, started: int) -> str:
        made = self.client.create_run(place, started, {**run.tags, KEY: key}, run.name)
        run_id: str = made.info.run_id
        end = started + int(run.seconds * 1000)
        try:
            self._fill(made, run, started, end)
        except BaseException:
            with contextlib.suppress(Exception):
                self.client.set_terminated(run_id, "KILLED")
            raise
        self.client.set_terminated(run_id, "FINISHED", end)
        return run_id

    def _fill(self, made: Any, run: MirroredRun, started: int, end: int) -> None:
        from mlflow import entities

        run_id = made.info.run_id
        last = max((point.epoch for point in run.curves), default=1)
        # MLflow draws a metric with one step, 0, as bars.
        metrics = [entities.Metric(name, value, end, 0) for name, value in run.final.items()] + [
            entities.Metric(p.name, p.value, started + (end - started) * p.epoch // last, p.epoch) for p in run.curves
        ]
        params = [entities.Param(name, value) for name, value in run.params.items()]
        for first in range(0, max(len(metrics), 1), METRICS_AT_ONCE):
            batch = metrics[first : first + METRICS_AT_ONCE]
            self.client.log_batch(run_id, metrics=batch, params=params if first == 0 else ())
        if run.dataset is not None:
            self.client.log_inputs(run_id, datasets=[_dataset(run.dataset)])
        if run.description:
            text = _with_ids(run.description, made.info.experiment_id, run_id)
            self.client.set_tag(run_id, "mlflow.note.content", text)
        for path, file in run.files.items():
            self.client.log_artifact(run_id, str(file), Path(path).parent.as_posix().removeprefix("."))


def _with_ids(text: str, experiment: str, run: str) -> str:
    return text.replace("{experiment}", experiment).replace("{run}", run)


def _dataset(data: DatasetInput) -> Any:
    from mlflow import entities

    profile = json.dumps({"images": data.images, "classes": data.classes, "sha256": data.sha256})
    described = entities.Dataset(data.name, data.sha256[:8], "local", json.dumps({"uri": data.source}), None, profile)
    return entities.DatasetInput(described, [entities.InputTag("mlflow.data.context", "training")])


def _key(run: MirroredRun, started: int = 0) -> str:
    files = {path: hashlib.sha256(file.read_bytes()).hexdigest() for path, file in run.files.items()}
    shown = json.dumps([asdict(replace(run, files={})), files, started], sort_keys=True)
    return hashlib.sha256(shown.encode()).hexdigest()


def _settle() -> None:
    """Import with telemetry off and retries low: MLflow's own block for 246 s (a server) or 101 s (a database)."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)
    import sqlalchemy
    from mlflow.store.db import utils
    from mlflow.tracking import MlflowClient  # noqa: F401

    utils.MAX_RETRY_COUNT = 1
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sqlalchemy.event.contains(sqlalchemy.Engine, "connect", _hasten):
        sqlalchemy.event.listen(sqlalchemy.Engine, "connect", _hasten)


def _hasten(connection: Any, _: object) -> None:
    """A commit waits for no disk: a file is five times as fast, and `make mirror` makes anew what a power cut loses."""
    if "sqlite" in type(connection).__module__:
        connection.execute("PRAGMA synchronous=OFF")


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Several writers on a fresh file crash in its migrations, and would take each other's runs for half-written."""
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
