"""What kills, full disks, flipped bits, missing rights and other writers do to the run store: no finished run is lost.

FAULTS.md 16 to 19, 21, 22, 48 and 49; all but one of the faults are real.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import runs
from pipeline.files import PARTIAL
from pipeline.runs import RunStoreError
from pipeline.stages import command, pack
from tests.pipeline.test_runs import CELL, KEY, as_stored, run_of, store, store_seeds

# Children only write files; what other threads of this process hold does not matter to them.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

SEEDS = range(8)
NOBODY = 65534


def forked(work: Callable[[], object]) -> int:
    """Run `work` in a child, without pytest around it; its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def outcome(child: int) -> int:
    """The exit status of a child, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(work: Callable[[], object], after: float) -> bool:
    """Run `work` in a child and kill it after some seconds; whether it was still at it."""
    child = forked(work)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    return outcome(child) == -signal.SIGKILL


def rounds(most: int) -> Iterator[int]:
    """Ten rounds, and more of them as long as three seconds have not passed: a disk may be slow."""
    since = time.monotonic()
    return (number for number in range(most) if number < 10 or time.monotonic() < since + 3)


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes here and now."""
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Don't wait for the disk, where a test stores much and no power goes off."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def place(root: Path) -> Path:
    return runs.folder(root, CELL)


def partials(root: Path) -> list[Path]:
    return list(place(root).glob(f"{PARTIAL}*"))


# --- kill -9 --------------------------------------------------------------------------------------------------------


def test_writers_killed_at_random_moments_leave_whole_runs_or_none(tmp_path: Path) -> None:
    moments, safe, left = random.Random(0), set[int](), 0
    took = seconds(lambda: store_seeds(tmp_path / "elsewhere", SEEDS))

    def write_for_ever() -> None:
        while True:
            store_seeds(tmp_path, moments.sample(SEEDS, len(SEEDS)))

    for number in rounds(100):
        # Beside other work a child may take longer to begin than a write takes here: later, until kills hit something.
        assert killed(write_for_ever, moments.uniform(0, took if safe and left else (number + 1) * took))
        if not place(tmp_path).exists():
            continue
        assert all(run.members is not None for run in runs.kept(place(tmp_path)))
        stored = {seed for seed in SEEDS if as_stored(tmp_path, seed)}
        assert stored >= safe
        safe, left = stored, left + len(partials(tmp_path))
    assert safe
    assert left  # kills did hit writes
    for partial in partials(tmp_path):
        os.utime(partial, (0, 0))
    runs.sweep_leftovers(tmp_path, "tiny")
    assert not partials(tmp_path)
    assert all(as_stored(tmp_path, seed) for seed in safe)


def test_packing_killed_at_random_moments_loses_no_run(tmp_path: Path) -> None:
    moments, hits = random.Random(1), 0
    store_seeds(tmp_path, SEEDS)
    took = seconds(lambda: runs.pack(place(tmp_path)))
    for _ in rounds(60):
        store_seeds(tmp_path, moments.sample(SEEDS, 3))
        hits += killed(lambda: runs.pack(place(tmp_path)), moments.uniform(0, 1.5 * took))
        assert all(as_stored(tmp_path, seed) for seed in SEEDS)
    assert hits
    runs.pack(place(tmp_path))
    assert all(as_stored(tmp_path, seed) for seed in SEEDS)
    assert not list(place(tmp_path).glob("*seed*.zip"))


@pytest.mark.usefixtures("unsynced")
def test_pruning_killed_at_random_moments_takes_no_other_run(tmp_path: Path) -> None:
    moments, hits = random.Random(2), 0
    doomed = [runs.path(tmp_path, run.cell, key).stem for run, key in map(run_of, range(100, 104))]
    for _ in rounds(30):
        store_seeds(tmp_path, [*SEEDS, *range(100, 104)])
        took = seconds(lambda: runs.pack(place(tmp_path)))
        store_seeds(tmp_path, range(100, 104))
        hits += killed(lambda: runs.remove(place(tmp_path), doomed), moments.uniform(0, took))
        assert all(as_stored(tmp_path, seed) for seed in SEEDS)
    assert hits
    runs.remove(place(tmp_path), doomed)
    assert not any(as_stored(tmp_path, seed) for seed in range(100, 104))


