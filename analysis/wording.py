"""The words and tables of the report, derived from the numbers of a study in every case they can come out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import findings
from analysis.claims import METRICS, Claim
from analysis.findings import CITABLE_FROM, DECIDED_FROM, REFERENCE, Numbers, Rate, Robustness, Sweep, Top
from analysis.plots import p_value, rate_text, signed
from analysis.tables import ALL, GROUPS, size_name

NONE = "–"
ABOUT_THE_SAME = 1.25  # times the seconds of the cheapest
FEW_FOR_TUNING = 100  # images: judged on fewer, two equally good rates often differ by some 10 points
HARDLY_LEARNT = 80  # percent of the training images
MUCH_OVERLAP = 0.10  # of the training images shared by two seeds; above, they are called dependent


@dataclass(frozen=True)
class Table:
    """A Markdown table; `numbers` are the columns set flush right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()


def percent(value: float, digits: int = 1) -> str:
    """A percentage without its sign, a dash where there is none."""
    return f"{value:.{digits}f}" if np.isfinite(value) else NONE


def bracket(low: float, high: float, signs: str = "with") -> str:
    """An interval; nothing where there is none."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    write = signed if signs == "with" else percent
    return f"[{write(low)}, {write(high)}]"


def joined(names: Sequence[str], last: str = "and") -> str:
    """`a`, `b` and `c`."""
    return joined_words([f"`{name}`" for name in names], last)


def joined_words(words: Sequence[str], last: str = "and") -> str:
    """a, b and c; nothing of nothing."""
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else "".join(words)


def counted(count: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def seconds(value: float) -> str:
    """A duration in the unit that suits it."""
    if value < 99.5:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5400 else f"{value / 3600:.1f} h"


def share(part: float, whole: float) -> str:
    """A share in percent, with the digits that small ones need."""
    value = 100 * part / whole
    return f"{value:.0f}%" if value >= 99.95 else f"{value:.2g}%" if value < 10 else f"{value:.0f}%"


def compact(count: int) -> str:
    """2,562 or 3.37 M."""
    return f"{count:,}" if count < 100_000 else f"{count / 1e6:.3g} M"


def size_words(numbers: Numbers, per_class: int) -> str:
    """`100 images a class (200 in all)`."""
    if per_class == ALL:
        return f"all {numbers.tables.provenance['dataset']['pool_images']:,} training images"
    return f"{size_name(per_class)} ({per_class * len(numbers.tables.predictions.classes):,} in all)"


def gain_words(row: Mapping[Any, Any]) -> str:
    """`+4.8 points [+2.1, +7.5]`, or why there is none."""
    if not np.isfinite(row["difference"]):
        return "not testable (identical differences)" if row["k"] >= 2 else "not testable (fewer than two seeds)"
    return f"{signed(row['difference'])} points {bracket(row['low'], row['high'])}"


@dataclass(frozen=True)
class Answer:
    """What to do at one size: the advice in a sentence, what it rests on, and how far to trust it."""

    per_class: int
    headline: str
    reasons: str
    reference: str  # the difference from the reference strategy in one line
    caution: str


def answer(numbers: Numbers, top: Top) -> Answer:
    """The advice for one size, in words that follow from the data in every case."""
    size = top.per_class
    intro = f"With {size_words(numbers, size)}"
    rows = {
        name: numbers.of(size, name) for name in (*top.members, *top.doubtful, *top.unstable, *top.thin, *top.beaten)
    }
    reasons: list[str] = []
    if top.state == "one strategy":
        name = next(iter(rows))
        headline = f"{intro}, only `{name}` was run, so there is nothing to choose between."
        reasons.append(_scores([rows[name]]))
    elif top.state == "too few seeds":
        headline = (
            f"{intro}, nothing is decided: {counted(top.k, 'seed')} cannot carry a comparison "
            f"(at least {DECIDED_FROM} are needed)."
        )
        best = max(rows.values(), key=lambda row: row["test_accuracy"])
        worst = min(rows.values(), key=lambda row: row["test_accuracy"])
        reasons.append(
            f"Mean test accuracy runs from {percent(worst['test_accuracy'])}% (`{worst['strategy']}`) to "
            f"{percent(best['test_accuracy'])}% (`{best['strategy']}`); which of them is better on other draws of "
            "the training images is open."
        )
    elif not top.members:
        headline = f"{intro}, no strategy can be recommended: every one that is not beaten diverged at least once."
    else:
        headline = _headline(intro, top)
        reasons.append(_scores([rows[name] for name in top.members]))
        costs = [rows[name] for name in top.members]
        reasons.append(_cheapest(costs) if len(costs) > 1 else _cost(costs[0]))
    caution = [_caution(numbers, top), _left_out(top, rows), _diverged(top, rows), _uneven(numbers, rows)]
    return Answer(
        per_class=size,
        headline=headline,
        reasons=" ".join(reasons),
        reference=_against_reference(numbers, top, rows),
        caution=" ".join(filter(None, caution)),
    )


def _headline(intro: str, top: Top) -> str:
    fates = [
        *(["is beaten by at least one other"] if top.beaten else []),
        *(["leans worse"] if top.doubtful else []),
        *(["diverged"] if top.unstable else []),
        *(["has too few seeds"] if top.thin else []),
    ]
    fate = fates[0] if len(fates) == 1 else f"{', '.join(fates[:-1])} or {fates[-1]}" if fates else ""
    if not top.beaten:
        unclear = f"{intro}, no comparison is clear after correction for their number"
        if not fates:
            return f"{unclear}: this study cannot tell the {len(top.members)} strategies apart. Take the cheapest."
        return f"{unclear}; nothing speaks against {joined(top.members)}, and every other strategy {fate}."
    if len(top.members) == 1:
        return f"{intro}, use {joined(top.members)}: every other strategy {fate}."
    return f"{intro}, use {joined(top.members, 'or')}: they cannot be told apart, and every other strategy {fate}."


def _scores(rows: Sequence[dict[str, Any]]) -> str:
    if len(rows) == 1:
        row = rows[0]
        low_high = bracket(row["test_accuracy_low"], row["test_accuracy_high"], "without")
        about = f"95% interval {low_high}, " if low_high else ""
        return (
            f"It gets {percent(row['test_accuracy'])}% of the test images right ({about}{counted(row['k'], 'seed')})."
        )
    best, worst = rows[0], rows[-1]
    return (
        f"They get {percent(worst['test_accuracy'])}% (`{worst['strategy']}`) to {percent(best['test_accuracy'])}% "
        f"(`{best['strategy']}`) of the test images right, on average over {counted(best['k'], 'seed')}."
    )


def _cost(row: dict[str, Any]) -> str:
    trained = share(row["trainable_parameters"], row["total_parameters"])
    return f"A run takes {seconds(row['seconds'])} and trains {trained} of the parameters."


def _cheapest(rows: Sequence[dict[str, Any]]) -> str:
    cheap = min(rows, key=lambda row: row["seconds"])
    dear = max(rows, key=lambda row: row["seconds"])
    trained = share(cheap["trainable_parameters"], cheap["total_parameters"])
    if dear["seconds"] < ABOUT_THE_SAME * cheap["seconds"]:
        least, most = seconds(cheap["seconds"]), seconds(dear["seconds"])
        return f"They cost about the same: {least if least == most else f'{least} to {most}'} a run."
    rest = share(dear["trainable_parameters"], dear["total_parameters"])
    return (
        f"The cheapest of them is `{cheap['strategy']}` ({seconds(cheap['seconds'])} a run, {trained} of the "
        f"parameters learn), the dearest `{dear['strategy']}` ({seconds(dear['seconds'])}, {rest})."
    )


def _left_out(top: Top, rows: Mapping[str, dict[str, Any]]) -> str:
    said = []
    if top.doubtful:
        said.append(
            f"Not ruled out, but leaning worse: {joined(top.doubtful)} (a 95% interval against each lies wholly below "
            "zero, though the difference is not clear once corrected for the number of comparisons)."
        )
    if top.unstable and top.state == "decided":
        often = ", ".join(f"`{name}` ({rows[name]['diverged']} of {rows[name]['k']} runs)" for name in top.unstable)
        said.append(f"Not recommended although no comparison beats it, because it diverged: {often}.")
    if top.thin:
        few = ", ".join(f"`{name}` ({counted(rows[name]['k'], 'run')})" for name in top.thin)
        said.append(f"Too few runs to judge: {few}.")
    return " ".join(said)


def _diverged(top: Top, rows: Mapping[str, dict[str, Any]]) -> str:
    """Which strategies diverged, but for those that are left out for it."""
    told_already = top.unstable if top.state == "decided" else ()
    often = ", ".join(
        f"`{name}` in {row['diverged']} of {row['k']}"
        for name, row in rows.items()
        if row["diverged"] and name not in told_already
    )
    return f"Runs diverged (each counts with the accuracy it was left with): {often}." if often else ""


def _uneven(numbers: Numbers, rows: Mapping[str, dict[str, Any]]) -> str:
    if not numbers.uneven:
        return ""
    below = [name for name, row in rows.items() if row["test_accuracy"] < numbers.baseline]
    return (
        f"The classes of the test images are uneven: always answering the largest one would get "
        f"{percent(numbers.baseline)}% right{f', more than {joined(below)}' if below else ''}."
    )


def _against_reference(numbers: Numbers, top: Top, rows: Mapping[str, dict[str, Any]]) -> str:
    if len(rows) == 1:
        return ""
    if REFERENCE not in rows:
        return f"The reference strategy `{REFERENCE}` was not run at this size, so no difference from it is given."
    base = rows[REFERENCE]
    trained = share(base["trainable_parameters"], base["total_parameters"])
    about = (
        f"the reference `{REFERENCE}` ({percent(base['test_accuracy'])}%, {seconds(base['seconds'])} a run, "
        f"{trained} of the parameters learn)"
    )
    pairs = findings.against(numbers.pairs, top.per_class, REFERENCE).set_index("strategy")
    asked = [name for name in top.members if name != REFERENCE] if top.state == "decided" else []
    asked = asked or [name for name in rows if name != REFERENCE]
    asked = sorted(asked, key=lambda name: -rows[name]["test_accuracy"])
    shown = asked if len(asked) <= 3 else [asked[0], asked[-1]]
    parts = [f"`{name}` {gain_words({**pairs.loc[name]})}" for name in shown]
    between = "; " if len(asked) <= 3 else "; the others lie between it and "
    sentence = f"Against {about}: {between.join(parts)} (95% interval of each difference alone)."
    if top.state == "decided" and REFERENCE in top.members and len(top.members) > 1:
        sentence += f" `{REFERENCE}` is itself in the set: this study does not show that training more pays."
    return sentence


def _caution(numbers: Numbers, top: Top) -> str:
    found = numbers.pairs[numbers.pairs["per_class"] == top.per_class]["smallest_detectable"].dropna()
    parts = []
    if top.state == "one strategy":
        return ""
    if top.state == "decided" and top.k < CITABLE_FROM:
        parts.append(
            f"With {counted(top.k, 'seed')} this is exploratory: a reason to look further, not a result to cite; "
            f"{CITABLE_FROM} seeds would be."
        )
    if len(found) and top.state == "decided":
        parts.append(
            f"Not told apart does not mean equal: between a typical pair, a true difference below about "
            f"{percent(float(found.median()))} points would be missed more than one time in five."
        )
    parts += _tuned_on_few(numbers, top)
    if len(numbers.tables.missing_cells):
        parts.append("Some declared runs are missing; they are named under Limits.")
    return " ".join(parts)


def _tuned_on_few(numbers: Numbers, top: Top) -> list[str]:
    """What a reader has to know where tuning could hardly tell rates apart."""
    images = numbers.tuned_on(top.per_class)
    if images is None or images >= FEW_FOR_TUNING:
        return []
    sized = numbers.strategies[numbers.strategies["per_class"] == top.per_class]
    slow = [str(row["strategy"]) for row in sized.to_dict("records") if row["train_accuracy"] < HARDLY_LEARNT]
    written = (
        f"**Rates were chosen on only {counted(images, 'image')}**, as somebody with so few would have to: a "
        "difference here is one between strategies tuned that way, and a place may be owed to an unlucky rate"
    )
    if slow:
        written += f" (below {HARDLY_LEARNT}% even on their training images: {joined(slow)})"
    return [f"{written}."]


def setting(numbers: Numbers) -> str:
    """What was compared, in one sentence."""
    provenance = numbers.tables.provenance
    study, dataset = provenance["parameters"]["study"], provenance["dataset"]
    count = len(numbers.names)
    return (
        f"{f'{count} strategies' if count > 1 else 'One strategy'} of transferring "
        f"`{provenance['backbone']['name']}` to `{dataset['name']}` ({len(dataset['classes'])} classes, "
        f"{dataset['test_images']:,} test images) at {study.get('resolution', '?')} pixels, "
        f"{study['epochs']} epochs each."
    )


def published(numbers: Numbers) -> list[str]:
    """What others have published on these images; nothing where the study names nobody."""
    provenance = numbers.tables.provenance
    entries = provenance["dataset"].get("published", [])
    if not entries:
        return []
    others = "; ".join(f"{entry['accuracy']:g}%: {entry['what']} ({entry['source']})" for entry in entries)
    return [
        f"**Published elsewhere on {provenance['dataset']['name']}:** {others}.",
        f"Not the same work: this study has a split of its own, weights of {provenance['backbone']['weights']}, "
        f"{provenance['parameters']['study'].get('resolution', '?')} pixels, and the classes that its limits name.",
    ]


def strategies_rows(numbers: Numbers, per_class: int) -> Table:
    """The table of strategies of one size; balanced accuracy first where classes are uneven."""
    accuracies = [("test_accuracy", "Test accuracy, % [95%]"), ("balanced_accuracy", "Balanced accuracy, % [95%]")]
    if numbers.uneven:
        accuracies.reverse()
    rows = []
    sized = numbers.strategies[numbers.strategies["per_class"] == per_class]
    for row in sized.to_dict("records"):
        cells = [f"`{row['strategy']}`"]
        for column, _ in accuracies:
            interval = bracket(row[f"{column}_low"], row[f"{column}_high"], "without")
            cells.append(f"{percent(row[column])} {interval}".strip())
        cells += [percent(row["train_accuracy"]), signed(row["gap"]) if np.isfinite(row["gap"]) else NONE]
        cells.append(seconds(row["seconds"]))
        trained = share(row["trainable_parameters"], row["total_parameters"])
        learning, everything = compact(row["trainable_parameters"]), compact(row["total_parameters"])
        cells.append(f"{learning} / {everything} ({trained})")
        cells.append(f"{row['diverged']} of {row['k']}")
        rows.append(tuple(cells))
    header = ("Strategy", *(label for _, label in accuracies), "Train accuracy, %", "Gap, points", "Time a run")
    return Table(
        (*header, "Trainable / all parameters", "Diverged runs"), tuple(rows), frozenset({1, 2, 3, 4, 5, 6, 7})
    )


def pairs_rows(pairs: pd.DataFrame) -> Table:
    """Every pair of one size, B minus A."""
    rows = []
    for row in pairs.to_dict("records"):
        names = (f"`{row['b']}`", f"`{row['a']}`", str(row["k"]))
        if not np.isfinite(row["difference"]):
            why = "identical differences: no test" if row["k"] >= 2 else "fewer than two shared seeds: no test"
            rows.append((*names, why, NONE, NONE, NONE, NONE))
            continue
        rows.append(
            (
                *names,
                f"{signed(row['difference'])} {bracket(row['low'], row['high'])}",
                bracket(row["low_new_images"], row["high_new_images"]),
                p_value(row["p_holm"]),
                f"{row['wins']} of {row['k']}",
                percent(row["smallest_detectable"]),
            )
        )
    header = ("B", "A", "Seeds", "B − A, points [95%]", "[95%], new images too", "Adjusted p", "B won")
    return Table((*header, "Smallest detectable"), tuple(rows), frozenset({2, 3, 4, 5, 6, 7}))


def robustness_rows(robust: Sequence[Robustness], classes: int) -> Table:
    """Each strategy against the reference, measured otherwise, and whether that changes anything."""
    words = {1: "better", -1: "worse", 0: "open"}
    rows = []
    for row in robust:
        signs = row.signs
        verdict = f"{words[signs[0]]}, and it holds"
        if len(set(signs)) > 1:
            named = zip(signs, ("these images", "new images", "balanced accuracy"), strict=True)
            verdict = "it depends: " + ", ".join(f"{words[sign]} for {what}" for sign, what in named)
        low, high = row.wins_interval
        rows.append(
            (
                f"`{row.strategy}`",
                f"{signed(row.accuracy[0])} {bracket(row.accuracy[1], row.accuracy[2])}",
                bracket(*row.new_images),
                f"{signed(row.balanced[0])} {bracket(row.balanced[1], row.balanced[2])}"
                if np.isfinite(row.balanced[0])
                else NONE,
                f"{row.wins} of {row.k} [{100 * low:.0f}%, {100 * high:.0f}%]",
                _class_words(row, classes),
                verdict,
            )
        )
    header = ("Strategy", "Accuracy, points [95%]", "[95%], new images too", "Balanced accuracy, points [95%]")
    return Table((*header, "Seeds won [95%]", "Classes", "Verdict"), tuple(rows), frozenset({1, 2, 3, 4}))


def _class_words(row: Robustness, classes: int) -> str:
    def listed(names: tuple[str, ...], word: str) -> str:
        if not names:
            return ""
        return f"{word}: {', '.join(cell(name) for name in names)}" if len(names) <= 3 else f"{len(names)} {word}"

    parts = [listed(row.classes_better, "better"), listed(row.classes_worse, "worse")]
    open_ = classes - len(row.classes_better) - len(row.classes_worse)
    if open_:
        parts.append(f"{open_} open")
    return "; ".join(part for part in parts if part)


def cell(text: object) -> str:
    """Text that may stand in a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def learning_label(rates: Mapping[str, float]) -> str:
    """Which groups learn in a phase: `head`, `stage4 + head`, `all`."""
    learning = [group for group in GROUPS if group in rates]
    if "all" in rates or len(learning) == len(GROUPS):
        return "all"
    first = GROUPS.index(learning[0])
    if len(learning) > 2 and tuple(learning) == GROUPS[first:]:
        return f"{learning[0]} to head"
    return " + ".join(learning)


