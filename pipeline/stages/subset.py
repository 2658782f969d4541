"""Stage `subset`: draw every seed's images of a study."""

from __future__ import annotations

from pipeline import params
from pipeline.stages import command, prepared
from pipeline.subsets import draw, overlap, watched


def subset(name: str) -> None:
    """Write data/<study>/subsets.json."""
    loaded = params.load()
    study = loaded.study(name)
    pool = prepared.read(study).pool
    pilots = {cell.seed for cell in loaded.cells(name, "pilot")}
    drawn = {
        (per_class, seed): draw(pool, per_class, seed)
        for per_class in study.per_class
        for seed in (*study.seeds, *sorted(pilots))
    }
    shares = {per_class: overlap([drawn[per_class, seed] for seed in study.seeds]) for per_class in study.per_class}
    subsets = prepared.Subsets(drawn, watched(pool, drawn.values(), study.watched), shares)
    prepared.write_subsets(study, pool.sha256, subsets)


if __name__ == "__main__":
    command.main(subset, "Draw the training images of every seed of a study.")
