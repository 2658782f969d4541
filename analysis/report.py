"""The report of one study: computes, draws and writes; templates/*.md.j2 only lay out what they are given."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from analysis import depth, elsewhere, exercises, finder, findings, ledger, origins, plots, wording
from analysis.answer import Answer, answer, tuned_on_few
from analysis.claims import Claim, ClaimsError, judge, load_claims
from analysis.findings import REFERENCE, Numbers, Sweep
from analysis.tables import ALL, GROUPS, TablesError, load, size_name
from analysis.words import counted, sentence

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """A figure with the words and the data that stand beside it; drawn when it is written."""

    section: str
    name: str  # of its files, without ending
    alt: str
    caption: str
    data: pd.DataFrame
    draw: Callable[[], Figure]
    number: int = 0


def pictures(numbers: Numbers, judged: Sequence[dict[str, Any]], claims: Sequence[Claim]) -> list[Picture]:
    """Every figure that the tables of this study can fill, in the order of the report and numbered."""
    parts = (
        _accuracy,
        _sizes,
        _forest,
        _matrices,
        _curves,
        _cost,
        _sweep,
        _phases,
        _range_tests,
        _drift,
        _ablations,
        _depth,
        lambda numbers: _claims(numbers, judged, claims),
        _recall,
    )
    drawn = [picture for part in parts for picture in part(numbers)]
    return [replace(picture, number=i) for i, picture in enumerate(drawn, 1)]


def _in_percent(runs: pd.DataFrame) -> pd.DataFrame:
    columns = ["train_accuracy", "val_accuracy", "judged"]
    return runs.assign(**{column: runs[column] * 100 for column in columns})


def _seed_words(numbers: Numbers, per_class: int | None = None) -> str:
    """`n = 5 seeds a strategy`, or the range where strategies differ."""
    mine = numbers.strategies
    if per_class is not None:
        mine = mine[mine["per_class"] == per_class]
    low, high = int(mine["k"].min()), int(mine["k"].max())
    return f"n = {counted(low, 'seed')} a strategy" if low == high else f"n = {low} to {high} seeds a strategy"


def _named(numbers: Numbers, name: str, per_class: int) -> str:
    """A file name with the size in it where a study has several."""
    return name if len(numbers.sizes) == 1 else f"{name}_{per_class}"


def _at(numbers: Numbers, per_class: int) -> str:
    return "" if len(numbers.sizes) == 1 else f" with {size_name(per_class)}"


def _looks(numbers: Numbers) -> dict[str, tuple[str, str]]:
    return plots.looks_of(numbers.names)


def _accuracy(numbers: Numbers) -> Iterator[Picture]:
    runs = _in_percent(numbers.tables.runs)[["per_class", "strategy", "seed", "status", "judged"]]
    diverged = " Hollow dots are diverged runs." if (runs["status"] == "diverged").any() else ""
    yield Picture(
        "accuracy",
        "accuracy",
        f"{numbers.metric.capitalize()} of every run by strategy, with means and intervals",
        f"{numbers.metric.capitalize()} of every run, {_seed_words(numbers)}. A thin line joins the runs of one seed, "
        "which saw the same training images. Bars: mean with 95% t interval over seeds. Unit: percent of "
        f"{numbers.tables.provenance['dataset']['test_images']:,} test images; always answering the largest class "
        f"gets {numbers.baseline:.1f}%.{diverged}",
        runs,
        lambda: plots.accuracy(runs, numbers.strategies, _looks(numbers), numbers.baseline, numbers.metric),
    )


def _seed_differences(runs: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Per size, strategy and seed: the judged accuracy minus the reference's of the same seed, in points."""
    key = ["per_class", "seed"]
    base = runs[runs["strategy"] == reference].set_index(key)["judged"].rename("base")
    both = runs[runs["strategy"] != reference].join(base, on=key, how="inner")
    return both.assign(difference=(both["judged"] - both["base"]) * 100)[
        ["per_class", "strategy", "seed", "difference"]
    ]


