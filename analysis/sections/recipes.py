"""What is each strategy, and which rates did tuning try?"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from analysis.comparison import Comparison
from analysis.markdown import NONE, Section, Table, listed, number, rate_text, size_text
from analysis.paired import strategy_order
from analysis.tables import GROUPS, group_rates

NOT_SETTINGS = {"phases", "epochs_of_phases", "weights", "of", "name", "default"}  # they have columns of their own


def section(study: Comparison) -> Section:
    """Every strategy and ablation phase by phase, and what tuning tried, where it did."""
    common = ", ".join(f"{key.replace('_', ' ')} `{value}`" for key, value in common_settings(study).items())
    body: tuple[str | Table, ...] = (
        recipes(study),
        f"A row a phase. Where the table says nothing else: {common}. Scale: of the rates, by images a class.",
    )
    tuned = tuning(study)
    if tuned.rows:
        judged = listed([f"{n:,} ({size_text(size)} a class)" for size in study.sizes if (n := study.judged_on(size))])
        caption = (
            f"Right of {judged} pilot predictions, % ({study.metric} decides), at scales of the rates, each about "
            "three times the one before. Bold: chosen, on a climb from ×1 until the neighbours are worse (of equal "
            "ones by log loss); what lies beyond decides nothing. Pilots draw images of their own and hold out a part: "
            "no test accuracy, and labels that a user of so few has not."
        )
        body = (*body, "### Rates that were tried", tuned, caption)
    return Section("What each strategy is", body)


def common_settings(study: Comparison) -> dict[str, str]:
    """What most strategies of the study set alike."""
    found: dict[str, list[str]] = {}
    for block in study.parameters["strategies"].values():
        for key, value in _settings(block).items():
            found.setdefault(key, []).append(value)
    return {key: max(sorted(set(values)), key=values.count) for key, values in sorted(found.items())}


def _settings(block: Mapping[str, Any]) -> dict[str, str]:
    """What a strategy sets besides its phases and weights, as text."""
    said = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in block.items()}
    return {key: value for key, value in said.items() if key not in NOT_SETTINGS}


def recipes(study: Comparison) -> Table:
    """What each strategy is: a row a phase."""
    common, rows = common_settings(study), []
    for name, block in study.parameters["strategies"].items():
        also = [f"{key.replace('_', ' ')} {value}" for key, value in _settings(block).items() if value != common[key]]
        if block["weights"] == "none":
            also.insert(0, "random start")
        if "of" in block:
            also.insert(0, f"changes `{block['of']}`")
        tuned = block.get("of", name)  # an ablation runs at the rates of the strategy it changes
        scales = [f"×{study.tables.used_scale(size, tuned):g}" for size in study.sizes]
        phases = list(zip(block["epochs_of_phases"], block["phases"], strict=True))
        learning = [(str(epochs), _rates(phase["lr"])) for epochs, phase in phases] or [(NONE, "head, closed form")]
        rows.append((f"`{name}`", *learning[0], "; ".join(also) or NONE, " / ".join(scales)))
        rows += [("", *phase, "", "") for phase in learning[1:]]
    return Table(("Strategy", "Epochs", "Learns", "Else", "Scale"), tuple(rows), frozenset({1}))


def _rates(rates: Mapping[str, float]) -> str:
    """`all 1e-4`, or `stem to stage4 1e-4, head 1e-3`."""
    by_group = group_rates(rates)
    if len(by_group) == len(GROUPS) and len(set(by_group.values())) == 1:
        return f"all {rate_text(by_group[GROUPS[0]])}"
    runs: list[tuple[list[str], float]] = []
    for group, rate in by_group.items():
        if runs and runs[-1][1] == rate and GROUPS.index(group) == GROUPS.index(runs[-1][0][-1]) + 1:
            runs[-1][0].append(group)
        else:
            runs.append(([group], rate))
    return ", ".join(f"{' to '.join(dict.fromkeys((names[0], names[-1])))} {rate_text(rate)}" for names, rate in runs)


def tuning(study: Comparison) -> Table:
    """What each scale of the rates got right in tuning, in percent, a row a strategy; the chosen one bold."""
    rows = []
    for of_size, found in sorted(study.parameters.get("tried", {}).items(), key=lambda item: int(item[0]) or inf):
        size = int(of_size)
        for name in strategy_order([name for name in found if found[name]["tried"]]):
            chosen = study.tables.used_scale(size, name)
            tried = [(float(scale), number(100 * of["right"] / of["of"])) for scale, of in found[name]["tried"].items()]
            curve = " ".join(f"**{right}**" if scale == chosen else right for scale, right in sorted(tried))
            rows.append((size_text(size), f"`{name}`", f"×{min(tried)[0]:g}", curve, f"×{chosen:g}"))
    return Table(("A class", "Strategy", "From", "Right, %", "Chosen"), tuple(rows), frozenset({0, 2, 4}))
