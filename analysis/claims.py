"""claims.yaml -> verdicts: rules of thumb with a direction and a margin, put to the test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from analysis.statistics import ALPHA, Paired, difference_of_differences, holm, paired_difference
from analysis.tables import ALL, size_name

LEDGER = Path(__file__).with_name("claims.yaml")
MOST_PRIMARY = 8
FEWEST_SEEDS = 5  # below, every verdict is open
SETTLED_SEEDS = 10  # below, a verdict is called exploratory

Family = Literal["claims", "exploratory"]
METRICS: Mapping[str, str] = {
    "test_accuracy": "points of test accuracy",
    "balanced_accuracy": "points of balanced test accuracy",
    "train_accuracy": "points of training accuracy",
    "gap": "points of training minus test accuracy",
    "drift": "percent of a group's starting length",
}
RATIO_EXPECTED = (10, 100)


class ClaimsError(ValueError):
    """A mistake in claims.yaml, or tables that a claim can't be judged on."""


@dataclass(frozen=True)
class Runs:
    """Which runs one side of a claim speaks of."""

    strategy: str  # or an ablation
    lr_scale: float | None = None  # of a sweep; None: the final runs or the ablation
    group: str | None = None  # whose drift; None: the backbone's groups on average

    def __str__(self) -> str:
        scale = "" if self.lr_scale is None else f" at lr_scale {self.lr_scale:g}"
        return f"{self.strategy}{scale}" + ("" if self.group is None else f" ({self.group})")


@dataclass(frozen=True)
class Part:
    """One difference: `better` minus `worse` in a metric, held against a margin in the metric's unit."""

    better: Runs
    worse: Runs
    metric: str
    margin: float
    minus_at: int | None = None  # the same difference at this size is taken off

    @property
    def unit(self) -> str:
        """What the difference is counted in."""
        averaged = self.metric == "drift" and self.better.group is None
        return METRICS[self.metric] + (", on average over the backbone's groups" if averaged else "")


@dataclass(frozen=True)
class Described:
    """A ratio of best rates, which is described and not judged."""

    of: str
    rate: float  # at lr_scale 1
    against: str
    against_rate: float


@dataclass(frozen=True)
class Claim:
    """A rule of thumb, fixed before the runs that judge it."""

    id: str
    rule: str
    source: str
    study: str
    per_class: int
    family: Family
    parts: tuple[Part, ...]
    described: Described | None = None
    known: str = ""  # which runs had been seen when it was written, where some had

    @property
    def condition(self) -> str:
        """Where the claim is judged."""
        return f"study {self.study}, {size_name(self.per_class)}"


@dataclass(frozen=True)
class _Tested:
    """What the runs say of one part."""

    part: Part
    paired: Paired | None  # None: the differences are all identical
    diverged: tuple[str, ...]
    halves: str = ""  # of a gap: what training and test accuracy have to do with it


# --- reading --------------------------------------------------------------------------------------------------------


