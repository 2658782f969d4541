"""Whether all that a study declares has been trained, as stage `collect` found; known without opening a run."""

from __future__ import annotations

import hashlib
import json
import os
from importlib import metadata
from pathlib import Path

from pipeline.params import Params, Study
from pipeline.stages import command, noted, rates

NOTE = ".whole.json"  # hidden: what a user keeps beside it has another name
PACKAGES = ("torch", "torchvision", "timm", "pillow", "scikit-learn")  # whose releases are part of fingerprints
CODE = Path(__file__).parent.parent


def note(loaded: Params, study: Study, runs: int) -> None:
    """Note that none of a study's runs is missing."""
    noted.write_json(noted.folder(study.name) / NOTE, {"runs": runs, "of": _of(loaded, study)})


def runs_of(loaded: Params, study: Study) -> int | None:
    """How many runs a whole study has; None where it is not whole, or anything that runs rest on was touched since."""
    last = noted.json_of(noted.folder(study.name) / NOTE)
    return int(last["runs"]) if last.get("of") == _of(loaded, study) else None


def _of(loaded: Params, study: Study) -> str:
    """Checksum of all that decides which runs there should be, and of the files in which they are."""
    used = (*study.strategies, *study.sweep, *study.ablations)
    place = noted.folder(study.name)
    files = [place / noted.CARD, place / "subsets.json", rates.place(study.name), *sorted(CODE.rglob("*.py"))]
    kept = sorted((command.RESULTS / study.name).rglob("[!.]*.*"))
    content = [
        repr(study),
        *(repr(loaded.strategy(name)) for name in used),
        *(hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else "" for file in files),
        *(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in kept),
        *(metadata.version(package) for package in PACKAGES),
        os.environ.get("THAW_DEVICE", ""),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
