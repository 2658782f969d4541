"""Stage `sweep`: the same strategy at several rates."""

from __future__ import annotations

from pipeline import params
from pipeline.stages import command


def sweep(study: str) -> None:
    """Complete results/<study>/sweep."""
    if not params.load().study(study).sweep:
        command.leave_empty(command.RESULTS / study / "sweep")
        return
    from pipeline.stages import cells  # brings torch along, which takes seconds

    cells.complete(study, "sweep")


if __name__ == "__main__":
    command.main(sweep, "Train the cells of a study's sweep.")
