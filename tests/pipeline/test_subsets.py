"""Draws are nested, stratified and functions of data and seed; what is watched is never drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.strategies import ALL
from pipeline.subsets import Pool, SubsetError, draw, overlap, reserved, tuning_split, watched


def pool(*counts: int, sha256: str = "data") -> Pool:
    labels = np.repeat(np.arange(len(counts)), counts)
    return Pool(np.arange(len(labels)), labels, tuple(f"class{label}" for label in range(len(counts))), sha256)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(5, 60), min_size=2, max_size=4), st.integers(0, 50), st.data())
def test_small_draws_are_nested_in_large_ones_and_balanced(counts: list[int], seed: int, data: st.DataObject) -> None:
    images = pool(*counts)
    large = data.draw(st.integers(2, min(counts)))
    small = data.draw(st.integers(1, large))
    few, many = draw(images, small, seed), draw(images, large, seed)
    assert set(few) <= set(many)
    assert len(set(many)) == len(many) == large * len(counts)
    assert np.bincount(images.labels[many]).tolist() == [large] * len(counts)


def test_a_draw_depends_on_data_and_seed_alone() -> None:
    assert np.array_equal(draw(pool(50, 50), 10, 1), draw(pool(50, 50), 10, 1))
    assert not np.array_equal(draw(pool(50, 50), 10, 1), draw(pool(50, 50), 10, 2))
    assert not np.array_equal(draw(pool(50, 50), 10, 1), draw(pool(50, 50, sha256="other"), 10, 1))


def test_watched_images_are_outside_every_draw_with_natural_shares() -> None:
    images = pool(300, 100)
    draws = [draw(images, 60, seed) for seed in range(5)]
    seen = watched(images, draws, 500)
    assert not set(seen) & set(np.concatenate(draws))
    assert len(seen) == 80  # a fifth of the pool
    assert np.bincount(images.labels[seen]).tolist() == [60, 20]
    assert np.array_equal(watched(images, draws, 10), seen[:10])


def test_nothing_is_watched_when_draws_take_the_whole_pool() -> None:
    images = pool(40, 40)
    assert len(watched(images, [draw(images, 40, 0)], 500)) == 0
    assert set(draw(images, 40, 0)) == set(range(80))


def test_reserved_images_are_drawn_last() -> None:
    images = pool(100, 100)
    free = 100 - sum(images.labels[reserved(images)] == 0)
    assert not set(draw(images, int(free), 0)) & set(reserved(images))
    assert set(draw(images, int(free) + 1, 0)) & set(reserved(images))


def test_more_images_than_there_are_is_refused_with_class_and_count() -> None:
    with pytest.raises(SubsetError, match="41 images of class 'class1' asked for, but only 40"):
        draw(pool(50, 40), 41, 0)


def test_the_tuning_split_is_80_to_20_within_each_class() -> None:
    images = pool(30, 30)
    drawn = draw(images, 10, 1000)
    kept, held = tuning_split(drawn, images.labels[drawn])
    assert np.bincount(images.labels[kept]).tolist() == [8, 8]
    assert np.bincount(images.labels[held]).tolist() == [2, 2]
    assert set(kept) | set(held) == set(drawn)
    with pytest.raises(SubsetError, match="can't be split"):
        tuning_split(draw(images, 1, 0), np.array([0, 1]))


def test_all_is_the_whole_pool_and_is_split_for_tuning_within_each_class() -> None:
    images = pool(30, 10)
    drawn = draw(images, ALL, 1000)
    assert sorted(drawn) == list(range(40))
    kept, held = tuning_split(drawn, images.labels[drawn])
    assert np.bincount(images.labels[kept]).tolist() == [24, 8]
    assert np.bincount(images.labels[held]).tolist() == [6, 2]
    assert set(kept) | set(held) == set(drawn)
    assert watched(images, [drawn], 5).size == 0
    assert overlap([drawn, draw(images, ALL, 1001)]) == 1


def test_overlap_is_the_mean_share_of_common_images() -> None:
    assert overlap([np.array([1, 2]), np.array([2, 3])]) == 0.5
    assert overlap([np.array([1, 2])]) == 0.0
