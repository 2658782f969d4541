"""Stage `tune`: choose every strategy's rates on pilot seeds, never on test data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline import params
from pipeline.stages import command, noted, rates
from pipeline.strategies import Cell
from pipeline.tuning import GRID, Judged, climb, entry, judge

if TYPE_CHECKING:
    from pipeline.stages.cells import Workbench


def tune(name: str) -> None:
    """Complete results/<study>/pilot and write results/<study>/rates.json."""
    loaded = params.load()
    study = loaded.study(name)
    if study.pilots:
        content = _climbed(name)
    else:
        command.leave_empty(command.RESULTS / name / "pilot")
        content = rates.given(loaded, study)
    noted.write_json(rates.place(name), content)


def _climbed(name: str) -> rates.Content:
    """Train the pilots that the climb of every strategy asks for, until none asks for more."""
    from pipeline.stages import cells  # brings torch along, which takes seconds

    bench = cells.Workbench(name)
    rated = rates.rated(bench.params, bench.study)
    results: dict[tuple[int, str], dict[float, Judged]] = defaultdict(dict)
    keys = [(size, strategy) for size in bench.study.per_class for strategy in rated]
    while wanted := {key: scales for key in keys if (scales := _wanted(bench, key[1], results[key]))}:
        pilots = {
            (size, strategy, scale): [
                Cell(name, "pilot", strategy, size, scale, seed) for seed in bench.subsets.pilots[size]
            ]
            for (size, strategy), scales in wanted.items()
            for scale in scales
        }
        cells.train_missing(bench, [cell for of_scale in pilots.values() for cell in of_scale], f"{name} · tune")
        for (size, strategy, scale), of_scale in pilots.items():
            results[size, strategy][scale] = _judged(bench, of_scale)
    return {
        str(size): {
            strategy: entry(climb(results[size, strategy])[0], results[size, strategy]) for strategy in rated
        }
        for size in bench.study.per_class
    }  # fmt: skip


def _wanted(bench: Workbench, name: str, results: Mapping[float, Judged]) -> tuple[float, ...]:
    """The scales to try next. Heads try the whole grid at once: as one batch, it costs little more than one scale."""
    if bench.trains_together(name):
        return tuple(scale for scale in GRID if scale not in results)
    return climb(results)[1]


def _judged(bench: Workbench, pilots: list[Cell]) -> Judged:
    seen = []
    for cell in pilots:
        stored = bench.stored(cell)
        assert stored is not None, cell
        held = bench.parts(cell)[2]
        seen.append((held, bench.prepared.labels[held], stored.run.predicted, stored.run.judged.log_loss))
    return judge(seen, bench.judge_by)


if __name__ == "__main__":
    command.main(tune, "Choose the rates of every strategy of a study on pilot seeds.", ("name",))
