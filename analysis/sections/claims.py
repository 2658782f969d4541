"""Rules of thumb put to the test: the verdicts in a line each, and in the details why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.claims import Claim
from analysis.comparison import Comparison
from analysis.markdown import NONE, Picture, Section, Table, code, p_value, sentence, shown, with_interval
from analysis.style import INK, Intervals

MOST = 10  # rows on the first page


def section(study: Comparison) -> Section | None:
    """The first ten verdicts: predictions first, then in the order of the ledger."""
    judged = _judged(study)
    if not judged:
        return None
    rows = tuple((_rule(claim), _verdict(claim, row), _effect(claim, row)) for claim, row in judged[:MOST])
    more = f" {len(judged) - MOST} more under [Claims](details.md#claims)." if len(judged) > MOST else ""
    predicted = any(claim.family == "claims" for claim, _ in judged)
    bold = "**Bold**: predictions on data that no run had seen; the others are exploratory. " if predicted else ""
    exploratory = "" if predicted else "All are exploratory: reasons to look further. "
    words = f"{bold}{exploratory}Effect in points [95% interval] / the margin that it has to clear.{more}"
    return Section("Rules of thumb", (Table(("Rule", "Verdict", "Effect"), rows, frozenset({2})), words))


def details(study: Comparison) -> Section | None:
    """Every claim of this study with its condition, p and what it would need."""
    judged = _judged(study)
    untested = [(c, v) for c, v in zip(study.claims, study.verdicts, strict=True) if v["verdict"] == "not tested"]
    if not judged and not untested:
        return None
    rows = tuple(
        (
            f"`{claim.id}`",
            _verdict(claim, row),
            _effect(claim, row),
            p_value(_number(row["p_adjusted"])),
            _why(row),
        )
        for claim, row in judged
    )
    table = Table(("Claim", "Verdict", "Effect / margin", "Adjusted p", "Why"), rows, frozenset({2, 3}))
    words = (
        "Rules and margins were fixed in `analysis/claims.yaml` before the runs that judge them, as its history shows. "
        "p is corrected over the predictions (bold), or over this study's exploratory claims."
    )
    known = [
        f"*Known when written* ({code(list(ids))}): {shown(text)}"
        for text, ids in _grouped((claim.known, claim.id) for claim, _ in judged if claim.known).items()
    ]
    not_tested = [
        f"*Not tested* ({code(list(ids))}): {shown(text)}."
        for text, ids in _grouped((str(row["reason"]).split(": ")[0], claim.id) for claim, row in untested).items()
    ]
    return Section("Claims", (*_picture(judged), table, words, *known, *not_tested))


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text, name in pairs:
        found.setdefault(text, []).append(name)
    return found


def _judged(study: Comparison) -> list[tuple[Claim, Mapping[str, Any]]]:
    found = [
        (claim, row) for claim, row in zip(study.claims, study.verdicts, strict=True) if row["verdict"] != "not tested"
    ]
    return sorted(found, key=lambda pair: pair[0].family != "claims")


def _rule(claim: Claim) -> str:
    text = shown(claim.rule.rstrip(".").split(" by at least ")[0])  # the margin stands in the last column
    return f"**{text}**" if claim.family == "claims" else text


def _verdict(claim: Claim, row: Mapping[str, Any]) -> str:
    return f"**{row['verdict']}**" if claim.family == "claims" else str(row["verdict"])


def _effect(claim: Claim, row: Mapping[str, Any]) -> str:
    effect, low, high = (_number(row[name]) for name in ("effect", "low", "high"))
    if effect != effect:
        return NONE
    part = claim.parts[0]
    margin = f"±{part.margin:g}" if part.kind == "within" else f"{part.margin:g}".replace("-", "−")
    unit = "%" if part.metric == "drift" else ""
    return f"{with_interval(effect, low, high)}{unit} / {margin}"


def _why(row: Mapping[str, Any]) -> str:
    said = [str(row["reason"] or ""), str(row["needs"] or "")]
    return shown(". ".join(sentence(text.rstrip(".")) for text in said if text) + ".")


def _picture(judged: list[tuple[Claim, Mapping[str, Any]]]) -> list[Picture]:
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
    caption = (
        "Effect of each claim in points with its 95% interval (of two parts the first); filled: supported or refuted; "
        "orange: the margin."
    )
    return [Picture("claims", "Effects of the claims against their margins", caption, data, lambda: _draw(data))]


def _draw(data: pd.DataFrame) -> Any:
    told = data["verdict"] != "open"
    ticks = dict(zip(data["name"], data["margin"], strict=True))
    return Intervals(
        data,
        "points",
        list(data["name"]),
        zero=True,
        filled=told,
        ticks=ticks,
        look=dict.fromkeys(data["name"], (INK, "o")),
    ).draw()


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
