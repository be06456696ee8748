"""How grey values of more than 8 bits become levels from 0 to 255."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

# Which values become 0 and 255: (low, high); "dtype", 0 and 65535, what 16 bits hold; "image", the image's own least
# and greatest; "auto", 0 and the first of _WHITES that is not below the greatest, as a camera of 12 bits stores 0..4095
# in files of 16. Floats within 0..1 are levels of that range; negative values, or greater ones than 65535, leave the
# image's own range.
Scale = Literal["auto", "dtype", "image"] | tuple[float, float]
_WHITES = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))


def to_8_bits(image: Image.Image, scale: Scale) -> Image.Image:
    """Mode I;16*, I or F as mode L, by `Scale`."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixels that are not finite numbers")
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
