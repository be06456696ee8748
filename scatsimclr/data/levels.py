"""How grey values of more than 8 bits become levels from 0 to 255.

A `Scale` says which values become 0 and 255. "auto" takes 0 and the least of 2^8 - 1, 2^10 - 1, …, 2^16 - 1 that is not
below the image's greatest value: a camera of 12 bits stores 0..4095 in files of 16. Floats within 0..1 are levels of
that range. Images with values below 0 or above 65535 are scaled by their own range.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from scatsimclr.config.values import Scale as Scale

_WHITES = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))


def to_8_bits(image: Image.Image, scale: Scale) -> Image.Image:
    """An image of mode I;16*, I or F as mode L, by a scale; ValueError for pixels that are not finite."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixels must be finite numbers, got NaN or infinity")
    low, high = values.min(), values.max()
    if isinstance(scale, tuple):
        low, high = scale
    elif scale != "image" and low >= 0 and high <= 65535:
        whites = (65535.0,) if scale == "dtype" and image.mode != "F" else _WHITES
        if image.mode == "F":
            whites = (1.0, *whites)
        low, high = 0.0, next(white for white in whites if high <= white)
    span = high - low or 1.0  # one value everywhere is black
    eight = np.rint(((values - low) * (255.0 / span)).clip(0, 255)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # a grey PNG's one transparent value
        eight[values == transparent] = 255
    return Image.fromarray(eight)
