"""Class and probability of every image below a folder, by a model that `make model` made (`make predict MODEL=…`)."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline import augmentation, decoding, evaluation, execution, folders, native
from pipeline.backbones import FileWeights, read_weights
from pipeline.errors import UserError
from pipeline.files import write_atomically
from pipeline.folders import DatasetError
from pipeline.preprocessing import Preprocessing
from pipeline.stages import command
from pipeline.stages.model import DESCRIPTION, WEIGHTS

LOG = logging.getLogger(__name__)

BATCH = 64


class PredictError(UserError):
    """A model or a folder that can't be used."""


@dataclass(frozen=True)
class Model:
    """A trained model and what it expects of an image."""

    forward: torch.nn.Module  # normalised images [N, 3, H, W] to logits [N, classes]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    squares_of: int | None  # pixels: images of this size are not resized by Pillow
    white: int | None  # of 16-bit images

    def see(self, path: str) -> Tensor | DatasetError:
        """An image at the working size, uint8 [3, H, W]; or why it can't be read."""
        try:
            image = decoding.upright(path, self.white)
        except DatasetError as error:
            return error
        if image.size != (self.squares_of, self.squares_of):
            image = decoding.fit(image, self.preprocessing)
        pixels = torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)
        return augmentation.to_resolution(pixels[None], self.preprocessing)[0]


def predict(place: str, images: str, out: str) -> None:
    """Write a table of path, class and probability; what can't be read is listed on the terminal.

    Raises PredictError where there is no model or no image.
    """
    model, device = _read(Path(place)), execution.device()
    paths = list(_images(Path(images)))
    if not paths:
        raise PredictError(f"IMAGES: no image below {images}")
    model.forward.to(device).eval()
    text, unreadable = io.StringIO(), 0
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "class", "probability"))
    with ThreadPoolExecutor(execution.cores()) as pool:
        for start in range(0, len(paths), BATCH):
            seen = list(
                zip(paths[start : start + BATCH], pool.map(model.see, paths[start : start + BATCH]), strict=True)
            )
            for path, reason in seen:
                if isinstance(reason, DatasetError):
                    unreadable += 1
                    LOG.warning("unreadable: %s: %s", folders.shown(path), reason)
            read = [(path, pixels) for path, pixels in seen if isinstance(pixels, Tensor)]
            if read:
                batch = torch.stack([pixels for _, pixels in read]).to(device)
                logits = evaluation.predict(model.forward, [augmentation.normalise(batch, model.preprocessing, "own")])
                found = evaluation.probabilities(logits)
                for (path, _), row in zip(read, found, strict=True):
                    writer.writerow((path, model.classes[row.argmax()], f"{row.max():.4f}"))
    write_atomically(Path(out), text.getvalue().encode("utf-8", "surrogateescape"))
    LOG.info("%s: %d images, %d unreadable", out, len(paths) - unreadable, unreadable)


def _read(place: Path) -> Model:
    try:
        said: dict[str, Any] = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise PredictError(f"MODEL: no model in {place}; `make model STUDY=…` makes one in models/<study>") from None
    state, digest = read_weights(FileWeights(place / WEIGHTS))
    if digest != said["sha256"]:
        raise PredictError(f"{place / WEIGHTS} is not the file that {DESCRIPTION} describes; make the model anew")
    forward = native.build(said["backbone"], len(said["classes"]))
    forward.load_state_dict(dict(state))
    preprocessing = Preprocessing(**said["preprocessing"])
    return Model(forward, tuple(said["classes"]), preprocessing, said["squares_of"], said["white"])


def _images(root: Path) -> Iterator[str]:
    """The images below a folder by name, hidden and system entries left out."""
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(name for name in inside if name[0] != "." and name.lower() not in folders.SYSTEM)
        for name in sorted(files):
            path, suffix = os.path.join(folder, name), folders.suffix_of(name)  # noqa: PTH118
            if name[0] == "." or name.lower() in folders.SYSTEM:
                continue
            if folders.is_image_suffix(suffix) or (not suffix and folders.is_image(path)):
                yield path


if __name__ == "__main__":
    command.main(predict, "Class and probability of every image below a folder.", ("model", "images", "out"))