def _forest(numbers: Numbers) -> Iterator[Picture]:
    if not numbers.has_reference:
        return
    pairs = pd.concat([findings.against(numbers.pairs, size, REFERENCE) for size in numbers.sizes])
    seeds = _seed_differences(numbers.tables.runs, REFERENCE)
    order = {name: i for i, name in enumerate(numbers.names)}
    pairs = pairs.assign(order=pairs["strategy"].map(order)).sort_values(["per_class", "order"])
    shown = pairs[
        ["per_class", "strategy", "k", "difference", "low", "high", "low_new_images", "high_new_images", "p_holm"]
    ]
    data = shown.merge(
        seeds.rename(columns={"difference": "seed_difference"}), on=["per_class", "strategy"], how="left"
    )
    if shown["difference"].notna().any():
        yield Picture(
            "forest",
            "forest",
            f"Forest plot: difference in {numbers.metric} of each strategy from {REFERENCE}",
            f"{numbers.metric.capitalize()} minus that of `{REFERENCE}`, the reference fixed beforehand, paired by "
            f"seed; {_seed_words(numbers)}. Thick bars: 95% t interval over {numbers.over}; thin bars: the "
            "same for new test images too; dots: single seeds. Filled marker: adjusted p below 0.05 (Holm over the "
            "pairs of default strategies of the size). Unit: percentage points; right of zero is better than the "
            "reference.",
            data,
            lambda: plots.forest(
                shown.reset_index(drop=True), seeds, _looks(numbers), f"points of {numbers.metric} above {REFERENCE}"
            ),
        )


def _matrices(numbers: Numbers) -> Iterator[Picture]:
    for size in numbers.sizes:
        pairs = numbers.pairs[(numbers.pairs["per_class"] == size) & (numbers.pairs["family"] == "pairs")]
        present = set(pairs["a"]) | set(pairs["b"])
        names = [name for name in numbers.names if name in present]
        if not 3 <= len(names) <= plots.MOST_IN_MATRIX or numbers.tables.too_small(size):
            continue
        yield Picture(
            "pairs",
            _named(numbers, "pairs", size),
            f"Matrix of all pairs of default strategies{_at(numbers, size)}",
            f"Row minus column{_at(numbers, size)}: mean paired difference in {numbers.metric}, its 95% t interval and "
            f"its p after Holm's correction over all {len(pairs)} pairs; {_seed_words(numbers, size)}. Bold: adjusted "
            "p below 0.05. Unit: percentage points.",
            pairs.drop(columns="study"),
            _drawing(plots.pair_matrix, pairs, names),
        )


def _drawing(draw: Callable[..., Figure], *arguments: Any) -> Callable[[], Figure]:
    """`draw` with its arguments bound now, for a figure that is made in a loop and drawn later."""
    return lambda: draw(*arguments)


def _borders(numbers: Numbers) -> dict[str, list[int]]:
    """The last epoch of every phase but the final one, by strategy, as the runs went."""
    history = numbers.tables.history
    final = history[history["role"] == "final"]
    last = final.groupby(["strategy", "phase"])["epoch"].max().reset_index()
    found: dict[str, list[int]] = {}
    for strategy, mine in last.groupby("strategy"):
        ends = sorted(int(epoch) for epoch in mine["epoch"])
        found[str(strategy)] = ends[:-1]
    return found


