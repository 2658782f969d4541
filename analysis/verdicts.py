"""The verdicts on claims: supported, refuted or open, from the tables of one study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.claims import METRICS, Claim, Family, Part
from analysis.power import ALPHA, POWER, seeds_needed, smallest_detectable
from analysis.sides import diverged, seeds_there, still_awaited, values_of
from analysis.statistics import Paired, equivalence, paired_difference
from analysis.tables import ALL, Tables, size_name, used_scale
from analysis.tables import METRICS as ACCURACIES

FEWEST_SEEDS = 5  # below, every verdict is open
SETTLED_SEEDS = 10  # below, a verdict is called exploratory
RATIO_EXPECTED = (10, 100)


@dataclass(frozen=True)
class _Tested:
    """What the runs say of one part."""

    part: Part
    unit: str
    overlap: float  # that the tests reckon with
    paired: Paired | None  # None: the differences are all identical
    diverged: tuple[str, ...]
    holds: float = 1.0  # p of the rule, where the mean lies on its side; 1 where it does not
    fails: float = 1.0  # p of the contrary
    halves: str = ""  # of a gap: what training and test accuracy have to do with it


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
    if claim.described is not None:
        verdict, reason, needs = "not tested", _description(claim, tables), "nothing: ratios are described"
    elif untested := _untested(claim, tables):
        verdict, (reason, needs) = "not tested", untested
    else:
        tested = [_test(claim, part, tables) for part in claim.parts]
        first = tested[0].paired
        if first is not None:
            effect, low, high = first.difference, first.low, first.high
        verdict, reason, needs, p = _verdict(claim, tested, family_size)
    return {
        "id": claim.id,
        "rule": claim.rule,
        "source": claim.source,
        "condition": claim.condition,
        "effect": effect,
        "low": low,
        "high": high,
        "p_adjusted": p,
        "margin": claim.parts[0].margin if claim.parts else None,
        "verdict": verdict,
        "reason": reason,
        "needs": needs,
    }


def _verdict(claim: Claim, tested: Sequence[_Tested], family_size: int) -> tuple[str, str, str, float | None]:
    """Verdict, reason, what it would need, and the corrected p.

    A claim of several parts is supported where all hold, so on the largest p; it falls with any, so on the smallest
    times their number. A part counts on the side on which its mean lies.
    """
    pairs = [part.paired for part in tested if part.paired is not None]
    if len(pairs) < len(tested):
        reason = "the differences of all seeds are identical, so there is no spread to test against"
        return "open", reason, "runs that differ between seeds", None
    k = min(pair.k for pair in pairs)
    flags = "".join(f"; {flag}" for part in tested for flag in part.diverged)
    few = f"; exploratory, as {k} seeds are fewer than {SETTLED_SEEDS}" if k < SETTLED_SEEDS else ""
    if claim.family == "exploratory" and not few:
        few = "; exploratory"
    shown = "; ".join(_shown(claim.per_class, part, part is tested[0]) for part in tested)
    if k < FEWEST_SEEDS:
        reason = f"{shown}; {k} seeds are too few for a verdict{flags}"
        return "open", reason, f"{FEWEST_SEEDS} seeds at least", None
    holds = max(part.holds for part in tested)
    against = min(tested, key=lambda part: part.fails)
    p = min(min(holds, len(tested) * against.fails) * family_size, 1.0)
    if p >= ALPHA:
        return "open", f"the runs can't tell: {shown}{few}{flags}", _needs(tested, family_size), p
    if holds <= len(tested) * against.fails:
        return "supported", f"{shown}{few}{flags}", "", p
    return "refuted", f"{_why_refuted(against)}: {shown}{few}{flags}", "", p


def _needs(tested: Sequence[_Tested], family_size: int) -> str:
    """How many seeds would tell, and what those that ran could have found, at the corrected level."""
    weakest = max(tested, key=lambda part: min(part.holds, part.fails))
    part, pair, alpha = weakest.part, weakest.paired, ALPHA / family_size
    assert pair is not None
    distance, power, what = pair.difference - part.margin, POWER, "beyond it"
    if part.kind == "within":
        # Two one-sided tests, both of which have to find it: each may miss half as often.
        distance, power, alpha = abs(abs(pair.difference) - part.margin), 1 - (1 - POWER) / 2, 2 * alpha
        what = "between no difference and the margin"
    wanted = seeds_needed(distance, pair.sd, alpha, power, weakest.overlap)
    found = smallest_detectable(pair.k, pair.sd, alpha, power, weakest.overlap)
    none = "no number of seeds from this pool is enough" if weakest.overlap else "more than 10,000 seeds"
    more = f"about {wanted} seeds" if wanted else none
    return (
        f"{more} to tell an effect of this size from the margin; {pair.k} seeds find {found:.2g} {what} four times in "
        "five"
    )


def _why_refuted(tested: _Tested) -> str:
    pair, margin = tested.paired, tested.part.margin
    assert pair is not None
    if tested.part.kind == "within":
        return f"the difference is larger than {margin:g}"
    if margin < 0:
        return f"it falls behind by more than the {-margin:g} that the rule allows"
    return "the opposite holds" if pair.high < 0 else "the effect stays under the margin"


def _shown(per_class: int, tested: _Tested, first: bool) -> str:
    """What was compared; its numbers too where they do not stand in the entry itself."""
    part, pair = tested.part, tested.paired
    assert pair is not None
    change = f", less the same at {part.minus_at} a class" if part.minus_at is not None else ""
    said = f"{part.better} minus {part.worse} with {size_name(per_class)}{change}, {tested.unit}, {pair.k} seeds"
    if first:
        return said + tested.halves
    margin = f"{'±' if part.kind == 'within' else ''}{part.margin:g}".replace("-", "−")
    numbers = f"{_signed(pair.difference)} [{_signed(pair.low)}, {_signed(pair.high)}], margin {margin}"
    return f"{said}: {numbers}{tested.halves}"


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
    missing = []
    for part in claim.parts:
        for size in _sizes(claim, part):
            sides = {runs: values_of(runs, part.metric, size, tables) for runs in (part.better, part.worse)}
            awaited = {runs: still_awaited(runs, size, tables.missing_cells) for runs in sides}
            empty = [
                f"{runs} at {size_name(size)} ({seeds_there(len(values), awaited[runs])})"
                for runs, values in sides.items()
                if awaited[runs] or len(values) < 2
            ]
            common = sides[part.better].index.intersection(sides[part.worse].index)
            if not empty and len(common) < 2:
                empty = [f"{part.better} and {part.worse} with common seeds at {size_name(size)}"]
            missing += [entry for entry in empty if entry not in missing]
    return missing


def _test(claim: Claim, part: Part, tables: Tables) -> _Tested:
    sizes = _sizes(claim, part)
    overlap = tables.correlation(*sizes)
    sides = [
        (values_of(part.worse, part.metric, size, tables), values_of(part.better, part.metric, size, tables))
        for size in sizes
    ]
    seeds = sides[0][0].index
    for worse, better in sides:
        seeds = seeds.intersection(worse.index).intersection(better.index)
    values = [(worse[seeds].to_numpy(), better[seeds].to_numpy()) for worse, better in sides]
    flags = tuple(flag for runs in (part.better, part.worse) if (flag := diverged(runs, claim.per_class, tables)))
    unit = f"points of {ACCURACIES[tables.judge_by]}" if part.metric == "judged" else part.unit
    if any(not math.isfinite(value) for pair in values for side in pair for value in side):
        raise ValueError(f"claim {claim.id}: a value of {part.metric} is missing (NaN); no test is made with it")

    # A change of a difference with size is the difference of the differences, seed by seed.
    first, second = values[0] if part.minus_at is None else [better - worse for worse, better in reversed(values)]
    try:
        paired = paired_difference(first, second, part.margin, overlap)
    except ValueError:
        return _Tested(part, unit, overlap, None, flags)
    if part.kind == "at least":
        above = paired.difference > part.margin
        holds, fails = (paired.p, 1.0) if above else (1.0, paired.p)
    else:
        holds, fails = equivalence(second - first, part.margin, overlap), 1.0
        if abs(paired.difference) > part.margin:
            nearest = math.copysign(part.margin, paired.difference)
            fails = paired_difference(first, second, nearest, overlap).p
    halves = _halves(claim.per_class, part, tables)
    return _Tested(part, unit, overlap, paired, flags, holds, fails, halves)


def _halves(per_class: int, part: Part, tables: Tables) -> str:
    """The two differences that a difference of gaps is made of: a gap narrows too where training only gets worse."""
    if part.metric != "gap" or part.minus_at is not None:
        return ""
    said = []
    for metric in ("train_accuracy", "test_accuracy"):
        better, worse = (values_of(runs, metric, per_class, tables) for runs in (part.better, part.worse))
        said.append(
            f"{_signed(float((better - worse).dropna().mean()))} of {METRICS[metric].removeprefix('points of ')}"
        )
    return f" (made of {' and '.join(said)})"


def _description(claim: Claim, tables: Tables) -> str:
    assert claim.described is not None
    of, against = claim.described.of, claim.described.against
    tuned = tables.provenance["parameters"].get("lr_scales", {}).get(str(claim.per_class), {})
    if claim.study != tables.study or not tables.tuned or not {of, against} <= set(tuned):
        return f"needs tuned rates of {of} and {against} in study {claim.study}"
    rates = [
        rate * used_scale(tables.provenance, claim.per_class, name)
        for name, rate in ((of, claim.described.rate), (against, claim.described.against_rate))
    ]
    ratio = rates[0] / rates[1]
    low, high = RATIO_EXPECTED
    where = "within" if low <= ratio <= high else "outside"
    return (
        f"described, not judged: the best rate of {of} was {rates[0]:.1e}, of {against} {rates[1]:.1e}, a ratio of "
        f"{ratio:g}, {where} {low} to {high}"
    )
