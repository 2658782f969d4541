"""Stage `mirror`: what a study's tables and report say, as MLflow shows it (`make mirror`: of every study)."""

from __future__ import annotations

import csv
import json
import logging
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline import tracking
from pipeline.stages import command
from pipeline.strategies import ALL, size_words
from pipeline.tracking import DatasetInput, Experiment, MirroredRun, Point

LOG = logging.getLogger(__name__)

TABLES = ("runs.csv", "sweep.csv", "ablations.csv", "tune.csv")  # those whose runs are looked at most first
MOST_OVERLAP = 0.5  # of the images of two draws; above, the report has no interval either
CELL = ("role", "strategy", "per_class", "lr_scale", "seed")
GIVEN = ("backbone", "resolution", "epochs", "batch_size", "precision", "learning_rates")
METRICS = {"accuracy": "test_accuracy", "balanced_accuracy": "balanced_accuracy", "log_loss": "log_loss", "ece": "ece"}

# What MLflow 3.17 shows without `workflowType` is made for language models.
RUNS = "#/experiments/{experiment}/runs?workflowType=machine_learning"
CHARTS = f"{RUNS}&compareRunsMode=CHART&viewStateShareKey=means"
ARTIFACT = "#/experiments/{experiment}/runs/{run}/artifacts/%s?workflowType=machine_learning"
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
FIGURE = re.compile(r"!\[([^]]*)]\((figures/[^)]+\.png)\)")

Row = Mapping[str, str]


def mirror(*studies: str) -> None:
    """Mirror these studies; every one that has been collected where none is named."""
    for study in studies or sorted(path.parent.name for path in command.REPORTS.glob("*/provenance.json")):
        try:
            experiment = as_experiment(study, command.REPORTS / study)
        except (OSError, KeyError, ValueError) as error:  # must not keep the others from being mirrored
            LOG.warning("%s: not mirrored, its tables can't be read (%s: %s)", study, type(error).__name__, error)
            continue
        shown = tracking.mirror(experiment)
        if shown is None:
            return  # one warning is enough
        page = CHARTS.replace("{experiment}", shown.experiment)
        there = "after `make ui`, " * (shown.server == tracking.BROWSER)
        LOG.info("%s: %d new runs in MLflow; %s%s/%s", study, shown.written, there, shown.server, page)


def as_experiment(study: str, place: Path) -> Experiment:
    """What MLflow is to show of the study whose tables and report lie in `place`."""
    provenance = json.loads((place / "provenance.json").read_text(encoding="utf-8"))
    data, parameters = provenance["dataset"], provenance["parameters"]
    images = data["pool_images"] + data["test_images"]
    dataset = DatasetInput(data["name"], data["sha256"], data["source"], images, len(data["classes"]))
    given = {key: str(parameters["study"][key]) for key in GIVEN if key in parameters["study"]}
    shared = {"dataset": dataset.name, **given}
    judged = f"test/{parameters['judge_by']}"
    curves = _curves(place / "history.csv")
    runs = [_run(row, curves.get(_cell(row), ()), shared) for table in TABLES for row in _rows(place / table)]
    return Experiment(
        name=study,
        tags={
            "mlflow.note.content": _description(dataset, shared),
            "mlflow.experimentKind": "custom_model_development",
            "mlflow.sharedViewState.means": json.dumps(_view(judged)),
        },
        finished=datetime.fromisoformat(provenance["finished"]).timestamp(),
        first=[
            *_summaries(runs, judged, dataset, provenance["dataset"].get("overlap", {})),
            _report(place, shared, dataset),
        ],
        others=runs,
    )


def _description(dataset: DatasetInput, shared: Mapping[str, str]) -> str:
    """What stands above the list; only its first line until a reader opens it."""
    return (
        f"**[Report]({ARTIFACT % 'report.md'})** · [charts of the means]({CHARTS}) · "
        f"[their table]({RUNS}&viewStateShareKey=means) · [every run]({RUNS})\n\n"
        f"{dataset.name} ({dataset.images:,} images, {dataset.classes} classes), {shared['backbone']} at "
        f"{shared['resolution']} px, {shared['epochs']} epochs. Runs of role `summary` are means over seeds; `final`, "
        "`pilot`, `sweep` and `ablation` are single runs. Filter by `params.role`, `params.strategy`, "
        "`params.per_class`."
    )


def _rows(table: Path) -> Iterator[Row]:
    with table.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def _cell(row: Row) -> tuple[str, ...]:
    return tuple(row[column] for column in CELL)


def _curves(history: Path) -> Mapping[tuple[str, ...], Sequence[Point]]:
    curves: dict[tuple[str, ...], list[Point]] = {}
    for row in _rows(history):
        point = Point(int(row["epoch"]), f"{row['split']}/{row['metric']}", float(row["value"]))
        curves.setdefault(_cell(row), []).append(point)
    return curves


def _run(row: Row, curves: Sequence[Point], shared: Mapping[str, str]) -> MirroredRun:
    """A single run; a pilot's is judged on a tuning split."""
    per_class, scale, role = int(row["per_class"]), f"{float(row['lr_scale']):g}", row["role"]
    scaled = "" if scale == "1" else f" ×{scale}"
    words = f"{row['strategy']}{scaled} · {size_words(per_class)} · seed {row['seed']}"
    judged_on = "tuning" if role == "pilot" else "test"
    return MirroredRun(
        name=words if role == "final" else f"{words} · {role}",
        params={
            "role": role,
            "strategy": row["strategy"],
            "per_class": "all" if per_class == ALL else str(per_class),
            "lr_scale": scale,
            "seed": row["seed"],
            **shared,
        },
        tags={"role": role, "status": row["status"], "fingerprint": row["fingerprint"]},
        seconds=float(row["seconds"]),
        curves=curves,
        final={
            **{f"{judged_on}/{name}": float(row[column]) for name, column in METRICS.items() if row[column]},
            "seconds": float(row["seconds"]),
            "trainable_parameters": float(row["trainable_parameters"]),
        },
    )


