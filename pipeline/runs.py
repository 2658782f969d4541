"""The run store: one zip a run, keyed by a fingerprint, renamed into place, verified when read; packs and locks."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import socket
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.evaluation import Metrics
from pipeline.files import PARTIAL, partial_of, sweep, sync_folder, write_atomically
from pipeline.strategies import Cell
from pipeline.training import DriftRow, HistoryRow, Run

FILES = ("summary.json", "history.csv", "drift.csv", "predictions.npy")  # what the fingerprint decides, to the byte
MANIFEST = "manifest.json"  # what it doesn't: where, when and in what time
PACK = "runs.zip"  # many runs of one strategy in one file, each member under its run's name

# What zipfile and the parsers make of bytes that were damaged: no more than that is said of them.
DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError,
    IndexError, OverflowError, MemoryError, csv.Error,
)  # fmt: skip

Members = Mapping[str, bytes]


class RunStoreError(UserError):
    """A run store that is damaged, in use or can't be read or written."""


@dataclass(frozen=True)
class Provenance:
    """Where, when and with what a run was made; none of it is in the numbers but by way of the fingerprint."""

    commit: str
    numerics_version: int
    parameters_sha256: str  # of what all cells of the study share
    weights_sha256: str  # empty where the weights are random
    precision: str  # float32 | bfloat16
    device_kind: str  # cpu | cuda
    torch: str
    device: str
    threads: int
    python: str
    versions: Mapping[str, str]
    command: str
    started: str  # ISO 8601, UTC


@dataclass(frozen=True)
class StoredRun:
    """A run as read from the store."""

    run: Run
    provenance: Provenance
    fingerprint: str
    test_ids_sha256: str  # of the ids of the judged images, in order


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """SHA-256 over everything that can change a result, as canonical JSON."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, allow_nan=False).encode()).hexdigest()


def folder(root: Path, cell: Cell) -> Path:
    """Where the runs of a cell's strategy lie: results/<study>/<role>/<strategy>."""
    return root / cell.study / cell.role / cell.strategy


def named(cell: Cell) -> str:
    """What a cell's runs are called, up to the fingerprint: the folders say the rest."""
    return f"{cell.file_size}_x{cell.lr_scale:g}_seed{cell.seed}"


def path(root: Path, cell: Cell, key: str) -> Path:
    """The file of one run; once packed, it is a name in the pack beside."""
    return folder(root, cell) / f"{named(cell)}_{key[:12]}.zip"


# --- writing --------------------------------------------------------------------------------------------------------


def write(root: Path, run: Run, provenance: Provenance, key: str, test_ids_sha256: str) -> Path:
    """Store a run as one file; a damaged one of the same fingerprint is replaced, all others stay.

    Raises RunStoreError where the disk is full or read-only; runs stored before stay intact.
    """
    place, contents = path(root, run.cell, key), members(run)
    manifest = {
        "fingerprint": key,
        "test_ids_sha256": test_ids_sha256,
        "seconds": round(run.seconds, 3),
        "sha256": {name: _sha256(content) for name, content in contents.items()},  # unpacked, since zlibs differ
        "provenance": asdict(provenance),
    }
    try:
        write_atomically(place, _zip({**contents, MANIFEST: _json(manifest)}))
    except OSError as error:
        raise RunStoreError(f"can't store the run in {place}: {_reason(error)}; earlier runs are intact") from error
    return place


def members(run: Run) -> Members:
    """What a run is stored as, its manifest apart: the same run is the same bytes."""
    return {
        "summary.json": _json(_summary(run)),
        "history.csv": _table(("phase", "epoch", "split", "metric", "value"), [asdict(row) for row in run.history]),
        "drift.csv": _table(("phase", "group", "weight_distance"), [asdict(row) for row in run.drift]),
        "predictions.npy": _array(run.predicted),
    }


def _summary(run: Run) -> dict[str, Any]:
    return {  # without the cell: cells of other names that train the same leave the same bytes
        "status": run.status,
        "train_accuracy": run.train_accuracy,
        "val_accuracy": run.val_accuracy,
        "judged": asdict(run.judged),
        "trainable_parameters": run.trainable_parameters,
        "total_parameters": run.total_parameters,
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _array(values: Any) -> bytes:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asarray(values), allow_pickle=False)
    return content.getvalue()


