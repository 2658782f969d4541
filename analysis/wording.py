"""The tables and sentences of the report's sections, derived from the numbers of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis import findings
from analysis.findings import CITABLE_FROM, DECIDED_FROM, REFERENCE, Numbers, Rate, Robustness, Sweep
from analysis.plots import p_value, rate_text, signed
from analysis.statistics import ALPHA, luck_of_the_split
from analysis.tables import GROUPS, Tables, group_rates, size_name
from analysis.words import (
    NONE,
    Table,
    bracket,
    cell,
    compact,
    counted,
    gain_words,
    joined,
    joined_words,
    percent,
    seconds,
    sentence,
    share,
    size_number,
)

ROLE_NAMES = {
    "pilot": "pilot runs",
    "final": "final runs",
    "sweep": "runs of the sweep",
    "ablation": "runs of ablations",
}


def setting(numbers: Numbers) -> str:
    """What was compared, in one sentence."""
    provenance = numbers.tables.provenance
    study, dataset = provenance["parameters"]["study"], provenance["dataset"]
    count = len(numbers.names)
    return (
        f"{f'{count} strategies' if count > 1 else 'One strategy'} of transferring "
        f"`{provenance['backbone']['name']}` to `{dataset['name']}` ({len(dataset['classes'])} classes, "
        f"{dataset['test_images']:,} test images) at {study.get('resolution', '?')} pixels, "
        f"{study['epochs']} epochs each where something is trained.{_still_to_run(numbers.tables)}"
    )


def _still_to_run(tables: Tables) -> str:
    """How many declared runs of each role are missing, in one sentence; nothing where the study is complete."""
    missing, declared = (frame["role"].value_counts() for frame in (tables.missing_cells, tables.declared))
    counts = [
        f"{missing[role]:,} of {declared[role]:,} {name}" for role, name in ROLE_NAMES.items() if role in missing.index
    ]
    if tables.missing_range_tests:
        counts.append(counted(tables.missing_range_tests, "range test"))
    return f" **Not complete:** still to run are {joined_words(counts)}; *Limits* names them." if counts else ""


def published(numbers: Numbers) -> list[str]:
    """What others have published on these images; nothing where the study names nobody."""
    provenance = numbers.tables.provenance
    entries = provenance["dataset"].get("published", [])
    if not entries:
        return []
    others = "; ".join(f"{entry['accuracy']:g}%: {entry['what']} ({entry['source']})" for entry in entries)
    images = provenance["dataset"]["test_images"]
    luck = max(100 * luck_of_the_split(entry["accuracy"] / 100, images) for entry in entries)
    return [
        f"**Published elsewhere on {provenance['dataset']['name']}:** {others}.",
        f"Not the same work: this study has a split of its own, weights of {provenance['backbone']['weights']}, "
        f"{provenance['parameters']['study'].get('resolution', '?')} pixels, and the classes that its limits name. "
        f"Luck of the test split: one and the same method, scored on two splits of {images:,} test images each, would "
        f"differ by as much as {luck:.1f} points (95%, binomial), so a smaller distance from a published number says "
        "nothing.",
    ]


def strategies_rows(numbers: Numbers, per_class: int) -> Table:
    """The table of strategies of one size; the accuracy that decides first, the other beside it."""
    rows = []
    sized = numbers.strategies[numbers.strategies["per_class"] == per_class]
    for row in sized.to_dict("records"):
        cells = [f"`{row['strategy']}`"]
        interval = bracket(row["judged_low"], row["judged_high"], "without")
        cells += [f"{percent(row['judged'])} {interval}".strip(), percent(row[numbers.other_column])]
        cells += [percent(row["train_accuracy"]), signed(row["gap"]) if np.isfinite(row["gap"]) else NONE]
        cells += [f"{row['log_loss']:.2f}", percent(row["ece"])]
        cells.append(seconds(row["seconds"]))
        trained = share(row["trainable_parameters"], row["total_parameters"])
        learning, everything = compact(row["trainable_parameters"]), compact(row["total_parameters"])
        cells.append(f"{learning} / {everything} ({trained})")
        cells.append(f"{row['diverged']} of {row['k']}")
        rows.append(tuple(cells))
    header = ["Strategy", f"{numbers.metric.capitalize()}, % [95%]", f"{numbers.other.capitalize()}, %"]
    header += ["Train accuracy, %", "Gap, points", "Log loss", "Calibration error, points", "Median time a run"]
    header += ["Trainable / all parameters", "Diverged runs"]
    return Table(tuple(header), tuple(rows), frozenset(range(1, 10)))


def pairs_rows(pairs: pd.DataFrame) -> Table:
    """Every pair of one size, B minus A."""
    rows = []
    for row in pairs.to_dict("records"):
        names = (f"`{row['b']}`", f"`{row['a']}`", str(row["k"]))
        if not np.isfinite(row["difference"]):
            rows.append((*names, f"{findings.no_test(row)}: no test", NONE, NONE, NONE, NONE))
            continue
        rows.append(
            (
                *names,
                f"{signed(row['difference'])} {bracket(row['low'], row['high'])}",
                bracket(row["low_new_images"], row["high_new_images"]),
                p_value(row["p_holm"]) if row["family"] != "none" else f"{p_value(row['p'])}, not adjusted",
                f"{row['wins']} of {row['k']}",
                percent(row["smallest_detectable"]),
            )
        )
    header = ("B", "A", "Seeds", "B − A, points [95%]", "[95%], new images too", "Adjusted p", "B won")
    return Table((*header, "Smallest detectable"), tuple(rows), frozenset({2, 3, 4, 5, 6, 7}))


def robustness_rows(numbers: Numbers, per_class: int) -> Table:
    """Each strategy against the reference, measured otherwise, and whether that changes anything."""
    words = {1: "better", -1: "worse", 0: "open"}
    rows, classes = [], len(numbers.tables.predictions.classes)
    for row in numbers.robust:
        if row.per_class != per_class:
            continue
        signs = row.signs
        reading = f"{words[signs[0]]} every way"
        if len(set(signs)) > 1:
            named = zip(signs, ("these images", "new images", numbers.other), strict=True)
            reading = "it depends: " + ", ".join(f"{words[sign]} for {what}" for sign, what in named)
        low, high = row.wins_interval
        rows.append(
            (
                f"`{row.strategy}`",
                f"{signed(row.judged[0])} {bracket(row.judged[1], row.judged[2])}",
                bracket(*row.new_images),
                f"{signed(row.other[0])} {bracket(row.other[1], row.other[2])}" if np.isfinite(row.other[0]) else NONE,
                f"{row.wins} of {row.k} [{100 * low:.0f}%, {100 * high:.0f}%]",
                _class_words(row, classes),
                reading,
            )
        )
    header = ["Strategy", f"{numbers.metric.capitalize()}, points [95%]", "[95%], new images too"]
    header += [f"{numbers.other.capitalize()}, points [95%]", "Seeds won [95%]", "Classes", "Reading"]
    return Table(tuple(header), tuple(rows), frozenset({1, 2, 3, 4}))


def _class_words(row: Robustness, classes: int) -> str:
    def listed(names: tuple[str, ...], word: str) -> str:
        if not names:
            return ""
        return f"{word}: {', '.join(cell(name) for name in names)}" if len(names) <= 3 else f"{len(names)} {word}"

    parts = [listed(row.classes_better, "better"), listed(row.classes_worse, "worse")]
    open_ = classes - len(row.classes_better) - len(row.classes_worse)
    if open_:
        parts.append(f"{open_} open")
    return "; ".join(part for part in parts if part)


def learning_label(rates: Mapping[str, float]) -> str:
    """Which groups learn in a phase: `head`, `stage4 + head`, `all`."""
    learning = list(group_rates(rates))
    if len(learning) == len(GROUPS):
        return "all"
    first = GROUPS.index(learning[0])
    if len(learning) > 2 and tuple(learning) == GROUPS[first:]:
        return f"{learning[0]} to head"
    return " + ".join(learning)


def phase_labels(numbers: Numbers, strategy: str, phases: int) -> list[str]:
    """What learns in each phase of a strategy, by number where provenance does not say."""
    block = numbers.tables.provenance["parameters"]["strategies"].get(strategy, {})
    written = [learning_label(phase["lr"]) for phase in block.get("phases", [])]
    return written if len(written) == phases else [f"phase {i}" for i in range(1, phases + 1)]


def phase_rows(numbers: Numbers, gains: pd.DataFrame) -> Table:
    """Validation accuracy at the end of each phase, and whether the phase earned its place."""
    rows = []
    for strategy, mine in gains.groupby("strategy", sort=False):
        labels = phase_labels(numbers, str(strategy), len(mine))
        block = numbers.tables.provenance["parameters"]["strategies"].get(strategy, {})
        epochs = block.get("epochs_of_phases", [None] * len(mine))
        for row, label, length in zip(mine.to_dict("records"), labels, epochs, strict=True):
            reached = f"{percent(row['mean'])} {bracket(row['low'], row['high'], 'without')}".strip()
            gain = NONE
            if np.isfinite(row["gain"]):
                gain = f"{signed(row['gain'])} {bracket(row['gain_low'], row['gain_high'])}".strip()
            wins = f"{row['wins']:.0f} of {row['k']}" if np.isfinite(row["wins"]) else NONE
            name = f"`{strategy}`" if row["phase"] == 1 else ""
            head = (name, f"{row['phase']}: {label}", NONE if length is None else str(length))
            p = p_value(row["p_holm"]) if np.isfinite(row["p_holm"]) else NONE
            verdict = _EARNED[phase_verdict(row)]
            rows.append((*head, percent(row["train"]), reached, gain, p, wins, verdict))
    header = ("Strategy", "Phase: learning", "Epochs", "Train accuracy, %", "Validation accuracy, % [95%]")
    judged = ("Gain, points [95%]", "Adjusted p", "Seeds that gained", "Earned its place?")
    return Table((*header, *judged), tuple(rows), frozenset({2, 3, 4, 5, 6, 7}))


PhaseVerdict = Literal["first", "open", "earned", "cost", "not shown"]
_EARNED: Mapping[PhaseVerdict, str] = {
    "first": NONE,
    "open": f"open: fewer than {DECIDED_FROM} seeds",
    "earned": "yes",
    "cost": "no: it cost accuracy",
    "not shown": "not shown",
}


def phase_verdict(row: Mapping[Any, Any]) -> PhaseVerdict:
    """Whether a phase, a row of `findings.phase_gains`, earned its place: shown by the adjusted p, or not."""
    if row["phase"] == 1:
        return "first"
    if row["k"] < DECIDED_FROM:
        return "open"
    if not row["p_holm"] < ALPHA:
        return "not shown"
    return "earned" if row["gain"] > 0 else "cost"


def ablation_rows(numbers: Numbers) -> Table:
    """Each ablation against the strategy it changes."""
    rows = []
    for row in numbers.ablations.to_dict("records"):
        twin = numbers.twins.get((row["per_class"], row["ablation"]))
        also = f" (the same as `{twin}`)" if twin else ""
        against = f"`{row['of']}`" if row["of"] else NONE
        gain = gain_words(row) if row["k"] else "no run of it at the same size, seed and rates"
        cells = [f"`{row['ablation']}`{also}", against, size_number(row["per_class"]), str(row["k"])]
        cells += [percent(row["judged"]), gain, p_value(row["p"]) if np.isfinite(row["p"]) else NONE]
        if numbers.uneven:
            other = f"{signed(row['other'])} {bracket(row['other_low'], row['other_high'])}"
            cells.append(other if np.isfinite(row["other"]) else NONE)
        rows.append((*cells, f"{row['log_loss']:.2f}", str(row["diverged"])))
    header = ["Ablation", "of", "Images a class", "Seeds", f"{numbers.metric.capitalize()}, %"]
    header += ["Ablation − strategy [95%]", "p, not adjusted"]
    if numbers.uneven:
        header.append(f"{numbers.other.capitalize()}, ablation − strategy [95%]")
    header += ["Log loss", "Diverged"]
    return Table(tuple(header), tuple(rows), frozenset(range(2, len(header))))


def rate_of(numbers: Numbers, strategy: str, scale: float) -> tuple[str, float]:
    """The rate a scale stands for, as text and as a number: the base rate where all groups share one."""
    block = numbers.tables.provenance["parameters"]["strategies"].get(strategy, {})
    rates = {rate for phase in block.get("phases", []) for rate in phase["lr"].values()}
    if len(rates) == 1:
        rate = float(next(iter(rates))) * scale
        return rate_text(rate), rate
    return f"×{scale:g}", scale


def sweep_words(numbers: Numbers, sweep: Sweep) -> list[str]:
    """What happened at each rate, highest first, from drift, accuracy and loss."""
    sized = numbers.strategies[numbers.strategies["per_class"] == sweep.per_class]
    scratch = sized.loc[sized["strategy"] == "scratch", "judged"]
    beside = f"; `scratch` gets {percent(float(scratch.iloc[0]))}%" if len(scratch) else ""
    said = [
        _rate_words(numbers, rate_of(numbers, sweep.strategy, rate.lr_scale)[0], rate, sweep, beside)
        for rate in sweep.rates
    ]
    return said + _best_rate_words(numbers, sweep)


def _best_rate_words(numbers: Numbers, sweep: Sweep) -> list[str]:
    """How the best rate compares with the strategy it changes and with the best one of its size."""
    best = sweep.best
    sized = numbers.strategies[numbers.strategies["per_class"] == sweep.per_class]
    if best is None or sized.empty:
        return []
    top = str(sized.sort_values("judged")["strategy"].iloc[-1])
    changed = numbers.tables.provenance["parameters"]["strategies"].get(sweep.strategy, {}).get("of")
    measured = {
        name: found
        for name in dict.fromkeys((changed, top))
        if name and (found := findings.best_rate_gain(numbers.tables, sweep, name))
    }
    if not measured:
        return []
    k = min(found["k"] for found in measured.values())
    parts = [f"{gain_words(found)} of {numbers.metric} against `{name}`" for name, found in measured.items()]
    label = rate_of(numbers, sweep.strategy, best.lr_scale)[0]
    return [
        f"Beside the strategies of this size, at the rates they have here: {label} gets {'; '.join(parts)} "
        f"({counted(k, 'seed')}). It was chosen among {len(sweep.rates)} rates {_chosen_with(sweep)}."
    ]


def chosen_by(numbers: Numbers, sweep: Sweep) -> str:
    """The accuracy by which the best rate of a sweep was chosen, in words."""
    return numbers.metric if sweep.chosen_on == "test" else "validation accuracy"


def _chosen_with(sweep: Sweep) -> str:
    if sweep.chosen_on == "validation":
        return "with the help of the watched images, so this is a description and no verdict"
    return (
        "by the very test images on which it is set beside the strategies here, since no image was left for "
        "validation: the luck of that choice flatters it, and this is no verdict"
    )


def _rate_words(numbers: Numbers, label: str, rate: Rate, sweep: Sweep, beside: str) -> str:
    measured = f"{percent(rate.test)}% {numbers.metric}"
    seeds = {1: "in its one seed", 2: "in both seeds"}.get(rate.k, f"in all {rate.k} seeds")
    moved = (
        f"the backbone moved {rate.drift_ratio:.2g} times as far as at the best rate"
        if np.isfinite(rate.drift_ratio)
        else "how far the backbone moved is not known"
    )
    fell = f"{percent(rate.drop)} points of {chosen_by(numbers, sweep)} below the best rate, lower {seeds}"
    train = f"training accuracy {percent(rate.train)}%"
    if sweep.best is not None and np.isfinite(rate.loss):
        train += f" and loss {rate.loss:.2g} at the end, {sweep.best.loss:.2g} at the best rate"
    if rate.what == "best":
        edge = "; it is the edge of what was tried, so a better one may lie outside" if sweep.edge else ""
        if sweep.chosen_on == "test":
            return f"**{label}: the best**, by the test images themselves ({measured}{edge})."
        return f"**{label}: the best**, with {percent(rate.val)}% validation accuracy ({measured}{edge})."
    if rate.what == "diverged":
        return f"**{label}: diverged** in {rate.diverged} of {counted(rate.k, 'run')} ({measured} on average)."
    if rate.what == "moved too far":
        return (
            f"**{label}: moved too far.** {fell}, and {moved}, as it would look if pretrained features were forgotten "
            f"({measured}, {train}{beside})."
        )
    if rate.what == "moved too little":
        return f"**{label}: moved too little.** {fell}, {moved}, and training is behind ({measured}, {train})."
    if rate.what == "worse":
        return (
            f"**{label}: worse**, {fell}, but drift and training accuracy do not fit having moved too far or too "
            f"little: {moved} ({measured}, {train})."
        )
    if not sweep.best:
        return f"**{label}**: {measured}."
    return (
        f"**{label}: no clear difference** from the best rate ({signed(-rate.drop)} points of "
        f"{chosen_by(numbers, sweep)}; {moved}; {measured})."
    )


def sweep_rows(numbers: Numbers, sweep: Sweep) -> Table:
    """The rates of a sweep with accuracies and drift."""
    rows = []
    for rate in sweep.rates:
        label, _ = rate_of(numbers, sweep.strategy, rate.lr_scale)
        rows.append(
            (
                f"{label} (×{rate.lr_scale:g})" if not label.startswith("×") else label,
                str(rate.k),
                percent(rate.val),
                percent(rate.test),
                percent(rate.train),
                f"{rate.drift:.2g}" if np.isfinite(rate.drift) else NONE,
                str(rate.diverged),
                rate.what,
            )
        )
    header = ("Rate", "Seeds", "Validation accuracy, %", f"{numbers.metric.capitalize()}, %", "Train accuracy, %")
    return Table((*header, "Backbone moved", "Diverged", "What happened"), tuple(rows), frozenset({1, 2, 3, 4, 5, 6}))


def _draws(numbers: Numbers) -> str:
    """How far seeds are independent draws of the training images."""
    dataset = numbers.tables.provenance["dataset"]
    if not numbers.draws:
        return (
            f"**One set of training images.** Every seed trains on the same {dataset['pool_images']:,} images; seeds "
            "differ in the random weights they start from (the head's, or all), the order of the images and their "
            "augmentation. Intervals speak of that alone: "
            "other training images would add to them."
        )
    words = joined_words([f"{numbers.tables.overlap(size):.0%} ({size_name(size)})" for size in numbers.sizes])
    small = [size_name(size) for size in numbers.sizes if numbers.tables.too_small(size)]
    untested = f" With {joined_words(small)} nothing is tested: this pool is too small for this size." if small else ""
    return (
        f"**Draws overlap.** All seeds draw from the same {dataset['pool_images']:,} images; two draws share "
        f"{words} of their images, and every interval and p carries what that adds at most.{untested}"
    )


def limits(numbers: Numbers) -> list[str]:
    """What this study cannot say, in words."""
    tables, provenance = numbers.tables, numbers.tables.provenance
    study, dataset = provenance["parameters"]["study"], provenance["dataset"]
    k = min(top.k for top in numbers.tops)
    said = []
    if k < DECIDED_FROM:
        said.append(f"**Seeds.** {counted(k, 'seed')}: below {DECIDED_FROM} every comparison is open.")
    elif k < CITABLE_FROM:
        said.append(
            f"**Seeds.** {counted(k, 'seed')}: exploratory. Only large effects could have been found; what looks open "
            f"may be real. The protocol asks for {CITABLE_FROM} before a result is cited."
        )
    else:
        said.append(f"**Seeds.** {counted(k, 'seed')}: smaller effects than the table of pairs lists may be missed.")
    said.append(
        f"**One of each.** One data set (`{dataset['name']}`), one backbone (`{provenance['backbone']['name']}`), one "
        f"resolution ({study.get('resolution', '?')} pixels), one budget ({study['epochs']} epochs). Another of any of "
        "these can change the order."
    )
    if not numbers.tables.tuned:
        said.append(
            f"**Rates are {numbers.untuned_rates}, not tuned.** A strategy that looks worse may only have a worse "
            "rate; `learning_rates: tuned` gives every strategy the same search."
        )
    else:
        sizes = [(size, numbers.tuned_on(size)) for size in numbers.sizes]
        judged = joined_words([f"{images} images with {size_name(size)}" for size, images in sizes if images])
        where = f" in study {study['rates_from']}" if study.get("rates_from") else ""
        on = f" Each rate was judged on {judged} (over all pilots, repeats counted)." if judged else ""
        said.append(
            f"**Rates are tuned** on pilot seeds{where}, never on test images, the same search for all.{on} One choice "
            "serves all seeds, so no interval contains the luck of tuning."
        )
    said.append(_draws(numbers))
    dirty = sorted({str(e["commit"]) for e in provenance["environments"] if str(e["commit"]).endswith("-dirty")})
    if dirty:
        said.append(
            "**Uncommitted code.** Runs were made with changes that are in no commit, so they may not be repeatable: "
            f"{', '.join(f'`{commit}`' for commit in dirty)}."
        )
    watched = dataset.get("watched_images", 0)
    if numbers.validated:
        said.append(
            f"**Validation is watched, not used.** The validation curves come from {watched:,} images outside every "
            "draw. They chose no rate and stopped no run; which rate of a sweep is called best, and whether a phase "
            "earned its place, is read from them. The test images judged a run once, at its end."
        )
    else:
        said.append("**No validation images were left** outside the draws, so there are no validation curves.")
    said.append(
        f"**These test images.** Intervals marked 95% speak of other {numbers.over}, with the same "
        f"{dataset['test_images']:,} test images; those for new images add the luck of the test images. Neither "
        "speaks of images of another kind."
    )
    if numbers.uneven:
        trained = "Training draws are balanced, the test images are not"
        if not numbers.draws:
            trained = "All images are trained on, as many of a class as there are, and the test images are uneven"
        said.append(
            f"**Uneven classes.** {trained}: always answering the largest class gets {percent(numbers.baseline)}% "
            f"{numbers.metric}, which decides here; the table of sensitivity repeats the pairs on {numbers.other}."
        )
    untested = numbers.pairs[numbers.pairs["difference"].isna() & ~numbers.pairs["per_class"].map(tables.too_small)]
    if len(untested):
        pairs = ", ".join(f"`{row['a']}` and `{row['b']}`" for row in untested.to_dict("records"))
        said.append(
            f"**Pairs without a test** (fewer than two shared seeds, or differences that are all identical, as "
            f"between strategies that diverged in every run): {pairs}."
        )
    if numbers.strategies["diverged"].any():
        said.append(
            "**Diverged runs stay in.** A diverged run predicts the first class for every image and enters every mean "
            "and pair with that accuracy."
        )
    environments = [e for e in provenance["environments"] if e.get("timed", True)]  # of final runs, where that is known
    devices = sorted({str(environment.get("device", "?")) for environment in environments})
    threads = sorted({counted(int(environment["threads"]), "thread") for environment in environments})
    one = "one machine" if len(devices) == 1 else f"{len(devices)} machines, so compare them with care"
    said.append(
        f"**Times are rough.** Those of final runs were measured once on {one} ({', '.join(devices)}, "
        f"{' or '.join(threads)}), where other work may have run beside; they serve to tell seconds "
        "from minutes, not to predict another machine."
        f"{_timed_words(environments)} Cells that train a head alone share features and train together, and "
        "each is given its share of the time."
    )
    said += [f"**Also to know.** {note.rstrip('.')}." for note in provenance.get("notes", [])]
    about = [sentence(str(note).rstrip(".")) for note in dataset.get("notes", [])]
    if about:
        said.append(f"**About the data.** {'. '.join(about)}.")
    said.extend(_missing_words(tables))
    return said


def _timed_words(environments: Sequence[Mapping[str, Any]]) -> str:
    """Which strategies were timed on which machine, where there are several."""
    timed: dict[str, list[str]] = {}
    for environment in environments:
        timed.setdefault(str(environment.get("device", "?")), []).extend(environment.get("timed", []))
    known = {device: list(dict.fromkeys(names)) for device, names in timed.items() if names}
    if len(known) < 2:
        return ""
    return " " + " ".join(f"On {device}: {joined(names)}." for device, names in known.items())


def _missing_words(tables: Tables) -> list[str]:
    """What the study declares and has not run, role by role, with the command that completes it."""
    missing = tables.missing_cells
    said = []
    for role, name in ROLE_NAMES.items():
        lacking = missing[missing["role"] == role]
        if lacking.empty:
            continue
        of = tables.declared.loc[tables.declared["role"] == role, "strategy"].value_counts().to_dict()
        shares = [
            f"`{strategy}` ({f'all {count}' if count == of[strategy] else f'{count} of {of[strategy]}'})"
            for strategy, count in lacking["strategy"].value_counts(sort=False).items()
        ]
        said.append(f"{name}: {joined_words(shares)}")
    absent = tables.missing_range_tests
    if absent:
        said.append(counted(absent, "range test") + " of the LR finder")
    if not said:
        return []
    return [
        f"**Not complete.** Declared and not run yet: {'; '.join(said)}. With `active: [{tables.study}]` in "
        "`params.yaml`, `dvc repro` runs what is missing and nothing else; [declared.csv](declared.csv) names every "
        "run."
    ]


def sweep_thresholds(numbers: Numbers) -> str:
    """By which numbers the words of a sweep are chosen."""
    return (
        "How the words are chosen: the best rate has the highest mean validation accuracy "
        f"({numbers.metric} where there is no validation) "
        "among the rates at which no run diverged. Another rate is clearly below it if it is at "
        f"least {findings.CLEAR_DROP:g} point lower on average and lower in every seed. Then a higher rate *moved too "
        f"far* if the backbone moved at least {findings.MOVED_MORE:g} times as far as at the best rate, and a lower "
        f"rate *moved too little* if it moved at most {findings.MOVED_LESS:g} times as far and training accuracy is at "
        f"least {findings.TRAIN_DROP:g} point lower. These are descriptions of few seeds, not tests: they say what "
        "went with the loss of accuracy, not that nothing else caused it."
    )


def robustness_words(numbers: Numbers) -> str:
    """Whether the verdicts against the reference hold when they are measured otherwise."""
    if not numbers.robust:
        return (
            f"Nothing can be compared with `{REFERENCE}` here, so there is no verdict whose sensitivity could be shown."
        )
    changed = [row for row in numbers.robust if len(set(row.signs)) > 1]
    size = {row: f" at {size_name(row.per_class)}" if len(numbers.sizes) > 1 else "" for row in changed}
    opening = (
        f"Would the difference from `{REFERENCE}` be read the same way with new test images and with {numbers.other}? "
    )
    reading = (
        f"{_both_ways(numbers)}*Better* and *worse*: the 95% interval of that one difference lies on one side of zero, "
        "without correction for the number of comparisons, so this is a check on the figures above and no "
        "verdict of its own. Classes: the same for the difference in recall of each class."
        + ("" if numbers.uneven else " Where all classes have equally many test images, balanced accuracy is accuracy.")
    )
    if not changed:
        return f"{opening}Yes for {'all' if len(numbers.robust) > 1 else 'the one'} of them. {reading}"
    names = ", ".join(f"`{row.strategy}`{size[row]}" for row in changed)
    return f"{opening}Not for {names}; yes for the other {len(numbers.robust) - len(changed)}. {reading}"


def _both_ways(numbers: Numbers) -> str:
    """Which strategies gain on some classes and lose on others, in one sentence."""
    mixed = [row for row in numbers.robust if row.classes_better and row.classes_worse]
    if not mixed:
        return ""
    said = [
        f"`{row.strategy}`{f' at {size_name(row.per_class)}' if len(numbers.sizes) > 1 else ''} is better on "
        f"{joined_words([cell(name) for name in row.classes_better])} and worse on "
        f"{joined_words([cell(name) for name in row.classes_worse])}"
        for row in mixed
    ]
    return f"Class by class it goes both ways: {'; '.join(said)}. "
