"""Stage `sweep`: the same strategy at several rates."""

from __future__ import annotations

from pipeline.stages import cells, command


def sweep(study: str) -> None:
    """Complete results/<study>/sweep."""
    cells.complete(study, "sweep")


if __name__ == "__main__":
    command.main(sweep, "Train the cells of a study's sweep.")
