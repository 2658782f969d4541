"""Stage `subset`: draw every seed's images of a study, and what is judged and watched."""

from __future__ import annotations

from pipeline import params
from pipeline.stages import command, prepared
from pipeline.subsets import draw, judged, overlap, pilots, reserved, watched


def subset(name: str) -> None:
    """Write data/<study>/subsets.json."""
    study = params.load().study(name)
    data = prepared.read(study)
    pool = data.pool
    apart = data.validation.in_natural_shares("reserved")
    # Where a folder sets images apart to be watched, draws need not spare any.
    last = apart[:0] if len(apart) else reserved(pool, study.watched)
    tuned = {per_class: pilots(pool, per_class, last) for per_class in study.per_class if study.pilots}
    drawn = {
        (per_class, seed): draw(pool, per_class, seed, last)
        for per_class in study.per_class
        for seed in (*study.seeds, *tuned.get(per_class, ()))
    }
    shares = {
        per_class: overlap([drawn[per_class, seed] for seed in study.seeds], data.labels)
        for per_class in study.per_class
    }
    seen = watched(apart if len(apart) else last, drawn.values(), study.watched)
    subsets = prepared.Subsets(drawn, seen, judged(data.tested, study.test_images), tuned, shares)
    prepared.write_subsets(study, data.card, subsets)


if __name__ == "__main__":
    command.main(subset, "Draw the training images of every seed of a study.")
