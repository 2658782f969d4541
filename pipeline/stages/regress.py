"""Stage `regress`: a study at another commit and in the working tree, compared (`make regress BASE=<commit>`)."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline import params
from pipeline.errors import UserError
from pipeline.stages import command

LOG = logging.getLogger(__name__)

PLACE = Path(".regress")  # worktrees of other commits, with their own results, and the pages
BENCHMARKS = Path("reports/benchmarks/bench.json")


class RegressError(UserError):
    """A commit that can't be compared; the message says why and what can."""


def regress(base: str, study: str) -> None:
    """Print and write .regress/<study>.md; ends with status 1 where something is worse, 2 where nothing compares.

    A study whose tables both commits hold is compared by these. Any other is trained: by the base's own code in
    .regress/<commit>, where finished runs stay for the next time, and in the working tree. Raises RegressError.
    """
    try:
        commit = _git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}").decode().strip()
    except subprocess.CalledProcessError:
        raise RegressError(f"there is no commit {base!r} here; `git fetch` brings those of others") from None
    here = command.commit()
    if here.endswith("-dirty"):
        LOG.warning("the working tree is %.12s with changes that are not committed", here)
    PLACE.mkdir(exist_ok=True)
    page = PLACE / f"{study}.md"
    page.unlink(missing_ok=True)  # where nothing compares, none is left to be taken for an answer
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        if all(_has(of, command.REPORTS / study / "runs.csv") for of in (commit, "HEAD")):
            LOG.info("%s: both commits hold its tables; nothing is trained", study)
            folders = [_extracted(of, command.REPORTS / study, place / of) for of in (commit, "HEAD")]
        else:
            folders = _trained(commit, study)
        names = ("--names", commit[:12], here[:12] + "-dirty" * here.endswith("-dirty"))
        done = subprocess.run(
            (sys.executable, "-m", "analysis.regression", *folders, *names, "--output", page, *_timed(commit, place)),
            check=False,
        )
    sys.exit(done.returncode)


def _trained(commit: str, study: str) -> list[Path]:
    """Complete the study at a commit and in the working tree; returns both folders of tables."""
    now = params.load().study(study)
    found = subprocess.run(
        ("git", "grep", "-h", "^NUMERICS_VERSION = ", commit, "--", "pipeline"),
        check=False, capture_output=True, text=True, encoding="utf-8",
    ).stdout.split()  # fmt: skip
    if found[2:3] in ([], ["1"]):
        raise RegressError(
            f"{commit[:12]} is of the first edition, or older: its strategies of the same names are other ones, and "
            "so are its stages; give a commit of the second"
        )
    blocks = yaml.safe_load(_git("show", f"{commit}:params.yaml"))
    if study not in blocks["studies"]:
        raise RegressError(f"study {study!r} is not known at {commit[:12]}; it has {', '.join(blocks['studies'])}")
    block = blocks["studies"][study]
    default = [name for name, strategy in blocks["strategies"].items() if strategy.get("default", True)]
    place = PLACE / commit[:12]
    if not (place / ".git").exists():
        _git("worktree", "add", "--force", "--detach", "--no-checkout", str(place), commit)
    _git("-C", str(place), "checkout", "--quiet", "--force", "--detach", commit)
    for name in _files(block):
        _link(Path(name), place)
    _complete(place, study, block.get("strategies", default))
    _complete(Path(), study, now.strategies)
    return [place / command.REPORTS / study, command.REPORTS / study]


def _files(block: Mapping[str, Any]) -> list[str]:
    """What a study reads that no commit holds: its folder of images, its own weights."""
    parts = [part for part in (block["dataset"], block["backbone"]) if isinstance(part, Mapping)]
    return [part[key] for part in parts for key in ("folder", "weights") if key in part]


def _link(name: Path, place: Path) -> None:
    """Let a relative path lead from another worktree to where it leads from here."""
    there = place / name
    if name.exists() and not there.exists():
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(name.resolve())


def _complete(place: Path, study: str, strategies: Iterable[str]) -> None:
    """Run the stages of a study with the code that lies in `place`; what is there is not trained again."""
    training = [("train", study, strategy) for strategy in strategies]
    before, after = (
        [(stage, study) for stage in stages]
        for stages in (("prepare", "subset", "tune"), ("sweep", "ablate", "lr_finder", "collect"))
    )
    for stage, *arguments in (*before, *training, *after):
        done = subprocess.run((sys.executable, "-m", f"pipeline.stages.{stage}", *arguments), cwd=place, check=False)
        if done.returncode:
            raise RegressError(f"stage {stage} of {study} failed in {place.resolve()}; its message stands above")


def _timed(commit: str, place: Path) -> tuple[str | Path, ...]:
    """The benchmarks of both sides, where both have some and they are not the same file."""
    if not (BENCHMARKS.exists() and _has(commit, BENCHMARKS)):
        return ()
    old = _git("show", f"{commit}:{BENCHMARKS.as_posix()}")
    if old == BENCHMARKS.read_bytes():
        return ()
    (place / BENCHMARKS.name).write_bytes(old)
    return "--benchmarks", place / BENCHMARKS.name, BENCHMARKS


def _has(commit: str, file: Path) -> bool:
    return bool(_git("ls-tree", commit, "--", file.as_posix()))


def _extracted(commit: str, folder: Path, place: Path) -> Path:
    """A folder as a commit holds it, written below `place`."""
    archive = _git("archive", "--format=zip", commit, "--", folder.as_posix())
    zipfile.ZipFile(io.BytesIO(archive)).extractall(place)
    return place / folder


def _git(*arguments: str) -> bytes:
    return subprocess.run(("git", *arguments), check=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    command.main(regress, "Compare a study at another commit with the working tree.", ("base", "study"))
