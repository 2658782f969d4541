"""Stage `train`: the final runs of one strategy of a study."""

from __future__ import annotations

from pipeline.stages import cells, command


def train(study: str, strategy: str) -> None:
    """Complete results/<study>/final/<strategy>."""
    cells.complete(study, "final", strategy)


if __name__ == "__main__":
    command.main(train, "Train the final runs of one strategy.", ("study", "strategy"))
