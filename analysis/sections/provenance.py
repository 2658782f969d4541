"""Where do the numbers come from, and what would repeat them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from analysis.comparison import Comparison
from analysis.markdown import NONE, Section, Table, counted, listed, number, rate_text, seconds, shown
from analysis.paired import strategy_order
from analysis.tables import ALL, GROUPS, group_rates, size_name, used_scale

BOUNDS = (0.001, 1000.0)  # of the scales that tuning may try
NOT_SETTINGS = {"phases", "epochs_of_phases", "weights", "of", "name", "default"}  # they have columns of their own


def section(study: Comparison) -> Section:
    """The checklist, the recipes, what tuning tried, and which command makes which file."""
    common = ", ".join(f"{key.replace('_', ' ')} `{value}`" for key, value in common_settings(study).items())
    tuned = tuning(study)
    tried: tuple[str | Table, ...] = (
        "### Rates that were tried",
        tuned,
        f"Pilot images judged right, % ({study.metric} decides), by what multiplied the rates; bold: chosen.",
    )
    return Section(
        "Provenance",
        (
            checklist(study),
            "### What each strategy is",
            recipes(study),
            f"A row a phase. Where the table says nothing else: {common}. Scale: of the rates, by images a class.",
            *(tried if tuned.rows else ()),
            "### Number, command, file",
            origins(study),
        ),
    )


def common_settings(study: Comparison) -> dict[str, str]:
    """What most strategies of the study set alike."""
    found: dict[str, list[str]] = {}
    for block in study.parameters["strategies"].values():
        for key, value in _settings(block).items():
            found.setdefault(key, []).append(value)
    return {key: max(sorted(set(values)), key=values.count) for key, values in sorted(found.items())}


def _settings(block: Mapping[str, Any]) -> dict[str, str]:
    """What a strategy sets besides its phases and weights, as text."""
    return {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in block.items()
        if key not in NOT_SETTINGS
    }


def recipes(study: Comparison) -> Table:
    """What each strategy is: a row a phase."""
    common, rows = common_settings(study), []
    for name, block in study.parameters["strategies"].items():
        also = [f"{key.replace('_', ' ')} {value}" for key, value in _settings(block).items() if value != common[key]]
        if block["weights"] == "none":
            also.insert(0, "random start")
        if "of" in block:
            also.insert(0, f"changes `{block['of']}`")
        tuned = block.get("of", name)  # an ablation runs at the rates of the strategy it changes
        scales = [f"×{used_scale(study.tables.provenance, size, tuned):g}" for size in study.sizes]
        phases = list(zip(block["epochs_of_phases"], block["phases"], strict=True))
        learning = [(str(epochs), _rates(phase["lr"])) for epochs, phase in phases] or [(NONE, "head, closed form")]
        rows.append((f"`{name}`", *learning[0], "; ".join(also) or NONE, " / ".join(scales)))
        rows += [("", *phase, "", "") for phase in learning[1:]]
    return Table(("Strategy", "Epochs", "Learns", "Else", "Scale"), tuple(rows), frozenset({1}))


def _rates(rates: Mapping[str, float]) -> str:
    """`all 1e-4`, or `stem to stage4 1e-4, head 1e-3`."""
    by_group = group_rates(rates)
    if len(by_group) == len(GROUPS) and len(set(by_group.values())) == 1:
        return f"all {rate_text(by_group[GROUPS[0]])}"
    runs: list[tuple[list[str], float]] = []
    for group, rate in by_group.items():
        if runs and runs[-1][1] == rate and GROUPS.index(group) == GROUPS.index(runs[-1][0][-1]) + 1:
            runs[-1][0].append(group)
        else:
            runs.append(([group], rate))
    return ", ".join(f"{' to '.join(dict.fromkeys((names[0], names[-1])))} {rate_text(rate)}" for names, rate in runs)


def tuning(study: Comparison) -> Table:
    """What each scale of the rates got right in tuning, in percent; the chosen one bold."""
    tried: dict[tuple[int, str], Mapping[str, Any]] = {
        (int(size), name): of_size[name]["tried"]
        for size, of_size in study.parameters.get("tried", {}).items()
        for name in strategy_order(list(of_size))
    }
    scales = sorted({float(scale) for of in tried.values() for scale in of})
    rows = []
    for (size, name), of in sorted(tried.items(), key=lambda item: (item[0][0] == ALL, item[0][0])):
        reached = {float(scale): number(100 * found["right"] / found["of"]) for scale, found in of.items()}
        chosen = used_scale(study.tables.provenance, size, name)
        cells = [f"**{text}**" if scale == chosen else text for scale in scales for text in [reached.get(scale, "")]]
        images = max((found["of"] for found in of.values()), default=0)
        if of:
            rows.append((_size(size), f"`{name}`", number(images, 0), *cells))
    header = ("A class", "Strategy", "Images", *(f"×{scale:g}" for scale in scales))
    return Table(header, tuple(rows), frozenset({0, *range(2, len(header))}))


def _size(per_class: int) -> str:
    return "all" if per_class == ALL else number(per_class, 0)


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
    yield (
        "Splits",
        f"{number(dataset['pool_images'], 0)} images to draw from, {number(dataset['test_images'], 0)} for testing, "
        f"{number(dataset['watched_images'], 0)} watched",
    )
    yield "Test images by class", ", ".join(f"{shown(name)} {number(count, 0)}" for name, count in counts)
    yield "Backbone", f"`{backbone['name']}`, weights: {shown(backbone['weights'])}"
    yield "Weights, SHA-256", f"`{backbone['weights_sha256']}`"
    yield "Preprocessing", ", ".join(f"{key} {value}" for key, value in backbone["preprocessing"].items())


def _method(study: Comparison) -> Iterator[tuple[str, str]]:
    parameters = study.parameters
    settings, seeds = parameters["study"], parameters["study"]["seeds"]
    updates = listed(
        [f"{number(count, 0)} with {size_name(int(size))}" for size, count in parameters["updates"].items()]
    )
    tried = [float(s) for of in parameters.get("tried", {}).values() for f in of.values() for s in f["tried"]]
    yield "Training", f"{settings['epochs']} epochs, batches of {settings['batch_size']}; updates a run: {updates}"
    yield "Optimizer", parameters["optimizer"]
    yield "Precision", parameters.get("precision", "")
    if settings["learning_rates"] == "tuned":
        source = settings.get("rates_from")
        yield (
            "Search",
            f"rates as in study `{source}`"
            if source
            else "one scale of all rates a strategy and size, climbing from ×1 until its neighbours are worse",
        )
        yield (
            "Search bounds",
            f"×{BOUNDS[0]:g} to ×{BOUNDS[1]:,g}" + (f"; tried ×{min(tried):g} to ×{max(tried):,g}" if tried else ""),
        )
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
    devices = _each(
        f"{e['device_kind'].upper()} {e['device']}, {counted(int(e['threads']), 'thread')}" for e in environments
    )
    yield "Hardware", devices
    yield (
        "Time",
        f"{seconds(float(provenance['training_seconds']))} of training; first to last run "
        f"{seconds(span.total_seconds())}, to {str(provenance['finished'])[:16]}",
    )
    yield "Parameters", f"{number(strategies['total_parameters'].max(), 0)} weights"
    yield "Settings, SHA-256", _each(f"`{e['parameters_sha256']}`" for e in environments)
    yield "Software", _each([f"Python {e['python']}" for e in environments] + versions)
    yield "Numerics version", _each(str(e["numerics_version"]) for e in environments)
    yield "Commits", _each(f"`{_short(str(e['commit']))}`" for e in (*environments, *provenance["range_tests"]))


def _short(commit: str) -> str:
    """The first twelve digits, and whether there were changes beyond them."""
    digits, dash, changed = commit.partition("-")
    return digits[:12] + dash + changed


def _each(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def origins(study: Comparison) -> Table:
    """Which command makes which number, and in which file it lies."""
    render, collect = f"`make report STUDY={study.study}`", f"`dvc repro collect@{study.study}`"
    rows = [
        ("Runs", f"`dvc repro train@{study.study}-STRATEGY`", "[runs.csv](runs.csv)"),
        ("Tuning", f"`dvc repro tune@{study.study}`", "[tune.csv](tune.csv)"),
        ("Sweep of rates", f"`dvc repro sweep@{study.study}`", "[sweep.csv](sweep.csv)"),
        ("Ablations", f"`dvc repro ablate@{study.study}`", "[ablations.csv](ablations.csv)"),
        ("Range tests", f"`dvc repro lr_finder@{study.study}`", "[lr_finder.csv](lr_finder.csv)"),
        ("Curves", collect, "[history.csv](history.csv)"),
        ("Drift", collect, "[drift.csv](drift.csv)"),
        ("Predicted classes", collect, "`predictions.npz`"),
        ("Declared runs", collect, "[declared.csv](declared.csv)"),
        ("This table's facts", collect, "[provenance.json](provenance.json)"),
        ("Pairs", render, "[comparisons.csv](comparisons.csv)"),
        ("Verdicts", render, "[claims.json](claims.json)"),
        ("Figures", render, "`figures/NAME.csv`"),
    ]
    return Table(("Number", "Command", "File"), tuple(rows))
