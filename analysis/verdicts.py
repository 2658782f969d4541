"""The verdicts on claims: supported, refuted or open, from the tables of one study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.claims import METRICS, Claim, Described, Family, Part
from analysis.power import ALPHA, CITABLE_FROM, DECIDED_FROM, POWER, seeds_needed, smallest_detectable
from analysis.sides import diverged, idle, still_awaited, values_of
from analysis.statistics import Paired, equivalence, paired_difference
from analysis.tables import ALL, Tables, size_name
from analysis.tables import METRICS as ACCURACIES

RATIO_EXPECTED = (10, 100)


@dataclass(frozen=True)
class _Tested:
    """What the runs say of one part."""

    part: Part
    paired: Paired
    overlap: float  # that the tests reckon with
    compared: str  # with what, where and over how many seeds
    halves: str  # of a gap: what training and test accuracy have to do with it
    flags: tuple[str, ...]  # why a side may not be what the rule means
    holds: float  # p of the rule, where the mean lies on its side; 1 where it does not
    fails: float  # p of the contrary


def judge(claims: Sequence[Claim], tables: Tables) -> list[dict[str, Any]]:
    """A verdict for every claim, from the tables of one study.

    Each is `{id, rule, source, condition, effect, low, high, p_adjusted, margin, verdict, reason, needs}`, numbers in
    the unit of the claim's first part. p is corrected (Bonferroni) over the claims given of its family: the primary
    ones, whatever their study, so that no report waits for another; of the exploratory ones those that are tested here.
    Raises ValueError for a NaN in what is compared.
    """
    judged = [claim for claim in claims if claim.parts]
    sizes: dict[Family, int] = {
        "claims": sum(claim.family == "claims" for claim in judged),
        "exploratory": sum(claim.family == "exploratory" and not _untested(claim, tables) for claim in judged),
    }
    return [_entry(claim, tables, sizes[claim.family]) for claim in claims]


def _entry(claim: Claim, tables: Tables, family_size: int) -> dict[str, Any]:
    effect = low = high = p = None
    verdict, untested = "not tested", _untested(claim, tables)
    if claim.described is not None:
        reason, needs = _description(claim, claim.described, tables), "nothing: ratios are described"
    elif untested:
        reason, needs = untested
    else:
        tested = [_test(claim, part, tables) for part in claim.parts]
        if tested[0]:
            effect, low, high = tested[0].paired.difference, tested[0].paired.low, tested[0].paired.high
        verdict, reason, needs, p = _verdict(claim, tested, family_size)
    about = {name: getattr(claim, name) for name in ("id", "rule", "source", "condition")}
    numbers = {"effect": effect, "low": low, "high": high, "p_adjusted": p}
    margin = claim.parts[0].margin if claim.parts else None
    return {**about, **numbers, "margin": margin, "verdict": verdict, "reason": reason, "needs": needs}


def _verdict(claim: Claim, parts: Sequence[_Tested | None], family_size: int) -> tuple[str, str, str, float | None]:
    """Verdict, reason, what it would need, and the corrected p.

    A claim of several parts is supported where all hold, so on the largest p; it falls with any, so on the smallest
    times their number. A part counts on the side on which its mean lies.
    """
    tested = [part for part in parts if part]
    if len(tested) < len(parts):
        reason = "the differences of all seeds are identical, so there is no spread to test against"
        return "open", reason, "runs that differ between seeds", None
    k = min(part.paired.k for part in tested)
    flags = "".join(f"; {flag}" for part in tested for flag in part.flags)
    few = f"; exploratory, as {k} seeds are fewer than {CITABLE_FROM}" if k < CITABLE_FROM else ""
    if claim.family == "exploratory" and not few:
        few = "; exploratory"
    shown = "; ".join(f"{part.compared}{'' if part is tested[0] else _numbers(part)}{part.halves}" for part in tested)
    if k < DECIDED_FROM:
        reason = f"{k} seeds are too few for a verdict: {shown}{flags}"
        return "open", reason, f"{DECIDED_FROM} seeds at least", None
    holds = max(part.holds for part in tested)
    against = min(tested, key=lambda part: part.fails)
    fails = len(tested) * against.fails
    p = min(min(holds, fails) * family_size, 1.0)
    if p >= ALPHA:
        return "open", f"{shown}{few}{flags}", _needs(tested, family_size), p
    if holds <= fails:
        return "supported", f"{shown}{few}{flags}", "", p
    return "refuted", f"{_why_refuted(against.part, against.paired)}: {shown}{few}{flags}", "", p


def _needs(tested: Sequence[_Tested], family_size: int) -> str:
    """How many seeds would tell, and what those that ran could have found, at the corrected level."""
    weakest = max(tested, key=lambda part: min(part.holds, part.fails))
    part, pair, alpha = weakest.part, weakest.paired, ALPHA / family_size
    distance, power, what = pair.difference - part.margin, POWER, "beyond it"
    if part.kind == "within":
        # Two one-sided tests, both of which have to find it: each may miss half as often.
        distance, power, alpha = abs(abs(pair.difference) - part.margin), 1 - (1 - POWER) / 2, 2 * alpha
        what = "between no difference and the margin"
    seeds = seeds_needed(distance, pair.sd, alpha, power, weakest.overlap)
    found = smallest_detectable(pair.k, pair.sd, alpha, power, weakest.overlap)
    none = "no number of seeds from this pool is enough" if weakest.overlap else "more than 10,000 seeds"
    more = f"{f'about {seeds} seeds' if seeds else none} to tell such an effect from the margin"
    return f"{more}; {pair.k} seeds find {found:.2g} {what} four times in five"


def _why_refuted(part: Part, pair: Paired) -> str:
    if part.kind == "within":
        return f"the difference is larger than {part.margin:g}"
    if part.margin < 0:
        return f"it falls behind by more than the {-part.margin:g} that the rule allows"
    return "the opposite holds" if pair.high < 0 else "the effect stays under the margin"


def _numbers(tested: _Tested) -> str:
    """The numbers of a part that do not stand in the entry itself."""
    part, pair = tested.part, tested.paired
    margin = f"{'±' if part.kind == 'within' else ''}{part.margin:g}".replace("-", "−")
    return f": {_signed(pair.difference)} [{_signed(pair.low)}, {_signed(pair.high)}], margin {margin}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _untested(claim: Claim, tables: Tables) -> tuple[str, str] | None:
    """Why a claim has no test here and what it would need; None where it has one."""
    if claim.study != tables.study:
        return f"judged on study {claim.study} alone, this is {tables.study}", f"the runs of study {claim.study}"
    if missing := _missing(claim, tables):
        return f"runs are missing: {', '.join(missing)}", "these runs; `dvc repro` trains what is declared"
    sizes = sorted({size for part in claim.parts for size in _sizes(claim, part)})
    if ALL in sizes:
        reason = "with all images every seed trains on the same ones, so the runs speak of reruns and not of data"
        return reason, "draws of the training images"
    small = [size for size in sizes if tables.too_small(size)]
    if small:
        shared = f"two draws of {size_name(small[-1])} share {tables.overlap(small[-1]):.0%} of their images"
        return f"{shared}: this pool is too small for this size", "more images to draw from"
    return None


def _sizes(claim: Claim, part: Part) -> list[int]:
    return [claim.per_class, *([] if part.minus_at is None else [part.minus_at])]


def _missing(claim: Claim, tables: Tables) -> list[str]:
    """The sides of a claim that lack runs: those of some declared seeds, or two runs of common seeds.

    How many seeds judge a claim is fixed beforehand: judging it on those that happen to have run so far, and again
    when more have, would find effects that are not there.
    """
    missing: dict[str, None] = {}
    compared = [(part, size) for part in claim.parts for size in _sizes(claim, part)]
    for part, size in compared:
        empty, seeds = [], []
        for runs in dict.fromkeys((part.better, part.worse)):
            there = values_of(runs, part.metric, size, tables).index
            awaited = still_awaited(runs, size, tables.missing_cells)
            declared = len(there) + awaited
            seeds.append(set(there))
            if awaited or len(there) < 2:
                counts = f"{len(there)} of {declared} seeds" if declared else "not declared"
                empty.append(f"{runs} at {size_name(size)} ({counts})")
        if not empty and len(set.intersection(*seeds)) < 2:
            empty = [f"{part.better} and {part.worse} with common seeds at {size_name(size)}"]
        missing |= dict.fromkeys(empty)
    return list(missing)


def _test(claim: Claim, part: Part, tables: Tables) -> _Tested | None:
    """The tests of one part; None where all differences are identical."""
    sizes, runs = _sizes(claim, part), (part.worse, part.better)
    overlap = tables.correlation(*sizes)
    sides = [[values_of(side, part.metric, size, tables) for side in runs] for size in sizes]
    seeds = sides[0][0].index
    for side in (side for pair in sides for side in pair):
        seeds = seeds.intersection(side.index)
    values = [[side[seeds].to_numpy() for side in pair] for pair in sides]
    if not np.isfinite(values).all():
        raise ValueError(f"claim {claim.id}: a value of {part.metric} is missing (NaN); no test is made with it")

    # A change of a difference with size is the difference of the differences, seed by seed.
    first, second = values[0] if part.minus_at is None else [better - worse for worse, better in reversed(values)]
    try:
        paired = paired_difference(first, second, part.margin, overlap)
    except ValueError:
        return None
    holds = fails = 1.0
    if part.kind == "within":
        holds = equivalence(second - first, part.margin, overlap)
        if abs(paired.difference) > part.margin:
            nearest = math.copysign(part.margin, paired.difference)
            fails = paired_difference(first, second, nearest, overlap).p
    elif paired.difference > part.margin:
        holds = paired.p
    else:
        fails = paired.p
    unit = f"points of {ACCURACIES[tables.judge_by]}" if part.metric == "judged" else part.unit
    change = "" if part.minus_at is None else f", less the same at {part.minus_at} a class"
    where = f"{size_name(claim.per_class)}{change}, {unit}, {paired.k} seeds"
    flags = tuple(told for side in runs[::-1] for of in (diverged, idle) if (told := of(side, claim.per_class, tables)))
    compared, halves = f"{part.better} minus {part.worse} with {where}", _halves(claim.per_class, part, tables)
    return _Tested(part, paired, overlap, compared, halves, flags, holds, fails)


def _halves(per_class: int, part: Part, tables: Tables) -> str:
    """The two differences that a difference of gaps is made of: a gap narrows too where training only gets worse."""
    if part.metric != "gap" or part.minus_at is not None:
        return ""
    said = []
    for metric in ("train_accuracy", "test_accuracy"):
        better, worse = (values_of(runs, metric, per_class, tables) for runs in (part.better, part.worse))
        difference = _signed(float((better - worse).dropna().mean()))
        said.append(f"{difference} of {METRICS[metric].removeprefix('points of ')}")
    return f" (made of {' and '.join(said)})"


def _description(claim: Claim, ratio: Described, tables: Tables) -> str:
    tuned = tables.provenance["parameters"].get("lr_scales", {}).get(str(claim.per_class), {})
    if claim.study != tables.study or not tables.tuned or not {ratio.of, ratio.against} <= set(tuned):
        return f"needs tuned rates of {ratio.of} and {ratio.against} in study {claim.study}"
    best = ratio.rate * tables.used_scale(claim.per_class, ratio.of)
    other = ratio.against_rate * tables.used_scale(claim.per_class, ratio.against)
    low, high = RATIO_EXPECTED
    where = f"{'within' if low <= best / other <= high else 'outside'} {low} to {high}"
    rates = f"the best rate of {ratio.of} was {best:.1e}, of {ratio.against} {other:.1e}"
    return f"described, not judged: {rates}, a ratio of {best / other:g}, {where}"
