"""How long the rest takes, told from the work and not from the start of the workers."""

from __future__ import annotations

import pytest

from pipeline.stages import progress
from pipeline.stages.progress import Progress


def test_the_start_of_the_workers_does_not_lengthen_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Progress("study", 61, "epoch") as bar:
        now = 1000.0
        bar.advance(1)
        now += 10 * progress.PLAIN_EVERY
        bar.advance(20)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"study: 21 of 61 epochs, {20 * progress.PLAIN_EVERY:.0f} s left"