def phase_labels(numbers: Numbers, strategy: str, phases: int) -> list[str]:
    """What learns in each phase of a strategy, by number where provenance does not say."""
    block = numbers.tables.provenance["parameters"]["strategies"].get(strategy, {})
    written = [learning_label(phase["lr"]) for phase in block.get("phases", [])]
    return written if len(written) == phases else [f"phase {i}" for i in range(1, phases + 1)]


def phase_rows(numbers: Numbers, gains: pd.DataFrame) -> Table:
    """Validation accuracy at the end of each phase, and whether the phase earned its place."""
    rows = []
    for strategy, mine in gains.groupby("strategy", sort=False):
        labels = phase_labels(numbers, str(strategy), len(mine))
        block = numbers.tables.provenance["parameters"]["strategies"].get(strategy, {})
        epochs = block.get("epochs_of_phases", [None] * len(mine))
        for row, label, length in zip(mine.to_dict("records"), labels, epochs, strict=True):
            reached = f"{percent(row['mean'])} {bracket(row['low'], row['high'], 'without')}".strip()
            gain = NONE
            if np.isfinite(row["gain"]):
                gain = f"{signed(row['gain'])} {bracket(row['gain_low'], row['gain_high'])}".strip()
            wins = f"{row['wins']:.0f} of {row['k']}" if np.isfinite(row["wins"]) else NONE
            name = f"`{strategy}`" if row["phase"] == 1 else ""
            head = (name, f"{row['phase']}: {label}", NONE if length is None else str(length))
            rows.append((*head, reached, gain, wins, _earned(row)))
    header = ("Strategy", "Phase: learning", "Epochs", "Validation accuracy, % [95%]", "Gain, points [95%]")
    return Table((*header, "Seeds that gained", "Earned its place?"), tuple(rows), frozenset({2, 3, 4, 5}))


