"""Every random stream, named by what it depends on, so that no two uses ever share one."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_of(*key: str | int) -> int:
    """A 63-bit seed for the stream that `key` names; the same on every machine and library version."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(*key: str | int) -> np.random.Generator:
    """The NumPy generator that `key` names."""
    return np.random.Generator(np.random.Philox(seed_of(*key)))


def torch_stream(*key: str | int) -> torch.Generator:
    """The PyTorch generator (on the CPU) that `key` names."""
    return torch.Generator().manual_seed(seed_of(*key))
