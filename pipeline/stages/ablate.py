"""Stage `ablate`: strategies with exactly one thing changed."""

from __future__ import annotations

from pipeline import params
from pipeline.stages import command


def ablate(study: str) -> None:
    """Complete results/<study>/ablation."""
    if not params.load().study(study).ablations:
        command.leave_empty(command.RESULTS / study / "ablation")
        return
    from pipeline.stages import cells  # brings torch along, which takes seconds

    cells.complete(study, "ablation")


if __name__ == "__main__":
    command.main(ablate, "Train the cells of a study's ablations.")
