"""Random numbers of images: sound, and functions of (stream, key, column) alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from scipy import stats

from pipeline.randomness import keys_of, uniform

MANY = 20_000
GOLDEN = [
    [8116080008074097, 1820670760403154],
    [4123690040300732, 352726119207767],
    [1350824707773807, 7040809858352037],
    [7250199330526726, 3291138299053181],
]  # of the reference algorithm in exact integers
KEYS = {
    "hashes": keys_of([hashlib.sha256(str(n).encode()).hexdigest() for n in range(MANY)]),
    "neighbours": np.arange(MANY, dtype=np.uint64),
    "high bits alone": np.arange(MANY, dtype=np.uint64) << np.uint64(48),
}


def test_keys_are_the_first_eight_bytes_of_ids() -> None:
    ids = ["00000000000000ff" + "0" * 48, "ffffffffffffffff" + "1" * 48]
    assert keys_of(ids).tolist() == [255, 2**64 - 1]
    assert keys_of(ids).dtype == np.uint64


def test_numbers_are_the_same_on_every_machine() -> None:
    keys = np.array([0, 1, 2**63, 2**64 - 1], dtype=np.uint64)
    found = (uniform(keys, 2, "golden", 7) * 2**53).astype(np.uint64).tolist()
    assert found == GOLDEN


def test_numbers_depend_on_stream_key_and_column_alone() -> None:
    keys = KEYS["hashes"][:100]
    together = uniform(keys, 7, "augmentation", 3, 1)
    order = np.random.default_rng(0).permutation(100)
    assert (uniform(keys[order], 7, "augmentation", 3, 1) == together[order]).all()
    assert (uniform(keys[5:6], 3, "augmentation", 3, 1) == together[5:6, :3]).all()
    assert (uniform(keys, 7, "augmentation", 3, 2) != together).all()
    assert (uniform(keys, 7, "augmentation", 31, 1) != together).all()
    assert uniform(keys[:0], 7, "augmentation", 3, 1).shape == (0, 7)


@pytest.mark.parametrize("kind", KEYS)
def test_numbers_are_uniform(kind: str) -> None:
    numbers = uniform(KEYS[kind], 7, "test", 0)
    assert ((numbers >= 0) & (numbers < 1)).all()
    ps = [stats.kstest(column, "uniform").pvalue for column in numbers.T]
    ps += [stats.chisquare(np.bincount((column * 64).astype(int), minlength=64)).pvalue for column in numbers.T]
    assert min(ps) > 0.001 / len(ps)
    bits = (numbers * 2**53).astype(np.uint64)[:, 0]
    for place in range(53):  # every bit is a fair coin
        heads = int(((bits >> np.uint64(place)) & np.uint64(1)).sum())
        assert abs(heads - MANY / 2) < 5 * np.sqrt(MANY) / 2, place


@pytest.mark.parametrize("kind", KEYS)
def test_columns_streams_and_neighbouring_images_are_independent(kind: str) -> None:
    keys = KEYS[kind]
    first, second = uniform(keys, 7, "test", 0), uniform(keys, 7, "test", 1)
    pairs = [(first[:, i], first[:, j]) for i in range(7) for j in range(i)]  # columns
    pairs += [(first[:, i], second[:, j]) for i in range(7) for j in range(7)]  # streams
    pairs += [(first[:-1, i], first[1:, i]) for i in range(7)]  # neighbours
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(MANY)
        cells = np.bincount((a * 8).astype(int) * 8 + (b * 8).astype(int), minlength=64)
        assert stats.chisquare(cells).pvalue > 0.001 / len(pairs)


def test_ranks_in_two_streams_share_no_more_than_chance() -> None:
    first, second = (set(np.argsort(uniform(KEYS["hashes"], 1, "draw", s)[:, 0])[:2000]) for s in (0, 1))
    assert abs(len(first & second) - 200) < 5 * np.sqrt(200)