def _zip(members: Members) -> bytes:
    """A zip without time stamps: with one zlib, the same members are the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


# --- reading --------------------------------------------------------------------------------------------------------


def read(root: Path, cell: Cell, key: str) -> StoredRun | None:
    """The stored run of a cell if it is whole, loose or packed; None where it is missing, damaged or another's.

    Raises RunStoreError where a file is there and can't be read.
    """
    place = path(root, cell, key)
    # Loose first: a run that is being packed meanwhile is in the pack before its own file goes.
    for members in (_loose(place), _packed(place.with_name(PACK), place.stem)):
        found = None if members is None else _stored(cell, key, members)
        if found is not None:
            return found
    return None


def _loose(place: Path) -> Members | None:
    content = _content(place)
    return None if content is None else _whole(_archive(content), "")


def _packed(place: Path, name: str) -> Members | None:
    return _whole(_pack(place), f"{name}/")


def _pack(place: Path) -> zipfile.ZipFile | None:
    try:
        stat = place.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _opened(place, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=256)  # a study has less than 200 packs; each is read once, and again when another takes its place
def _opened(place: Path, state: tuple[int, int, int]) -> zipfile.ZipFile | None:
    content = _content(place)
    return None if content is None else _archive(content)


def _content(place: Path) -> bytes | None:
    """What a file holds, None where there is none. A file that can't be read may hold a run: training would lose it."""
    try:
        return place.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunStoreError(
            f"can't read {place}: {_reason(error)}; make it readable, or delete it and `dvc repro` trains it again"
        ) from error


def _archive(content: bytes) -> zipfile.ZipFile | None:
    try:
        return zipfile.ZipFile(io.BytesIO(content))
    except DAMAGED:
        return None


def _whole(archive: zipfile.ZipFile | None, prefix: str) -> Members | None:
    """The members of one run if every one is what the manifest says, else None."""
    if archive is None:
        return None
    try:
        members = {name: archive.read(prefix + name) for name in (*FILES, MANIFEST)}
        sums = json.loads(members[MANIFEST])["sha256"]
        return members if all(_sha256(members[name]) == sums[name] for name in FILES) else None
    except DAMAGED:
        return None


def _stored(cell: Cell, key: str, members: Members) -> StoredRun | None:
    try:
        manifest = json.loads(members[MANIFEST])
        if manifest["fingerprint"] != key:
            return None
        run = _run(cell, members, manifest["seconds"])
        return StoredRun(run, Provenance(**manifest["provenance"]), key, manifest["test_ids_sha256"])
    except DAMAGED:
        return None  # whole, but of another make


def _run(cell: Cell, members: Members, seconds: float) -> Run:
    summary = json.loads(members["summary.json"])
    history = tuple(
        HistoryRow(int(row["phase"]), int(row["epoch"]), row["split"], row["metric"], float(row["value"]))
        for row in csv.DictReader(io.StringIO(members["history.csv"].decode()))
    )
    moved = tuple(
        DriftRow(int(row["phase"]), row["group"], float(row["weight_distance"]))
        for row in csv.DictReader(io.StringIO(members["drift.csv"].decode()))
    )
    return Run(
        **{**summary, "judged": Metrics(**summary["judged"])},
        cell=cell,
        seconds=seconds,
        history=history,
        drift=moved,
        predicted=np.lib.format.read_array(io.BytesIO(members["predictions.npy"]), allow_pickle=False),
    )


# --- all runs of a strategy -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kept:
    """A run as a strategy's folder keeps it, whichever cell it is of."""

    name: str  # <cell>_<first 12 digits of the fingerprint>
    packed: bool
    members: Members | None  # None: damaged, or no run at all

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the manifest says; nothing where the run is damaged."""
        content: Mapping[str, Any] = {} if self.members is None else json.loads(self.members[MANIFEST])
        return content


def folders(root: Path, study: str) -> Iterator[Path]:
    """The strategies' folders of a study, results/<study>/<role>/<strategy>."""
    return (place for place in sorted((root / study).glob("[!.]*/[!.]*")) if place.is_dir())


def kept(place: Path) -> list[Kept]:
    """All runs in a strategy's folder, the packed ones first. Raises RunStoreError where a pack says nothing."""
    found = [
        Kept(loose.stem, False, _own(loose.stem, _loose(loose)))
        for loose in sorted(place.glob("[!.]*.zip"))
        if loose.name != PACK
    ]
    pack = place / PACK
    if not pack.exists():
        return found
    archive = _pack(pack)
    if archive is None:
        raise RunStoreError(
            f"{pack} is damaged, and what is in it can't be told; bring it back (`git checkout -- {pack}`), or delete "
            "it and `dvc repro` trains its runs again"
        )
    names = sorted({name.partition("/")[0] for name in archive.namelist()})
    return [Kept(name, True, _own(name, _packed(pack, name))) for name in names] + found


