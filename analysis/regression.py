"""Two commits on the same cells and seeds: by strategy and size equivalent, better, worse or not enough runs.

The margin of a size is half the SD over seeds that the base's own accuracies have (the median over its strategies, so
that a restless one does not widen it for all), and at least one test image: a change below it is lost in what drawing
other images does to any run. Differences are of one seed on the same draws, so no factor for overlap is due.

The interval decides, and no p-value, so nothing is corrected over the strategies: the margin does more. Simulated with
9 strategies, 5 seeds, an SD over seeds of 1.7 points and an image worth 0.24 (both measured in `quick`), for an SD of
the differences of 0.5, 1 and 1.5 points (it is 0 where runs are bit-equal), 4,000 repeats and more:
nothing has changed: anything is worse in 0.0, 0.4 and 1.7% (so 98% pass or more), the mean equivalent in 100, 90, 55%;
every strategy has lost 2 points: the mean over strategies is worse in 100, 100 and 97%;
one of them has: it is worse in 97, 54 and 29%, with 10 seeds in 100, 90 and 60%.
(Holm over the strategies would find that one in 57, 13 and 5%.)
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis import markdown
from analysis.checks import SAME_EVERYWHERE, TESTED_ROLES
from analysis.markdown import Section, Table
from analysis.power import POWER, seeds_needed
from analysis.statistics import CONFIDENCE, Floats, mean_interval
from analysis.tables import COLUMNS, METRICS, Tables, TablesError, load

Verdict = Literal["equivalent", "better", "worse", "not enough runs"]
FRACTION = 0.5  # of the SD over seeds
ROUNDING_SD = 1 / math.sqrt(6)  # of a difference of two whole numbers of images, from rounding alone
SLOWER = 1.3  # times the median seconds, as BENCH_LIMIT has it
CELLS = ["role", "per_class", "strategy", "lr_scale"]
NUMBERS = ["judged", "log_loss", "ece", "seconds"]
EVERY = "all strategies"  # the row of a size that is the mean over its strategies, seed by seed


class Decision(NamedTuple):
    """What differences by seed say, in points, head minus base."""

    difference: float
    low: float  # 95% t interval; NaN for one seed
    high: float
    verdict: Verdict
    sd: float = math.nan  # of the differences, at least what rounding makes; NaN for one seed


class Change(NamedTuple):
    """What became of one strategy."""

    role: str
    per_class: int
    strategy: str
    lr_scale: float  # NaN for the mean over strategies
    k: int  # seeds that both have
    margin: float  # points
    found: Decision
    same: bool  # every number of every run is
    ratio: float  # head's median seconds by base's
    slower: bool

    @property
    def name(self) -> str:
        """As the page has it: what is no final run at its usual rate says so."""
        scale = f" x{self.lr_scale:g}" if self.role == "sweep" and self.strategy != EVERY else ""
        return self.strategy + scale + (f" ({self.role})" if self.role != "final" else "")

    @property
    def place(self) -> str:
        return f"`{self.name}` at {markdown.size_text(self.per_class)}"


def changes(base: pd.DataFrame, head: pd.DataFrame, image: float) -> list[Change]:
    """The verdicts on all cells that both have; a role and size's mean over its strategies first.

    base, head: one row a run with CELLS, seed and NUMBERS, accuracies in points. image: what one test image is worth,
    in points.
    """
    found = []
    paired = base.merge(head, on=[*CELLS, "seed"], suffixes=("_base", "_head"), validate="one_to_one")
    for (role, per_class), sized in paired.groupby(["role", "per_class"]):
        cells = {(str(name), float(str(scale))): of for (name, scale), of in sized.groupby(["strategy", "lr_scale"])}
        spreads = [float(of["judged_base"].std()) for of in cells.values() if len(of) > 1]
        margin = max(image, FRACTION * float(np.median(spreads))) if spreads else image
        whole = sized[sized.groupby("seed")["seed"].transform("size") == len(cells)]
        if len(cells) > 1 and len(whole):
            cells = {(EVERY, math.nan): whole.groupby("seed").mean(numeric_only=True), **cells}
        for (name, scale), of in cells.items():
            decision = judge((of["judged_head"] - of["judged_base"]).to_numpy(dtype=np.float64), margin, image)
            same = all((of[f"{number}_head"] == of[f"{number}_base"]).all() for number in NUMBERS[:-1])
            speed = slowdown(of["seconds_base"].to_numpy(), of["seconds_head"].to_numpy())
            found.append(Change(str(role), int(str(per_class)), name, scale, len(of), margin, decision, same, *speed))
    return found


def judge(d: Floats, margin: float, image: float) -> Decision:
    """Decide on differences by seed ([K], points): by where their interval lies.

    A spread below what rounding to whole images makes is taken to be that one, so that identical differences are no
    certainty; but differences that are all zero are equivalent, of one seed too.
    """
    k, mean = len(d), float(d.mean())
    if not d.any():
        return Decision(0, 0, 0, "equivalent")
    if k < 2:
        return Decision(mean, math.nan, math.nan, "not enough runs")
    sd = max(float(d.std(ddof=1)), ROUNDING_SD * image)
    half = float(stats.t.isf((1 - CONFIDENCE) / 2, k - 1)) * sd / math.sqrt(k)
    verdict: Verdict = "not enough runs"
    if abs(mean) - half > margin:
        verdict = "better" if mean > 0 else "worse"
    elif abs(mean) + half < margin:
        verdict = "equivalent"
    return Decision(mean, mean - half, mean + half, verdict, sd)


def more_seeds(change: Change) -> float:
    """How many seeds more would decide it 80% of the time, were the mean and SD seen the true ones.

    NaN where one seed has no SD; infinite beyond 10,000.
    """
    found = change.found
    if math.isnan(found.sd):
        return math.nan
    # Inside, an interval has two ends to clear, so it may miss each half as often.
    power = (1 + POWER) / 2 if abs(found.difference) < change.margin else POWER
    needed = seeds_needed(change.margin - abs(found.difference), found.sd, wanted=power)
    return math.inf if needed is None else max(needed - change.k, 1)


def slowdown(base: Floats, head: Floats) -> tuple[float, bool]:
    """Head's median seconds by base's, and whether that is slower: above SLOWER, and no work of chance.

    base, head: [K] seconds, the same seeds. Chance is the t interval of the log ratios reaching to 1; ratios that are
    all the same leave it nothing.
    """
    ratio = float(np.median(head) / np.median(base))
    return ratio, len(base) > 1 and ratio > SLOWER and not mean_interval(np.log(head / base)).low <= 0


def benchmarks(base: dict[str, Any], head: dict[str, Any]) -> dict[str, float]:
    """Head's median by base's of every benchmark that two files of pytest-benchmark share; none of two machines."""
    cpus = [file["machine_info"]["cpu"].get("brand_raw", file["machine_info"]["processor"]) for file in (base, head)]
    if cpus[0] != cpus[1]:
        return {}
    old, new = ({entry["name"]: entry["stats"]["median"] for entry in file["benchmarks"]} for file in (base, head))
    return {name: new[name] / old[name] for name in new if name in old}


def compare(base: Tables, head: Tables) -> list[Change]:
    """The verdicts on two checked studies. Raises TablesError where their runs are not the same cells."""
    if base.study != head.study:
        raise TablesError(f"{base.study} and {head.study} are not the same study")
    if base.provenance["dataset"]["sha256"] != head.provenance["dataset"]["sha256"] or not np.array_equal(
        np.sort(base.predictions.ids), np.sort(head.predictions.ids)
    ):
        raise TablesError(f"{head.study}: the two commits have other images; only runs on the same ones are compared")
    counts = np.unique(head.predictions.labels, return_counts=True)[1]
    image = 1 / (len(counts) * counts.min()) if head.judge_by == "balanced_accuracy" else 1 / counts.sum()
    runs = [_runs(tables).assign(judged=lambda of: 100 * of[COLUMNS[head.judge_by]]) for tables in (base, head)]
    base_runs, head_runs = (of[[*CELLS, "seed", *NUMBERS]] for of in runs)
    found = changes(base_runs, head_runs, 100 * image)
    if not found:
        raise TablesError(f"{head.study}: no cell has a run at both commits; `dvc repro` trains them")
    return sorted(found, key=lambda change: (TESTED_ROLES.index(change.role), change.per_class))


def _runs(tables: Tables) -> pd.DataFrame:
    return pd.concat([tables.runs, *(of for of in (tables.sweep, tables.ablations) if len(of))])


def one_machine(base: Tables, head: Tables) -> bool:
    """Whether all runs were timed on machines of one kind with as many threads, so that their seconds compare."""
    kinds = {(e.get("device"), e.get("threads")) for tables in (base, head) for e in tables.provenance["environments"]}
    return len(kinds) == 1


def summary(base: Tables, head: Tables, names: Sequence[str], timed: Mapping[str, float]) -> tuple[str, bool]:
    """The page for a pull request, and whether anything is worse."""
    found, same_machine = compare(base, head), one_machine(base, head)
    slow = [c for c in found if c.slower and same_machine]
    lost = [c for c in found if c.found.verdict == "worse"]
    bad = [f"{c.place} ({markdown.signed(c.found.difference)} points)" for c in lost]
    bad += [f"{c.place} (seconds × {c.ratio:.2f})" for c in slow]
    bad += [f"`{name}` (seconds × {ratio:.2f})" for name, ratio in timed.items() if ratio > SLOWER]
    margins = {(c.role, c.per_class): f"±{c.margin:.2f} ({c.role}, {markdown.size_text(c.per_class)})" for c in found}
    rows = []
    for c in found:
        difference = markdown.with_interval(*c.found[:3], lambda points: markdown.signed(points, 2))
        verdict, seconds = _verdict(c), f"{c.ratio:.2f}{' slower' * (c in slow)}"
        rows.append((f"`{c.name}`", markdown.size_text(c.per_class), str(c.k), difference, verdict, seconds))
    parts: list[str | Table] = [
        f"**Worse: {markdown.listed(bad)}.**" if bad else "**Nothing is worse.**",
        f"{markdown.sentence(METRICS[head.judge_by])} in points and seconds as a ratio, {names[1]} against {names[0]} "
        "on the same draws. The margin is half the SD over seeds, at least an image: "
        f"{markdown.listed(list(margins.values()))}.",
        Table(("runs", "images", "seeds", "difference", "verdict", "seconds"), tuple(rows), frozenset({1, 2, 3, 5})),
    ]
    notes = "\n".join(f"- {note}" for note in _notes(base, head))
    parts += [notes] if notes else []
    if timed:
        lines = tuple((f"`{name}`", f"{ratio:.2f}") for name, ratio in timed.items())
        parts.append(Table(("benchmark", "seconds"), lines, frozenset({1})))
    return markdown.page(f"Regression: {markdown.shown(head.study)}", [Section("", tuple(parts))]), bool(bad)


def _verdict(change: Change) -> str:
    verdict = change.found.verdict
    if verdict == "equivalent" and change.same:
        return "equivalent (bit-equal)"
    if verdict != "not enough runs" or math.isnan(more := more_seeds(change)):
        return verdict
    return f"{verdict}: " + ("10,000 would not do" if math.isinf(more) else f"{more:,.0f} more would do")


def _notes(base: Tables, head: Tables) -> Iterator[str]:
    """What a reader of the verdicts should know beside them."""
    cells = [set(_runs(tables)[[*CELLS, "seed"]].itertuples(index=False, name=None)) for tables in (base, head)]
    for side, alone in (("base", cells[0] - cells[1]), ("head", cells[1] - cells[0])):
        for (role, name), count in sorted(Counter((cell[0], cell[2]) for cell in alone).items()):
            yield f"not compared, at the {side} alone: {markdown.counted(count, f'{role} run')} of `{name}`"
    lost = [(_runs(tables)["status"] == "diverged").sum() for tables in (base, head)]
    if lost[0] != lost[1]:
        yield f"diverged runs: {lost[0]} → {lost[1]}"
    for field in SAME_EVERYWHERE:
        both = (tables.provenance["environments"] for tables in (base, head))
        old, new = ({str(e.get(field, ""))[:12] for e in environments} - {""} for environments in both)
        if old != new:
            yield f"{field}: {', '.join(sorted(old))} → {', '.join(sorted(new))}"
    if not one_machine(base, head):
        yield "timed on several machines: seconds are not judged"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the page; 0 where nothing is worse, 1 where something is, 2 where nothing can be compared."""
    parser = argparse.ArgumentParser(prog="python -m analysis.regression", description=__doc__)
    parser.add_argument("base", type=Path, help="a study's folder of tables at the base")
    parser.add_argument("head", type=Path, help="the same study's at the head")
    parser.add_argument("--names", nargs=2, default=("base", "head"), help="of the commits, base first")
    parser.add_argument("--benchmarks", nargs=2, type=Path, help="two files of pytest-benchmark, base first")
    parser.add_argument("--output", type=Path, help="where the page is written")
    chosen = parser.parse_args(arguments)
    try:
        files = [json.loads(path.read_text(encoding="utf-8")) for path in chosen.benchmarks or ()]
        page, worse = summary(load(chosen.base), load(chosen.head), chosen.names, benchmarks(*files) if files else {})
    except TablesError as error:
        print(error, file=sys.stderr)
        return 2
    print(page)
    if chosen.output:
        chosen.output.write_text(page, encoding="utf-8", newline="\n")
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
