"""What can this study not say?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from analysis.comparison import Comparison
from analysis.markdown import Section, Table, code, counted, listed, number, sentence, shown
from analysis.power import CITABLE_FROM, DECIDED_FROM
from analysis.tables import METRICS, Tables, size_name

ROLES = {"pilot": "tuning", "final": "final", "sweep": "sweep", "ablation": "ablation"}
# On X-rays and solar cells, 20 updates left `scratch` at 50%; with statistics taken anew from its training images the
# same weights got 62% (three seeds) and 58% (two). After 80 updates, on leaves and land, that changed nothing.
FEW_UPDATES = 50
UNCOMMITTED = "-dirty"  # ends a commit that had changes beside it


def section(study: Comparison) -> Section:
    """A line for each limit that applies, and the runs that are missing."""
    foreign = [*study.tables.provenance["notes"], *study.dataset.get("notes", [])]
    notes = [f"{sentence(shown(note).rstrip('.'))}." for note in foreign]
    lines = "\n".join(f"- {line}" for line in [*applying(study), *notes])
    absent = missing(study.tables)
    if not absent.rows:
        return Section("Limits", (lines,))
    command = (
        f"**Not complete.** With `active: [{study.study}]` in `params.yaml`, `dvc repro` runs these and nothing else "
        "([declared.csv](declared.csv)):"
    )
    return Section("Limits", (lines, command, absent))


def applying(study: Comparison) -> Iterator[str]:
    """The limits that hold here, at most 25 words each."""
    yield from _seeds(study)
    yield (
        f"**One of each.** One data set, one backbone, {study.parameters['study']['resolution']} pixels, "
        f"{study.parameters['study']['epochs']} epochs: another of these can change the order."
    )
    yield from _rates(study)
    yield from _images(study)
    yield from _runs(study)


def _seeds(study: Comparison) -> Iterator[str]:
    k = min(size.k for size in study.unbeaten)
    if k < DECIDED_FROM:
        yield f"**{counted(k, 'seed')}.** Below {DECIDED_FROM}, every comparison is open."
    elif k < CITABLE_FROM:
        yield f"**{counted(k, 'seed')}.** Exploratory: what looks open may be real; cite from {CITABLE_FROM} seeds on."
    else:
        yield f"**{counted(k, 'seed')}.** Effects below the smallest detectable ones of the pairs may be missed."


def _rates(study: Comparison) -> Iterator[str]:
    if not study.tables.tuned:
        yield "**Rates are not tuned.** A strategy that looks worse may only have a worse rate."
        return
    judged = [images for size in study.sizes if (images := study.judged_on(size))]
    source = study.parameters["study"].get("rates_from")
    where = f" in study `{source}`" if source else ""
    on = f", on {number(min(judged), 0)} predictions or more a rate" if judged else ""
    yield f"**Rates are tuned** on pilot seeds{where}{on}. No interval contains the luck of that choice."


def _images(study: Comparison) -> Iterator[str]:
    dataset, tables = study.dataset, study.tables
    pool = number(dataset["pool_images"], 0)
    if study.draws:
        shares = listed([f"{tables.overlap(size):.0%} ({number(size, 0)} a class)" for size in study.sizes])
        yield f"**Draws overlap.** Two draws from {pool} images share up to {shares}; intervals reckon with it."
    else:
        yield f"**One set of images.** All seeds train on the same {pool}; other training images would widen intervals."
    for size in study.sizes:
        if tables.too_small(size):
            yield f"**Too few images** to draw from: with {size_name(size)} nothing is tested."
    yield f"**One test set.** Intervals speak of other {study.over}, and of new test images where they say so."
    for other in study.other_metrics:
        yield (
            f"**Uneven test classes.** Always answering the largest gets {number(study.baseline)}% {study.metric}; "
            f"{METRICS[other]} stands beside it."
        )
    watched = dataset["watched_images"]
    if watched:
        yield (
            f"**{number(watched, 0)} watched images** make the validation curves; they chose no rate of a final run "
            "and stopped none."
        )
    else:
        yield "**No validation.** No images were left outside the draws."


def _runs(study: Comparison) -> Iterator[str]:
    tables, environments = study.tables, study.tables.provenance["environments"]
    untested = study.pairs["difference"].isna() & ~study.pairs["per_class"].map(tables.too_small)
    if untested.any():
        yield (
            f"**{counted(int(untested.sum()), 'pair')} without a test**: fewer than two shared seeds, or the same "
            "difference in all."
        )
    idle = [
        f"`{name}` ({size_name(size.per_class)})"
        for size in study.unbeaten
        for name in study.ran(size.per_class)
        if study.of(size.per_class, name)["judged_low"] <= study.baseline
    ]
    if idle:
        yield (
            f"**Not shown to beat one answer for all**: {listed(idle)}; what others gain on it is as doubtful as its "
            "rate."
        )
    random = [
        name
        for name in study.names
        if study.recipe(name).get("weights") == "none" and study.recipe(name).get("batch_norm") == "train"
    ]
    few = [size_name(size) for size in study.sizes if study.parameters["updates"][str(size)] < FEW_UPDATES]
    if random and few:
        yield (
            f"**Few updates** with {listed(few)}: BatchNorm's running statistics lag behind weights that began at "
            f"random, so {code(random)} may be judged below its worth."
        )
    diverged = int(study.strategies["diverged"].sum())
    if diverged:
        yield f"**{counted(diverged, 'diverged run')}** stayed in every mean and pair, with one class for all images."
    timed = [environment for environment in environments if environment["timed"]]
    machines = len({environment["device"] for environment in timed})
    yield (
        f"**Times are rough**: measured once on {counted(machines, 'machine')}, perhaps beside other work; "
        "heads trained together share theirs."
    )
    dirty = sum(int(e["cells"]) for e in environments if str(e["commit"]).endswith(UNCOMMITTED))
    if dirty:
        yield f"**Uncommitted code.** {counted(dirty, 'run')} made with changes in no commit may not be repeatable."


def missing(tables: Tables) -> Table:
    """How many declared runs are missing, by role and strategy, and of how many."""
    cells = (tables.declared, tables.missing_cells)
    declared, absent = (Counter(zip(frame["role"], frame["strategy"], strict=True)) for frame in cells)
    rows = [
        (name, f"`{strategy}`", number(absent[role, strategy], 0), number(count, 0))
        for role, name in ROLES.items()
        for (of, strategy), count in declared.items()
        if of == role and absent[role, strategy]
    ]
    if tables.missing_range_tests:
        of = int(tables.provenance["parameters"]["range_tests"])
        rows.append(("range test", "all", number(tables.missing_range_tests, 0), number(of, 0)))
    return Table(("Runs", "Strategy", "Missing", "Of"), tuple(rows), frozenset({2, 3}))
