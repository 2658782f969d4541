"""What timings depend on beside the code, and how commands are watched."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "timm", "numpy")
SAMPLING = 1.0  # seconds between two looks at the memory; a look at several processes takes 50 ms


@dataclass(frozen=True)
class Measured:
    """One command, watched from outside."""

    output: str
    seconds: float
    peak_mb: float  # proportional set size of the command and all its children, sampled


def describe(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """The machine, versions and commit. Without the instructions that torch uses, a CPU's name says little."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(("git", "rev-parse", "HEAD"), capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": f"{names[0] if names else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in packages},
        "commit": commit,
        "date": datetime.now(UTC).date().isoformat(),
    }


def watch(arguments: Sequence[str]) -> Measured:
    """Run a command to its end. Raises RuntimeError with what it said where it fails."""
    since, peak, over = time.perf_counter(), 0.0, threading.Event()
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def sample() -> None:
        nonlocal peak
        while not over.wait(SAMPLING):
            peak = max(peak, sum(_proportional_set_size(pid) for pid in _family(process.pid)))

    watcher = threading.Thread(target=sample)
    watcher.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - since
    over.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{errors[-4000:]}")
    return Measured(output, seconds, peak / 1024)


def _family(pid: int) -> list[int]:
    members = [pid]
    for member in members:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            try:
                members += [int(child) for child in children.read_text().split()]
            except OSError:
                continue  # it has ended meanwhile
    return members


def _proportional_set_size(pid: int) -> int:
    """Kilobytes; pages that processes share are counted once over all of them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
