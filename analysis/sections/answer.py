"""Which strategy to use at each size, how good it is, and what would do as well."""

from __future__ import annotations

from analysis.comparison import REFERENCE, Comparison
from analysis.markdown import NONE, Section, Table, bracket, number, seconds, size_text, with_interval
from analysis.paired import no_test
from analysis.unbeaten import Unbeaten

SLOWER = 1.5  # times: a member of the set that takes longer than this is worth its own time in the table
UNDECIDED = {
    "pool too small": "nothing is tested: this pool is too small",
    "too few seeds": "too few seeds to tell",
}


def section(study: Comparison) -> Section:
    """The opening of the report: what was compared, and the answer as a table."""
    return Section("", (setting(study), *_out_of_date(study), table(study), _reading(study)))


def _out_of_date(study: Comparison) -> tuple[str, ...]:
    """What stands above all numbers of the first edition."""
    if not study.tables.first_edition:
        return ()
    return (
        "**Out of date**: this is the first edition, which updated BatchNorm in training. Today's strategies keep it"
        " frozen, which makes fine-tuning better and may change the order; the study is to be trained anew.",
    )


def setting(study: Comparison) -> str:
    """What was compared, on one line."""
    written, dataset = study.parameters["study"], study.dataset
    rates = written["learning_rates"]
    words = "rates tuned" if study.tables.tuned else f"rates {rates if isinstance(rates, str) else f'×{rates:g}'}"
    seeds = sorted({size.k for size in study.unbeaten})
    return (
        f"{dataset['name']}, {len(dataset['classes'])} classes, {dataset['test_images']:,} test images · "
        f"{study.tables.provenance['backbone']['name']} at {written['resolution']} px, {written['epochs']} epochs, "
        f"{' to '.join(f'{k}' for k in dict.fromkeys((seeds[0], seeds[-1])))} seeds, {words}"
    )


def table(study: Comparison) -> Table:
    """A row a size: use, accuracy, gain over the reference, time, and the rest of the set that nothing beats."""
    header = ("Images a class", "Use", "Accuracy, %", "Over feature extraction", "A run", "As good")
    return Table(header, tuple(_row(study, size) for size in study.unbeaten), frozenset({0, 2, 3, 4}))


def _row(study: Comparison, size: Unbeaten) -> tuple[str, ...]:
    first = size_text(size.per_class)
    if not size.advised:
        why = UNDECIDED.get(size.state, "every strategy that is not beaten failed in some run")
        return (first, "open", NONE, NONE, NONE, why)
    use, *others = size.advised
    row = study.of(size.per_class, use)
    accuracy = f"{number(row['judged'])} {bracket(row['judged_low'], row['judged_high'], number)}".rstrip()
    return (
        first,
        f"**{use}**",
        accuracy,
        _gain(study, size, use),
        seconds(row["seconds"]),
        _as_good(study, size, others),
    )


def _gain(study: Comparison, size: Unbeaten, use: str) -> str:
    if use == REFERENCE or not (row := study.gain(size.per_class, use, REFERENCE)):
        return NONE
    return (
        with_interval(row["difference"], row["low"], row["high"]) if row["k"] and row["p"] == row["p"] else no_test(row)
    )


def _as_good(study: Comparison, size: Unbeaten, others: list[str]) -> str:
    """The others of the set, with the time of the fastest where it is much shorter."""
    times = {name: study.of(size.per_class, name)["seconds"] for name in size.advised}
    fastest = min(times, key=times.__getitem__)
    worth = times[size.advised[0]] > SLOWER * times[fastest]
    return (
        ", ".join(f"{name} ({seconds(times[name])})" if name == fastest and worth else name for name in others)
        or "none"
    )


def _reading(study: Comparison) -> str:
    devices = {e.get("device", e["device_kind"]) for e in study.tables.provenance["environments"]}
    where = devices.pop() if len(devices) == 1 else f"{len(devices)} kinds of machine"
    return (
        f"{study.metric.capitalize()}, mean over seeds [95% interval over {study.over}]. A run: one training on {where}"
        ", tuning not counted. *As good*: too close to be told from the one to use, which is not proven equal."
    )
