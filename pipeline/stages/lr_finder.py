"""Stage `lr_finder`: the range test of every strategy, to be held against the rates that tuning chose."""

from __future__ import annotations

from pipeline import params
from pipeline.stages import command


def find(study: str) -> None:
    """Complete results/<study>/lr_finder, one file for each strategy and seed."""
    if not params.load().study(study).lr_finder_seeds:
        command.leave_empty(command.RESULTS / study / "lr_finder")
        return
    from pipeline.stages import range_tests  # brings torch along, which takes seconds

    range_tests.complete(study)


if __name__ == "__main__":
    command.main(find, "Test a range of learning rates for every strategy.")
