"""From stored `uint8` images to what a backbone sees: resize, augment and normalise a batch on the device."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbones import IMAGENET_MEAN, IMAGENET_STD
from pipeline.preprocessing import Preprocessing
from pipeline.randomness import Keys, uniform
from pipeline.strategies import Augmentation, Normalisation

FLIP = 0.5  # probability of a horizontal flip
CROP_AREA = (0.5, 1.0)  # of the image, uniform; the aspect ratio is kept
JITTER = 0.3  # brightness, contrast and saturation are each scaled by 1 ± this, uniform


def flips(keys: Keys, seed: int, epoch: int) -> NDArray[np.bool_]:
    """Which of the images with these keys are flipped this epoch."""
    result: NDArray[np.bool_] = uniform(keys, 1, "augmentation", seed, epoch)[:, 0] < FLIP
    return result


def to_resolution(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize and crop `uint8` images [N, 3, H, W] as the weights' own transform does; the right size is left alone."""
    crop = preprocessing.crop
    if images.shape[-2:] == (crop, crop):
        return images
    # Here, since torchvision brings torch's compiler along and takes two seconds to import.
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as T

    mode = InterpolationMode(preprocessing.interpolation)
    resized = T.resize(images, [preprocessing.resize], interpolation=mode, antialias=True)
    cropped: Tensor = T.center_crop(resized, [crop, crop])
    return cropped


def normalise(images: Tensor, preprocessing: Preprocessing, normalisation: Normalisation) -> Tensor:
    """`uint8` or float images in 0..255 [N, 3, H, W] to what the weights expect, channels last.

    `own` are the weights' mean and standard deviation, `imagenet` the usual ones, `none` leaves [0, 1].
    """
    if normalisation == "own":
        mean, std = preprocessing.mean, preprocessing.std
    elif normalisation == "imagenet":
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    else:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    shift = torch.tensor(mean, device=images.device).view(3, 1, 1) * 255
    scale = 1 / (torch.tensor(std, device=images.device).view(3, 1, 1) * 255)
    return ((images.float() - shift) * scale).contiguous(memory_format=torch.channels_last)


def augment(images: Tensor, keys: Keys, seed: int, epoch: int, kind: Augmentation) -> Tensor:
    """Augment images [N, 3, H, W] in 0..255, each by the random numbers of (seed, epoch, its key) alone."""
    if kind == "none":
        return images
    if kind == "crop_and_colour":
        images = _crop_and_colour(images, uniform(keys, 7, "augmentation", seed, epoch))
    flipped = torch.from_numpy(flips(keys, seed, epoch)).to(images.device).view(-1, 1, 1, 1)
    return torch.where(flipped, images.flip(3), images)


def _crop_and_colour(images: Tensor, numbers: NDArray[np.float64]) -> Tensor:
    """A random crop of `CROP_AREA` back at full size, then brightness, contrast and saturation by `JITTER`."""
    count, _, high, wide = images.shape
    low, top = CROP_AREA
    side = torch.from_numpy(np.sqrt(low + (top - low) * numbers[:, 1])).float().to(images.device)
    centre = (1 - side).unsqueeze(1) * (2 * torch.from_numpy(numbers[:, 2:4]).float().to(images.device) - 1)
    affine = torch.zeros(count, 2, 3, device=images.device)
    affine[:, 0, 0] = affine[:, 1, 1] = side
    affine[:, :, 2] = centre
    grid = torch.nn.functional.affine_grid(affine, [count, 3, high, wide], align_corners=False)
    cropped = torch.nn.functional.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    factors = torch.from_numpy(1 - JITTER + 2 * JITTER * numbers[:, 4:7]).float().to(images.device)
    brightness, contrast, saturation = factors.view(count, 3, 1, 1, 1).unbind(1)
    bright = cropped * brightness
    grey = bright.mean((1, 2, 3), keepdim=True)
    contrasted = grey + contrast * (bright - grey)
    luma = (contrasted * contrasted.new_tensor((0.299, 0.587, 0.114)).view(3, 1, 1)).sum(1, keepdim=True)
    return (luma + saturation * (contrasted - luma)).clamp(0, 255)