def _earned(row: Mapping[Any, Any]) -> str:
    if row["phase"] == 1:
        return NONE
    if row["k"] < DECIDED_FROM:
        return f"open: fewer than {DECIDED_FROM} seeds"
    if row["gain_low"] > 0:
        return "yes"
    if row["gain_high"] < 0:
        return "no: it cost accuracy"
    return "not shown"


def _size_number(per_class: int) -> str:
    return "all" if per_class == ALL else f"{per_class:,}"


def ablation_rows(ablations: pd.DataFrame) -> Table:
    """Each ablation against the strategy it changes."""
    rows = []
    for row in ablations.to_dict("records"):
        against = f"`{row['of']}`" if row["of"] else NONE
        gain = gain_words(row) if row["k"] else "no run of it at the same size, seed and rates"
        p = p_value(row["p"]) if np.isfinite(row["p"]) else NONE
        head = (f"`{row['ablation']}`", against, _size_number(row["per_class"]), str(row["k"]))
        rows.append((*head, percent(row["test_accuracy"]), gain, p, str(row["diverged"])))
    header = ("Ablation", "of", "Images a class", "Seeds", "Test accuracy, %", "Ablation − strategy [95%]")
    return Table((*header, "p, not adjusted", "Diverged"), tuple(rows), frozenset({2, 3, 4, 5, 6, 7}))


