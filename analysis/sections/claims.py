"""Rules of thumb put to the test: the verdicts in a line each, and in the details why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import nan
from typing import Any

import pandas as pd

from analysis.claims import Claim
from analysis.comparison import Comparison
from analysis.markdown import NONE, Picture, Section, Table, code, p_value, sentence, shown, with_interval
from analysis.style import INK, Intervals

MOST = 10  # rows on the first page
Judged = tuple[Claim, Mapping[str, Any]]


def section(study: Comparison) -> Section | None:
    """The first ten verdicts: predictions first, then in the order of the ledger."""
    judged = _judged(study)
    if not judged:
        return None
    rows = []
    for claim, row in judged[:MOST]:
        rule = _bold(claim, shown(claim.rule.rstrip(".")))
        rows.append((rule, _bold(claim, row["verdict"]), _effect(claim, row)[0]))
    more = f" {len(judged) - MOST} more under [Claims](details.md#claims)." if len(judged) > MOST else ""
    predicted = any(claim.family == "claims" for claim, _ in judged)
    bold = "**Bold**: predicted before any run on these images; the others are exploratory. " if predicted else ""
    exploratory = "" if predicted else "All are exploratory: reasons to look further. "
    verdicts = (
        "*Supported*, *refuted*: shown to hold, or not to, by as much as it says, after correction for how many "
        "rules are tested, so an interval that clears the margin may be *open*. "
    )
    words = f"{bold}{exploratory}{verdicts}Effect in points [95% interval].{more}"
    table = Table(("Rule", "Verdict", "Effect"), tuple(rows), frozenset({2}))
    return Section("Rules of thumb", (table, words))


def details(study: Comparison) -> Section | None:
    """Every claim of this study with its condition, p and what it would need."""
    judged = _judged(study)
    untested = [(c, v) for c, v in zip(study.claims, study.verdicts, strict=True) if v["verdict"] == "not tested"]
    if not judged and not untested:
        return None
    rows = []
    for claim, row in judged:
        said = [row["reason"], *(sentence(needs) for needs in (row["needs"],) if needs)]
        p = p_value(nan if row["p_adjusted"] is None else row["p_adjusted"])
        rows.append(
            (f"`{claim.id}`", _bold(claim, row["verdict"]), *_effect(claim, row), p, shown(". ".join(said) + "."))
        )
    header = ("Claim", "Verdict", "Effect", "Margin", "Adjusted p", "Why")
    table = Table(header, tuple(rows), frozenset({2, 3, 4}))
    words = (
        "Rules and margins were fixed in `analysis/claims.yaml` before the runs that judge them, as its history shows. "
        "p is corrected over the predictions (bold), or over this study's exploratory claims."
    )
    known = _grouped((claim.known, claim.id) for claim, _ in judged if claim.known)
    reasons = _grouped((row["reason"].split(": ")[0], claim.id) for claim, row in untested)
    notes = [f"*Known when written* ({code(ids)}): {shown(text)}" for text, ids in known.items()]
    notes += [f"*Not tested* ({code(ids)}): {shown(text)}." for text, ids in reasons.items()]
    return Section("Claims", (*_picture(judged), table, words, *notes))


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text, name in pairs:
        found.setdefault(text, []).append(name)
    return found


def _judged(study: Comparison) -> list[Judged]:
    pairs = zip(study.claims, study.verdicts, strict=True)
    return sorted((pair for pair in pairs if pair[1]["verdict"] != "not tested"), key=lambda c: c[0].family != "claims")


def _bold(claim: Claim, text: str) -> str:
    return f"**{text}**" if claim.family == "claims" else text


def _effect(claim: Claim, row: Mapping[str, Any]) -> tuple[str, str]:
    """An effect with its interval, and the margin it has to clear."""
    if row["effect"] is None:
        return NONE, NONE
    part = claim.parts[0]
    sign = "±" if part.kind == "within" else "+" if part.margin > 0 else "−" if part.margin < 0 else ""
    margin = f"{sign}{abs(part.margin):g}"
    unit = "%" if part.metric == "drift" else ""
    return f"{with_interval(row['effect'], row['low'], row['high'])}{unit}", margin


def _picture(judged: list[Judged]) -> list[Picture]:
    """Effects in points; without a p there are too few seeds, and an interval that would flatten all others."""
    rows = [
        {"name": claim.id, "value": row["effect"], "low": row["low"], "high": row["high"]}
        | {"margin": claim.parts[0].margin, "verdict": row["verdict"]}
        for claim, row in judged
        if row["p_adjusted"] is not None and claim.parts[0].metric != "drift"
    ]
    if not rows:
        return []
    data = pd.DataFrame(rows)
    names, told = list(data["name"]), data["verdict"] != "open"
    ticks, look = dict(zip(names, data["margin"], strict=True)), dict.fromkeys(names, (INK, "o"))
    caption = (
        "Effect of each claim in points with its 95% interval (of two parts the first); filled: supported or refuted; "
        "orange: the margin."
    )
    effects = Intervals(data, "points", names, zero=True, filled=told, ticks=ticks, look=look)
    return [Picture("claims", "Effects of the claims against their margins", caption, data, effects.draw)]
