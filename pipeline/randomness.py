"""Every random stream, named by what it depends on, so that no two uses ever share one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Keys = NDArray[np.uint64]


def seed_of(*key: str | int) -> int:
    """A 63-bit seed for the stream that `key` names; the same on every machine and library version."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(*key: str | int) -> np.random.Generator:
    """The NumPy generator that `key` names."""
    return np.random.Generator(np.random.Philox(seed_of(*key)))


def torch_stream(*key: str | int) -> torch.Generator:
    """The PyTorch generator (on the CPU) that `key` names."""
    import torch  # here, since what only lists and draws images has no use for it

    return torch.Generator().manual_seed(seed_of(*key))


def keys_of(ids: Sequence[str]) -> Keys:
    """The first 8 bytes of each image's id (hexadecimal SHA-256) as a number: [n]."""
    return np.array([int(name[:16], 16) for name in ids], dtype=np.uint64)


def uniform(keys: Keys, columns: int, *stream: str | int) -> NDArray[np.float64]:
    """Random numbers in [0, 1) of each image: [n, columns], each a function of (stream, key, column) alone.

    So an image's numbers depend neither on its place nor on which others there are. Integer arithmetic modulo 2^64
    and one exact division: the same on every machine.
    """
    steps = np.arange(1, columns + 1, dtype=np.uint64) * _GOLDEN
    start = _mixed(_mixed(keys) ^ np.uint64(seed_of(*stream)))
    bits = _mixed(start[:, None] + steps)
    result: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return result


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: Keys) -> Keys:
    """SplitMix64's finaliser (Stafford's variant 13), after its step so that 0 is no fixed point."""
    mixed: Keys = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