def rate_of(numbers: Numbers, strategy: str, scale: float) -> tuple[str, float]:
    """The rate a scale stands for, as text and as a number: the base rate where all groups share one."""
    block = numbers.tables.provenance["parameters"]["strategies"].get(strategy, {})
    rates = {rate for phase in block.get("phases", []) for rate in phase["lr"].values()}
    if len(rates) == 1:
        rate = float(next(iter(rates))) * scale
        return rate_text(rate), rate
    return f"×{scale:g}", scale


def sweep_words(numbers: Numbers, sweep: Sweep) -> list[str]:
    """What happened at each rate, highest first, from drift, accuracy and loss."""
    return [_rate_words(rate_of(numbers, sweep.strategy, rate.lr_scale)[0], rate, sweep) for rate in sweep.rates]


def _rate_words(label: str, rate: Rate, sweep: Sweep) -> str:
    measured = f"{percent(rate.test)}% of the test images right"
    chosen = rate.val if sweep.chosen_on == "validation" else rate.test
    seeds = {1: "in its one seed", 2: "in both seeds"}.get(rate.k, f"in all {rate.k} seeds")
    moved = (
        f"the backbone moved {rate.drift_ratio:.2g} times as far as at the best rate"
        if np.isfinite(rate.drift_ratio)
        else "how far the backbone moved is not known"
    )
    fell = f"{percent(rate.drop)} points of {sweep.chosen_on} accuracy below the best rate, lower {seeds}"
    train = f"training accuracy {percent(rate.train)}%"
    if rate.what == "best":
        edge = "; it is the edge of what was tried, so a better one may lie outside" if sweep.edge else ""
        return f"**{label}: the best**, with {percent(chosen)}% {sweep.chosen_on} accuracy ({measured}{edge})."
    if rate.what == "diverged":
        return f"**{label}: diverged** in {rate.diverged} of {counted(rate.k, 'run')} ({measured} on average)."
    if rate.what == "forgot":
        return f"**{label}: forgot the pretrained features.** {fell}, and {moved} ({measured}, {train})."
    if rate.what == "barely moved":
        still = (
            f"; the training loss still fell by {100 * rate.still_falling:.0f}% over the last quarter of the epochs"
            if rate.still_falling >= findings.STILL_FALLING
            else ""
        )
        return f"**{label}: barely moved.** {fell}, and {moved} ({measured}, {train}{still})."
    if rate.what == "worse":
        return (
            f"**{label}: worse**, {fell}, but drift and training accuracy do not fit forgetting or standing still: "
            f"{moved} ({measured}, {train})."
        )
    if not sweep.best:
        return f"**{label}**: {measured}."
    return (
        f"**{label}: no clear difference** from the best rate ({signed(-rate.drop)} points of {sweep.chosen_on} "
        f"accuracy; {moved}; {measured})."
    )