# --- a full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for some runs."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_really_full_disk_is_an_error_and_every_run_before_it_stays(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "RESULTS", small_disk)
    with pytest.raises(RunStoreError, match="No space left on device; earlier runs are intact"):
        store_seeds(small_disk, range(100))
    written = len(list(place(small_disk).iterdir()))
    assert 3 < written < 100
    with pytest.raises(RunStoreError, match=r"No space left on device; all runs are where they were"):
        runs.pack(place(small_disk))
    with pytest.raises(RunStoreError, match="No space left on device; free some space before training"):
        pack.pack("tiny")
    assert not partials(small_disk)
    assert all(as_stored(small_disk, seed) for seed in range(written))
    runs.path(small_disk, run_of(0)[0].cell, run_of(0)[1]).unlink()  # room for one
    store_seeds(small_disk, [0])
    assert all(as_stored(small_disk, seed) for seed in range(written))


def test_a_disk_that_is_full_only_when_synced_is_an_error_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As network file systems report it; injected."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store_seeds(tmp_path, [0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunStoreError, match="No space left on device; earlier runs are intact"):
            store_seeds(tmp_path, [1])
        with pytest.raises(RunStoreError, match="No space left on device; all runs are where they were"):
            runs.pack(place(tmp_path))
    assert as_stored(tmp_path, 0)
    assert len(list(place(tmp_path).iterdir())) == 1


# --- damage ---------------------------------------------------------------------------------------------------------

damage = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def damaged(content: bytes, position: int, bit: int, cut: bool) -> bytes:
    """One bit flipped, or the end cut off."""
    at = position % len(content)
    return content[:at] if cut else content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


@pytest.mark.usefixtures("unsynced")
@damage
@given(position=st.integers(0, 1 << 20), bit=st.integers(0, 7), cut=st.booleans())
def test_a_damaged_run_is_missing_or_exact_and_storing_it_again_mends_it(
    tmp_path: Path, position: int, bit: int, cut: bool
) -> None:
    file = store(tmp_path, *run_of(0))
    whole = file.read_bytes()
    file.write_bytes(damaged(whole, position, bit, cut))
    found = as_stored(tmp_path, 0)  # raises where it reads something else
    assert not (cut and found)
    store_seeds(tmp_path, [0])
    assert file.read_bytes() == whole
    assert as_stored(tmp_path, 0)


@pytest.mark.usefixtures("unsynced")
@damage
@given(position=st.integers(0, 1 << 20), bit=st.integers(0, 7), cut=st.booleans())
def test_the_runs_of_a_damaged_pack_are_missing_or_exact_and_can_be_packed_again(
    tmp_path: Path, position: int, bit: int, cut: bool
) -> None:
    target = place(tmp_path) / runs.PACK
    store_seeds(tmp_path, range(3))
    target.unlink(missing_ok=True)
    runs.pack(place(tmp_path))
    target.write_bytes(damaged(target.read_bytes(), position, bit, cut))
    runs._opened.cache_clear()
    lost = [seed for seed in range(3) if not as_stored(tmp_path, seed)]
    store_seeds(tmp_path, lost)  # trained again
    if runs._pack(target) is None:  # nothing can be told of it; it is for the user to bring back
        assert len(lost) == 3
        with pytest.raises(RunStoreError, match="what is in it can't be told"):
            runs.pack(place(tmp_path))
    else:
        runs.pack(place(tmp_path))
        assert len(list(place(tmp_path).iterdir())) == 1
    assert all(as_stored(tmp_path, seed) for seed in range(3))


# --- no rights ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def others_folder() -> Iterator[Path]:
    """A folder that everybody reads and only its owner writes; unlike pytest's, other users reach it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as a user that owns nothing."""
    rights = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    prelude = (
        "import pathlib\nfrom pipeline import runs\nfrom tests.pipeline.test_runs import as_stored, store_seeds\n"
        "print('imported')\n"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*rights, sys.executable, "-c", prelude + code], capture_output=True, text=True, check=False, env=environment
    )


