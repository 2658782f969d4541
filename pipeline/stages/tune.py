"""Stage `tune`: choose every strategy's rates on pilot seeds, never on test data."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from pipeline import heads
from pipeline.runs import RunStoreError
from pipeline.stages import cells, command, prepared
from pipeline.stages.cells import Workbench
from pipeline.strategies import Cell
from pipeline.tuning import GRID, Judged, Rates, climb, entry, inherited, judge

Content = dict[str, dict[str, dict[str, Any]]]


def tune(study: str) -> None:
    """Complete results/<study>/pilot and write results/<study>/rates.json."""
    bench = Workbench(study)
    place = command.RESULTS / study / "pilot"
    place.mkdir(parents=True, exist_ok=True)
    if bench.study.pilots:
        content = _climbed(bench)
    else:
        (place / ".gitkeep").touch()  # git and DVC both know files alone
        content = _given(bench)
    prepared.write_json(cells.rates_of(study), content)


def _rated(bench: Workbench) -> list[str]:
    """The strategies that have a rate."""
    return [name for name in bench.study.strategies if not bench.params.strategies[name].closed_form]


def _given(bench: Workbench) -> Content:
    """Rates that nothing has to be trained for: the textbook's, one scale for all, or another study's."""
    study, other = bench.study, bench.study.rates_from
    if other is None:
        scale = 1.0 if isinstance(study.learning_rates, str) else study.learning_rates
        return {str(size): {name: entry(scale, {}) for name in _rated(bench)} for size in study.per_class}
    source = cells.rates_of(other)
    try:
        rates = Rates(json.loads(source.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunStoreError(
            f"studies.{study.name}.rates_from: {source} is missing; run study '{other}' first (active: [{other}])"
        ) from None
    return inherited(rates, study.per_class, _rated(bench))


def _climbed(bench: Workbench) -> Content:
    """Train the pilots that the climb of every strategy asks for, until none asks for more."""
    results: dict[tuple[int, str], dict[float, Judged]] = defaultdict(dict)
    keys = [(size, name) for size in bench.study.per_class for name in _rated(bench)]
    while wanted := {key: scales for key in keys if (scales := _wanted(bench, key[1], results[key]))}:
        pilots = {
            (size, name, scale): [
                Cell(bench.study.name, "pilot", name, size, scale, seed) for seed in bench.subsets.pilots[size]
            ]
            for (size, name), scales in wanted.items()
            for scale in scales
        }
        flat = [cell for of_scale in pilots.values() for cell in of_scale]
        cells.train_missing(bench, flat, f"{bench.study.name} · tune")
        for (size, name, scale), of_scale in pilots.items():
            results[size, name][scale] = _judged(bench, of_scale)
    return {
        str(size): {name: entry(climb(results[size, name])[0], results[size, name]) for name in _rated(bench)}
        for size in bench.study.per_class
    }


def _wanted(bench: Workbench, name: str, results: Mapping[float, Judged]) -> tuple[float, ...]:
    """The scales to try next. Heads try the whole grid at once: as one batch, it costs little more than one scale."""
    if heads.batchable(bench.params.strategies[name]):
        return tuple(scale for scale in GRID if scale not in results)
    return climb(results)[1]


def _judged(bench: Workbench, pilots: list[Cell]) -> Judged:
    seen = []
    for cell in pilots:
        stored = bench.stored(cell)
        assert stored is not None, cell
        labels = bench.prepared.labels[bench.parts(cell)[2]]
        seen.append((stored.run.predicted, labels, stored.run.judged.log_loss))
    return judge(seen, bench.judge_by)


if __name__ == "__main__":
    command.main(tune, "Choose the rates of every strategy of a study on pilot seeds.")