def sweep_rows(numbers: Numbers, sweep: Sweep) -> Table:
    """The rates of a sweep with accuracies and drift."""
    rows = []
    for rate in sweep.rates:
        label, _ = rate_of(numbers, sweep.strategy, rate.lr_scale)
        rows.append(
            (
                f"{label} (×{rate.lr_scale:g})" if not label.startswith("×") else label,
                str(rate.k),
                percent(rate.val),
                percent(rate.test),
                percent(rate.train),
                f"{rate.drift:.2g}" if np.isfinite(rate.drift) else NONE,
                str(rate.diverged),
                rate.what,
            )
        )
    header = ("Rate", "Seeds", "Validation accuracy, %", "Test accuracy, %", "Train accuracy, %", "Backbone moved")
    return Table((*header, "Diverged", "What happened"), tuple(rows), frozenset({1, 2, 3, 4, 5, 6}))


def overlap_words(numbers: Numbers) -> list[str]:
    """How much two seeds share of their training images, size by size, as expected from the pool."""
    dataset = numbers.tables.provenance["dataset"]
    written = []
    for size in numbers.sizes:
        part = findings.overlap(size, dataset["pool_images"], dataset["test_class_counts"])
        about = f"about {100 * part:.0f}%" if part >= 0.01 else "less than 1%"
        written.append(f"at {size_name(size)} two seeds share {about} of their training images")
    return written


def _draws(numbers: Numbers, counted_overlap: Sequence[str]) -> str:
    """How far seeds are independent draws of the training images."""
    dataset = numbers.tables.provenance["dataset"]
    if not numbers.draws:
        return (
            f"**One set of training images.** Every seed trains on the same {dataset['pool_images']:,} images; seeds "
            "differ in the head they start from, the order of the images and the flips. Intervals speak of that alone: "
            "other training images would add to them."
        )
    words = "; ".join(counted_overlap or overlap_words(numbers))
    shared = [findings.overlap(size, dataset["pool_images"], dataset["test_class_counts"]) for size in numbers.sizes]
    if max(shared) > MUCH_OVERLAP:
        words += ". Where that is much, seeds are not fully independent and the intervals are somewhat too narrow"
    return f"**Draws overlap.** All seeds draw from the same {dataset['pool_images']:,} images: {words}."