def _own(name: str, members: Members | None) -> Members | None:
    """The members of a run that is called what its fingerprint says."""
    if members is None:
        return None
    of = str(json.loads(members[MANIFEST]).get("fingerprint", ""))
    return members if len(of) == 64 and name.endswith(f"_{of[:12]}") else None


def pack(place: Path) -> list[Kept]:
    """Gather the loose runs of a strategy's folder, and those packed before, into its pack; what had been there.

    Loose files go once the new pack is in place and read back, so a kill at any point loses nothing. Damaged loose
    files stay, damaged packed ones go. The caller holds the lock. Raises RunStoreError where the disk is full.
    """
    found = kept(place)
    loose = [run for run in found if not run.packed and run.members is not None]
    if loose:
        _write_pack(place, {run.name: run.members for run in found if run.members is not None})  # loose ones come last
        _delete(place, (f"{run.name}.zip" for run in loose))
    return found


def remove(place: Path, names: Collection[str]) -> None:
    """Remove runs from a strategy's folder, loose or packed, damaged ones too. The caller holds the lock."""
    packed = [run for run in kept(place) if run.packed]
    if any(run.name in names for run in packed):
        rest = {run.name: run.members for run in packed if run.members is not None and run.name not in names}
        if rest:
            _write_pack(place, rest)
        else:
            _delete(place, [PACK])
    _delete(place, (f"{name}.zip" for name in names))


def _write_pack(place: Path, contents: Mapping[str, Members]) -> None:
    members = {f"{name}/{member}": contents[name][member] for name in sorted(contents) for member in (*FILES, MANIFEST)}
    target = place / PACK
    try:
        write_atomically(target, _zip(members))
    except OSError as error:
        raise RunStoreError(f"can't write {target}: {_reason(error)}; all runs are where they were") from error
    for name in contents:
        if _packed(target, name) != contents[name]:
            raise RunStoreError(f"{target} does not hold what was written to it; nothing was deleted: check the disk")


def _delete(place: Path, names: Iterable[str]) -> None:
    try:
        for name in names:
            (place / name).unlink(missing_ok=True)
        sync_folder(place)
    except OSError as error:
        raise RunStoreError(f"can't delete runs in {place}: {_reason(error)}; what is left does no harm") from error


def sweep_leftovers(root: Path, study: str) -> None:
    """Remove what killed writers left, once it is so old that no writer on any machine can be at it."""
    sweep((root / study).rglob(f"{PARTIAL}*"))


# --- one writer -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(root: Path, study: str, *part: str) -> Iterator[None]:
    """Be the only writer of results/<study>/<part>, which is made: a role and a strategy, for runs.

    The lock lives as long as this process or a forked child of it. Raises RunStoreError that says who else has it, or
    that nobody can write there.
    """
    target = root.joinpath(study, *part)
    place = root / study / ".locks" / ("-".join(part) or "study")
    try:
        target.mkdir(parents=True, exist_ok=True)
        place.parent.mkdir(exist_ok=True)
        probe = partial_of(target / "probe")
        probe.touch()
        probe.unlink()
        file = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)  # as the umask allows: a group may share a study
    except OSError as error:
        raise RunStoreError(f"can't write to {target}: {_mend(error)} before training") from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.pwrite(file, _json({"process": os.getpid(), "host": socket.gethostname(), "since": _now()}), 0)
        except BlockingIOError:
            holder = _holder(os.pread(file, 1000, 0))
            raise RunStoreError(
                f"{target} is being written by {holder}; wait for it or stop it (lock {place})"
            ) from None
        except OSError as error:
            raise RunStoreError(f"can't lock {place}: {_mend(error)} before training") from error
        yield
    finally:
        os.close(file)


def _mend(error: OSError) -> str:
    return f"{_reason(error)}; {'free some space' if error.errno == errno.ENOSPC else 'make it writable'}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _holder(content: bytes) -> str:
    try:
        said = json.loads(content)
        process, host = int(said["process"]), said["host"]
        words = f"process {process} on {host} since {said['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
    if host != socket.gethostname():
        return words
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return f"a child that {words} left behind"
    except PermissionError:
        pass
    return words
