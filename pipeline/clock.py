"""The seconds that a run takes, as other work on the machine changes them little."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def clock(device: torch.device) -> Callable[[], float]:
    """Seconds from any start: on a CPU those that this thread has worked, on a GPU those that have passed."""
    # PyTorch computes gradients on a CPU in the thread that asks for them.
    return time.thread_time if device.type == "cpu" else time.perf_counter
