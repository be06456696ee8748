"""Pictures for pages and files: images of a set, sheets of them, and masks for light and dark pages."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

# Visible on light and dark pages; alpha carries the value.
MASK_COLOUR = (86, 130, 196)


def png(image: Image.Image) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def jpeg(image: Image.Image, quality: int = 80) -> bytes:
    """A JPEG file, with colours at full resolution."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def uri(content: bytes) -> str:
    """A data: URI of a PNG or JPEG file."""
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def picture(image: np.ndarray) -> Image.Image:
    """A picture of an image uint8 (H, W, C): in colours, by the first three channels; of fewer, the first in grey."""
    return Image.fromarray(np.ascontiguousarray(image[..., :3] if image.shape[2] > 2 else image[..., 0]))


def photo(image: np.ndarray, side: int = 96) -> str:
    """data: URI of an image uint8 (H, W, C), shrunk where it is larger than `side` pixels.

    Small ones are PNG: exact, and smaller than a JPEG file with its tables.
    """
    small = shrunk(picture(image), side)
    return uri(png(small) if max(small.size) <= 32 else jpeg(small))


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """The image, shrunk where its longer side exceeds `side` pixels."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    size = [max(1, round(length * scale)) for length in image.size]
    return image.resize(size, Image.Resampling.LANCZOS)


def sheet(images: np.ndarray, columns: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """Images uint8 (n, H, W, C) in rows of `columns`, of `side` pixels at most, and the size (w, h) of a tile."""
    tiles = [shrunk(picture(image), side) for image in images]
    width, height = tiles[0].size
    result = Image.new("RGB", (width * min(columns, len(tiles)), height * -(-len(tiles) // columns)))
    for index, tile in enumerate(tiles):
        result.paste(tile, (index % columns * width, index // columns * height))
    return result, (width, height)


def mask(values: np.ndarray) -> bytes:
    """PNG of one colour whose opacity is `values` (H, W), in [0, 1]: one byte per pixel, for any background."""
    levels = Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)).convert("P")
    levels.putdata(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8).ravel().tolist())
    levels.putpalette(list(MASK_COLOUR) * 256)
    buffer = io.BytesIO()
    levels.save(buffer, "PNG", transparency=bytes(range(256)), optimize=True)
    return buffer.getvalue()
