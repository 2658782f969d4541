"""Stage `train`: the final runs of one strategy of a study."""

from __future__ import annotations

from pipeline import params
from pipeline.stages import command


def train(study: str, strategy: str) -> None:
    """Complete results/<study>/final/<strategy>.

    DVC runs this for every strategy of params.yaml; for one that the study leaves out it, too, wants a folder.
    """
    loaded = params.load()
    loaded.known_strategy(strategy)
    if strategy not in loaded.study(study).strategies:
        command.leave_empty(command.RESULTS / study / "final" / strategy)
        return
    from pipeline.stages import cells  # brings torch along, which takes seconds

    cells.complete(study, "final", strategy)


if __name__ == "__main__":
    command.main(train, "Train the final runs of one strategy.", ("study", "strategy"))
