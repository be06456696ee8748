"""How grey values of more than 8 bits become levels from 0 to 255.

A `Scale` says which values become 0 and 255. "auto" takes 0 and the least of 2^8 - 1, 2^10 - 1, …, 2^16 - 1 that is not
below the image's greatest value: a camera of 12 bits stores 0..4095 in files of 16. Floats within 0..1 are levels of
that range. Images with values below 0 or above 65535 are scaled by their own range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from scatsimclr.config.values import Scale as Scale

_WHITES = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))


def to_8_bits(image: Image.Image, scale: Scale) -> Image.Image:
    """An image of mode I;16*, I or F as mode L, by a scale; ValueError for pixels that are not finite."""
    values = np.asarray(image)
    eight = levels_of(values, scale)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # a grey PNG's one transparent value
        eight[values == transparent] = 255
    return Image.fromarray(eight)


def levels_of(values: npt.NDArray[Any], scale: Scale) -> npt.NDArray[np.uint8]:
    """Levels of one image of any shape, by a scale; booleans become 0 and 255.

    Raises:
        ValueError: Values that are not finite, or no real numbers.
    """
    levels: npt.NDArray[np.uint8]
    if values.dtype == np.bool_:
        levels = values.astype(np.uint8) * np.uint8(255)
        return levels
    if values.dtype.kind not in "uif":
        raise ValueError(f"pixels must be real numbers, got {values.dtype}")
    floats = values.dtype.kind == "f"
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixels must be finite numbers, got NaN or infinity")
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    if isinstance(scale, tuple):
        low, high = scale
    elif scale != "image" and low >= 0 and high <= 65535:
        whites = (65535.0,) if scale == "dtype" and not floats else _WHITES
        if floats:
            whites = (1.0, *whites)
        low, high = 0.0, next(white for white in whites if high <= white)
    span = high - low or 1.0  # one value everywhere is black
    levels = np.rint(((values - low) * (255.0 / span)).clip(0, 255)).astype(np.uint8)
    return levels
