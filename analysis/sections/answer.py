"""Which strategy to use at each size, how good it is, and what would do as well."""

from __future__ import annotations

from analysis.comparison import REFERENCE, Comparison
from analysis.markdown import NONE, Section, Table, number, seconds, size_text, with_interval
from analysis.paired import no_test
from analysis.unbeaten import Unbeaten

SLOWER = 1.5  # times: a member of the set that takes longer than this is worth its own time in the table
UNDECIDED = {
    "pool too small": "nothing is tested: this pool is too small",
    "too few seeds": "too few seeds to tell",
}


def section(study: Comparison) -> Section:
    """The opening of the report: what was compared, and the answer as a table."""
    environments = study.tables.provenance["environments"]
    part = {"cpu": "one core of "}  # every cell has one thread there
    devices = {part.get(e["device_kind"], "") + e.get("device", e["device_kind"]) for e in environments}
    where = devices.pop() if len(devices) == 1 else f"{len(devices)} kinds of machine"
    reading = (
        f"{study.metric.capitalize()}, mean over seeds [95% interval over {study.over}]. A run: one training on {where}"
        ", tuning not counted. *As good*: no 95% interval shows another to beat it either, which proves no equality. "
        f"`make model STUDY={study.study}` trains what is advised at the largest size, on all training images."
    )
    return Section("", (setting(study), table(study), reading))


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
    row, gain = study.of(size.per_class, use), study.gain(size.per_class, use, REFERENCE)
    accuracy = with_interval(row["judged"], row["judged_low"], row["judged_high"], number)
    over = NONE
    if use != REFERENCE and gain:
        tested = gain["k"] and gain["p"] == gain["p"]
        over = with_interval(gain["difference"], gain["low"], gain["high"]) if tested else no_test(gain)
    times = {name: study.of(size.per_class, name)["seconds"] for name in size.advised}
    fastest = min(times, key=times.__getitem__)
    if times[use] > SLOWER * times[fastest]:
        others = [f"{name} ({seconds(times[name])})" if name == fastest else name for name in others]
    return (first, f"**{use}**", accuracy, over, seconds(row["seconds"]), ", ".join(others) or "none")