def limits(numbers: Numbers) -> list[str]:
    """What this study cannot say, in words."""
    tables, provenance = numbers.tables, numbers.tables.provenance
    study, dataset = provenance["parameters"]["study"], provenance["dataset"]
    k = min(top.k for top in numbers.tops)
    said = []
    if k < DECIDED_FROM:
        said.append(f"**Seeds.** {counted(k, 'seed')}: below {DECIDED_FROM} every comparison is open.")
    elif k < CITABLE_FROM:
        said.append(
            f"**Seeds.** {counted(k, 'seed')}: exploratory. Only large effects could have been found; what looks open "
            f"may be real. The protocol asks for {CITABLE_FROM} before a result is cited."
        )
    else:
        said.append(f"**Seeds.** {counted(k, 'seed')}: smaller effects than the table of pairs lists may be missed.")
    said.append(
        f"**One of each.** One data set (`{dataset['name']}`), one backbone (`{provenance['backbone']['name']}`), one "
        f"resolution ({study.get('resolution', '?')} pixels), one budget ({study['epochs']} epochs). Another of any of "
        "these can change the order."
    )
    rates = study.get("learning_rates", "textbook")
    if rates == "textbook":
        said.append(
            "**Rates are the textbook's, not tuned.** A strategy that looks worse may only have a worse rate; "
            "`learning_rates: tuned` gives every strategy the same search."
        )
    else:
        edges = " ".join(str(note).rstrip(".") + "." for note in provenance["parameters"].get("tuning_notes", []))
        sizes = [(size, numbers.tuned_on(size)) for size in numbers.sizes]
        judged = joined_words([f"{images} images with {size_name(size)}" for size, images in sizes if images])
        on = f" Each rate was judged on {judged}." if judged else ""
        said.append(
            f"**Rates are tuned** on pilot seeds, never on test images, the same search for all.{on} {edges}".rstrip()
        )
    notes = [str(note).rstrip(".") for note in dataset.get("notes", [])]
    counted_overlap = [note for note in notes if "in common" in note]  # by stage collect, from the draws themselves
    said.append(_draws(numbers, counted_overlap))
    dirty = sorted({str(e["commit"]) for e in provenance["environments"] if str(e["commit"]).endswith("-dirty")})
    if dirty:
        said.append(
            "**Uncommitted code.** Runs were made with changes that are in no commit, so they may not be repeatable: "
            f"{', '.join(f'`{commit}`' for commit in dirty)}."
        )
    watched = dataset.get("watched_images", 0)
    if tables.history["split"].eq("val").any():
        said.append(
            f"**Validation is watched, not used.** The validation curves come from {watched:,} images outside every "
            "draw; they decided nothing. The test images were read once a run, at its end."
        )
    else:
        said.append("**No validation images were left** outside the draws, so there are no validation curves.")
    said.append(
        f"**These test images.** Intervals marked 95% speak of other draws of training images, with the same "
        f"{dataset['test_images']:,} test images; those for new images add the luck of the test images. Neither "
        "speaks of images of another kind."
    )
    if numbers.uneven:
        said.append(
            f"**Uneven classes.** Training draws are balanced, the test images are not: always answering the largest "
            f"class gets {percent(numbers.baseline)}% right. Read balanced accuracy first; the pairs are judged on "
            "accuracy, and the table of sensitivity repeats them on balanced accuracy."
        )
    untested = numbers.pairs[numbers.pairs["difference"].isna()]
    if len(untested):
        pairs = ", ".join(f"`{row['a']}` and `{row['b']}`" for row in untested.to_dict("records"))
        said.append(
            f"**Pairs without a test** (fewer than two shared seeds, or differences that are all identical, as "
            f"between strategies that diverged in every run): {pairs}."
        )
    if numbers.strategies["diverged"].any():
        said.append(
            "**Diverged runs stay in.** A diverged run predicts the first class for every image and enters every mean "
            "and pair with that accuracy."
        )
    environments = provenance["environments"]
    devices = sorted({str(environment.get("device", "?")) for environment in environments})
    threads = sorted({counted(int(environment["threads"]), "thread") for environment in environments})
    one = "one machine" if len(devices) == 1 else f"{len(devices)} machines, so compare them with care"
    said.append(
        f"**Times are rough.** Measured once on {one} ({', '.join(devices)}, {' or '.join(threads)}); they "
        "serve to rank strategies, not to predict another machine."
    )
    about = [note[:1].upper() + note[1:] for note in notes if note not in counted_overlap]
    if about:
        said.append(f"**About the data.** {'. '.join(about)}.")
    said.extend(_missing_words(tables.missing_cells))
    return said


