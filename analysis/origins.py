"""Where a study's numbers come from: recipes, provenance, commands, and how to cite them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.findings import Numbers, strategy_order
from analysis.plots import rate_text
from analysis.tables import GROUPS, group_rates, size_name, used_scale
from analysis.words import NONE, Table, cell, counted, joined_words, percent, seconds, size_number


def bibtex(numbers: Numbers) -> str:
    """An entry for this report; the year is that of the last run."""
    tables, provenance = numbers.tables, numbers.tables.provenance
    year = str(provenance["finished"])[:4]
    commits = sorted({_short(str(environment["commit"])) for environment in provenance["environments"]})
    key = "".join(letter for letter in tables.study if letter.isalnum() or letter == "_")
    note = (
        f"Backbone {provenance['backbone']['name']}, data {provenance['dataset']['name']}, "
        f"{min(top.k for top in numbers.tops)} seeds, commit {', '.join(commits)}"
    )
    return "\n".join(
        [
            f"@misc{{thaw_{key}_{year},",
            f"  title  = {{Thaw: which transfer-learning strategy? Study {_latex(tables.study)}}},",
            "  author = {{The Thaw authors}},",
            f"  year   = {{{year}}},",
            f"  note   = {{{_latex(note)}}}",
            "}",
        ]
    )


def _short(commit: str) -> str:
    """The first twelve digits, and whether there were changes beyond them."""
    digits, dash, changed = commit.partition("-")
    return digits[:12] + dash + changed


def _latex(text: str) -> str:
    return text.replace("\\", "/").replace("_", "\\_").replace("&", "\\&").replace("%", "\\%").replace("#", "\\#")


def _settings(block: Mapping[str, Any]) -> dict[str, str]:
    """What a strategy sets besides its phases and weights, as text."""
    known = {"phases", "epochs_of_phases", "weights", "of", "name", "default"}
    return {
        key: f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in block.items()
        if key not in known
    }


def common_settings(numbers: Numbers) -> dict[str, str]:
    """What most strategies of the study set alike."""
    found: dict[str, list[str]] = {}
    for block in numbers.tables.provenance["parameters"]["strategies"].values():
        for key, value in _settings(block).items():
            found.setdefault(key, []).append(value)
    return {key: max(sorted(set(values)), key=values.count) for key, values in sorted(found.items())}


def recipe_words(numbers: Numbers) -> str:
    """What holds for every strategy that does not say otherwise."""
    common = common_settings(numbers)
    if not common:
        return ""
    listed = ", ".join(f"{key.replace('_', ' ')} `{value}`" for key, value in common.items())
    norm = (
        " BatchNorm `train`: groups that learn normalise by the batch and update their running statistics; frozen "
        "groups use the statistics they came with."
        if common.get("batch_norm") == "train"
        else ""
    )
    return f"Where the table says nothing else: {listed}.{norm}"


def recipe_rows(numbers: Numbers) -> Table:
    """What each strategy is: its phases, what learns in them, and at which rates."""
    parameters = numbers.tables.provenance["parameters"]
    common = common_settings(numbers)
    rows = []
    for name, block in parameters["strategies"].items():
        epochs = block.get("epochs_of_phases") or [None] * len(block["phases"])
        phases = [
            (f"{counted(length, 'epoch')}: " if length is not None else "") + _rates_words(phase["lr"])
            for phase, length in zip(block["phases"], epochs, strict=True)
        ]
        extra = [f"{key.replace('_', ' ')} {value}" for key, value in _settings(block).items() if value != common[key]]
        if "of" in block:
            extra.insert(0, f"changes `{block['of']}`")
        tuned = block.get("of", name)  # an ablation runs at the rates of the strategy it changes
        scales = [
            f"×{scale[tuned]:g} at {int(size):,}"
            for size, scale in sorted(parameters.get("lr_scales", {}).items(), key=lambda item: int(item[0]))
            if scale.get(tuned, 1) != 1
        ]
        weights = "random" if block.get("weights") == "none" else "pretrained"
        also = cell("; ".join(extra)) or NONE
        rows.append(
            (
                f"`{name}`",
                weights,
                "; then ".join(phases) or "the head, in closed form",
                also,
                "; ".join(scales) or "×1",
            )
        )
    return Table(("Strategy", "Start", "What learns, at which rate", "Also", "Rates scaled by"), tuple(rows))


def tuning_rows(numbers: Numbers) -> Table:
    """What each scale of the rates reached in tuning, in percent; the chosen one bold."""
    reached = _reached(numbers)
    scales = sorted({scale for means in reached.values() for scale in means})
    rows = []
    for (per_class, name), means in reached.items():
        used = used_scale(numbers.tables.provenance, per_class, name)
        cells = [percent(means.get(scale, np.nan)) for scale in scales]
        cells = [f"**{cell}**" if scale == used else cell for scale, cell in zip(scales, cells, strict=True)]
        rows.append((size_number(per_class), f"`{name}`", *cells))
    header = ("Images a class", "Strategy", *(f"×{scale:g}" for scale in scales))
    return Table(header, tuple(rows), frozenset({0, *range(2, 2 + len(scales))}))


def _reached(numbers: Numbers) -> dict[tuple[int, str], dict[float, float]]:
    """The accuracy (percent) of each scale on the images that judged it, by size and strategy."""
    tried = numbers.tables.provenance["parameters"].get("tried")
    if tried is not None:
        return {
            (int(size), name): {
                float(scale): 100 * found["right"] / found["of"] for scale, found in by_name[name]["tried"].items()
            }
            for size, by_name in sorted(tried.items(), key=lambda item: int(item[0]))
            for name in strategy_order(list(by_name))
            if by_name[name]["tried"]
        }
    tune = numbers.tables.tune  # of the first edition, which kept nothing else
    found: dict[tuple[int, str], dict[float, float]] = {}
    for per_class, of_size in tune.groupby("per_class"):
        for name in strategy_order(of_size["strategy"].unique().tolist()):
            means = of_size[of_size["strategy"] == name].groupby("lr_scale")["val_accuracy"].mean() * 100
            found[int(str(per_class)), name] = {float(str(scale)): float(mean) for scale, mean in means.items()}
    return found


def _rates_words(rates: Mapping[str, float]) -> str:
    """`all at 1e-4`, or `stem to stage4 at 1e-4, head at 1e-3`."""
    by_group = group_rates(rates)
    if len(by_group) == len(GROUPS) and len(set(by_group.values())) == 1:
        return f"all at {rate_text(by_group[GROUPS[0]])}"
    runs: list[tuple[list[str], float]] = []
    for group, rate in by_group.items():
        if runs and runs[-1][1] == rate and GROUPS.index(group) == GROUPS.index(runs[-1][0][-1]) + 1:
            runs[-1][0].append(group)
        else:
            runs.append(([group], rate))
    return ", ".join(
        f"{names[0] if len(names) == 1 else f'{names[0]} to {names[-1]}'} at {rate_text(rate)}" for names, rate in runs
    )


def provenance_rows(numbers: Numbers) -> Table:
    """Where the numbers come from, one fact a row."""
    provenance = numbers.tables.provenance
    study, dataset, backbone = provenance["parameters"]["study"], provenance["dataset"], provenance["backbone"]
    environments = provenance["environments"]

    def listed(field: str) -> str:
        tests = provenance.get("range_tests", [])
        found = dict.fromkeys(str(e[field]) for e in (*environments, *tests) if e.get(field) not in (None, ""))
        return ", ".join(f"`{value}`" for value in found) or NONE

    shown = {"dataset", "backbone", "resolution", "per_class", "seeds", "epochs", "batch_size", "learning_rates"}
    shown |= {"precision"}
    others = [
        (key, json.dumps(study[key], sort_keys=True))
        for key in sorted(study)
        if key not in shown and study[key] is not None
    ]
    rates = study.get("learning_rates", NONE)
    versions: dict[str, set[str]] = {}
    for environment in environments:
        for package, version in environment.get("versions", {}).items():
            versions.setdefault(package, set()).add(str(version))
    devices = dict.fromkeys(f"{e['device_kind'].upper()}: {e.get('device', '?')}" for e in environments)
    counts = ", ".join(
        f"{name} {count:,}" for name, count in zip(dataset["classes"], dataset["test_class_counts"], strict=True)
    )
    span = pd.Timestamp(provenance["finished"]) - pd.Timestamp(provenance["started"])
    seeds = study.get("seeds")
    seeds = f"0 to {seeds - 1}" if isinstance(seeds, int) else ", ".join(str(seed) for seed in seeds or [])
    steps = provenance["parameters"].get("updates", {})
    counts_of = joined_words([f"{count:,} with {size_name(int(size))}" for size, count in steps.items()])
    updates = f" at most, evened out within an epoch; updates in a run: {counts_of}" if counts_of else ""
    cells = sum(int(e["cells"]) for e in environments)
    copies = cells - provenance.get("trainings", cells)
    copied = f", {copies:,} of them the training of another one, which is stored under both names" if copies else ""
    rows = [
        ("Study", f"`{numbers.tables.study}`"),
        ("Data set", f"{dataset['name']}, from {dataset['source']}, {dataset['licence']}"),
        *(("Data set, options", f"`{json.dumps(study[key], sort_keys=True)}`") for key in ["dataset"] if key in study),
        ("Data, SHA-256", f"`{dataset['sha256']}`"),
        ("Images", f"{dataset['pool_images']:,} to draw from, {dataset['test_images']:,} for testing ({counts}), "
                   f"{dataset.get('watched_images', 0):,} watched as validation"),
        ("Training images a class", ", ".join(map(size_number, study.get("per_class", numbers.sizes)))),
        ("Pixels", str(study.get("resolution", NONE))),
        ("Backbone", f"{backbone['name']}, weights: {backbone['weights']}"),
        ("Weights, SHA-256", f"`{backbone['weights_sha256']}`"),
        ("Preprocessing", ", ".join(f"{key} {value}" for key, value in backbone["preprocessing"].items())),
        ("Epochs", str(study["epochs"])),
        ("Batch size", str(study.get("batch_size", NONE)) + updates),
        ("Optimizer", provenance["parameters"].get("optimizer", NONE)),
        *(("Precision", precision) for precision in [provenance["parameters"].get("precision")] if precision),
        ("Judged by", numbers.metric),
        ("Learning rates", rates if isinstance(rates, str) else f"{rates:g} times the textbook's"),
        ("Seeds", seeds),
        *((str(key).replace("_", " ").capitalize(), f"`{value}`") for key, value in others),
        ("Commits of the runs", listed("commit")),
        ("Parameters that all runs share, SHA-256", listed("parameters_sha256")),
        ("Numerics version", listed("numerics_version")),
        ("Device", ", ".join(devices)),
        ("Threads", listed("threads")),
        ("Python", listed("python")),
        ("Versions", ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items()))),
        ("Runs", f"{cells:,}{copied}"),
        ("First to last run", f"{provenance['started']} to {provenance['finished']} ({seconds(span.total_seconds())})"),
        ("Training time, summed", seconds(float(provenance["training_seconds"]))),
        ("Commands", listed("command")),
    ]  # fmt: skip
    return Table(("What", "Value"), tuple((name, cell(value)) for name, value in rows))


def origin_rows(numbers: Numbers) -> Table:
    """Which command makes which number, and in which file it lies."""
    study = numbers.tables.study
    render = f"`make report STUDY={study}`"
    collect = f"`dvc repro collect@{study}`"
    rows = [
        ("One run of a strategy", f"`dvc repro train@{study}-STRATEGY`", "[runs.csv](runs.csv)"),
        ("The run store itself", f"`dvc repro train@{study}-STRATEGY`", f"`results/{study}/final/STRATEGY/`"),
        ("Curves, phase ends", collect, "[history.csv](history.csv)"),
        ("How far groups moved", collect, "[drift.csv](drift.csv)"),
        ("Predicted classes, recalls, intervals for new images", collect, "`predictions.npz`"),
        ("Rates chosen in tuning", f"`dvc repro tune@{study}`", "[tune.csv](tune.csv)"),
        ("Sweep of rates", f"`dvc repro sweep@{study}`", "[sweep.csv](sweep.csv)"),
        ("Ablations", f"`dvc repro ablate@{study}`", "[ablations.csv](ablations.csv)"),
        ("Which runs the study declares", collect, "[declared.csv](declared.csv)"),
        ("Means and shares of the table of strategies", render, "`metrics/STRATEGY.json`"),
        ("Paired differences, intervals, p", render, "[comparisons.csv](comparisons.csv)"),
        ("Verdicts", render, "[claims.json](claims.json)"),
        ("The numbers behind a figure", render, "`figures/NAME.csv`"),
        ("Provenance", collect, "[provenance.json](provenance.json)"),
    ]  # fmt: skip
    return Table(("Number", "Command", "File"), tuple(rows))
