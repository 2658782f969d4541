"""Before you trust this: the few lines a reader must know, chosen by rule from what applies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from analysis.comparison import REFERENCE, Comparison
from analysis.markdown import Section, counted, listed, number, sentence, shown, with_interval
from analysis.power import CITABLE_FROM
from analysis.sections import ablations, sweep
from analysis.sections.limits import ROLES
from analysis.tables import ALL, size_name
from analysis.unbeaten import one_class

MOST = 5
FEW_JUDGED = 200  # images on which a rate was chosen; below, the luck of that choice is worth a line
MUCH_OVERLAP = 0.05  # of the images of two draws; above, intervals are visibly wider for it


def section(study: Comparison) -> Section:
    """At most five lines."""
    return Section("Before you trust this", ("\n".join(f"- {line}" for line in lines(study)),))


def lines(study: Comparison) -> list[str]:
    """What applies, weightiest first."""
    found = chain.from_iterable(rule(study) for rule in (_runs, _better, _rates, _images))
    epochs = study.parameters["study"]["epochs"]
    last = f"One data set, one backbone, {epochs} epochs: `make own FOLDER=…` asks the same of your images."
    return [*islice(found, MOST - 1), last]


def _runs(study: Comparison) -> Iterator[str]:
    missing, declared = len(study.tables.missing_cells), len(study.tables.declared)
    if missing:
        roles = listed([name for role, name in ROLES.items() if role in set(study.tables.missing_cells["role"])])
        lacking = f"{missing:,} of {counted(declared, 'run')} are missing ({roles})"
        yield f"**Not complete**: {lacking}; `make study STUDY={study.study}` runs them."
    k = min(size.k for size in study.unbeaten)
    if k < CITABLE_FROM:
        yield f"**{counted(k, 'seed')}**: exploratory, a reason to look further; {CITABLE_FROM} would be citable."
    sizes = [
        size_name(size.per_class)
        for size in study.unbeaten
        if size.advised and not study.of(size.per_class, size.advised[0])["judged_low"] > study.baseline
    ]
    if sizes:
        guess = f"always answering the largest class ({number(study.baseline)}%)"
        yield f"With {listed(sizes)}, nothing is shown to be better than {guess}."
    for size in study.unbeaten:
        if REFERENCE in size.advised[1:]:
            yield (
                f"With {size_name(size.per_class)}, nothing is shown to beat `{REFERENCE}`: `{size.advised[0]}` has "
                "the highest mean, no more."
            )
    failed = [
        f"`{name}` with {size_name(size.per_class)} ({_failed(study, size.per_class, name)} of {size.k})"
        for size in study.unbeaten
        for name in size.unstable
    ]
    if failed:
        yield f"Not advised, as runs diverged or gave one class: {listed(failed)}."


def _failed(study: Comparison, per_class: int, name: str) -> int:
    return int(study.of(per_class, name)["diverged"]) + one_class(study.tables, per_class).get(name, 0)


def _better(study: Comparison) -> Iterator[str]:
    """What was not compared, and does better than what is advised."""
    for size in study.unbeaten:
        if not size.advised:
            continue
        best, where = size.advised[0], size_name(size.per_class)
        for name in size.others:
            row = study.gain(size.per_class, name, best)
            if row["low"] > 0:
                gain = with_interval(row["difference"], row["low"], row["high"])
                yield f"`{name}`, no default strategy, gets {gain} points on `{best}` with {where}."
                break
        for above in (ablations.best_above(study, size.per_class), sweep.best_above(study, size.per_class)):
            if above:
                name, found = above
                gain = with_interval(found.difference, found.low, found.high)
                tried = "the best of several tries, so flattered"
                yield f"{name} gets {gain} points on `{best}` with {where}: {tried}."


def _rates(study: Comparison) -> Iterator[str]:
    if not study.tables.tuned:
        scale = study.parameters["study"]["learning_rates"]
        rates = "the textbook's" if isinstance(scale, str) else f"{scale:g} times the textbook's"
        yield f"Rates are {rates}, not tuned: with better ones the order may change."
    if source := study.parameters["study"].get("rates_from"):
        yield f"Rates are those tuned in study `{source}`: with ones tuned here the order may change."
    for size in study.sizes:
        for name, rate, found in sweep.above_tuned(study, size):
            gain = with_interval(found.difference, found.low, found.high)
            yield (
                f"`{name}` at {rate} gets {gain} points on its tuned rate with {size_name(size)}: its place is owed to "
                "an unlucky rate."
            )
    few = [(size, n) for size in study.sizes if (n := study.judged_on(size)) is not None and n < FEW_JUDGED]
    if few:
        where = listed([f"{n} predictions ({size_name(size)})" for size, n in few])
        yield f"Rates were chosen on only {where}: a place may be owed to an unlucky rate, which no interval contains."


def _images(study: Comparison) -> Iterator[str]:
    if not study.draws:
        yield "Every seed trains on the same images: intervals speak of reruns, not of other images."
    found = [*study.tables.provenance["notes"], *study.dataset.get("notes", [])]
    notes = [f"{sentence(shown(str(note).rstrip('.')))}." for note in found]
    yield from notes[:1]
    sizes = [size for size in study.sizes if size != ALL and study.tables.overlap(size) >= MUCH_OVERLAP]
    if sizes:
        shares = listed([f"{study.tables.overlap(size):.0%} with {size:,} a class" for size in sizes])
        yield f"Training sets of two seeds share images, up to {shares}; every interval is widened for it."
    if study.other_metrics:
        yield f"Test classes are uneven: {study.metric} decides; one answer for all gets {number(study.baseline)}%."
    others = [f"{entry['accuracy']:g}% ({entry['what']})" for entry in study.dataset.get("published", [])]
    if others:
        yield f"Published on other splits: {listed(others)}; see [details](details.md#published-elsewhere)."
    yield from notes[1:2]