def _missing_words(missing: pd.DataFrame) -> list[str]:
    if missing.empty:
        return []
    lines = [
        f"**{counted(len(missing), 'declared run')} {'is' if len(missing) == 1 else 'are'} missing.** "
        "`dvc repro` completes the study:"
    ]
    for (role, strategy, per_class, scale), cells in missing.groupby(
        ["role", "strategy", "per_class", "lr_scale"], sort=False
    ):
        seeds = ", ".join(str(seed) for seed in sorted(cells["seed"]))
        word = "seed" if len(cells) == 1 else "seeds"
        lines[0] += f" `{strategy}` ({role}, {size_name(int(str(per_class)))}, rates ×{scale:g}, {word} {seeds});"
    lines[0] = lines[0].rstrip(";") + "."
    return lines


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
            "  author = {{The Thaw contributors}},",
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
    known = {"phases", "epochs_of_phases", "weights", "of", "name"}
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
    return f"Where the table says nothing else: {listed}."


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
        scales = [
            f"×{scale[name]:g} at {int(size):,}"
            for size, scale in sorted(parameters.get("lr_scales", {}).items(), key=lambda item: int(item[0]))
            if name in scale and scale[name] != 1
        ]
        weights = "random" if block.get("weights") == "none" else "pretrained"
        also = cell("; ".join(extra)) or NONE
        rows.append((f"`{name}`", weights, "; then ".join(phases), also, "; ".join(scales) or "×1"))
    return Table(("Strategy", "Start", "What learns, at which rate", "Also", "Rates scaled by"), tuple(rows))


def _rates_words(rates: Mapping[str, float]) -> str:
    """`all at 1e-4`, or `stem to stage4 at 1e-4, head at 1e-3`."""
    if set(rates) == {"all"} or (len(rates) == len(GROUPS) and len(set(rates.values())) == 1):
        return f"all at {rate_text(float(next(iter(rates.values()))))}"
    runs: list[tuple[list[str], float]] = []
    for group in ("all", *GROUPS):
        if group not in rates:
            continue
        rate = float(rates[group])
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
        found = dict.fromkeys(str(e[field]) for e in environments if e.get(field) not in (None, ""))
        return ", ".join(f"`{value}`" for value in found) or NONE

    shown = {"dataset", "backbone", "resolution", "per_class", "seeds", "epochs", "batch_size", "learning_rates"}
    others = [(key, json.dumps(study[key], sort_keys=True)) for key in sorted(study) if key not in shown]
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
    rows = [
        ("Study", f"`{numbers.tables.study}`"),
        ("Data set", f"{dataset['name']}, from {dataset['source']}, {dataset['licence']}"),
        ("Data set, options", f"`{json.dumps(study['dataset'], sort_keys=True)}`" if "dataset" in study else NONE),
        ("Data, SHA-256", f"`{dataset['sha256']}`"),
        ("Images", f"{dataset['pool_images']:,} to draw from, {dataset.get('watched_images', 0):,} of them watched as "
                   f"validation; {dataset['test_images']:,} for testing ({counts})"),
        ("Training images a class", ", ".join(map(_size_number, study.get("per_class", numbers.sizes)))),
        ("Pixels", str(study.get("resolution", NONE))),
        ("Backbone", f"{backbone['name']}, weights: {backbone['weights']}"),
        ("Weights, SHA-256", f"`{backbone['weights_sha256']}`"),
        ("Preprocessing", ", ".join(f"{key} {value}" for key, value in backbone["preprocessing"].items())),
        ("Epochs", str(study["epochs"])),
        ("Batch size", str(study.get("batch_size", NONE))),
        ("Learning rates", str(study.get("learning_rates", NONE))),
        ("Seeds", seeds),
        *((str(key).replace("_", " ").capitalize(), f"`{value}`") for key, value in others),
        ("Commits of the runs", listed("commit")),
        ("Parameters, SHA-256", listed("parameters_sha256")),
        ("Numerics version", listed("numerics_version")),
        ("Device", ", ".join(devices)),
        ("Threads", listed("threads")),
        ("Python", listed("python")),
        ("Versions", ", ".join(f"{name} {' and '.join(sorted(found))}" for name, found in sorted(versions.items()))),
        ("Runs", f"{sum(int(e['cells']) for e in environments):,}"),
        ("First to last run", f"{provenance['started']} to {provenance['finished']} ({seconds(span.total_seconds())})"),
        ("Training time, summed", seconds(float(provenance["training_seconds"]))),
        ("Commands", ", ".join(dict.fromkeys(f"`{e['command']}`" for e in environments))),
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
        ("Means and shares of the table of strategies", render, "[metrics.json](metrics.json)"),
        ("Paired differences, intervals, p", render, "[comparisons.csv](comparisons.csv)"),
        ("Verdicts", render, "[claims.json](claims.json)"),
        ("The numbers behind a figure", render, "`figures/NAME.csv`"),
        ("Provenance", collect, "[provenance.json](provenance.json)"),
    ]  # fmt: skip
    return Table(("Number", "Command", "File"), tuple(rows))


def sweep_thresholds() -> str:
    """By which numbers the words of a sweep are chosen."""
    return (
        "How the words are chosen: the best rate has the highest mean validation accuracy (test accuracy where there "
        "is no validation) among the rates at which no run diverged. Another rate is clearly below it if it is at "
        f"least {findings.CLEAR_DROP:g} point lower on average and lower in every seed. Then a higher rate *forgot the "
        f"pretrained features* if the backbone moved at least {findings.MOVED_MORE:g} times as far as at the best "
        f"rate, and a lower rate *barely moved* if it moved at most {findings.MOVED_LESS:g} times as far and training "
        f"was unfinished: training accuracy at least {findings.TRAIN_DROP:g} point lower, or a training loss that "
        f"still fell by {100 * findings.STILL_FALLING:.0f}% or more over the last quarter of the epochs. These are "
        "descriptions of few seeds, not tests."
    )


