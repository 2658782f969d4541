"""What a backbone's weights expect of an image, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pipeline.strategies import Crop


@dataclass(frozen=True)
class Preprocessing:
    """Shorter side to `resize`, centre crop, scale to [0, 1], normalise."""

    resize: int  # pixels of the shorter side
    crop: int  # pixels of the square cut from the centre
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def at(self, resolution: int, crop: Crop = "own") -> Preprocessing:
        """The same preprocessing for a crop of `resolution` pixels, the shorter side in proportion.

        `whole` cuts nothing off the shorter side.
        """
        resize = resolution if crop == "whole" else max(resolution, round(self.resize * resolution / self.crop))
        return replace(self, resize=resize, crop=resolution)
