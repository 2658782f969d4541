"""A stage as a command: arguments in, a clear message and an exit status out."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import UserError

RESULTS, REPORTS, DATA = Path("results"), Path("reports"), Path("data")
# What a disk refuses and a user can mend; other errors of the system are ours.
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)


def main(
    stage: Callable[..., None], description: str, arguments: Sequence[str] = ("study",), several: str = ""
) -> None:
    """Run `stage` with this process' arguments; what a user can mend ends in a message, not a traceback.

    `several` names one argument that takes any number of values, instead of `arguments`.
    """
    parser = argparse.ArgumentParser(description=description)
    for name in arguments if not several else ():
        parser.add_argument(name)
    if several:
        parser.add_argument(several, nargs="*")
    _in_utf_8()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    given = parser.parse_args()
    try:
        stage(*(getattr(given, several) if several else (getattr(given, name) for name in arguments)))
    except UserError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}; finished runs are kept, `dvc repro` goes on from here")
    except KeyboardInterrupt:
        sys.exit("stopped; finished runs are kept, `dvc repro` goes on from here")


def _in_utf_8() -> None:
    """Start this process again where the locale has names of files and what is said in anything but UTF-8.

    From Python 3.15 on it is so by itself.
    """
    if sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def leave_empty(place: Path) -> None:
    """Make the folder of a stage that has nothing to do: git and DVC both know files alone."""
    place.mkdir(parents=True, exist_ok=True)
    (place / ".gitkeep").touch()


def commit() -> str:
    """The checked-out commit, `-dirty` where code or parameters differ from it; THAW_COMMIT where git is not.

    Which studies are active is no such difference. A repository that Thaw only lies in says nothing of Thaw.
    """
    try:
        inside_another = _git("rev-parse", "--show-prefix")
        head = _git("rev-parse", "HEAD")
        changed = _git("diff", "--ignore-matching-lines=^active:", "HEAD", "--", "pipeline", "params.yaml")
    except (OSError, subprocess.CalledProcessError):
        inside_another = "unknown"
    if inside_another:
        return os.environ.get("THAW_COMMIT", "unknown")
    return f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    done = subprocess.run(("git", *arguments), check=True, capture_output=True, encoding="utf-8")
    return done.stdout.strip()
