"""Where do the numbers come from, and what would repeat them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from analysis.comparison import Comparison
from analysis.markdown import NONE, Section, Table, counted, listed, number, seconds, shown
from analysis.tables import size_name

BOUNDS = (0.001, 1000.0)  # of the scales that tuning may try


def section(study: Comparison) -> Section:
    """The checklist, and which command makes which file."""
    return Section("Provenance", (checklist(study), "### Number, command, file", origins(study)))


def checklist(study: Comparison) -> Table:
    """What a reader needs to judge and to repeat the study, one fact a row."""
    rows = [*_setting(study), *_method(study), *_runs(study)]
    return Table(("Reproducibility", "This study"), tuple((name, value or NONE) for name, value in rows))


def _setting(study: Comparison) -> Iterator[tuple[str, str]]:
    dataset, backbone = study.dataset, study.tables.provenance["backbone"]
    counts = zip(dataset["classes"], dataset["test_class_counts"], strict=True)
    yield "Data", f"{shown(dataset['name'])}: {shown(dataset['source'])}"
    yield "Licence", shown(dataset["licence"])
    yield "Data, SHA-256", f"`{dataset['sha256']}`"
    pool, test, watched = (number(dataset[f"{split}_images"], 0) for split in ("pool", "test", "watched"))
    yield "Splits", f"{pool} images to draw from, {test} for testing, {watched} watched"
    yield "Test images by class", ", ".join(f"{shown(name)} {number(count, 0)}" for name, count in counts)
    yield "Backbone", f"`{backbone['name']}`, weights: {shown(backbone['weights'])}"
    yield "Weights, SHA-256", f"`{backbone['weights_sha256']}`"
    yield "Preprocessing", ", ".join(f"{key} {value}" for key, value in backbone["preprocessing"].items())


def _method(study: Comparison) -> Iterator[tuple[str, str]]:
    parameters = study.parameters
    settings, seeds = parameters["study"], parameters["study"]["seeds"]
    counts = parameters["updates"].items()
    updates = listed([f"{number(count, 0)} with {size_name(int(size))}" for size, count in counts])
    tried = [float(s) for of in parameters.get("tried", {}).values() for f in of.values() for s in f["tried"]]
    yield "Training", f"{settings['epochs']} epochs, batches of {settings['batch_size']}; updates a run: {updates}"
    yield "Optimizer", parameters["optimizer"]
    yield "Precision", parameters.get("precision", "")
    if settings["learning_rates"] == "tuned":
        source = settings.get("rates_from")
        climb = "one scale of all rates a strategy and size, climbing from ×1 until its neighbours are worse"
        yield "Search", f"rates as in study `{source}`" if source else climb
        bounds = f"×{BOUNDS[0]:g} to ×{BOUNDS[1]:,g}"
        yield "Search bounds", bounds + (f"; tried ×{min(tried):g} to ×{max(tried):,g}" if tried else "")
        yield "Selection", f"by {study.metric} on held-out fifths of pilot draws; never on test images"
    else:
        yield "Search", f"none: rates {settings['learning_rates']}"
    yield "Judged by", f"{study.metric}, once a run, at its end"
    yield "Seeds", f"{len(seeds)}: {seeds[0]} to {seeds[-1]}"
    yield "Error bars", f"95% t intervals over {study.over}, differences paired by seed"


def _runs(study: Comparison) -> Iterator[tuple[str, str]]:
    provenance, strategies = study.tables.provenance, study.strategies
    environments = provenance["environments"]
    cells = sum(int(environment["cells"]) for environment in environments)
    copies = cells - provenance["trainings"]
    declared, absent = len(study.tables.declared), len(study.tables.missing_cells)
    shared = f"; {number(copies, 0)} share the training of another" if copies else ""
    versions = [f"{name} {v}" for e in environments for name, v in e["versions"].items()]
    span = pd.Timestamp(provenance["finished"]) - pd.Timestamp(provenance["started"])
    yield "Runs", f"{number(declared - absent, 0)} of {number(declared, 0)} declared{shared}"
    threads = (f"{e['device']}, {counted(int(e['threads']), 'thread')}" for e in environments)
    yield "Hardware", _each(f"{e['device_kind'].upper()} {of}" for e, of in zip(environments, threads, strict=True))
    total, between = seconds(float(provenance["training_seconds"])), seconds(span.total_seconds())
    yield "Time", f"{total} of training; first to last run {between}, to {str(provenance['finished'])[:16]}"
    yield "Parameters", f"{number(strategies['total_parameters'].max(), 0)} weights"
    yield "Settings, SHA-256", _each(f"`{e['parameters_sha256']}`" for e in environments)
    yield "Software", _each([f"Python {e['python']}" for e in environments] + versions)
    made = (*environments, *provenance["range_tests"])
    commits = (str(e["commit"]).partition("-") for e in made)  # behind the dash: whether there were changes
    yield "Numerics version", _each(str(e["numerics_version"]) for e in environments)
    yield "Commits", _each(f"`{digits[:12]}{dash}{rest}`" for digits, dash, rest in commits)


def _each(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def origins(study: Comparison) -> Table:
    """Which command makes which number, and in which file it lies."""
    render, collect = f"`make report STUDY={study.study}`", f"`dvc repro collect@{study.study}`"
    made = [
        ("Runs", f"`dvc repro train@{study.study}-STRATEGY`", ("runs.csv",)),
        ("Tuning", f"`dvc repro tune@{study.study}`", ("tune.csv",)),
        ("Sweep of rates", f"`dvc repro sweep@{study.study}`", ("sweep.csv",)),
        ("Ablations", f"`dvc repro ablate@{study.study}`", ("ablations.csv",)),
        ("Range tests", f"`dvc repro lr_finder@{study.study}`", ("lr_finder.csv", "lr_suggestions.csv")),
        ("Curves and drift", collect, ("history.csv", "drift.csv")),
        ("Declared runs, facts", collect, ("declared.csv", "provenance.json")),
        ("Predicted classes", collect, ("predictions.npz",)),
        ("Pairs, verdicts", render, ("comparisons.csv", "claims.json")),
    ]
    rows = [(what, command, ", ".join(f"[{file}]({file})" for file in files)) for what, command, files in made]
    return Table(("Number", "Command", "File"), tuple(rows))
