"""Stage `tune`: choose every strategy's rates on pilot seeds, never on test data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean

from pipeline.stages import cells, command, prepared
from pipeline.training import Run


def choose(pilots: Iterable[Run]) -> dict[tuple[int, str], float]:
    """For each size and strategy the scale of highest mean accuracy, then lower log loss, then the smaller scale."""
    of_scale: dict[tuple[int, str], dict[float, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in pilots:
        of_scale[run.cell.per_class, run.cell.strategy][run.cell.lr_scale].append(run)

    def rank(scale: float, seeds: list[Run]) -> tuple[float, float, float]:
        return -mean(run.judged.accuracy for run in seeds), mean(run.judged.log_loss for run in seeds), scale

    return {key: min(scales, key=lambda scale: rank(scale, scales[scale])) for key, scales in of_scale.items()}


def tune(study: str) -> None:
    """Complete results/<study>/pilot and write results/<study>/rates.json: {per_class: {strategy: lr_scale}}."""
    cells.complete(study, "pilot")
    bench = cells.Workbench(study)
    pilots = [stored.run for cell in bench.declared("pilot") if (stored := bench.stored(cell))]
    chosen = choose(pilots)
    rates = {
        str(per_class): {name: chosen.get((per_class, name), 1.0) for name in bench.study.strategies}
        for per_class in bench.study.per_class
    }
    prepared.write_json(cells.rates_of(study), rates)


if __name__ == "__main__":
    command.main(tune, "Choose the rates of every strategy of a study on pilot seeds.")
