"""Stage `ablate`: strategies with exactly one thing changed."""

from __future__ import annotations

from pipeline.stages import cells, command


def ablate(study: str) -> None:
    """Complete results/<study>/ablation."""
    cells.complete(study, "ablation")


if __name__ == "__main__":
    command.main(ablate, "Train the cells of a study's ablations.")
