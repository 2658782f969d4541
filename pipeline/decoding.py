"""From a file to upright RGB pixels, their identity and their fitted square."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.folders import DatasetError, formats, suffix_of
from pipeline.preprocessing import Preprocessing
from pipeline.strategies import Crop

Pixels = NDArray[np.uint8]
T = TypeVar("T")
Content = str | Pixels  # the path of a file, or pixels [H, W, 3] that no file holds one by one

EIGHT_BIT = frozenset({"1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "RGB", "RGBX"})
WITH_ALPHA = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})
STRIP = 16  # times as long as wide; no camera's picture is


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What a file says of its image before it is decoded."""

    size: tuple[int, int]  # width, height
    deep: bool  # 16 bits of grey


def header(content: Content) -> Header:
    """Read a file's header. Raises DatasetError where it is no image, too large, or of a mode without a sound RGB."""
    if not isinstance(content, str):
        return Header((content.shape[1], content.shape[0]), False)
    return _opened(content, lambda image: Header(image.size, _is_deep(image)))


def deepest(content: Content) -> int:
    """The largest value of a 16-bit image."""
    return _opened(str(content), lambda image: int(np.asarray(image).max()))


def upright(content: Content, deepest: int | None = None) -> Image.Image:
    """Decode to upright RGB: alpha over white, 16-bit grey divided by 256, or scaled so that `deepest` is white.

    Raises DatasetError, also above Pillow's limit of 89 million pixels: so one image takes at most 270 MB as RGB.
    """
    if not isinstance(content, str):
        return Image.fromarray(content)
    return _opened(content, lambda image: _to_rgb(ImageOps.exif_transpose(image), _is_deep(image), deepest))


def _opened(path: str, read: Callable[[Image.Image], T]) -> T:
    try:
        with Image.open(path, formats=formats(suffix_of(Path(path).name))) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"{image.width} x {image.height} is over {limit}")
            if not (image.mode in EIGHT_BIT or image.mode in WITH_ALPHA or _is_deep(image)):
                raise DatasetError(f"images of mode {image.mode} have no agreed range; save it as 8-bit RGB or grey")
            return read(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DatasetError(f"too many pixels ({error})") from error
    except UnidentifiedImageError:
        empty = Path(path).stat().st_size == 0
        raise DatasetError("an empty file" if empty else "not a readable image, whatever its name says") from None
    except OSError as error:
        raise DatasetError(error.strerror or f"damaged ({error})") from error
    except DatasetError:
        raise
    except Exception as error:  # Pillow's plugins raise all kinds on damaged files
        raise DatasetError(f"damaged ({error})") from error


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")  # a PGM's, as Pillow has it


def _to_rgb(image: Image.Image, deep: bool, deepest: int | None) -> Image.Image:
    if deep:
        values = np.asarray(image).astype(np.uint32)
        scaled = values >> 8 if deepest is None else (values * 255 + deepest // 2) // max(deepest, 1)
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


# --- identity and size ----------------------------------------------------------------------------------------------


def identity(pixels: Pixels) -> str:
    """An image's id: the SHA-256 of its shape and its upright RGB pixels, whatever its file is called."""
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def fit(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Shorter side to `resize`, then the centre `crop` × `crop`, as the weights' own transform does with PIL images.

    Of a strip longer than `STRIP`, only what the crop shows is computed: 3 × 60,000 px take no more memory than a
    square. Its pixels are those of the transform but for rounding, which is why other images go the transform's way.
    """
    wide, high = image.size
    resample = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[preprocessing.interpolation]
    short, long = min(wide, high), max(wide, high)
    resize, crop = preprocessing.resize, preprocessing.crop
    other = int(resize * long / short)
    size = (resize, other) if wide <= high else (other, resize)
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    if long <= STRIP * short:
        resized = image if image.size == size else image.resize(size, resample)
        return resized.crop((left, top, left + crop, top + crop))
    across, down = wide / size[0], high / size[1]  # source pixels a pixel
    box = (left * across, top * down, min(wide, (left + crop) * across), min(high, (top + crop) * down))
    return image.resize((crop, crop), resample, box=box)


@dataclass(frozen=True)
class Decoded:
    """One image, ready to be stored."""

    id: str
    stored: Mapping[Crop, Pixels]  # [H, W, 3] for each crop


def decode(content: Content, fits: Mapping[Crop, Preprocessing | None], deepest: int | None) -> Decoded:
    """Decode one image and fit it to each crop, None for its native size. Raises DatasetError."""
    image = upright(content, deepest)
    pixels = np.asarray(image, dtype=np.uint8)
    stored = {
        crop: pixels if wanted is None else np.asarray(fit(image, wanted), dtype=np.uint8)
        for crop, wanted in fits.items()
    }
    return Decoded(identity(pixels), stored)
