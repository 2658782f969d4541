"""How good every strategy is at every size, and what it costs."""

from __future__ import annotations

from analysis.comparison import Comparison
from analysis.markdown import (
    NONE,
    Picture,
    Section,
    Table,
    number,
    plus_minus,
    seconds,
    share,
    short,
    signed,
    size_text,
    with_interval,
)
from analysis.paired import BATCH_NORM_TRAIN
from analysis.sections.phases import learning
from analysis.style import Intervals
from analysis.tables import ALL, COLUMNS, METRICS


def section(study: Comparison) -> Section:
    """One figure and one table of all strategies, best first at the largest size, those beside the comparison below."""
    ran, beside = study.ran(study.sizes[-1]), study.unbeaten[-1].others
    names = sorted(ran + [name for name in study.names if name not in ran], key=lambda name: name in beside)
    data = study.strategies[["per_class", "strategy", "k", "judged", "judged_low", "judged_high"]]
    renamed = {"strategy": "name", "judged": "value", "judged_low": "low", "judged_high": "high"}
    shaded = {size.per_class: size.advised for size in study.unbeaten}
    rows, axis = data.rename(columns=renamed), f"{study.metric}, %"
    drawn = Intervals(rows, axis, names, shaded=shaded, mark=study.baseline)
    signs = "; ◂: further left" * drawn.cut + "; dotted: one answer for all" * drawn.marked
    picture = Picture(
        "strategies",
        f"{study.metric.capitalize()} of every strategy",
        f"Every strategy: {study.metric}, mean over seeds with 95% interval; seeds are shared, so overlapping bars may "
        f"still be told apart. Shaded: the set that nothing beats{signs}.",
        data,
        drawn.draw,
    )
    italic = " Italic: not a default strategy, shown beside the comparison." if beside else ""
    reading = (
        f"{study.metric.capitalize()} in percent ± half its 95% interval. Bold: no 95% interval shows another default "
        f"strategy to be better, and no run failed.{italic} "
        f"Always answering the largest class gets {number(study.baseline)}%. Learns: what is trained, and its share of "
        "the weights; [more](details.md#what-each-strategy-is)."
    )
    return Section("", (picture, table(study, names), reading))


def table(study: Comparison, names: list[str]) -> Table:
    """The same in numbers, with seconds and what learns; the set that nothing beats in bold."""
    advised = {size.per_class: set(size.advised) for size in study.unbeaten}
    beside = set(study.unbeaten[-1].others)
    rows = []
    for name in names:
        sizes = [size for size in study.sizes if name in study.ran(size)]
        found = {size: study.of(size, name) for size in sizes}
        cells = [_accuracy(found[size], name in advised[size]) if size in found else NONE for size in study.sizes]
        times = " / ".join(short(found[size]["seconds"]) if size in found else NONE for size in study.sizes)
        last = found[sizes[-1]]
        learns = f"{_what(study, name)} ({share(last['trainable_parameters'], last['total_parameters'])})"
        shown = f"**{name}**" if name in advised[study.sizes[-1]] else f"*{name}*" if name in beside else name
        rows.append((shown, *cells, times, learns))
    heads = ["all images" if size == ALL else f"{size:,} a class" for size in study.sizes]
    header = ("", *heads, "Seconds", "Learns")
    return Table(header, tuple(rows), frozenset(range(1, len(header) - 1)))


def _what(study: Comparison, name: str) -> str:
    """What a strategy trains, phase by phase, in a few words."""
    recipe = study.recipe(name)
    phases = [learning(phase["lr"]) for phase in recipe.get("phases", [])]
    if recipe.get("learn") == "norms":
        phases = ["norms + head"]
    words = ", then ".join(phases) or "head, closed form"
    several = len({rate for phase in recipe.get("phases", []) for rate in phase["lr"].values()}) > len(phases)
    words += ", by layer" if several else ""
    words += ", from random weights" if recipe.get("weights") == "none" else ""
    return words + (", BatchNorm too" if name.endswith(BATCH_NORM_TRAIN) else "")


def _accuracy(row: dict[str, float], bold: bool) -> str:
    write = (lambda mean: f"**{number(mean)}**") if bold else number
    failed = f" ({row['diverged']} diverged)" if row["diverged"] else ""
    return plus_minus(row["judged"], row["judged_low"], row["judged_high"], write) + failed


def details(study: Comparison) -> Section:
    """What the first page leaves out of each strategy: the other accuracy, training, probabilities, time."""
    others = study.other_metrics
    header = ["Strategy", "Images", study.metric.capitalize(), *(METRICS[other].capitalize() for other in others)]
    header += ["Training", "Gap", "Log loss", "ECE", "A run"]
    rows = []
    for row in study.strategies.to_dict("records"):
        mean = with_interval(row["judged"], row["judged_low"], row["judged_high"], number)
        cells = [f"`{row['strategy']}`", size_text(row["per_class"])]
        cells += [mean, *(number(row[COLUMNS[other]]) for other in others)]
        cells += [number(row["train_accuracy"]), signed(row["gap"])]
        cells += [number(row["log_loss"], 2), number(row["ece"]), seconds(row["seconds"])]
        rows.append(tuple(cells))
    seeds = sorted(study.strategies["k"].unique())
    words = (
        f"Means over {' or '.join(map(str, seeds))} seeds; accuracies in percent (intervals end at 100), gap (training "
        "minus test) and expected calibration error (ECE, 15 bins) in points, log loss in nats, median time of a run; "
        "images a class."
    )
    return Section("Every strategy", (Table(tuple(header), tuple(rows), frozenset(range(1, len(header)))), words))
