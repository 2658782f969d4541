"""Write files so that a reader, or a crash, meets the old content or the new, never half of it; show their names."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

PARTIAL = ".partial-"  # what a killed writer leaves begins with this
LEFT_BEHIND = 3600.0  # seconds after which a partial file has no writer any more, on whichever machine


def partial_of(target: Path) -> Path:
    """A name beside `target` that no other writer uses."""
    return target.with_name(f"{PARTIAL}{uuid.uuid4().hex[:8]}-{target.name}")


def write_atomically(target: Path, content: bytes) -> None:
    """Write a file under another name, sync it, rename it. Raises OSError that names `target`; no partial is left."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(target)
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(target)  # a write that fails names no file
        raise
    sync_folder(target.parent)


def sweep(partials: Iterable[Path], age: float = LEFT_BEHIND) -> None:
    """Remove those of some partial files, or folders, that nobody has touched for `age` seconds."""
    for partial in partials:
        with contextlib.suppress(OSError):  # another writer sweeps too, and what stays does no harm
            if time.time() - partial.stat().st_mtime > age:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def shown(name: str) -> str:
    """Any name as one line of printable text: what breaks lines, turns their direction or is no text is written out."""
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in name)


def _escaped(sign: str) -> str:
    # A byte of a file's name that is no UTF-8 comes as a lone surrogate.
    return f"\\x{ord(sign) - 0xDC00:x}" if "\udc80" <= sign <= "\udcff" else sign.encode("unicode_escape").decode()
