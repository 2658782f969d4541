"""A reviewer's check: published runs, trained again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import runs
from pipeline.folders import DatasetError
from pipeline.stages import cells, command, pack, verify
from pipeline.stages.verify import VerifyError
from pipeline.strategies import Cell
from tests.conftest import train_tiny
from tests.test_end_to_end import PARAMS

HEADS = Cell("tiny", "final", "feature_extraction", 3, 1.0, 0)
LDA = Cell("tiny", "final", "lda", 3, 1.0, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny study with its quick runs in the store: heads and a closed form."""
    place = tmp_path_factory.mktemp("published")
    text = PARAMS.replace("[feature_extraction, fine_tune, lda]", "[feature_extraction, lda]")
    train_tiny(place, text.replace("sweep: {fine_tune: [100, 1]}", "sweep: {}"), ("feature_extraction", "lda"))
    return place


@pytest.fixture
def published(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Path:
    """A copy of it, to be changed."""
    place = tmp_path / "published"
    shutil.copytree(trained, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("THAW_WORKERS", "1")
    caplog.set_level("INFO")
    return place


def store(root: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted((root / "results").rglob("*")) if file.is_file()}


def rewrite(cell: Cell, change: Callable[[runs.StoredRun], runs.StoredRun]) -> None:
    """Put another run into the store in place of a cell's."""
    found = cells.Workbench("tiny").stored(cell)
    assert found is not None
    made = change(found)
    runs.write(command.RESULTS, made.run, made.provenance, made.fingerprint, made.test_ids_sha256)


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
def test_untouched_runs_agree_to_the_byte_and_nothing_is_written(
    published: Path, caplog: pytest.LogCaptureFixture, packed: bool
) -> None:
    if packed:
        pack.pack("tiny")
    before = store(published)
    verify.verify("tiny", "5", "7")
    assert store(published) == before
    assert "5 cells picked with SEED=7" in caplog.text
    assert len(re.findall("agrees, the same bytes", caplog.text)) == 5


def test_the_same_seed_picks_the_same_cells_and_no_seed_another_one_that_is_said(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picked = []
    for seed in ("3", "3", ""):
        caplog.clear()
        verify.verify("tiny", "2", seed)
        picked.append(sorted(re.findall(r"(tiny .*) \(final\): agrees", caplog.text)))
    assert picked[0] == picked[1]
    assert re.search(r"SEED=\d+", caplog.text)


def test_on_the_same_machine_one_other_prediction_is_a_difference(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def one_other(found: runs.StoredRun) -> runs.StoredRun:
        predicted = found.run.predicted.copy()
        predicted[0] = 1 - predicted[0]
        return replace(found, run=replace(found.run, predicted=predicted))

    rewrite(LDA, one_other)
    with pytest.raises(VerifyError, match=r"1 of 8 cells differ"):
        verify.verify("tiny", "8", "0")
    assert "tiny lda 3 a class, seed 0 (final): DIFFERS" in caplog.text
    assert "the bytes should be the same" in caplog.text


def test_elsewhere_accuracy_may_differ_by_what_chance_makes_of_other_predictions_and_no_more(
    published: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def trained_elsewhere(other: int) -> Callable[[runs.StoredRun], runs.StoredRun]:
        def change(found: runs.StoredRun) -> runs.StoredRun:
            predicted = found.run.predicted.copy()
            predicted[:other] = 1 - predicted[:other]
            judged = replace(found.run.judged, accuracy=found.run.judged.accuracy - other / len(predicted))
            made = replace(found.provenance, device="another processor (AVX2, 4 cores)")
            return replace(found, run=replace(found.run, predicted=predicted, judged=judged), provenance=made)

        return change

    rewrite(LDA, trained_elsewhere(1))
    verify.verify("tiny", "8", "0")
    assert re.search(r"lda 3 a class, seed 0 \(final\): agrees, .*1 of 12 predictions differ; on another", caplog.text)
    rewrite(LDA, trained_elsewhere(11))  # the first of them back to what it was
    with pytest.raises(VerifyError, match="1 of 8 cells differ"):
        verify.verify("tiny", "8", "0")


def test_runs_of_other_releases_are_found_and_compared(published: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their fingerprint is another one: the releases are in it."""
    bench = cells.Workbench("tiny")
    found = bench.stored(LDA)
    assert found is not None
    made = replace(found.provenance, versions={**found.provenance.versions, "torch": "2.0.0"})
    key = bench.fingerprint(LDA, made)
    assert key != found.fingerprint
    runs.path(command.RESULTS, LDA, found.fingerprint).unlink()
    runs.write(command.RESULTS, found.run, made, key, found.test_ids_sha256)
    verify.verify("tiny", "8", "0")
    assert "tiny lda 3 a class, seed 0 (final): agrees" in caplog.text


def test_runs_of_other_parameters_are_not_compared(published: Path) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("epochs: 2", "epochs: 3"), encoding="utf-8")
    with pytest.raises(VerifyError, match="trained on other images, with other parameters or by another edition"):
        verify.verify("tiny", "3", "")


def test_absent_images_are_said_with_where_they_come_from(published: Path) -> None:
    Path("images").rename("elsewhere")
    with pytest.raises(DatasetError, match=r"images: .*; the images of this study: squares that a test has drawn"):
        verify.verify("tiny", "3", "")


@pytest.mark.parametrize(("count", "seed"), [("0", ""), ("three", ""), ("3", "x")])
def test_what_is_no_number_is_refused(count: str, seed: str) -> None:
    with pytest.raises(VerifyError, match="give whole numbers"):
        verify.verify("tiny", count, seed)
