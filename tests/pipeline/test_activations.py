"""The cache of frozen stretches: what is read from it is what a cell would compute, and nothing depends on it."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import activations, backbones, files, prefix
from pipeline.activations import Piece, Wanted
from pipeline.backbones import GroupedModel
from pipeline.files import PARTIAL
from pipeline.randomness import torch_stream
from pipeline.strategies import GROUPS, Phase, Strategy
from pipeline.training import EVALUATION_BATCH, Images, Run, Task, surroundings, train
from tests.conftest import ALL, HEAD, STRATEGIES, some_images

CPU = torch.device("cpu")
FEATURE_EXTRACTION, LAST_BLOCK, FINE_TUNE, GRADUAL = STRATEGIES[1], STRATEGIES[2], STRATEGIES[3], STRATEGIES[5]
LDA = Strategy("lda", (), head="lda")


def body(task: Task) -> GroupedModel:
    model = backbones.build(task.backbone, task.classes, "pretrained", torch_stream("unused head"))
    return model.requires_grad_(False).eval()


def fill(task: Task, folder: Path) -> list[Wanted]:
    """Compute and store what a cell reads, the pieces in an order of chance."""
    wanted = activations.missing(activations.needed(task), folder)
    model, pieces = body(task), activations.pieces(wanted)
    with surroundings(task, CPU):
        activations.store(((piece, activations.compute(piece, model, CPU)) for piece in pieces[::-1]), folder)
    return wanted


def same(one: Run, other: Run) -> bool:
    return replace(one, seconds=0, predicted=None) == replace(other, seconds=0, predicted=None) and np.array_equal(  # type: ignore[arg-type]
        one.predicted, other.predicted
    )


# --- what is wanted -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "sets"),
    [
        (FEATURE_EXTRACTION, ["head judged", "head watched", "head train", "head train flipped"]),
        (replace(FEATURE_EXTRACTION, augmentation="none"), ["head judged", "head watched", "head train"]),
        (LDA, ["head judged", "head watched", "head train"]),
        (LAST_BLOCK, ["stage4 judged", "stage4 watched"]),
        (FINE_TUNE, []),
        (GRADUAL, []),  # in the end everything learns
        (Strategy("back", (Phase(0.5, ALL), Phase(0.5, HEAD))), []),  # at the end frozen, and no longer as pretrained
        (Strategy("down", (Phase(0.5, {**HEAD, "stage4": 1}), Phase(0.5, HEAD))), ["stage4 judged", "stage4 watched"]),
        (replace(LAST_BLOCK, weights="none"), []),
        (replace(LAST_BLOCK, frozen_groups="batch_norm_forgotten"), []),
        (replace(FEATURE_EXTRACTION, augmentation="crop_and_colour"), []),
    ],
    ids=lambda value: getattr(value, "name", None),
)  # fmt: skip
def test_a_cell_reads_what_its_frozen_pretrained_stretch_makes_of_its_images(
    strategy: Strategy, sets: list[str], task: Callable[..., Task]
) -> None:
    one = task(strategy)
    names = {id(one.judged): "judged", id(one.watched): "watched", id(one.train): "train"}
    found = [f"{w.start} {names[id(w.images)]}{' flipped' * w.flipped}" for w in activations.needed(one)]
    assert found == sets


def test_images_that_are_not_there_are_not_wanted(task: Callable[..., Task]) -> None:
    one = task(LAST_BLOCK, watched=some_images(0, 0))
    assert [wanted.images for wanted in activations.needed(one)] == [one.judged]
    assert activations.kept(replace(one, activations=Path()), one.watched, "stage4", False) is None


def test_a_files_name_is_what_its_rows_depend_on_and_nothing_else(task: Callable[..., Task]) -> None:
    one = task(LAST_BLOCK)

    def name(changed: Task, images: Images | None = None, start: str = "stage4", flipped: bool = False) -> str:
        return Wanted(changed, images or changed.judged, start, flipped).name

    whole, plain = replace(LAST_BLOCK, crop="whole"), name(one)
    others = [
        name(replace(one, weights_sha256="1" * 64)),
        name(replace(one, backbone="resnet18")),
        name(replace(one, precision="bfloat16")),
        name(replace(one, resolution=48)),
        name(replace(one, strategy=replace(LAST_BLOCK, normalisation="imagenet"))),
        name(replace(one, strategy=whole)),
        name(one, start="head"),
        name(one, flipped=True),
        name(one, one.train),
        name(one, Images(one.judged.pixels, one.judged.labels, one.judged.keys[::-1].copy())),
        name(one, Images(one.judged.pixels.repeat(1, 1, 2, 2), one.judged.labels, one.judged.keys)),
    ]
    assert len({plain, *others}) == len(others) + 1
    scaled = replace(FINE_TUNE.scaled(3), name="other", batch_norm="train", dropout=0.5)
    assert name(task(scaled, seed=7, epochs=2, batch_size=3, classes=5)) == plain


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "mobilenet_v3_large", "convnext_tiny"])
def test_the_outline_of_a_backbone_is_its_shapes_and_size(name: str) -> None:
    model = backbones.build(name, 2, "none", torch_stream("any")).eval()
    outline = activations.outline(name, 64)
    for group in GROUPS:
        with torch.no_grad():
            rows = model(torch.zeros(1, 3, 64, 64), stop=group)
        assert tuple(prefix.rows(rows).shape[1:]) == outline.rows[group]
    assert outline.features == model.features
    assert outline.parameters == sum(w.numel() for g in GROUPS[:-1] for w in model.group(g).parameters())


def test_pieces_have_the_size_of_an_evaluation_batch() -> None:
    assert activations.BATCH == EVALUATION_BATCH


# --- reading and writing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [FEATURE_EXTRACTION, LAST_BLOCK], ids=lambda strategy: strategy.name)
def test_a_cell_with_the_cache_gives_the_bytes_of_one_without(
    strategy: Strategy, task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = task(strategy, judged=some_images(EVALUATION_BATCH + 10, 18))
    alone = train(one, CPU)
    fill(one, tmp_path)
    read = []
    kept = activations.kept

    def counted(*arguments: object) -> torch.Tensor | None:
        read.append(kept(*arguments))  # type: ignore[arg-type]
        return read[-1]

    monkeypatch.setattr(activations, "kept", counted)
    assert same(train(replace(one, activations=tmp_path), CPU), alone)
    assert any(rows is not None for rows in read)


def test_rows_are_those_of_the_stretch_and_mapped_from_disk(task: Callable[..., Task], tmp_path: Path) -> None:
    one = task(LAST_BLOCK, judged=some_images(EVALUATION_BATCH + 2, 0))
    fill(one, tmp_path)
    one = replace(one, activations=tmp_path)
    rows = activations.kept(one, one.judged, "stage4", False)
    assert rows is not None
    wanted = Wanted(one, one.judged, "stage4", False)
    assert rows.shape == wanted.shape
    model = body(one)
    parts = [activations.compute(piece, model, CPU)[0] for piece in activations.pieces([wanted])]
    assert np.array_equal(rows.numpy(), np.concatenate(parts))
    assert np.array_equal(np.load(tmp_path / wanted.name), rows)  # an ordinary .npy, whatever follows it
    before = (tmp_path / wanted.name).read_bytes()
    rows.zero_()
    assert (tmp_path / wanted.name).read_bytes() == before


def test_what_another_phase_has_changed_is_not_read_from_the_cache(task: Callable[..., Task], tmp_path: Path) -> None:
    one = replace(task(FEATURE_EXTRACTION), activations=tmp_path)
    fill(one, tmp_path)
    assert activations.kept(one, one.judged, "head", False) is not None
    back = replace(one, strategy=Strategy("back", (Phase(0.5, ALL), Phase(0.5, HEAD))))
    assert activations.kept(back, one.judged, "head", False) is None
    assert activations.kept(one, one.judged, GROUPS[0], False) is None
    assert activations.kept(replace(one, activations=None), one.judged, "head", False) is None


def test_sets_are_computed_once(task: Callable[..., Task], tmp_path: Path) -> None:
    one = task(FEATURE_EXTRACTION)
    assert len(fill(one, tmp_path)) == 4
    assert fill(task(LDA), tmp_path) == []
    twice = activations.needed(one) + activations.needed(task(LDA))
    assert len(activations.missing(twice, tmp_path / "elsewhere")) == 4


def test_the_seconds_that_a_set_took_are_kept_with_it(task: Callable[..., Task], tmp_path: Path) -> None:
    one = task(LDA, train=some_images(EVALUATION_BATCH + 2, 0))
    wanted = Wanted(one, one.train, "head", False)
    rows = np.zeros(wanted.shape, np.float32)
    activations.store(
        [(Piece(wanted, 0), (rows[:EVALUATION_BATCH], 0.25)), (Piece(wanted, EVALUATION_BATCH), (rows[:2], 0.5))],
        tmp_path,
    )  # fmt: skip
    found = activations.read(wanted, tmp_path)
    assert found is not None
    assert found[1] == 0.75


@pytest.mark.parametrize("damage", ["empty", "short", "long", "no npy", "other shape", "other kind", "a folder"])
def test_a_damaged_file_is_computed_anew(damage: str, task: Callable[..., Task], tmp_path: Path) -> None:
    one = task(LDA)
    wanted = fill(one, tmp_path)[0]
    path = tmp_path / wanted.name
    content = path.read_bytes()
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    elif damage.startswith("other"):
        shape = wanted.shape if damage == "other kind" else (*wanted.shape[:1], 7)
        np.save(path, np.zeros(shape, np.float64 if damage == "other kind" else np.float32))
    else:
        path.write_bytes(
            {"empty": b"", "short": content[:-9], "long": content + b"x", "no npy": b"x" * len(content)}[damage]
        )
    given = replace(one, activations=tmp_path)
    assert activations.kept(given, wanted.images, "head", False) is None
    assert [missing.name for missing in activations.missing(activations.needed(one), tmp_path)] == [wanted.name]
    if damage != "a folder":
        fill(one, tmp_path)
        assert path.read_bytes()[:-8] == content[:-8]


def test_a_set_over_the_budget_is_not_kept_and_the_log_says_so_once(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(activations, "BUDGET", 8 * 1280 * 4)
    activations._say_too_large.cache_clear()
    one = task(LDA)  # 12 images to train on, 6 watched, 10 judged
    with caplog.at_level(logging.INFO):
        assert [wanted.images for wanted in activations.needed(one)] == [one.watched]
        activations.needed(task(LDA, judged=one.judged, seed=1))
    assert len(caplog.records) == 2  # the judged and the training images


def test_a_full_disk_is_a_warning_and_leaves_nothing_behind(
    task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    one = task(LDA)
    fill(one, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left on device" in caplog.text
    assert activations.kept(replace(one, activations=tmp_path), one.judged, "head", False) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_fills_up_in_the_middle_of_a_set_is_a_warning(
    task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(activations, "partial_of", lambda target: tmp_path / "full")
    (tmp_path / "full").symlink_to("/dev/full")
    fill(task(LDA), tmp_path)
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_is_stopped_leaves_nothing_behind(task: Callable[..., Task], tmp_path: Path) -> None:
    one = task(LDA, judged=some_images(EVALUATION_BATCH + 2, 0))
    wanted = Wanted(one, one.judged, "head", False)

    def parts() -> Iterator[tuple[Piece, tuple[np.ndarray, float]]]:
        yield Piece(wanted, 0), (np.zeros((EVALUATION_BATCH, 1280), np.float32), 0.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        activations.store(parts(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_goes_after_a_while(task: Callable[..., Task], tmp_path: Path) -> None:
    old, new = tmp_path / f"{PARTIAL}old", tmp_path / f"{PARTIAL}new"
    for path in (old, new):
        path.touch()
    long_ago = time.time() - 2 * files.LEFT_BEHIND
    os.utime(old, (long_ago, long_ago))
    activations.store([], tmp_path)
    assert list(tmp_path.iterdir()) == [new]