def load_claims(path: Path = LEDGER) -> tuple[Claim, ...]:
    """Read the ledger. Raises ClaimsError for unknown keys, ids given twice and more than 8 primary claims."""
    claims = tuple(_claim(entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8")))
    ids = [claim.id for claim in claims]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise ClaimsError(f"{path.name}: given twice: {', '.join(twice)}")
    primary = sum(claim.family == "claims" for claim in claims)
    if primary > MOST_PRIMARY:
        raise ClaimsError(f"{path.name}: {primary} primary claims; at most {MOST_PRIMARY}, make the others exploratory")
    return claims


def _claim(entry: Mapping[str, Any]) -> Claim:
    name = str(entry.get("id", "a claim without id"))
    _keys(name, entry, {"id", "rule", "source", "study", "per_class", "family"}, {"parts", "described", "known"})
    if ("parts" in entry) == ("described" in entry):
        raise ClaimsError(f"{name}: give either parts or described")
    if entry["family"] not in ("claims", "exploratory"):
        raise ClaimsError(f"{name}: no family '{entry['family']}'; choose from claims, exploratory")
    described = None
    if "described" in entry:
        _keys(name, entry["described"], {"of", "rate", "against", "against_rate"}, set())
        described = Described(**entry["described"])
    return Claim(
        id=name,
        rule=" ".join(str(entry["rule"]).split()),
        source=str(entry["source"]),
        study=str(entry["study"]),
        per_class=ALL if entry["per_class"] == "all" else int(entry["per_class"]),
        family=entry["family"],
        parts=tuple(_part(name, part) for part in entry.get("parts", ())),
        described=described,
        known=" ".join(str(entry.get("known", "")).split()),
    )


def _part(name: str, entry: Mapping[str, Any]) -> Part:
    _keys(name, entry, {"better", "worse", "metric", "margin"}, {"minus_at"})
    if entry["metric"] not in METRICS:
        raise ClaimsError(f"{name}: no metric '{entry['metric']}'; choose from {', '.join(METRICS)}")
    better, worse = _runs(name, entry["better"]), _runs(name, entry["worse"])
    if better == worse:
        raise ClaimsError(f"{name}: better and worse are the same runs, {better}")
    minus_at = entry.get("minus_at")
    return Part(better, worse, entry["metric"], float(entry["margin"]), None if minus_at is None else int(minus_at))


def _runs(name: str, given: str | Mapping[str, Any]) -> Runs:
    if isinstance(given, str):
        return Runs(given)
    _keys(name, given, {"strategy"}, {"lr_scale", "group"})
    scale = given.get("lr_scale")
    return Runs(str(given["strategy"]), None if scale is None else float(scale), given.get("group"))


def _keys(name: str, entry: Mapping[str, Any], needed: set[str], allowed: set[str]) -> None:
    if needed - set(entry):
        raise ClaimsError(f"{name}: missing {', '.join(sorted(needed - set(entry)))}")
    if set(entry) - needed - allowed:
        raise ClaimsError(f"{name}: unknown {', '.join(sorted(set(entry) - needed - allowed))}")


# --- judging --------------------------------------------------------------------------------------------------------


def judge(claims: Sequence[Claim], tables: Mapping[str, pd.DataFrame], study: str) -> list[dict[str, Any]]:
    """A verdict for every claim, from the tables (`Tables.frames`) of one study.

    Each is `{id, rule, source, condition, effect, low, high, p_holm, margin, verdict, reason, needs}`, numbers in the
    unit of the claim's first part. P values are corrected within each family, over the claims with seeds enough.
    Raises ValueError for a NaN in what is compared.
    """
    tested: dict[str, list[_Tested]] = {}
    for claim in claims:
        if claim.study == study and claim.parts and not _missing(claim, tables):
            tested[claim.id] = [_test(claim, part, tables) for part in claim.parts]
    corrected: dict[str, float] = {}
    for family in ("claims", "exploratory"):
        raw = {
            claim.id: max(part.paired.p for part in tested[claim.id] if part.paired is not None)
            for claim in claims
            if claim.family == family and claim.id in tested and _can_be_judged(tested[claim.id])
        }
        if raw:
            corrected |= dict(zip(raw, (float(p) for p in holm(list(raw.values()))), strict=True))
    return [_entry(claim, tables, study, tested.get(claim.id), corrected.get(claim.id)) for claim in claims]


def _entry(
    claim: Claim, tables: Mapping[str, pd.DataFrame], study: str, tested: list[_Tested] | None, p: float | None
) -> dict[str, Any]:
    effect = low = high = None
    if claim.described is not None:
        verdict, reason, needs = "not tested", _description(claim, tables, study), "nothing: ratios are described"
    elif tested is None:
        verdict, reason, needs = _untested(claim, tables, study)
    elif any(part.paired is None for part in tested):
        verdict = "open"
        reason = "the differences of all seeds are identical, so there is no spread to test against"
        needs = "runs that differ between seeds"
    else:
        first = tested[0].paired
        assert first is not None
        effect, low, high = first.difference, first.low, first.high
        verdict, reason, needs = _verdict(claim, tested, p)
    return {
        "id": claim.id,
        "rule": claim.rule,
        "source": claim.source,
        "condition": claim.condition,
        "effect": effect,
        "low": low,
        "high": high,
        "p_holm": p,
        "margin": claim.parts[0].margin if claim.parts else None,
        "verdict": verdict,
        "reason": reason,
        "needs": needs,
    }


def _can_be_judged(tested: Sequence[_Tested]) -> bool:
    """Whether a claim belongs into its family's correction: with too few seeds it stays open whatever its p."""
    return all(part.paired is not None and part.paired.k >= FEWEST_SEEDS for part in tested)


def _verdict(claim: Claim, tested: Sequence[_Tested], p: float | None) -> tuple[str, str, str]:
    pairs = [part.paired for part in tested if part.paired is not None]
    k = min(pair.k for pair in pairs)
    flags = "".join(f"; {flag}" for part in tested for flag in part.diverged)
    few = f"; exploratory, as {k} seeds are fewer than {SETTLED_SEEDS}" if k < SETTLED_SEEDS else ""
    if claim.family == "exploratory" and not few:
        few = "; exploratory"
    shown = "; ".join(_shown(claim.per_class, part) for part in tested)
    if p is None:
        return "open", f"{shown}; {k} seeds are too few for a verdict{flags}", f"{FEWEST_SEEDS} seeds at least"
    above = [pair.difference > part.part.margin for pair, part in zip(pairs, tested, strict=True)]
    if p < ALPHA and all(above):
        return "supported", f"{shown}{few}{flags}", ""
    # A claim of two parts falls with either; a part counts against it where it is shown to miss its margin.
    against = [
        (pair, part)
        for pair, part, ok in zip(pairs, tested, above, strict=True)
        if not ok and (pair.p if len(tested) > 1 else p) < ALPHA
    ]
    if against and (p < ALPHA or len(tested) > 1):
        pair, part = against[0]
        return "refuted", f"{_why_refuted(pair, part.part.margin)}: {shown}{few}{flags}", ""
    weakest = max(zip(pairs, tested, strict=True), key=lambda both: both[0].p)[0]
    wanted = f"about {weakest.seeds_needed} seeds" if weakest.seeds_needed else "more than 10,000 seeds"
    needs = (
        f"{wanted} to tell an effect of this size from the margin; {k} seeds find "
        f"{weakest.smallest_detectable:.2g} beyond it four times in five"
    )
    return "open", f"the runs can't tell: {shown}{few}{flags}", needs


def _why_refuted(pair: Paired, margin: float) -> str:
    if margin < 0:
        return f"it falls behind by more than the {-margin:g} that the rule allows"
    return "the opposite holds" if pair.high < 0 else "the effect stays under the margin"


def _shown(per_class: int, tested: _Tested) -> str:
    part, pair = tested.part, tested.paired
    assert pair is not None
    change = f", less the same at {part.minus_at} a class" if part.minus_at is not None else ""
    return (
        f"{part.better} minus {part.worse} with {size_name(per_class)}{change}: {_signed(pair.difference)} "
        f"[{_signed(pair.low)}, {_signed(pair.high)}] "
        f"{part.unit} over {pair.k} seeds, margin {f'{part.margin:g}'.replace('-', '−')}{tested.halves}"
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _untested(claim: Claim, tables: Mapping[str, pd.DataFrame], study: str) -> tuple[str, str, str]:
    if claim.study != study:
        return "not tested", f"judged on study {claim.study} alone, this is {study}", f"the runs of study {claim.study}"
    missing = ", ".join(_missing(claim, tables))
    return "not tested", f"runs are missing: {missing}", "these runs; `dvc repro` trains what is declared"


def _missing(claim: Claim, tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """The sides of a claim that lack runs: those of some declared seeds, or two runs of common seeds.

    How many seeds judge a claim is fixed beforehand: judging it on those that happen to have run so far, and again
    when more have, would find effects that are not there.
    """
    missing = []
    for part in claim.parts:
        for size in (claim.per_class, *([] if part.minus_at is None else [part.minus_at])):
            sides = {runs: _values(runs, part.metric, size, tables) for runs in (part.better, part.worse)}
            awaited = {runs: _awaited(runs, size, tables["missing_cells"]) for runs in sides}
            empty = [
                f"{runs} at {size_name(size)} ({_seeds(len(values), awaited[runs])})"
                for runs, values in sides.items()
                if awaited[runs] or len(values) < 2
            ]
            common = sides[part.better].index.intersection(sides[part.worse].index)
            if not empty and len(common) < 2:
                empty = [f"{part.better} and {part.worse} with common seeds at {size_name(size)}"]
            missing += [entry for entry in empty if entry not in missing]
    return missing


def _awaited(runs: Runs, per_class: int, missing: pd.DataFrame) -> int:
    """How many declared seeds have no run yet."""
    mine = missing[(missing["strategy"] == runs.strategy) & (missing["per_class"] == per_class)]
    if runs.lr_scale is None:
        return int(mine["role"].isin(["final", "ablation"]).sum())
    return int(((mine["role"] == "sweep") & (mine["lr_scale"].round(9) == round(runs.lr_scale, 9))).sum())


def _seeds(present: int, awaited: int) -> str:
    return f"{present} of {present + awaited} seeds" if present + awaited else "not declared"


def _test(claim: Claim, part: Part, tables: Mapping[str, pd.DataFrame]) -> _Tested:
    sizes = [claim.per_class, *([] if part.minus_at is None else [part.minus_at])]
    sides = [
        (_values(part.worse, part.metric, size, tables), _values(part.better, part.metric, size, tables))
        for size in sizes
    ]
    seeds = sides[0][0].index
    for worse, better in sides:
        seeds = seeds.intersection(worse.index).intersection(better.index)
    paired_values = [(worse[seeds].to_numpy(), better[seeds].to_numpy()) for worse, better in sides]
    flags = tuple(flag for runs in (part.better, part.worse) if (flag := _diverged(runs, claim.per_class, tables)))
    if any(not math.isfinite(value) for pair in paired_values for side in pair for value in side):
        raise ValueError(f"claim {claim.id}: a value of {part.metric} is missing (NaN); no test is made with it")
    try:
        if part.minus_at is None:
            paired = paired_difference(*paired_values[0], margin=part.margin)
        else:
            paired = difference_of_differences(*paired_values[0], *paired_values[1], margin=part.margin)
    except ValueError:
        return _Tested(part, None, flags)
    return _Tested(part, paired, flags, _halves(claim.per_class, part, tables))


def _halves(per_class: int, part: Part, tables: Mapping[str, pd.DataFrame]) -> str:
    """The two differences that a difference of gaps is made of: a gap narrows too where training only gets worse."""
    if part.metric != "gap" or part.minus_at is not None:
        return ""
    said = []
    for metric in ("train_accuracy", "test_accuracy"):
        better, worse = (_values(runs, metric, per_class, tables) for runs in (part.better, part.worse))
        said.append(
            f"{_signed(float((better - worse).dropna().mean()))} of {METRICS[metric].removeprefix('points of ')}"
        )
    return f" (made of {' and '.join(said)})"


def _cells(runs: Runs, per_class: int, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    names = ("runs", "ablations") if runs.lr_scale is None else ("sweep",)
    for name in names:
        table = tables[name]
        chosen = table[(table["strategy"] == runs.strategy) & (table["per_class"] == per_class)]
        if runs.lr_scale is not None:
            chosen = chosen[chosen["lr_scale"].round(9) == round(runs.lr_scale, 9)]
        if len(chosen):
            return chosen
    # Where a study sweeps a rate but doesn't train it as a final run, its base rate is a cell of the sweep.
    if runs.lr_scale is None:
        return _cells(Runs(runs.strategy, 1.0), per_class, tables)
    return tables["sweep"].iloc[:0]


def _values(runs: Runs, metric: str, per_class: int, tables: Mapping[str, pd.DataFrame]) -> pd.Series[float]:
    """A metric by seed, in the unit that METRICS names. Drift: at the end of the last phase."""
    cells = _cells(runs, per_class, tables).set_index("seed")
    if metric == "gap":
        return 100 * (cells["train_accuracy"] - cells["test_accuracy"])
    if metric != "drift":
        return 100 * cells[metric].astype(float)
    moved = tables["drift"]
    if not len(cells):
        return pd.Series(dtype=float)
    first = cells.iloc[0]
    moved = moved[
        (moved["role"] == first["role"])
        & (moved["strategy"] == runs.strategy)
        & (moved["per_class"] == per_class)
        & (moved["lr_scale"].round(9) == round(float(first["lr_scale"]), 9))
        & ((moved["group"] == runs.group) if runs.group is not None else (moved["group"] != "head"))
    ]
    last = moved[moved["phase"] == moved.groupby("seed")["phase"].transform("max")]
    by_seed: pd.Series[float] = 100 * last.groupby("seed")["weight_distance"].mean()
    return by_seed


def _diverged(runs: Runs, per_class: int, tables: Mapping[str, pd.DataFrame]) -> str:
    cells = _cells(runs, per_class, tables)
    count = int((cells["status"] == "diverged").sum())
    return f"{count} of {len(cells)} runs of {runs} diverged" if count else ""


def _description(claim: Claim, tables: Mapping[str, pd.DataFrame], study: str) -> str:
    assert claim.described is not None
    of, against = claim.described.of, claim.described.against
    best = {name: _best_scale(name, claim.per_class, tables["tune"]) for name in (of, against)}
    if claim.study != study or None in best.values():
        return f"needs tuned rates of {of} and {against} in study {claim.study}"
    rates = (claim.described.rate * (best[of] or 1), claim.described.against_rate * (best[against] or 1))
    ratio = rates[0] / rates[1]
    low, high = RATIO_EXPECTED
    where = "within" if low <= ratio <= high else "outside"
    tried = tables["tune"]["lr_scale"]
    edge = [name for name in (of, against) if best[name] in (tried.min(), tried.max())]
    beyond = f"; the rate of {' and of '.join(edge)} lies at the edge of those tried" if edge else ""
    if len(edge) == 2 and best[of] == best[against]:
        beyond += ", at the same end, so that this is the ratio of the rates as written, and the best one is not known"
    return (
        f"described, not judged: the best rate of {of} was {rates[0]:.1e}, of {against} {rates[1]:.1e}, a ratio of "
        f"{ratio:g}, {where} {low} to {high}{beyond}"
    )


def _best_scale(strategy: str, per_class: int, tune: pd.DataFrame) -> float | None:
    pilots = tune[(tune["strategy"] == strategy) & (tune["per_class"] == per_class)]
    if not len(pilots):
        return None
    means = pilots.groupby("lr_scale")[["val_accuracy", "log_loss"]].mean().reset_index()
    ordered = means.sort_values(["val_accuracy", "log_loss", "lr_scale"], ascending=[False, True, True])
    return float(ordered["lr_scale"].iloc[0])
