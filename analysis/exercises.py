"""The textbook's three exercises, answered from the runs of a study that holds what they ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import findings
from analysis.findings import DECIDED_FROM, Numbers, Sweep
from analysis.plots import p_value, signed
from analysis.statistics import ALPHA
from analysis.wording import chosen_by, learning_label, phase_rows, phase_verdict, rate_of, sweep_rows, sweep_words
from analysis.words import Table, bracket, counted, gain_words, percent, size_words

GRADUAL, STOPPED, AT_ONCE = "gradual_unfreezing", "last_block", "fine_tune"
THREE = ("scratch", "feature_extraction", "fine_tune")


@dataclass(frozen=True)
class Exercise:
    """One exercise at one size: what was asked, what came out, and the table it rests on."""

    title: str
    asked: str
    words: tuple[str, ...]
    table: Table


def answered(numbers: Numbers) -> list[Exercise]:
    """The exercises that the runs of this study can answer, in order; the largest size speaks for each."""
    size = numbers.sizes[-1]
    return [*_gradual(numbers, size), *_three_ways(numbers, size), *_rates(numbers, size)]


def _gradual(numbers: Numbers, size: int) -> Iterator[Exercise]:
    gains = numbers.gains[(numbers.gains["per_class"] == size) & (numbers.gains["strategy"] == GRADUAL)]
    if gains.empty:
        return
    block = numbers.tables.provenance["parameters"]["strategies"][GRADUAL]
    lengths = block.get("epochs_of_phases", [])
    asked = "Train the head, then the last block with it, then everything; what does each phase bring?"
    if lengths:
        asked += f" Here {' + '.join(str(length) for length in lengths)} epochs, {size_words(numbers, size)}."
    labels = [learning_label(phase["lr"]) for phase in block["phases"]]
    words = [_phase_words(row, labels[row["phase"] - 1]) for row in gains.to_dict("records")]
    words.append(
        f"A phase earned its place, or cost accuracy, where p is below {ALPHA:g}, adjusted (Holm) over the phases of "
        "all strategies of this size; the intervals stand alone."
    )
    if STOPPED in numbers.names:
        words.append(_against_words(numbers, size, GRADUAL, STOPPED, "the last block and the head alone, all the way"))
    words.append(
        _against_words(numbers, size, GRADUAL, AT_ONCE, "everything learning for as many epochs from the start")
    )
    yield Exercise("Exercise 1: gradual unfreezing", asked, tuple(words), phase_rows(numbers, gains))


def _phase_words(row: Mapping[Any, Any], label: str) -> str:
    start = f"Phase {row['phase']:.0f} (`{label}` learns): {percent(row['mean'])}% validation accuracy at its end"
    if row["phase"] == 1:
        return f"{start}."
    gain = f"{signed(row['gain'])} points {bracket(row['gain_low'], row['gain_high'])}".strip()
    verdict = {
        "open": f"whether it earned its place is open with {counted(int(row['k']), 'seed')}",
        "earned": "it earned its place",
        "cost": "it cost accuracy",
        "not shown": "that it earned its place is not shown",
    }[phase_verdict(row)]
    return f"{start}, {gain} in the phase: {verdict}."


def _three_ways(numbers: Numbers, size: int) -> Iterator[Exercise]:
    if not set(THREE) <= set(numbers.names):
        return
    rows = []
    for name in THREE:
        row = numbers.of(size, name)
        watched = _last_validation(numbers, size, name)
        head = (f"`{name}`", str(row["k"]), percent(row["train_accuracy"]), percent(watched))
        tested = f"{percent(row['judged'])} {bracket(row['judged_low'], row['judged_high'], 'without')}"
        rows.append((*head, tested.strip(), percent(row["gap"])))
    header = (
        "Strategy",
        "Seeds",
        "Train accuracy, %",
        "Validation accuracy, %",
        f"{numbers.metric.capitalize()}, % [95%]",
        "Gap, points",
    )
    words = [
        _against_words(numbers, size, "feature_extraction", "scratch", "training from scratch"),
        _against_words(numbers, size, "fine_tune", "scratch", "training from scratch"),
        _against_words(numbers, size, "fine_tune", "feature_extraction", "the frozen backbone"),
        "How training and validation accuracy went, epoch by epoch, stands under *Learning curves*."
        if numbers.validated
        else "How training accuracy went, epoch by epoch, stands under *Learning curves*; no image was left for "
        "validation.",
    ]
    asked = f"From scratch, frozen, fine-tuned on {size_words(numbers, size)}: training and validation accuracy."
    yield Exercise(
        "Exercise 2: scratch, frozen, fine-tuned",
        asked,
        tuple(words),
        Table(header, tuple(rows), frozenset(range(1, 6))),
    )


def _last_validation(numbers: Numbers, size: int, name: str) -> float:
    runs = numbers.tables.runs
    mine = runs[(runs["per_class"] == size) & (runs["strategy"] == name)]["val_accuracy"]
    return float(mine.mean() * 100) if mine.notna().any() else float("nan")


def _rates(numbers: Numbers, size: int) -> Iterator[Exercise]:
    swept = [sweep for sweep in numbers.sweeps if sweep.per_class == size and _one_rate(numbers, sweep)]
    for sweep in swept[:1]:
        tried = [rate_of(numbers, sweep.strategy, rate.lr_scale)[0] for rate in sweep.rates]
        asked = f"Fine-tune everything at one rate: {', '.join(tried)}. Which is best, and why do the others fail?"
        words = (
            *sweep_words(numbers, sweep),
            f"Why follows from what was measured ({chosen_by(numbers, sweep)}, how far the backbone moved, training "
            "loss), by the thresholds under *Sweep of the learning rate*; the curves stand there too.",
        )
        yield Exercise("Exercise 3: one learning rate", asked, words, sweep_rows(numbers, sweep))


def _one_rate(numbers: Numbers, sweep: Sweep) -> bool:
    """Whether every group of the swept strategy learns, all at the same rate, from pretrained weights."""
    block: Mapping[str, Any] = numbers.tables.provenance["parameters"]["strategies"].get(sweep.strategy, {})
    phases = block.get("phases", [])
    return block.get("weights") != "none" and all(
        learning_label(phase["lr"]) == "all" and len(set(phase["lr"].values())) == 1 for phase in phases
    )


def _against_words(numbers: Numbers, size: int, name: str, other: str, said: str) -> str:
    """How one strategy compares with another on the test images, and whether that is shown."""
    if {name, other} - set(numbers.names):
        return f"`{other}` was not run, so `{name}` has nothing to be compared with."
    pairs: pd.DataFrame = findings.against(numbers.pairs, size, other)
    row = pairs[pairs["strategy"] == name].to_dict("records")[0]
    if not np.isfinite(row["difference"]):
        return f"`{name}` against `{other}`: {gain_words(row)}."
    found = f"{signed(row['difference'])} points {bracket(row['low'], row['high'])} of {numbers.metric}"
    p, among = (row["p_holm"], "over all pairs") if row["family"] == "pairs" else (row["p"], "not adjusted")
    if row["k"] < DECIDED_FROM:
        shown = f"open with {counted(int(row['k']), 'seed')}"
    elif p < ALPHA:
        shown = f"shown (p {p_value(p)} {among})"
    else:
        shown = f"no difference is shown (p {p_value(p)} {among})"
    return f"`{name}` against {said} (`{other}`): {found}; {shown}."
