"""Where a verdict does not carry over: the same claim at another size, or with one thing changed in its strategies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.claims import Claim, Runs, judge
from analysis.tables import Tables, group_rates, size_name
from analysis.words import Table, cell, counted, sentence

Block = Mapping[str, Any]
MISTAKES = ("normalisation", "frozen_groups")  # an ablation of these shows what a mistake costs: no way to do it


@dataclass(frozen=True)
class Elsewhere:
    """How often the judged claims were measured again, and the times when that came out otherwise."""

    words: str
    table: Table


def elsewhere(claims: Sequence[Claim], judged: Sequence[Mapping[str, Any]], tables: Tables) -> Elsewhere | None:
    """Every judged claim at the other sizes, and with each ablation in place of what it changes; None without any.

    Each is judged alone and by the rules of `claims.judge`: a description, for nobody fixed it beforehand.
    """
    verdicts = {row["id"]: row["verdict"] for row in judged if row["verdict"] != "not tested"}
    strategies = tables.provenance["parameters"]["strategies"]
    sizes = sorted(int(size) for size in tables.runs["per_class"].unique())
    rows = []
    count = {"same": 0, "open": 0, "decided": 0, "otherwise": 0}
    for claim in claims:
        if claim.study != tables.study or claim.id not in verdicts:
            continue
        for instead, variant in _variants(claim, sizes, strategies):
            (found,) = judge([variant], tables)
            if found["verdict"] == "not tested":
                continue
            same, undecided = found["verdict"] == verdicts[claim.id], found["verdict"] == "open"
            decided = "decided" if verdicts[claim.id] == "open" else "otherwise"
            count["same" if same else "open" if undecided else decided] += 1
            if not same and not undecided:
                verdict, then = f"**{verdicts[claim.id]}**", f"**{found['verdict']}**"
                rows.append((f"`{claim.id}`", verdict, instead, then, f"{cell(sentence(found['reason']))}."))
    if not sum(count.values()):
        return None
    words = (
        "The judged claims measured again, at the other sizes and with each ablation in place of the strategy it "
        f"changes, where the same groups learn and nothing is done wrong on purpose: "
        f"{counted(sum(count.values()), 'comparison')}. {count['same']} read the same, {count['open']} cannot tell, "
        f"{count['decided']} decide what is open above, {count['otherwise']} read otherwise. Nobody fixed them "
        "beforehand and each is judged alone, without correction: they show how far a verdict reaches, and are no "
        "verdicts."
    )
    header = ("Claim", "Verdict", "Measured instead", "Alone it would read", "Why")
    return Elsewhere(words, Table(header, tuple(rows)))


def _variants(claim: Claim, sizes: Sequence[int], strategies: Mapping[str, Block]) -> Iterator[tuple[str, Claim]]:
    """What is measured instead, and the claim that says so: one size or one strategy is another."""
    sides = {runs for part in claim.parts for runs in (part.better, part.worse)}
    if len(claim.parts) != 1 or any(runs.lr_scale is not None or runs.group is not None for runs in sides):
        return
    (part,) = claim.parts
    if part.minus_at is None:
        for size in sizes:
            if size != claim.per_class:
                yield size_name(size), replace(claim, per_class=size)
    # A claim on one change compares a strategy with an ablation of it: another ablation there would be two changes.
    changed = {strategies.get(runs.strategy, {}).get("of") for runs in sides}
    for name, block in strategies.items():
        of = block.get("of")
        if of in changed or Runs(str(of)) not in sides or _learning(block) != _learning(strategies[str(of)]):
            continue
        if any(block.get(key) != strategies[str(of)].get(key) for key in MISTAKES):
            continue
        better, worse = (Runs(name) if side == Runs(str(of)) else side for side in (part.better, part.worse))
        swapped = replace(part, better=better, worse=worse)
        if swapped.better != swapped.worse:
            yield f"`{name}` for `{of}`", replace(claim, parts=(swapped,))


def _learning(block: Block) -> list[set[str]]:
    """Which groups learn in each phase."""
    return [set(group_rates(phase["lr"])) for phase in block["phases"]]
