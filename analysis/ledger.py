"""The ledger: the verdicts on rules of thumb as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.claims import Claim
from analysis.plots import p_value, signed
from analysis.words import NONE, Table, cell, sentence

VERDICTS = ("supported", "refuted", "open", "not tested")


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
        "claims": ("Primary claims", "p is adjusted (Bonferroni) over all primary claims of `analysis/claims.yaml`."),
        "exploratory": (
            "Exploratory claims",
            "p is adjusted (Bonferroni) over those of this study: reasons to look further, not results.",
        ),
    }
    mine = [row for row in judged if by_id[row["id"]].study == study]
    described = [row for row in mine if by_id[row["id"]].described is not None]
    parts = []
    for family, (title, words) in families.items():
        judgeable = [row for row in mine if by_id[row["id"]].family == family and row not in described]
        some = [row for row in judgeable if row["verdict"] != "not tested"]
        if some:
            parts.append(LedgerPart(title, f"{_verdicts(some, VERDICTS[:-1])}. {words}", _ledger_table(some, by_id)))
    untested = [row for row in judged if row["verdict"] == "not tested" and row not in described]
    summary = (
        f"Rules of thumb put to the test: {_verdicts(judged)} (a rule is judged on one study, and this is `{study}`). "
        "A rule and its margin have to be fixed before the runs that judge it: the history of "
        "`analysis/claims.yaml`, against the commits under Provenance, shows whether they were; where some of the runs "
        "had been seen, the row says which. *Supported*: the "
        "effect is larger than the margin; *refuted*: it is smaller, or the opposite holds; *open*: these runs "
        "cannot tell; *not tested*: there are no runs for it here, or they cannot speak of other draws."
    )
    return Ledger(summary, tuple(parts), tuple(map(_untested_row, described)), tuple(map(_untested_row, untested)))


def _verdicts(judged: Sequence[Mapping[str, Any]], order: Sequence[str] = VERDICTS) -> str:
    """`2 supported, 1 refuted, 3 open, 0 not tested`."""
    return ", ".join(f"{sum(row['verdict'] == verdict for row in judged)} {verdict}" for verdict in order)


def _untested_row(row: Mapping[str, Any]) -> str:
    reason = str(row["reason"] or "").rstrip(".")
    return f"`{row['id']}`: {str(row['rule']).rstrip('.')}." + (f" *{reason}.*" if reason else "")


def _ledger_table(judged: Sequence[Mapping[str, Any]], by_id: Mapping[str, Claim]) -> Table:
    rows = []
    for row in judged:
        effect, low, high, p = (_nan_if_none(row[name]) for name in ("effect", "low", "high", "p_adjusted"))
        shown = NONE
        if np.isfinite(effect):
            unit = "%" if by_id[row["id"]].parts[0].unit.startswith("percent") else "points"
            digits = 1 if unit == "points" or abs(effect) >= 1 else 3
            shown = f"{signed(effect, digits)} [{signed(low, digits)}, {signed(high, digits)}] {unit}"
        known = by_id[row["id"]].known
        said = [text.rstrip(".") for text in (str(row["reason"] or ""), str(row["needs"] or ""), known) if text]
        reason = ". ".join(map(sentence, said))
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


def _nan_if_none(value: float | None) -> float:
    return float("nan") if value is None else float(value)