def test_a_folder_that_cannot_be_written_is_named_before_training_and_still_read() -> None:
    with others_folder() as root:
        store_seeds(root, [0, 1])
        hidden = runs.path(root, run_of(1)[0].cell, run_of(1)[1])
        hidden.chmod(0o000)
        done = as_nobody(
            f"root = pathlib.Path({str(root)!r})\n"
            "def tried(work):\n"
            "    try:\n        print(work())\n"
            "    except runs.RunStoreError as error:\n        print(error)\n"
            "tried(lambda: runs.lock(root, 'tiny', 'final', 'fine_tune').__enter__())\n"
            "tried(lambda: store_seeds(root, [2]))\n"
            "tried(lambda: as_stored(root, 0))\n"
            "tried(lambda: as_stored(root, 1))\n"
        )
        if not done.stdout.startswith("imported"):
            pytest.skip(f"root may write anywhere, and no other user can run this Python: {done.stderr[-300:]}")
        _, locked, stored, read, unread = done.stdout.splitlines()
        where = place(root)
        assert locked == f"can't write to {where}: Permission denied; make it writable before training", done.stderr
        assert stored.endswith("zip: Permission denied; earlier runs are intact")
        assert read == "True"
        assert unread.startswith(f"can't read {hidden}: Permission denied; make it readable")


# --- two writers ----------------------------------------------------------------------------------------------------


def test_two_writers_of_the_same_runs_leave_whole_ones_at_every_moment(tmp_path: Path) -> None:
    store_seeds(tmp_path, SEEDS)

    def write() -> None:
        for _ in range(5):
            store_seeds(tmp_path, SEEDS)

    children = [forked(write) for _ in range(2)]
    for _ in range(50):
        assert all(as_stored(tmp_path, seed) for seed in SEEDS)
    assert [outcome(child) for child in children] == [0, 0]
    assert not partials(tmp_path)


def test_runs_can_be_read_at_every_moment_of_packing(tmp_path: Path) -> None:
    store_seeds(tmp_path, SEEDS)

    def write_and_pack() -> None:
        for _ in range(4):
            store_seeds(tmp_path, SEEDS)
            runs.pack(place(tmp_path))

    child = forked(write_and_pack)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        assert all(as_stored(tmp_path, seed) for seed in SEEDS)
    assert all(as_stored(tmp_path, seed) for seed in SEEDS)


def test_of_many_that_want_a_lock_at_once_one_gets_it(tmp_path: Path) -> None:
    def take() -> None:
        try:
            with runs.lock(tmp_path, "tiny", "final", "fine_tune"):
                time.sleep(60)
        except RunStoreError:
            os._exit(3)

    children, deadline = {forked(take) for _ in range(5)}, time.monotonic() + 30
    while len(children) > 1 and time.monotonic() < deadline:
        for child in list(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                assert os.waitstatus_to_exitcode(status) == 3
                children.remove(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
    assert [outcome(child) for child in children] == [-signal.SIGKILL]


def test_a_child_that_its_killed_parent_left_behind_still_holds_the_lock(tmp_path: Path) -> None:
    reading, writing = os.pipe()

    def parent() -> None:
        with runs.lock(tmp_path, "tiny", "final", "fine_tune"):
            os.write(writing, f"{forked(lambda: time.sleep(60))} ".encode())
            time.sleep(60)

    process = forked(parent)
    orphan = int(os.read(reading, 20))
    os.close(reading)
    os.close(writing)
    try:
        os.kill(process, signal.SIGKILL)
        outcome(process)
        with (
            pytest.raises(RunStoreError, match=f"a child that process {process} on .* left behind"),
            runs.lock(tmp_path, "tiny", "final", "fine_tune"),
        ):
            pass
    finally:
        os.kill(orphan, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while True:  # until the orphan is gone
        try:
            with runs.lock(tmp_path, "tiny", "final", "fine_tune"):
                break
        except RunStoreError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_renamed_study_finds_its_runs_again(tmp_path: Path) -> None:
    store(tmp_path)
    (tmp_path / "tiny").rename(tmp_path / "leaves")
    assert runs.read(tmp_path, replace(CELL, study="leaves"), KEY) is not None
