"""claims.yaml: rules of thumb with a direction and a margin, fixed before the runs that judge them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from analysis.tables import ALL, size_name

LEDGER = Path(__file__).with_name("claims.yaml")
MOST_PRIMARY = 8

Family = Literal["claims", "exploratory"]
METRICS: Mapping[str, str] = {
    "judged": "points of the accuracy that the study judges by",
    "test_accuracy": "points of test accuracy",
    "balanced_accuracy": "points of balanced test accuracy",
    "train_accuracy": "points of training accuracy",
    "gap": "points of training minus test accuracy",
    "drift": "percent of a group's starting length",
}


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
    kind: Literal["at least", "within"] = "at least"  # within: no difference of as much as the margin, either way

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


def load_claims(path: Path = LEDGER) -> tuple[Claim, ...]:
    """Read the ledger. Raises ClaimsError for unknown keys, ids given twice and more than 8 primary claims."""
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        # The last ones are what PyYAML makes of `!!bool maybe`, a date that is none, a thousand brackets.
        raise ClaimsError(f"{path.name} is no YAML: {ascii(' '.join(str(error).split()))[1:300]}") from error
    if not isinstance(entries, list):
        raise ClaimsError(f"{path.name}: it should be a list of claims, each with an id")
    claims = []
    for number, entry in enumerate(entries, 1):
        try:
            claims.append(_claim(entry))
        except ClaimsError as error:
            raise ClaimsError(f"{path.name}: {error}") from error
        except (AttributeError, OverflowError, TypeError, ValueError) as error:  # a text where a block should be
            raise ClaimsError(f"{path.name}: claim {number} is not right: {ascii(str(error))[1:200]}") from error
    twice = sorted(name for name, count in Counter(claim.id for claim in claims).items() if count > 1)
    if twice:
        raise ClaimsError(f"{path.name}: given twice: {', '.join(twice)}")
    primary = sum(claim.family == "claims" for claim in claims)
    if primary > MOST_PRIMARY:
        raise ClaimsError(f"{path.name}: {primary} primary claims; at most {MOST_PRIMARY}, make the others exploratory")
    return tuple(claims)


def _claim(entry: Mapping[str, Any]) -> Claim:
    name = str(entry.get("id", "a claim without id"))
    if not name.isprintable() or len(name) > 100:
        raise ClaimsError(f"id {name[:60]!a} is no name; use letters, digits and -")
    _keys(name, entry, {"id", "rule", "source", "study", "per_class", "family"}, {"parts", "described", "known"})
    if ("parts" in entry) == ("described" in entry):
        raise ClaimsError(f"{name}: give either parts or described")
    if entry["family"] not in ("claims", "exploratory"):
        raise ClaimsError(f"{name}: no family {ascii(entry['family'])[:60]}; choose from claims, exploratory")
    if "described" in entry:
        _keys(name, entry["described"], {"of", "rate", "against", "against_rate"}, set())
    return Claim(
        id=name,
        rule=" ".join(str(entry["rule"]).split()),
        source=str(entry["source"]),
        study=str(entry["study"]),
        per_class=ALL if entry["per_class"] == "all" else int(entry["per_class"]),
        family=entry["family"],
        parts=tuple(_part(name, part) for part in entry.get("parts", ())),
        described=Described(**entry["described"]) if "described" in entry else None,
        known=" ".join(str(entry.get("known", "")).split()),
    )


def _part(name: str, entry: Mapping[str, Any]) -> Part:
    _keys(name, entry, {"better", "worse", "metric"}, {"minus_at", "margin", "equivalent"})
    if ("margin" in entry) == ("equivalent" in entry):
        raise ClaimsError(f"{name}: give either margin or equivalent")
    margin = float(entry.get("margin", entry.get("equivalent")))
    if not math.isfinite(margin):
        raise ClaimsError(f"{name}: the margin is {margin:g}, and has to be a number")
    if "equivalent" in entry and margin <= 0:
        raise ClaimsError(f"{name}: equivalent is {margin:g}, and has to be above 0")
    if entry["metric"] not in METRICS:
        raise ClaimsError(f"{name}: no metric {ascii(entry['metric'])[:60]}; choose from {', '.join(METRICS)}")
    better, worse = _runs(name, entry["better"]), _runs(name, entry["worse"])
    if better == worse:
        raise ClaimsError(f"{name}: better and worse are the same runs, {better!a}")
    minus_at = None if entry.get("minus_at") is None else int(entry["minus_at"])
    kind: Literal["at least", "within"] = "within" if "equivalent" in entry else "at least"
    return Part(better, worse, entry["metric"], margin, minus_at, kind)


def _runs(name: str, given: str | Mapping[str, Any]) -> Runs:
    if isinstance(given, str):
        return Runs(given)
    _keys(name, given, {"strategy"}, {"lr_scale", "group"})
    scale = given.get("lr_scale")
    return Runs(str(given["strategy"]), None if scale is None else float(scale), given.get("group"))


def _keys(name: str, entry: Mapping[str, Any], needed: set[str], allowed: set[str]) -> None:
    if missing := needed - set(entry):
        raise ClaimsError(f"{name}: missing {', '.join(sorted(missing))}")
    if strange := set(entry) - needed - allowed:
        unknown = ", ".join(sorted(ascii(key)[:60] for key in strange))
        raise ClaimsError(f"{name}: unknown {unknown}; choose from {', '.join(sorted(needed | allowed))}")
