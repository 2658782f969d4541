"""What stage `prepare` noted of a study's files when it last wrote, and whether that still holds; no image is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.files import PARTIAL, sweep, write_atomically
from pipeline.stages.command import DATA, RESULTS
from pipeline.strategies import Crop

if TYPE_CHECKING:
    from pipeline.datasets import Listing
    from pipeline.params import Study

PIXELS: Mapping[Crop, str] = {"own": "images.npy", "whole": "images_whole.npy"}
INDEX, CARD, LISTING = "index.csv", "card.json", "listing.json"
DECODING_VERSION = 1  # raise by hand whenever the stored pixels or ids can change; all images are then decoded anew
PLACES = ("path", "root", "name", "licence")  # options that say where images are or what they are called, no more
STALE_AFTER = 600.0  # seconds: what a writer that lives has touched since


class PreparedError(UserError):
    """Prepared data that are missing, made from other parameters, or in the way of a file of the user's own."""


def folder(study: str) -> Path:
    """Where the prepared data of a study lie."""
    return DATA / study


def images_of(study: Study) -> dict[str, Any]:
    """What the prepared images of a study depend on, beside the files themselves."""
    spec = study.dataset
    return {
        "dataset": {"name": spec.name, **{key: value for key, value in spec.options.items() if key not in PLACES}},
        "backbone": study.backbone,
        "resolution": study.resolution,
    }


def beside(study: Study) -> dict[str, str]:
    """Checksums of the files beside the images that the runs of a study rest on: own weights, another study's rates."""
    files = {
        "weights": None if study.weights is None else Path(study.weights).expanduser(),
        "rates_from": None if study.rates_from is None else RESULTS / study.rates_from / "rates.json",
    }
    return {
        what: hashlib.sha256(file.read_bytes()).hexdigest()
        for what, file in files.items()
        if file is not None and file.exists()
    }


def place_of(study: Study) -> dict[str, Any]:
    return {key: study.dataset.options[key] for key in ("path", "root") if key in study.dataset.options}


def is_current(study: Study, listing: Listing, crops: Sequence[Crop]) -> bool:
    """Whether nothing that the prepared images depend on was touched since they were made, nor they themselves."""
    last = record(study)
    if last.get("stamp") != listing.stamp or last.get("made_from") != _made(study, crops):
        return False
    return is_whole(study)


def is_whole(study: Study) -> bool:
    """Whether the prepared files are those that were written last, together."""
    outputs = record(study).get("outputs", {})
    return bool(outputs) and bool(outputs == _outputs(folder(study.name), outputs))


def damaged(study: Study) -> list[str]:
    """The files of decoded images and their index that hold other bytes than were written: a disk may lie."""
    sums = record(study).get("sha256", {})
    return [name for name, digest in sums.items() if _sha256(folder(study.name) / name) != digest]


def claim(study: Study) -> None:
    """Make sure that prepare may write its files. Raises PreparedError where another file has one of their names."""
    place = folder(study.name)
    last = record(study)
    names = (*PIXELS.values(), INDEX, CARD, LISTING)
    if not last:
        ours = names[:-1] if "made_from" in json_of(place / CARD) else ()  # an earlier edition kept no listing
    else:
        ours = (*last["outputs"], LISTING) if "outputs" in last else names
    foreign = [str(place / name) for name in names if name not in ours and (place / name).exists()]
    if foreign:
        raise PreparedError(
            f"{', '.join(foreign)}: not written by Thaw, which keeps prepared images under such a name; move it away "
            "or give the study another name"
        )
    place.mkdir(parents=True, exist_ok=True)
    sweep(place.glob(f"{PARTIAL}*"), STALE_AFTER)
    write_json(place / LISTING, {"written_by": "thaw"})  # so that what a crash leaves is known as ours


def write_card(study: Study, listing: Listing, found: Mapping[str, Any], crops: Sequence[Crop]) -> None:
    """Write the data card, `found` in the images themselves, and what all was made from; what stands is left alone."""
    place = folder(study.name)
    card = {
        "name": listing.name,
        "source": listing.origin,
        "licence": listing.licence,
        **found,
        "skipped": listing.skipped,
        "beside": beside(study),
        "made_from": {**images_of(study), "place": place_of(study)},
    }
    text = _as_text(card)
    if not (place / CARD).exists() or (place / CARD).read_bytes() != text:
        write_atomically(place / CARD, text)
    last, outputs = record(study), _outputs(place, (*PIXELS.values(), INDEX, CARD))
    # What stands since it was noted keeps its checksum: if it was damaged since, a new one would hide that.
    stands = {name for name, state in outputs.items() if last.get("outputs", {}).get(name) == state}
    sums = {name: digest for name, digest in last.get("sha256", {}).items() if name in stands}
    current = {
        "written_by": "thaw",
        "stamp": listing.stamp,
        "made_from": _made(study, crops),
        "outputs": outputs,
        "sha256": {name: sums.get(name) or _sha256(place / name) for name in outputs if name != CARD},
    }
    if current != last:
        write_json(place / LISTING, current)


def found(study: Study) -> dict[str, Any]:
    """What the data card holds that only a look into the images could tell."""
    card: dict[str, Any] = json.loads((folder(study.name) / CARD).read_text(encoding="utf-8"))
    keys = ("sha256", "classes", "pool_images", "test_images", "test_class_counts", "copies", "notes")
    return {key: card[key] for key in keys}


def write_json(target: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON."""
    write_atomically(target, _as_text(content))


def _as_text(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def json_of(target: Path) -> dict[str, Any]:
    """An object from a file; empty where there is none."""
    try:
        content = json.loads(target.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def record(study: Study) -> dict[str, Any]:
    """What prepare noted when it wrote its files; empty where it did not."""
    last = json_of(folder(study.name) / LISTING)
    return last if last.get("written_by") == "thaw" else {}


def _made(study: Study, crops: Sequence[Crop]) -> dict[str, Any]:
    return {
        **images_of(study),
        "crops": list(crops),
        "decoding": DECODING_VERSION,
        "pillow": metadata.version("pillow"),
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _outputs(place: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Size and time of each file that is there."""
    stats = {name: (place / name).stat() for name in names if (place / name).exists()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
