"""A progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Literal

from tqdm import tqdm

PLAIN_EVERY = 15.0  # seconds between plain lines

tqdm.monitor_interval = 0  # its watching thread must not be there when training forks


class Progress:
    """How much of a stage is done, and how long the rest will take."""

    def __init__(self, title: str, total: int, unit: Literal["epoch", "image", "test", "batch"]) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done = self.first = 0
        self.began = self.told = time.monotonic()
        terminal = sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=title, unit=unit, dynamic_ncols=True, leave=False) if terminal else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def advance(self, steps: int = 1, where: str = "") -> None:
        """Count `steps` more; `where` says what is being done just now."""
        if not self.done:
            self.began = self.told = time.monotonic()  # workers have started: what follows tells of the rest
            self.first = steps
        self.done += steps
        if self.bar is not None:
            if where:
                self.bar.set_description_str(f"{self.title} · {where}", refresh=False)
            self.bar.update(steps)
        elif time.monotonic() - self.told > PLAIN_EVERY:
            self.told = time.monotonic()
            left = (self.told - self.began) / max(1, self.done - self.first) * (self.total - self.done)
            middle = f" · {where}" if where else ""
            self.say(f"{self.title}{middle}: {self.done} of {self.total} {self.unit}s, {left:.0f} s left")

    def say(self, line: str) -> None:
        """Print a line without breaking the bar."""
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)
