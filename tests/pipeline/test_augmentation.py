"""Augmentation is a function of seed, epoch and image, whoever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.augmentation import augment, flips

KEYS = np.array([5, 2**63 + 9, 2, 77], dtype=np.uint64)
MANY = np.arange(10_000, dtype=np.uint64)


def some_pixels() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("kind", ["flip", "crop_and_colour"])
def test_an_image_is_augmented_the_same_in_any_company(kind: str) -> None:
    pixels = some_pixels()
    together = augment(pixels, KEYS, 3, 1, kind)  # type: ignore[arg-type]
    turned = augment(pixels.flip(0), KEYS[::-1].copy(), 3, 1, kind)  # type: ignore[arg-type]
    assert torch.equal(turned.flip(0), together)
    for at in range(4):
        alone = augment(pixels[at : at + 1], KEYS[at : at + 1], 3, 1, kind)  # type: ignore[arg-type]
        assert torch.allclose(alone[0].float(), together[at].float(), atol=1e-3)


@pytest.mark.parametrize("kind", ["flip", "crop_and_colour"])
def test_seeds_and_epochs_differ(kind: str) -> None:
    pixels = some_pixels()
    results = [augment(pixels, KEYS, seed, epoch, kind) for seed in (0, 1) for epoch in range(1, 9)]  # type: ignore[arg-type]
    assert len({result.numpy().tobytes() for result in results}) > (8 if kind == "flip" else 15)


def test_none_leaves_images_alone_and_flip_flips_those_that_flips_names() -> None:
    pixels = some_pixels()
    assert augment(pixels, KEYS, 0, 1, "none") is pixels
    flipped = flips(KEYS, 0, 1)
    expected = torch.stack([image.flip(2) if flip else image for image, flip in zip(pixels, flipped, strict=True)])
    assert torch.equal(augment(pixels, KEYS, 0, 1, "flip"), expected)


def test_half_of_the_images_are_flipped_independently_of_epoch_and_seed() -> None:
    first, second, third = flips(MANY, 0, 1), flips(MANY, 0, 2), flips(MANY, 1, 1)
    for one in (first, second, third):
        assert abs(one.mean() - 0.5) < 0.025
    for one, other in ((first, second), (first, third)):
        assert abs((one == other).mean() - 0.5) < 0.025


def test_colours_stay_in_range() -> None:
    result = augment(some_pixels(), KEYS, 0, 1, "crop_and_colour")
    assert result.min() >= 0
    assert result.max() <= 255