def _summaries(
    runs: Sequence[MirroredRun], judged: str, dataset: DatasetInput, overlap: Mapping[str, float]
) -> list[MirroredRun]:
    """A run for every strategy and size: the largest size first, and there the best strategy."""
    of: dict[tuple[str, str], list[MirroredRun]] = {}
    for run in runs:
        if run.params["role"] == "final":
            of.setdefault((run.params["per_class"], run.params["strategy"]), []).append(run)
    means = [_mean(seeds, judged, dataset, overlap.get(size, 0.0)) for (size, _), seeds in of.items()]
    means.sort(key=lambda run: (_images(run.params["per_class"]), run.final[judged]), reverse=True)
    places = list(dict.fromkeys(run.params["strategy"] for run in means))
    colours = {strategy: COLOURS[place % len(COLOURS)] for place, strategy in enumerate(places)}
    return [replace(run, tags={**run.tags, "mlflow.runColor": colours[run.params["strategy"]]}) for run in means]


def _mean(seeds: Sequence[MirroredRun], judged: str, dataset: DatasetInput, overlap: float) -> MirroredRun:
    """The mean of a strategy's final runs of a size, with its 95% t interval where there are several.

    overlap: the share of images that two draws have in common, for which the report's interval is widened, and above
    which half it has none; the same here (a test holds them together).
    """
    final = {name: statistics.fmean(run.final[name] for run in seeds) for name in seeds[0].final}
    if len(seeds) > 1 and overlap <= MOST_OVERLAP:
        from scipy.stats import t

        spread = statistics.stdev(run.final[judged] for run in seeds)
        shared = (1 + (len(seeds) - 1) * overlap) / (1 - overlap)
        half = float(t.ppf(0.975, len(seeds) - 1)) * spread * math.sqrt(shared / len(seeds))
        final |= {f"{judged}_low": final[judged] - half, f"{judged}_high": final[judged] + half}
    values: dict[tuple[int, str], list[float]] = {}
    for point in (point for run in seeds for point in run.curves):
        values.setdefault((point.epoch, point.name), []).append(point.value)
    params = {name: value for name, value in seeds[0].params.items() if name != "seed"}
    size = params["per_class"] if params["per_class"] == "all" else f"{params['per_class']} a class"
    return MirroredRun(
        name=f"{final[judged]:.1%} {params['strategy']} · {size}",  # a list shows the first twenty letters or so
        params={**params, "role": "summary", "seeds": str(len(seeds))},
        tags={"role": "summary"},
        seconds=final["seconds"],
        curves=[Point(epoch, name, statistics.fmean(of)) for (epoch, name), of in values.items()],
        final={name: round(value, 4) for name, value in final.items()},
        dataset=dataset,
    )


def _images(per_class: str) -> float:
    return math.inf if per_class == "all" else float(per_class)


def _report(place: Path, shared: Mapping[str, str], dataset: DatasetInput) -> MirroredRun:
    """The run that holds the report. MLflow renders its Markdown without the pictures, so links lead to them."""
    found = [file for pattern in ("*.md", "*.csv", "*.json", "figures/*.png") for file in sorted(place.glob(pattern))]
    pages = [file.name for file in reversed(found) if file.suffix == ".md"]  # report.md, details.md
    figures = [figure for name in pages[:1] for figure in FIGURE.findall((place / name).read_text(encoding="utf-8"))]
    links = [(name, name) for name in pages] + figures
    return MirroredRun(
        name="report",
        params={"role": "report", **shared},
        tags={"role": "report"},
        dataset=dataset,
        description="\n".join(f"- [{words}]({ARTIFACT % path})" for words, path in links),
        files={file.relative_to(place).as_posix(): file for file in found},
    )


def _view(judged: str) -> dict[str, Any]:
    """What MLflow 3.17 keeps of a view that somebody shares: means alone, the judged accuracy first and wide."""

    def card(kind: str, section: str, metric: str) -> dict[str, Any]:
        return {
            "type": kind, "uuid": metric, "metricSectionId": section, "metricKey": metric,
            "selectedMetricKeys": [metric], "runsCountToCompare": 20, "deleted": False, "isGenerated": False,
            **({"xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear", "range": {},
                "lineSmoothness": 0, "yAxisKey": "metric", "yAxisExpressions": []} if kind == "LINE" else {}),
        }  # fmt: skip

    sections = ("mean over seeds", "mean curves")
    curves = ("val/accuracy", "val/loss", "train/accuracy", "train/loss")
    return {
        "searchFilter": "params.role = 'summary'",
        "selectedColumns": [f"metrics.`{judged}{end}`" for end in ("", "_low", "_high")] + ["params.`per_class`"],
        "isAccordionReordered": True,
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": False, "deleted": False, "isGenerated": False,
             "columns": 1, "cardHeight": 420}
            for name in sections
        ],
        "compareRunCharts": [card("BAR", sections[0], judged), *(card("LINE", sections[1], name) for name in curves)],
    }  # fmt: skip


if __name__ == "__main__":
    command.main(mirror, "Mirror tables and reports to MLflow.", several="studies")
