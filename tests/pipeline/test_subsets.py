"""Draws are nested, stratified and functions of images and seed; what is watched is drawn last."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.randomness import keys_of
from pipeline.strategies import ALL
from pipeline.subsets import Pool, SubsetError, draw, judged, overlap, pilots, reserved, tuning_split, watched

NONE = np.empty(0, dtype=np.int64)


def pool(*counts: int, data: str = "data", first: int = 0) -> Pool:
    labels = np.repeat(np.arange(len(counts)), counts)
    keys = keys_of([hashlib.sha256(f"{data} {n}".encode()).hexdigest() for n in range(len(labels))])
    names = tuple(f"class{label}" for label in range(len(counts)))
    return Pool(np.arange(first, first + len(labels)), labels, names, keys)


def without(images: Pool, gone: int) -> Pool:
    """The same pool without one image: all later ones move up."""
    kept = np.delete(np.arange(len(images.indices)), gone)
    return Pool(np.arange(len(kept)), images.labels[kept], images.classes, images.keys[kept])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(5, 60), min_size=2, max_size=4), st.integers(0, 50), st.data())
def test_small_draws_are_nested_in_large_ones_and_balanced(counts: list[int], seed: int, data: st.DataObject) -> None:
    images = pool(*counts)
    last = reserved(images, 10)
    large = data.draw(st.integers(2, min(counts)))
    small = data.draw(st.integers(1, large))
    few, many = draw(images, small, seed, last), draw(images, large, seed, last)
    assert set(few) <= set(many)
    assert len(set(many)) == len(many) == large * len(counts)
    assert np.bincount(images.labels[many]).tolist() == [large] * len(counts)


def test_a_draw_depends_on_images_and_seed_alone() -> None:
    assert np.array_equal(draw(pool(50, 50), 10, 1, NONE), draw(pool(50, 50), 10, 1, NONE))
    assert not np.array_equal(draw(pool(50, 50), 10, 1, NONE), draw(pool(50, 50), 10, 2, NONE))
    assert not np.array_equal(draw(pool(50, 50), 10, 1, NONE), draw(pool(50, 50, data="other"), 10, 1, NONE))


@pytest.mark.parametrize("gone", [0, 17, 49, 120])
def test_an_image_more_or_less_changes_a_draw_by_itself_alone(gone: int) -> None:
    whole = pool(100, 100)
    less = without(whole, gone)
    before = {whole.keys[at] for at in draw(whole, 20, 3, reserved(whole, 20))}
    after = {less.keys[at] for at in draw(less, 20, 3, reserved(less, 20))}
    # Itself, and where it was reserved or the shares moved, the image that takes its place.
    assert len(before - after) <= 2


def test_every_image_is_as_likely_as_any_other_to_be_drawn() -> None:
    images = pool(60, 60)
    times = np.bincount(np.concatenate([draw(images, 15, seed, NONE) for seed in range(400)]), minlength=120)
    assert abs(times - 100).max() < 5 * np.sqrt(100 * 0.75)


@pytest.mark.parametrize(("at_most", "expected"), [(10, 10), (80, 80), (500, 80), (0, 0)])
def test_as_many_images_as_are_watched_are_reserved_and_no_more_than_a_fifth(at_most: int, expected: int) -> None:
    images = pool(300, 100)
    kept = reserved(images, at_most)
    assert len(kept) == len(set(kept)) == expected
    shares = np.bincount(images.labels[kept], minlength=2)
    assert abs(shares[0] - 0.75 * expected) <= 1
    assert np.array_equal(kept, reserved(images, 400)[:expected])


def test_watched_images_are_outside_every_draw_with_natural_shares() -> None:
    images = pool(300, 100)
    last = reserved(images, 80)
    draws = [draw(images, 60, seed, last) for seed in range(5)]
    seen = watched(last, draws, 80)
    assert not set(seen) & set(np.concatenate(draws))
    assert np.bincount(images.labels[seen]).tolist() == [60, 20]
    assert np.array_equal(watched(last, draws, 10), seen[:10])


def test_nothing_is_watched_when_draws_take_the_whole_pool() -> None:
    images = pool(40, 40)
    last = reserved(images, 16)
    assert len(watched(last, [draw(images, 40, 0, last)], 16)) == 0
    assert set(draw(images, 40, 0, last)) == set(range(80))


def test_reserved_images_are_drawn_last() -> None:
    images = pool(100, 100)
    last = reserved(images, 40)
    free = 100 - int(sum(images.labels[last] == 0))
    assert not set(draw(images, free, 0, last)) & set(last)
    assert set(draw(images, free + 1, 0, last)) & set(last)


def test_more_images_than_there_are_is_refused_with_class_and_count() -> None:
    with pytest.raises(SubsetError, match="41 images of class 'class1' asked for, but only 40"):
        draw(pool(50, 40), 41, 0, NONE)


def test_the_tuning_split_is_80_to_20_within_each_class() -> None:
    images = pool(30, 30)
    drawn = draw(images, 10, 1000, NONE)
    kept, held = tuning_split(images, drawn, 1000)
    assert np.bincount(images.labels[kept]).tolist() == [8, 8]
    assert np.bincount(images.labels[held]).tolist() == [2, 2]
    assert set(kept) | set(held) == set(drawn)
    with pytest.raises(SubsetError, match="can't be split"):
        tuning_split(images, draw(images, 1, 0, NONE), 0)


def test_all_is_the_whole_pool_and_every_pilot_holds_out_other_images_of_it() -> None:
    images = pool(100, 50)
    helds = []
    for seed in (1000, 1001):
        drawn = draw(images, ALL, seed, NONE)
        assert sorted(drawn) == list(range(150))
        kept, held = tuning_split(images, drawn, seed)
        assert np.bincount(images.labels[kept]).tolist() == [80, 40]
        assert set(kept) | set(held) == set(drawn)
        helds.append(set(held))
    assert len(helds[0] & helds[1]) < 15  # 6 of 30 by chance; all 30 in the first edition
    assert watched(reserved(images, 5), [np.arange(150)], 5).size == 0


@pytest.mark.parametrize(
    ("counts", "per_class", "expected"),
    [
        ((5000, 5000), 1000, 2),  # 400 images at once
        ((5000, 5000), 100, 5),  # 40 a pilot
        ((5000, 5000), 10, 10),  # 4 a pilot: never enough
        ((60, 60), 40, 10),  # a pool of 120 images
        ((1000, 500), ALL, 2),
    ],
)
def test_there_are_as_many_pilots_as_it_takes_to_judge_a_rate_on_200_images(
    counts: tuple[int, ...], per_class: int, expected: int
) -> None:
    images = pool(*counts)
    seeds = pilots(images, per_class, NONE)
    assert seeds == tuple(range(1000, 1000 + len(seeds)))
    assert len(seeds) in (expected, expected + (2 < expected < 10))  # a few images may be held out twice
    held = {at for seed in seeds for at in tuning_split(images, draw(images, per_class, seed, NONE), seed)[1]}
    assert len(held) >= 200 or len(seeds) == 10


def test_some_test_images_are_nested_stratified_and_in_ascending_order() -> None:
    test = pool(300, 100, first=50)
    assert np.array_equal(judged(test, None), np.arange(50, 450))
    assert np.array_equal(judged(test, 1000), np.arange(50, 450))
    some, few = judged(test, 80), judged(test, 20)
    assert np.bincount(test.labels[some - 50]).tolist() == [60, 20]
    assert set(few) <= set(some)
    assert (np.diff(some) > 0).all()
    with pytest.raises(SubsetError, match=r"test_images: 3 .* leave class 'class1' without one"):
        judged(pool(950, 5), 3)


def test_overlap_is_the_share_of_common_images_in_the_class_where_it_is_highest() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    draws = [np.array([0, 1, 4, 5]), np.array([2, 3, 5, 6])]  # class 0 shares none, class 1 a half
    assert overlap(draws, labels) == 0.5
    assert overlap(draws[:1], labels) == 0.0
    images = pool(40, 400)
    everything = [draw(images, ALL, seed, NONE) for seed in range(3)]
    assert overlap(everything, images.labels) == 1.0
    many = [draw(images, 20, seed, NONE) for seed in range(20)]
    assert overlap(many, images.labels) == pytest.approx(0.5, abs=0.03)  # of class 0; over all images it is .28
