"""What to do at one size, in words that follow from the numbers in every case they can come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis import findings
from analysis.findings import CITABLE_FROM, DECIDED_FROM, REFERENCE, Numbers, Top
from analysis.statistics import MOST_OVERLAP
from analysis.wording import rate_of
from analysis.words import bracket, counted, gain_words, joined, joined_words, percent, seconds, share, size_words

ABOUT_THE_SAME = 1.25  # times the seconds of the cheapest
FEW_FOR_TUNING = 100  # images: judged on fewer, two equally good rates often differ by some 10 points
HARDLY_LEARNT = 80  # percent of the training images


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
    intro = f"With {size_words(numbers, size)}{_so_far(numbers, size)}"
    rows = {
        name: numbers.of(size, name) for name in (*top.members, *top.doubtful, *top.unstable, *top.thin, *top.beaten)
    }  # the candidates
    reasons: list[str] = []
    if top.state == "one strategy":
        name = next(iter(rows))
        headline = f"{intro}, only `{name}` was run, so there is nothing to choose between."
        reasons.append(_scores(numbers, [rows[name]]))
    elif top.state in ("too few seeds", "pool too small"):
        why = f"{counted(top.k, 'seed')} cannot carry a comparison (at least {DECIDED_FROM} are needed)"
        if top.state == "pool too small":
            why = (
                f"two draws share {numbers.tables.overlap(size):.0%} of their images, and above {MOST_OVERLAP:.0%} "
                "nothing is tested: this pool is too small for this size"
            )
        headline = f"{intro}, nothing is decided: {why}."
        best = max(rows.values(), key=lambda row: row["judged"])
        worst = min(rows.values(), key=lambda row: row["judged"])
        reasons.append(
            f"Mean {numbers.metric} runs from {percent(worst['judged'])}% (`{worst['strategy']}`) to "
            f"{percent(best['judged'])}% (`{best['strategy']}`); which of them is better on other draws of "
            "the training images is open."
        )
    elif not top.members:
        headline = (
            f"{intro}, no strategy can be recommended: of every one that is not beaten, a run diverged or gave all "
            "test images one class."
        )
    else:
        headline = _headline(intro, top)
        reasons.append(_scores(numbers, [rows[name] for name in top.members]))
        costs = [rows[name] for name in top.members]
        reasons.append(_cheapest(costs) if len(costs) > 1 else _cost(costs[0]))
    caution = [
        _caution(numbers, top),
        _left_out(numbers, top, rows),
        _diverged(top, rows),
        _one_class(numbers, top),
        _others(numbers, top),
        _log_loss(numbers, top, rows),
        _ablation(numbers, top),
        _swept(numbers, top),
        _uneven(numbers, rows),
    ]
    return Answer(
        per_class=size,
        headline=headline,
        reasons=" ".join(reasons),
        reference=_against_reference(numbers, top, rows),
        caution=" ".join(filter(None, caution)),
    )


def _so_far(numbers: Numbers, per_class: int) -> str:
    """Of a study that is not complete: how many of its strategies the answer rests on."""
    tables = numbers.tables
    lacking = tables.missing_cells[tables.missing_cells["role"] == "final"]
    lacking = lacking[lacking["per_class"] == per_class]
    if lacking.empty:
        return ""
    declared = tables.declared[(tables.declared["role"] == "final") & (tables.declared["per_class"] == per_class)]
    names = set(declared["strategy"])
    complete = len(names - set(lacking["strategy"]))
    return f", and only {complete} of {len(names)} strategies complete so far"


def _headline(intro: str, top: Top) -> str:
    rest = "every other default strategy" if top.others else "every other strategy"
    fates = [
        *(["is beaten by at least one other"] if top.beaten else []),
        *(["leans worse"] if top.doubtful else []),
        *(["failed at least once"] if top.unstable else []),
        *(["has too few seeds"] if top.thin else []),
    ]
    fate = fates[0] if len(fates) == 1 else f"{', '.join(fates[:-1])} or {fates[-1]}" if fates else ""
    if not top.beaten:
        unclear = f"{intro}, no comparison is clear after correction for their number"
        if not fates:
            return f"{unclear}: this study cannot tell the {len(top.members)} strategies apart. Take the cheapest."
        return f"{unclear}; nothing speaks against {joined(top.members)}, and {rest} {fate}."
    if len(top.members) == 1:
        return f"{intro}, use {joined(top.members)}: no strategy beats it, and {rest} {fate}."
    return f"{intro}, use {joined(top.members, 'or')}: they cannot be told apart, and {rest} {fate}."


def _scores(numbers: Numbers, rows: Sequence[dict[str, Any]]) -> str:
    if len(rows) == 1:
        row = rows[0]
        low_high = bracket(row["judged_low"], row["judged_high"], "without")
        about = f"95% interval {low_high}, " if low_high else ""
        return f"It gets {percent(row['judged'])}% {numbers.metric} ({about}{counted(row['k'], 'seed')})."
    best, worst = rows[0], rows[-1]
    return (
        f"They get {percent(worst['judged'])}% (`{worst['strategy']}`) to {percent(best['judged'])}% "
        f"(`{best['strategy']}`) {numbers.metric}, on average over {counted(best['k'], 'seed')}."
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


def _left_out(numbers: Numbers, top: Top, rows: Mapping[str, dict[str, Any]]) -> str:
    said = []
    if top.doubtful:
        said.append(
            f"Not ruled out, but leaning worse: {joined(top.doubtful)} (a 95% interval against each lies wholly below "
            "zero, though the difference is not clear once corrected for the number of comparisons)."
        )
    if top.unstable and top.state == "decided":
        flat = findings.one_class(numbers.tables, top.per_class)
        often = ", ".join(
            f"`{name}` ({rows[name]['diverged'] + flat.get(name, (0, 0))[0]} of {rows[name]['k']} runs)"
            for name in top.unstable
        )
        said.append(
            "Not recommended although no comparison beats it, because runs diverged or gave all test images one class: "
            f"{often}."
        )
    if top.thin:
        few = ", ".join(f"`{name}` ({counted(rows[name]['k'], 'run')})" for name in top.thin)
        said.append(f"Too few runs to judge: {few}.")
    return " ".join(said)


def _one_class(numbers: Numbers, top: Top) -> str:
    """Which strategies gave every test image the same class in some runs, but for those left out for it."""
    often = [
        f"from `{name}` in {one} of {counted(k, 'run')}"
        for name, (one, k) in findings.one_class(numbers.tables, top.per_class).items()
        if name not in _told_already(top)
    ]
    return f"All test images got the same class {joined_words(often)}." if often else ""


def _told_already(top: Top) -> tuple[str, ...]:
    """The strategies that `_left_out` names for runs that failed."""
    return top.unstable if top.state == "decided" else ()


def _others(numbers: Numbers, top: Top) -> str:
    """Strategies that are no candidates and do better than the best one that is, where they do."""
    if top.state != "decided" or not top.members:
        return ""
    best = _most_accurate(numbers, top)
    pairs = findings.against(numbers.pairs, top.per_class, best).set_index("strategy")
    found = {name: {**pairs.loc[name]} for name in top.others}
    better = {name: row for name, row in found.items() if row["low"] > 0}
    said = "; ".join(f"`{name}` {gain_words(row)}" for name, row in better.items())
    return f"Better than `{best}`, and not among the default strategies (not adjusted): {said}." if better else ""


def _diverged(top: Top, rows: Mapping[str, dict[str, Any]]) -> str:
    """Which strategies diverged, but for those that are left out for it."""
    often = ", ".join(
        f"`{name}` in {row['diverged']} of {row['k']}"
        for name, row in rows.items()
        if row["diverged"] and name not in _told_already(top)
    )
    return f"Runs diverged (each counts with the accuracy it was left with): {often}." if often else ""


def _log_loss(numbers: Numbers, top: Top, rows: Mapping[str, dict[str, Any]]) -> str:
    """Who gives the best probabilities, where not all strategies that are advised for their accuracy do."""
    if top.state != "decided" or not top.members:
        return ""
    best = min(rows.values(), key=lambda row: float(row["log_loss"]))
    if {f"{rows[name]['log_loss']:.2f}" for name in top.members} == {f"{best['log_loss']:.2f}"}:
        return ""
    others = ", ".join(f"`{name}` {rows[name]['log_loss']:.2f}" for name in top.members if name != best["strategy"])
    return (
        f"**{numbers.metric.capitalize()} decides here.** By log loss `{best['strategy']}` is best "
        f"({best['log_loss']:.2f}; {others}): where probabilities matter, read that column too."
    )


def _ablation(numbers: Numbers, top: Top) -> str:
    """The best ablation, where it does better than what it changes and than the strategies: it was not compared."""
    mine = numbers.ablations[numbers.ablations["per_class"] == top.per_class]
    mine = mine[~mine["ablation"].isin([name for size, name in numbers.twins if size == top.per_class])]
    better = mine[(mine["low"] > 0) & (mine["k"] >= DECIDED_FROM)]
    if better.empty or top.state != "decided" or not top.members:
        return ""
    row = better.sort_values("judged").iloc[-1]
    best = _most_accurate(numbers, top)
    advised = numbers.of(top.per_class, best)
    # Ablations are trained whenever there is time, beside other work: the time of what they change says more.
    changed = numbers.of(top.per_class, row["of"])["seconds"] if row["of"] in numbers.names else float("nan")
    takes = f", a run like one of `{row['of']}` takes {seconds(changed)}" if np.isfinite(changed) else ""
    runs = numbers.tables.ablations
    ours = runs[(runs["strategy"] == row["ablation"]) & (runs["lr_scale"] == row["lr_scale"])]
    found = findings.between(numbers.tables, top.per_class, best, ours)
    if found and found["difference"] <= 0:
        return ""  # worth a row among the ablations, but no word beside the advice
    against = f", and {gain_words({**found})} on `{best}`" if found and best != row["of"] else ""
    among = (
        "the one ablation of this size"
        if len(mine) == 1
        else f"the best of {len(mine)} ablations, chosen on the test images"
    )
    return (
        f"**One change to look at:** paired over {counted(int(row['k']), 'seed')}, `{row['ablation']}` gains "
        f"{gain_words({**row})} on `{row['of']}`{against}; it gets {percent(row['judged'])}% "
        f"(log loss {row['log_loss']:.2f}{takes}; `{best}`: {advised['log_loss']:.2f}, "
        f"{seconds(advised['seconds'])} a run). It is {among}: a reason to look further, not a result, "
        "but for what *Claims* says of it."
    )


def _swept(numbers: Numbers, top: Top) -> str:
    """The best rate of each sweep that does better than the best strategy: rates, too, were not compared."""
    if top.state != "decided" or not top.members:
        return ""
    advised, said = _most_accurate(numbers, top), []
    for sweep in numbers.sweeps:
        if sweep.per_class != top.per_class or sweep.best is None:
            continue
        found = findings.best_rate_gain(numbers.tables, sweep, advised)
        if found and found["low"] > 0:
            label = rate_of(numbers, sweep.strategy, sweep.best.lr_scale)[0]
            on = "the test images themselves" if sweep.chosen_on == "test" else "the watched images"
            said.append(
                f"**Another rate to look at:** `{sweep.strategy}` at {label} gains {gain_words(found)} on `{advised}` "
                f"(paired over {counted(found['k'], 'seed')}; the best of {len(sweep.rates)} rates, chosen on {on}): a "
                "reason to look further, not a result."
            )
    return " ".join(said)


def _most_accurate(numbers: Numbers, top: Top) -> str:
    return max(top.members, key=lambda name: float(numbers.of(top.per_class, name)["judged"]))


def _uneven(numbers: Numbers, rows: Mapping[str, dict[str, Any]]) -> str:
    if not numbers.uneven:
        return ""
    below = [name for name, row in rows.items() if row["judged"] < numbers.baseline]
    return (
        f"The classes of the test images are uneven: always answering the largest one would get "
        f"{percent(numbers.baseline)}% {numbers.metric}{f', more than {joined(below)}' if below else ''}."
    )


def _against_reference(numbers: Numbers, top: Top, rows: Mapping[str, dict[str, Any]]) -> str:
    if len(rows) == 1:
        return ""
    if REFERENCE not in rows:
        return f"The reference strategy `{REFERENCE}` was not run at this size, so no difference from it is given."
    base = rows[REFERENCE]
    trained = share(base["trainable_parameters"], base["total_parameters"])
    about = (
        f"the reference `{REFERENCE}` ({percent(base['judged'])}%, {seconds(base['seconds'])} a run, "
        f"{trained} of the parameters learn)"
    )
    pairs = findings.against(numbers.pairs, top.per_class, REFERENCE).set_index("strategy")
    asked = [name for name in top.members if name != REFERENCE] if top.state == "decided" else []
    asked = asked or [name for name in rows if name != REFERENCE]
    asked = sorted(asked, key=lambda name: -rows[name]["judged"])
    parts = [f"`{name}` {gain_words({**pairs.loc[name]})}" for name in asked]
    sentence = f"Against {about}: {'; '.join(parts)} (95% interval of each difference alone)."
    if top.state == "decided" and REFERENCE in top.members and len(top.members) > 1:
        sentence += f" `{REFERENCE}` is itself in the set: this study does not show that training more pays."
    return sentence


def _caution(numbers: Numbers, top: Top) -> str:
    alike = top.members if len(top.members) > 1 else (*top.members, *top.doubtful)
    sized = numbers.pairs[numbers.pairs["per_class"] == top.per_class]
    found = sized.loc[sized["a"].isin(alike) & sized["b"].isin(alike), "smallest_detectable"].dropna()
    parts = []
    if top.state == "one strategy":
        return ""
    if top.state == "decided" and top.k < CITABLE_FROM:
        parts.append(
            f"With {counted(top.k, 'seed')} this is exploratory: a reason to look further, not a result to cite; "
            f"{CITABLE_FROM} seeds would be."
        )
    if len(found) and top.state == "decided" and len(top.members) + len(top.doubtful) != 1:
        parts.append(
            f"Not told apart does not mean equal: between a typical pair of them, a true difference below about "
            f"{percent(float(found.median()))} points would be missed more than one time in five, before correction."
        )
    if not numbers.tables.tuned:
        parts.append(f"**Rates are {numbers.untuned_rates}, not tuned:** with better ones the order may be another.")
    parts += tuned_on_few(numbers, top.per_class)
    if _so_far(numbers, top.per_class):
        parts.append("Some declared runs of strategies are missing; they are named under Limits.")
    return " ".join(parts)


def tuned_on_few(numbers: Numbers, per_class: int) -> list[str]:
    """What a reader has to know where tuning could hardly tell rates apart."""
    images = numbers.tuned_on(per_class)
    if images is None or images >= FEW_FOR_TUNING:
        return []
    sized = numbers.strategies[numbers.strategies["per_class"] == per_class]
    slow = [str(row["strategy"]) for row in sized.to_dict("records") if row["train_accuracy"] < HARDLY_LEARNT]
    written = (
        f"**Rates were chosen on only {counted(images, 'image')}** of pilots' draws, once for all seeds: a difference "
        "here is one between strategies tuned that way, a place may be owed to an unlucky rate, and no interval "
        "contains that luck"
    )
    if slow:
        written += f" (below {HARDLY_LEARNT}% even on their training images: {joined(slow)})"
    return [f"{written}."]