def _with_status(history: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    key = ["role", "strategy", "per_class", "lr_scale", "seed"]
    merged = history.merge(runs[[*key, "status"]], on=key, how="inner")
    scale = np.where(merged["metric"] == "accuracy", 100.0, 1.0)
    return merged.assign(value=merged["value"] * scale)


def _curves(numbers: Numbers) -> Iterator[Picture]:
    history = _with_status(numbers.tables.history, numbers.tables.runs)
    first_edition = not history["split"].eq("train_end").any()
    read = "in evaluation mode on all drawn images, unaugmented" if first_edition else "on the epoch's own batches"
    history = history[history["split"] != "train_end"]
    borders = _borders(numbers)
    units = {"accuracy": "percent", "loss": "nats (cross-entropy)"}
    for size in numbers.sizes:
        for metric, unit in units.items():
            mine = history[(history["per_class"] == size) & (history["metric"] == metric)]
            mine = mine[["strategy", "seed", "phase", "epoch", "split", "value", "status"]]
            trained = set(mine.loc[mine["split"] == "train", "strategy"])  # heads in closed form have no epochs
            names = [name for name in numbers.names if name in trained]
            if not names:
                continue
            mine = mine[mine["strategy"].isin(trained)]
            val = (mine["split"] == "val").any()
            several = any(borders.get(name) for name in names)
            phased = "Dashed verticals: a phase ends and other groups begin to learn. " if several else ""
            cut = _cut_off(mine) if metric == "loss" else ""
            yield Picture(
                "curves",
                _named(numbers, f"curves_{metric}", size),
                f"{'Training and validation' if val else 'Training'} {metric} of every strategy{_at(numbers, size)}",
                f"{'Training and validation' if val else 'Training'} {metric} after every epoch{_at(numbers, size)}, "
                f"{_seed_words(numbers, size)}: thin lines are seeds, thick ones means over the runs that did not "
                f"diverge. {phased}Training {metric} is read {read}. "
                f"{cut}Unit: {unit}.",
                mine,
                _drawing(plots.curves, mine, names, _looks(numbers), borders, metric),
            )


def _cut_off(losses: pd.DataFrame) -> str:
    floor = plots.loss_floor(losses)
    return "" if floor is None else f"Training losses below {floor:.2g} are cut off. "


def _cost(numbers: Numbers) -> Iterator[Picture]:
    runs = _in_percent(numbers.tables.runs)[["per_class", "strategy", "seed", "seconds", "judged"]]
    yield Picture(
        "cost",
        "cost",
        f"{numbers.metric.capitalize()} against the training time of a run",
        f"What accuracy costs: {numbers.metric} against the seconds of a run, {_seed_words(numbers)}. Small dots are "
        "runs, large markers mean accuracies at median times, bars 95% t intervals of accuracy. Units: percent, seconds"
        " (on the machines named under Provenance).",
        runs,
        lambda: plots.cost(runs, numbers.strategies, _looks(numbers), numbers.metric),
    )


def _sizes(numbers: Numbers) -> Iterator[Picture]:
    if len(numbers.sizes) < 2:
        return
    columns = ["per_class", "strategy", "k", "judged", "judged_low", "judged_high"]
    summary = numbers.strategies[columns]
    yield Picture(
        "sizes",
        "sizes",
        f"{numbers.metric.capitalize()} of every strategy against the number of training images a class",
        f"Size sweep: mean {numbers.metric} against the number of training images a class, {_seed_words(numbers)}. "
        "Bars: 95% t interval over seeds; markers of a size are set side by side. Unit: percent.",
        summary,
        lambda: plots.sizes(summary, _looks(numbers), numbers.metric),
    )


def _sweep_name(numbers: Numbers, sweep: Sweep, name: str) -> str:
    several = len({other.strategy for other in numbers.sweeps}) > 1
    sizes = len({other.per_class for other in numbers.sweeps}) > 1
    return name + (f"_{sweep.strategy}" if several else "") + (f"_{sweep.per_class}" if sizes else "")


def _sweep(numbers: Numbers) -> Iterator[Picture]:
    history = _with_status(numbers.tables.history, numbers.tables.sweep)
    history = history[history["split"] != "train_end"]
    moved = findings.backbone_drift(numbers.tables.drift[numbers.tables.drift["role"] == "sweep"])
    runs = _in_percent(numbers.tables.sweep).merge(moved, on=["strategy", "per_class", "lr_scale", "seed"], how="left")
    for sweep in numbers.sweeps:
        rates = {rate.lr_scale: wording.rate_of(numbers, sweep.strategy, rate.lr_scale) for rate in sweep.rates}
        mine = history[(history["strategy"] == sweep.strategy) & (history["per_class"] == sweep.per_class)]
        mine = mine[["lr_scale", "seed", "epoch", "split", "metric", "value", "status"]]
        curves = "Training and validation curves" if mine["split"].eq("val").any() else "Training curves"
        k = max(rate.k for rate in sweep.rates)
        scales = list(rates)
        yield Picture(
            f"sweep {sweep.strategy} {sweep.per_class}",
            _sweep_name(numbers, sweep, "sweep_curves"),
            f"{curves} of {sweep.strategy} at each learning rate",
            f"`{sweep.strategy}` with {size_name(sweep.per_class)}, one column a learning rate, "
            f"n = {counted(k, 'seed')} a rate: accuracy (percent) above, loss (nats) below. Thin lines are seeds, "
            f"thick ones means over the runs that did not diverge. {_cut_off(mine[mine['metric'] == 'loss'])}".rstrip(),
            mine,
            _drawing(plots.sweep_curves, mine, scales, [rates[scale][0] for scale in scales]),
        )
        cells = runs[(runs["strategy"] == sweep.strategy) & (runs["per_class"] == sweep.per_class)]
        cells = pd.DataFrame(
            {
                "rate": cells["lr_scale"].map({scale: rate for scale, (_, rate) in rates.items()}),
                "seed": cells["seed"],
                "train": cells["train_accuracy"],
                "val": cells["val_accuracy"],
                "test": cells["judged"],
                "drift": cells["drift"],
                "status": cells["status"],
            }
        ).sort_values(["rate", "seed"])
        means = pd.DataFrame(
            [
                {"rate": rates[r.lr_scale][1], "train": r.train, "val": r.val, "test": r.test, "drift": r.drift}
                for r in sweep.rates
            ]
        )
        scaled = rates[scales[0]][0].startswith("×")
        axis = "learning rates times (log scale)" if scaled else "learning rate (log scale)"
        yield Picture(
            f"sweep {sweep.strategy} {sweep.per_class}",
            _sweep_name(numbers, sweep, "sweep_rates"),
            f"Accuracy and backbone drift of {sweep.strategy} against the learning rate",
            f"Left: accuracy at the end of training against the rate (percent). Right: how far the backbone's weights "
            f"moved, ‖w − w₀‖ / ‖w₀‖, mean over its groups without the head. n = {counted(k, 'seed')} a rate: small "
            "dots are runs, lines join means.",
            cells,
            _drawing(plots.sweep_rates, cells, means, axis, numbers.metric),
        )


def _phases(numbers: Numbers) -> Iterator[Picture]:
    ends = findings.phase_ends(numbers.tables.history)
    for size in sorted(ends["per_class"].unique()):
        mine = ends[ends["per_class"] == size]
        mine = mine.assign(value=mine["value"] * 100).drop(columns="per_class")
        means = numbers.gains[numbers.gains["per_class"] == size]
        labels = {
            str(name): wording.phase_labels(numbers, str(name), int(rows["phase"].max()))
            for name, rows in mine.groupby("strategy")
        }
        yield Picture(
            "phases",
            _named(numbers, "phases", int(size)),
            f"Validation accuracy at the end of each phase{_at(numbers, int(size))}",
            f"Validation accuracy at the end of each phase, for strategies of several phases{_at(numbers, int(size))}, "
            f"{_seed_words(numbers, int(size))}: thin lines are seeds, markers means with 95% t intervals. Unit: "
            f"percent of {numbers.tables.provenance['dataset'].get('watched_images', 0):,} watched images.",
            mine,
            _drawing(plots.phases, mine, means, labels, _looks(numbers)),
        )


def _drift(numbers: Numbers) -> Iterator[Picture]:
    drift = numbers.tables.drift
    table = findings.drift_table(drift[drift["role"] == "final"])
    for size in numbers.sizes:
        mine = table[table["per_class"] == size][["strategy", "group", "weight_distance", "n"]]
        names = [name for name in numbers.names if name in set(mine["strategy"])]
        if not names:
            continue
        yield Picture(
            "drift",
            _named(numbers, "drift", size),
            f"How far each layer group moved, by strategy{_at(numbers, size)}",
            f"How far each layer group moved from where it started, ‖w − w₀‖ / ‖w₀‖ after the last phase"
            f"{_at(numbers, size)}: means over the runs that did not diverge, {_seed_words(numbers, size)}. 0 is "
            "frozen: not moved by a bit. For a start from random weights the distance is from those. No unit; log "
            "colour scale.",
            mine,
            _drawing(plots.drift, mine, names, GROUPS),
        )


def _ablations(numbers: Numbers) -> Iterator[Picture]:
    known = numbers.ablations[numbers.ablations["difference"].notna()]
    if known.empty:
        return
    runs = pd.concat([numbers.tables.runs, numbers.tables.ablations])
    key = ["per_class", "lr_scale", "seed"]
    parts = []
    for row in known.to_dict("records"):
        ours = runs[(runs["strategy"] == row["ablation"]) & (runs["per_class"] == row["per_class"])]
        ours = ours[ours["lr_scale"] == row["lr_scale"]]
        both = ours.merge(runs[runs["strategy"] == row["of"]], on=key, suffixes=("", "_of"))
        difference = (both["judged"] - both["judged_of"]) * 100
        parts.append(both[["per_class", "strategy", "seed"]].assign(difference=difference))
    seeds = pd.concat(parts)
    columns = ["per_class", "ablation", "of", "lr_scale", "k", "judged", "difference", "low", "high"]
    pairs = known[columns].rename(columns={"ablation": "strategy"})
    low, high = int(known["k"].min()), int(known["k"].max())
    yield Picture(
        "ablations",
        "ablations",
        f"Difference in {numbers.metric} of each ablation from the strategy it changes",
        f"Each ablation minus the strategy it changes, paired by seed (n = {low if low == high else f'{low} to {high}'}"
        f" seeds). Bars: 95% t interval over {numbers.over}; dots: single seeds. Unit: percentage points; "
        "left of zero: the change costs accuracy.",
        pairs.merge(seeds.rename(columns={"difference": "seed_difference"}), on=["per_class", "strategy"], how="left"),
        lambda: plots.forest(pairs.reset_index(drop=True), seeds, {}, f"points of {numbers.metric} above the strategy"),
    )


def _depth(numbers: Numbers) -> Iterator[Picture]:
    for found in depth.measured(numbers):
        size = found.per_class
        k = found.summary["k"]
        seeds = f"n = {counted(int(k.min()), 'seed')}" if k.min() == k.max() else f"n = {k.min()} to {k.max()} seeds"
        yield Picture(
            f"depth {size}",
            _named(numbers, "depth", size),
            f"{numbers.metric.capitalize()} against the group from which on everything learns{_at(numbers, size)}",
            f"What is kept frozen{_at(numbers, size)}: {numbers.metric} against the group nearest the input that "
            f"learns, everything from there to the head learning at the rates of the strategy that trains all, "
            f"{seeds}. Small dots are runs; bars: 95% t interval over {numbers.over}. Unit: percent.",
            found.runs,
            _drawing(plots.depth, found.summary, found.runs, numbers.metric),
        )
        yield Picture(
            f"depth {size}",
            _named(numbers, "depth_drift", size),
            f"How far each layer group moved, by what was frozen{_at(numbers, size)}",
            f"How far each group moved from where it started{_at(numbers, size)}, ‖w − w₀‖ / ‖w₀‖ at the end, {seeds}: "
            "means over the runs that did not diverge. 0 is frozen. No unit; log colour scale.",
            found.moved,
            _drawing(plots.drift, found.moved, found.summary["strategy"].tolist(), GROUPS),
        )


def _range_tests(numbers: Numbers) -> Iterator[Picture]:
    tables = numbers.tables
    if tables.lr_finder.empty:
        return
    table = finder.compared(tables.lr_suggestions, tables.provenance)
    size, seeds = int(table["per_class"].max()), tables.lr_suggestions["seed"].nunique()
    mine = tables.lr_finder[["strategy", "per_class", "seed", "lr_scale", "loss", "smoothed"]]
    yield Picture(
        "lr_finder",
        "lr_finder",
        "Range test of the learning rate: smoothed loss by scale of the rates, one panel a strategy",
        f"Smoothed loss of single batches while all rates of a strategy's longest phase grow together, "
        f"{size_name(size)}, {counted(seeds, 'seed')}. The scale multiplies the rates as written; "
        "lines across are medians over seeds of the two suggestions, and the scale that the final runs used. Losses "
        "above twice the first are cut off.",
        mine,
        _drawing(plots.range_tests, mine, table, _looks(numbers)),
    )


def _claims(numbers: Numbers, judged: Sequence[dict[str, Any]], claims: Sequence[Claim]) -> Iterator[Picture]:
    in_points = {claim.id for claim in claims if claim.parts and claim.parts[0].metric != "drift"}
    # With fewer than 5 seeds there is no p, and an interval so wide that it would flatten all others.
    rows = [row for row in judged if row["p_adjusted"] is not None and row["id"] in in_points]
    if not rows:
        return
    columns = ["id", "condition", "effect", "low", "high", "margin", "p_adjusted", "verdict"]
    data = pd.DataFrame([{name: row[name] for name in columns} for row in rows], columns=columns)
    yield Picture(
        "claims",
        "claims",
        "Effects of the judged claims against their margins",
        "What was measured for each claim on accuracies with at least 5 seeds: effect with 95% t interval (not "
        "corrected), and the margin the claim has to clear (orange tick). Filled: supported or refuted; hollow: open. "
        "Right of zero: as the claim says; of a claim in two parts, the first. Unit: "
        f"percentage points; n as in the table, at most {counted(max(top.k for top in numbers.tops), 'seed')}.",
        data,
        lambda: plots.claims(data),
    )


def _recall(numbers: Numbers) -> Iterator[Picture]:
    classes = numbers.tables.predictions.classes
    if len(classes) > plots.MOST_CLASSES:
        return
    means = numbers.recall.groupby(["per_class", "strategy", "class"], sort=False)["recall"].mean().reset_index()
    for size in numbers.sizes:
        mine = means[means["per_class"] == size]
        mine = mine.assign(recall=mine["recall"] * 100).drop(columns="per_class")
        names = [name for name in numbers.names if name in set(mine["strategy"])]
        yield Picture(
            "recall",
            _named(numbers, "recall", size),
            f"Recall of each class by strategy{_at(numbers, size)}",
            f"Recall: the share of each class's test images that is got right{_at(numbers, size)}, mean over seeds, "
            f"{_seed_words(numbers, size)}. Unit: percent.",
            mine,
            _drawing(plots.recall, mine, names, list(classes)),
        )


def metrics(numbers: Numbers) -> dict[str, dict[str, float]]:
    """By strategy, the judged accuracy (percent) of each size: what `dvc metrics show` and `diff` put in a row."""
    found: dict[str, dict[str, float]] = {}
    for row in numbers.strategies.to_dict("records"):
        size = "all" if row["per_class"] == ALL else str(row["per_class"])
        found.setdefault(str(row["strategy"]), {})[size] = round(float(row["judged"]), 2)
    return found


def render(
    numbers: Numbers, judged: Sequence[dict[str, Any]], claims: Sequence[Claim], drawn: Sequence[Picture]
) -> str:
    """The Markdown of the report."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    sections: dict[str, list[Picture]] = {}
    for picture in drawn:
        sections.setdefault(picture.section, []).append(picture)
    by_size = [
        {
            "title": size_name(size),
            "strategies": wording.strategies_rows(numbers, size),
            "pairs": wording.pairs_rows(numbers.pairs[numbers.pairs["per_class"] == size]),
            "robust": wording.robustness_rows(numbers, size),
            "phases": wording.phase_rows(numbers, numbers.gains[numbers.gains["per_class"] == size]),
        }
        for size in numbers.sizes
    ]
    text = environment.get_template("report.md.j2").render(
        study=numbers.tables.study,
        setting=wording.setting(numbers),
        answers=[answer(numbers, top) for top in numbers.tops],
        sizes=by_size,
        several_sizes=len(numbers.sizes) > 1,
        reference=REFERENCE,
        has_reference=numbers.has_reference,
        pictures=sections,
        sweeps=[
            {
                "title": f"`{sweep.strategy}`, {size_name(sweep.per_class)}",
                "section": f"sweep {sweep.strategy} {sweep.per_class}",
                "words": wording.sweep_words(numbers, sweep),
                "table": wording.sweep_rows(numbers, sweep),
            }
            for sweep in numbers.sweeps
        ],
        thresholds=wording.sweep_thresholds(numbers),
        has_phases=not numbers.gains.empty,
        exercises=exercises.answered(numbers),
        finder=_finder(numbers),
        depths=[
            {
                "title": size_name(found.per_class),
                "section": f"depth {found.per_class}",
                "words": depth.words(found),
                "table": depth.rows_of(found, numbers.metric),
            }
            for found in depth.measured(numbers)
        ],
        ablations=wording.ablation_rows(numbers),
        ledger=ledger.ledger(judged, claims, numbers.tables.study),
        tuned_on_few=[
            sentence(f"{size_name(size)}: {said}") for size in numbers.sizes for said in tuned_on_few(numbers, size)
        ],
        elsewhere=elsewhere.elsewhere(claims, judged, numbers.tables),
        sensitivity=wording.robustness_words(numbers),
        over=numbers.over,
        published=wording.published(numbers),
        limits=wording.limits(numbers),
        bibtex=origins.bibtex(numbers),
        dataset=numbers.tables.provenance["dataset"],
        backbone=numbers.tables.provenance["backbone"],
        provenance=origins.provenance_rows(numbers),
        recipes=origins.recipe_rows(numbers),
        tuning=origins.tuning_rows(numbers),
        recipe_words=origins.recipe_words(numbers),
        origins=origins.origin_rows(numbers),
    )
    return text.rstrip() + "\n"


def _finder(numbers: Numbers) -> dict[str, Any] | None:
    tables = numbers.tables
    if tables.lr_suggestions.empty:
        return None
    table = finder.compared(tables.lr_suggestions, tables.provenance)
    sizes = [size_name(int(size)) for size in table["per_class"].unique()] if len(numbers.sizes) > 1 else []
    return {
        "words": finder.words(table, numbers.tables.tuned),
        "table": finder.rows_of(table),
        "sizes": " and ".join(sizes),
    }


def write(folder: Path) -> list[Answer]:
    """Read the tables in `folder`, write report, figures and numbers beside them, and return the answers."""
    tables = load(folder)
    numbers = findings.compute(tables)
    claims = load_claims()
    judged = judge(claims, tables)
    drawn = pictures(numbers, judged, claims)
    _write_csv(numbers.pairs, folder / "comparisons.csv")
    _write_json(list(judged), folder / "claims.json")
    figures, of_strategies = folder / "figures", folder / "metrics"
    figures.mkdir(exist_ok=True)
    of_strategies.mkdir(exist_ok=True)
    written = {file for picture in drawn for file in _write_picture(picture, figures)}
    for name, values in metrics(numbers).items():
        written.add(of_strategies / f"{name}.json")
        _write_json(values, of_strategies / f"{name}.json")
    for old in sorted([*figures.iterdir(), *of_strategies.iterdir()]):
        if old.suffix in {".png", ".svg", ".csv", ".json"} and old not in written:
            old.unlink()
    _write_text(render(numbers, judged, claims, drawn), folder / "report.md")
    return [answer(numbers, top) for top in numbers.tops]


def _write_text(text: str, path: Path) -> None:
    path.write_bytes(text.encode("utf-8"))


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    _write_text(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"), path)


def _write_json(value: object, path: Path) -> None:
    _write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)


def _write_picture(picture: Picture, folder: Path) -> list[Path]:
    """Write a figure as PNG and SVG, and its data, with nothing in them that changes from one day to the next."""
    base = folder / picture.name
    _write_csv(picture.data, base.with_suffix(".csv"))
    # From matplotlib's defaults, whatever a matplotlibrc on this machine says.
    settings: dict[Any, Any] = {key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"}
    with mpl.rc_context(settings | plots.STYLE):
        figure = picture.draw()
        # Straight from the canvases: `savefig` would draw everything twice. The PNG finds the layout, the SVG keeps it.
        png, svg = BytesIO(), BytesIO()
        FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})  # type: ignore[no-untyped-call]
        figure.set_layout_engine("none")
        FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    base.with_suffix(".png").write_bytes(png.getvalue())
    base.with_suffix(".svg").write_bytes(svg.getvalue())
    return [base.with_suffix(f".{ending}") for ending in ("csv", "png", "svg")]


def short_answer(answers: Sequence[Answer]) -> list[str]:
    """The answer in three lines of plain text: what to use, against the reference, and with what caution."""
    last = answers[-1]
    at = f"With {size_name(last.per_class)}: " if len(answers) > 1 else ""
    lines = [
        " ".join(each.headline for each in answers),
        at + (last.reference or last.reasons),
        at + (last.caution or last.reasons),
    ]
    return [line.replace("`", "") for line in lines]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the report of a study, or say its answer."""
    parser = argparse.ArgumentParser(prog="python -m analysis.report", description=__doc__)
    parser.add_argument("study", help="the study's folder below --reports")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where the studies' folders are")
    parser.add_argument("--answer", action="store_true", help="print the answer in three lines; write nothing")
    chosen = parser.parse_args(arguments)
    folder = chosen.reports / chosen.study
    try:
        if not folder.is_dir():
            known = sorted(path.parent.name for path in chosen.reports.glob("*/provenance.json"))
            names = f"choose from {', '.join(known)}" if known else "run `dvc repro` first"
            raise TablesError(f"there are no tables of a study {chosen.study!r} in {chosen.reports}; {names}")
        if chosen.answer:
            numbers = findings.compute(load(folder))
            for line in short_answer([answer(numbers, top) for top in numbers.tops]):
                print(line)
            print(f"Report: {folder / 'report.md'}")
        else:
            write(folder)
            print(f"wrote {folder / 'report.md'}")
    except (TablesError, ClaimsError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
