"""From a declared cell to its fingerprint: everything that can change a number, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.stages import cells, prepare, subset, tune
from pipeline.stages.noted import PreparedError
from pipeline.strategies import Cell
from tests.conftest import write_image_folder
from tests.test_end_to_end import PARAMS

FINE_TUNE = Cell("tiny", "final", "fine_tune", 3, 1.0, 0)
HEADS = Cell("tiny", "final", "feature_extraction", 3, 1.0, 0)

Fingerprint = Callable[..., str]


@pytest.fixture
def fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fingerprint:
    """Prepare the tiny study with some parameters replaced, and give the fingerprint of a cell."""
    monkeypatch.chdir(tmp_path)
    write_image_folder(tmp_path / "images")

    def of(cell: Cell, *replaced: tuple[str, str]) -> str:
        text = PARAMS
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        Path("params.yaml").write_text(text, encoding="utf-8")
        for stage in (prepare.prepare, subset.subset, tune.tune):
            stage("tiny")
        return cells.Workbench("tiny").fingerprint(cell)

    return of


@pytest.mark.parametrize("replaced", [
    ("name: squares", "name: other"), ("squares that a test has drawn", "mine"),
    ("sweep: {fine_tune: [100, 1]}", "sweep: {fine_tune: [100]}"), ("[3, 6]", "[3]"),
    ("  last_block: {", "  another: {"),
], ids=lambda replaced: replaced[1])  # fmt: skip
def test_names_and_what_other_cells_do_are_no_part_of_a_fingerprint(
    fingerprint: Fingerprint, replaced: tuple[str, str]
) -> None:
    assert fingerprint(FINE_TUNE) == fingerprint(FINE_TUNE, replaced)


@pytest.mark.parametrize("replaced", [
    ("resolution: 32", "resolution: 40"), ("epochs: 2", "epochs: 3"), ("watched: 4", "watched: 3"),
    ("watched: 4", "watched: 4\n    batch_size: 4"), ("watched: 4", "watched: 4\n    precision: bfloat16"),
    ("watched: 4", "watched: 4\n    test_images: 4"), ("lr: {all: 1.0e-4}", "lr: {all: 2.0e-4}"),
    ("lr: {all: 1.0e-4}}]", "lr: {all: 1.0e-4}}], batch_norm: train"),
    ("lr: {all: 1.0e-4}}]", "lr: {all: 1.0e-4}}], crop: whole"),
], ids=lambda replaced: replaced[1])  # fmt: skip
def test_whatever_can_change_a_number_changes_the_fingerprint(
    fingerprint: Fingerprint, replaced: tuple[str, str]
) -> None:
    assert fingerprint(FINE_TUNE) != fingerprint(FINE_TUNE, replaced)


def test_images_that_are_stored_at_another_size_are_other_numbers(fingerprint: Fingerprint) -> None:
    before = fingerprint(FINE_TUNE)
    drawn = cells.Workbench("tiny").subsets.drawn[3, 0]
    names = cells.Workbench("tiny").prepared.ids
    ids = [names[position] for position in drawn]
    # One image that is no square of 24 px, among the test images: now all are fitted when they are decoded.
    Image.new("RGB", (40, 30), "red").save("images/test/dark/wide.png")
    bench_fingerprint = fingerprint(FINE_TUNE, ("watched: 4", "watched: 4\n    test_images: 4"))
    bench = cells.Workbench("tiny")
    assert [bench.prepared.ids[position] for position in bench.subsets.drawn[3, 0]] == ids
    inputs = bench.inputs(FINE_TUNE)
    assert inputs["stored_at"] == 32
    assert bench_fingerprint != before


def test_heads_that_train_together_know_their_company(fingerprint: Fingerprint) -> None:
    alone, more = fingerprint(HEADS), fingerprint(HEADS, ("seeds: 2", "seeds: 3"))
    assert alone != more
    assert fingerprint(FINE_TUNE) == fingerprint(FINE_TUNE, ("seeds: 2", "seeds: 3"))
    assert [cell.seed for cell in cells.Workbench("tiny").together(HEADS)] == [0, 1, 2]
    assert cells.Workbench("tiny").together(FINE_TUNE) == ()


def test_own_weights_and_inherited_rates_are_looked_at_with_the_images(fingerprint: Fingerprint) -> None:
    Path("mine.safetensors").write_bytes(b"one")
    own = ("backbone: efficientnet_lite0", "backbone: {name: efficientnet_lite0, weights: mine.safetensors}")
    one = fingerprint(FINE_TUNE, own)
    subsets = Path("data/tiny/subsets.json")
    before = subsets.read_bytes()
    Path("mine.safetensors").write_bytes(b"another")
    with pytest.raises(PreparedError, match=r"card\.json was made with beside"):
        cells.Workbench("tiny")
    prepare.prepare("tiny")
    subset.subset("tiny")
    assert subsets.read_bytes() != before  # so everything behind runs again
    assert cells.Workbench("tiny").fingerprint(FINE_TUNE) != one


def test_prepared_files_that_do_not_belong_together_are_refused(fingerprint: Fingerprint) -> None:
    fingerprint(FINE_TUNE)
    index = Path("data/tiny/index.csv")
    index.write_bytes(index.read_bytes() + b"\n")  # as if a writer had been killed between two of its files
    with pytest.raises(PreparedError, match="not those that `prepare` wrote"):
        cells.Workbench("tiny")


def test_what_all_runs_of_a_report_must_share_is_in_every_fingerprint(fingerprint: Fingerprint) -> None:
    """Else a run is found again whose provenance names other parameters, and the report refuses the mixture."""
    for strategy in ("fine_tune", "feature_extraction", "lda"):
        cell = Cell("tiny", "final", strategy, 3, 1.0, 0)
        before = fingerprint(cell)
        for changed in (("epochs: 2", "epochs: 3"), ("watched: 4", "watched: 4\n    batch_size: 4")):
            assert fingerprint(cell, changed) != before
