"""Images that are in memory already, as uint8 of one size and number of channels: the same numbers as from files."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from scatsimclr.data.levels import Scale, levels_of

Pixels: TypeAlias = npt.NDArray[np.uint8]


def as_array(image: object) -> npt.NDArray[Any]:
    """An image as an array (H, W, C), whatever holds it.

    Args:
        image: An array (H, W) or (H, W, C), of any real numbers; a tensor (H, W) or (C, H, W), as torchvision has them.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(image, torch.Tensor):
        array = image.detach().cpu().numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    else:
        array = np.asarray(image)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        shape = "(H, W) or (C, H, W)" if isinstance(image, torch.Tensor) else "(H, W) or (H, W, C)"
        raise ValueError(f"an image must have shape {shape}, got {tuple(np.shape(array))}")
    return array


def levels(image: npt.NDArray[Any], scale: Scale) -> Pixels:
    """The levels of an array (H, W, C): uint8 as it is, other numbers by a scale, which all channels share."""
    return image if image.dtype == np.uint8 else levels_of(image, scale)


def as_picture(pixels: Pixels) -> Image.Image:
    """A Pillow image of pixels (H, W, C) with one to four channels: grey, grey and alpha, RGB, RGBA."""
    shape = pixels.shape[:2] if pixels.shape[2] == 1 else pixels.shape
    return Image.fromarray(np.ascontiguousarray(pixels).reshape(shape))


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A Pillow image stretched to (H, W) by Lanczos."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def stretched(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Pixels (H, W, C) of any number of channels, each stretched by itself."""
    parts = [np.asarray(resized(as_picture(pixels[..., c : c + 1]), size)) for c in range(pixels.shape[2])]
    return np.stack(parts, -1)