def robustness_words(numbers: Numbers) -> str:
    """Whether the verdicts against the reference hold when they are measured otherwise."""
    if not numbers.robust:
        return (
            f"Nothing can be compared with `{REFERENCE}` here, so there is no verdict whose sensitivity could be shown."
        )
    changed = [row for row in numbers.robust if len(set(row.signs)) > 1]
    size = {row: f" at {size_name(row.per_class)}" if len(numbers.sizes) > 1 else "" for row in changed}
    opening = (
        f"Would the difference from `{REFERENCE}` be read the same way with new test images, with balanced accuracy, "
        "seed by seed and class by class? "
    )
    reading = (
        "*Better* and *worse*: the 95% interval of that one difference lies on one side of zero, without correction "
        "for the number of comparisons, so this is a check on the figures above and no verdict of its own. Classes: "
        "the same for the difference in recall of each class."
    )
    if not changed:
        return f"{opening}Yes for {'all' if len(numbers.robust) > 1 else 'the one'} of them. {reading}"
    names = ", ".join(f"`{row.strategy}`{size[row]}" for row in changed)
    return f"{opening}Not for {names}; yes for the other {len(numbers.robust) - len(changed)}. {reading}"


@dataclass(frozen=True)
class LedgerPart:
    title: str
    words: str
    table: Table


@dataclass(frozen=True)
class Ledger:
    """The claims as tables, counts first."""

    summary: str
    parts: tuple[LedgerPart, ...]
    described: tuple[str, ...]
    untested: tuple[str, ...]


def ledger(judged: Sequence[Mapping[str, Any]], claims: Sequence[Claim], study: str) -> Ledger:
    """The verdicts: primary and exploratory claims apart, and those that have no runs here in a list of their own."""
    by_id = {claim.id: claim for claim in claims}
    families = {
        "claims": ("Primary claims", "One family: their p-values are adjusted together (Holm)."),
        "exploratory": (
            "Exploratory claims",
            "Adjusted among themselves (Holm): reasons to look further, not results.",
        ),
    }
    mine = [row for row in judged if by_id[row["id"]].study == study]
    parts = []
    for family, (title, words) in families.items():
        some = [row for row in mine if by_id[row["id"]].family == family and row["verdict"] != "not tested"]
        if some:
            parts.append(LedgerPart(title, f"{_verdicts(some)}. {words}", _ledger_table(some, by_id)))
    described = [row for row in mine if by_id[row["id"]].described is not None]
    untested = [row for row in judged if row["verdict"] == "not tested" and row not in described]
    summary = (
        f"Rules of thumb put to the test: {_verdicts(judged)} (a rule is judged on one study, and this is `{study}`). "
        "A rule and its margin have to be fixed before the runs that judge it: the history of "
        "`analysis/claims.yaml`, against the commits under Provenance, shows whether they were. *Supported*: the "
        "effect is larger than the margin; *refuted*: it is smaller, or the opposite holds; *open*: these runs "
        "cannot tell; *not tested*: there are no runs for it here."
    )
    return Ledger(summary, tuple(parts), tuple(map(_untested_row, described)), tuple(map(_untested_row, untested)))


def _verdicts(judged: Sequence[Mapping[str, Any]]) -> str:
    """`2 supported, 1 refuted, 3 open, 0 not tested`."""
    order = ("supported", "refuted", "open", "not tested")
    return ", ".join(f"{sum(row['verdict'] == verdict for row in judged)} {verdict}" for verdict in order)


def _untested_row(row: Mapping[str, Any]) -> str:
    reason = str(row["reason"] or "").rstrip(".")
    return f"`{row['id']}`: {str(row['rule']).rstrip('.')}." + (f" *{reason}.*" if reason else "")


def _ledger_table(judged: Sequence[Mapping[str, Any]], by_id: Mapping[str, Claim]) -> Table:
    rows = []
    for row in judged:
        effect, low, high, p = (nan_if_none(row[name]) for name in ("effect", "low", "high", "p_holm"))
        shown = NONE
        if np.isfinite(effect):
            unit = "%" if METRICS[by_id[row["id"]].parts[0].metric].startswith("percent") else "points"
            digits = 1 if unit == "points" or abs(effect) >= 1 else 3
            shown = f"{signed(effect, digits)} [{signed(low, digits)}, {signed(high, digits)}] {unit}"
        said = [str(row[name]).rstrip(".") for name in ("reason", "needs") if row[name]]
        reason = ". ".join(part[:1].upper() + part[1:] for part in said)
        rows.append(
            (
                f"`{row['id']}`",
                cell(row["rule"]),
                f"**{row['verdict']}**",
                shown,
                p_value(p) if np.isfinite(p) else NONE,
                f"{cell(reason)}." if reason else NONE,
            )
        )
    header = ("Claim", "Rule", "Verdict", "Effect [95%]", "Adjusted p", "Why, and what it would need")
    return Table(header, tuple(rows), frozenset({3, 4}))


def nan_if_none(value: float | None) -> float:
    return float("nan") if value is None else float(value)
