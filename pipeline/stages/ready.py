"""A study's workbench with its images prepared and drawn, as whoever has just cloned the repository needs it."""

from __future__ import annotations

from pipeline import params
from pipeline.folders import DatasetError
from pipeline.stages import prepare, subset
from pipeline.stages.cells import Workbench


def workbench(study: str) -> Workbench:
    """Prepare the images of a study where that is still to be done, and open it.

    Raises DatasetError that says where they come from, where they are absent.
    """
    try:
        prepare.prepare(study)
    except DatasetError as error:
        source = params.load().about[study].source
        raise DatasetError(f"{error}; the images of this study: {source}" if source else str(error)) from None
    subset.subset(study)
    return Workbench(study)
