"""Image files with metadata of any quality: only pixels and orientation count.

Pillow parses text chunks, colour profiles and EXIF as it opens a file, and refuses good pixels because of them: a tag
of the wrong type, a chunk above its size limit, a checksum. A file that it refuses is tried again without them.
"""

from __future__ import annotations

import functools
import io
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import SupportsFloat, TypeVar

from PIL import Image

Result = TypeVar("Result")

# Raster formats only. Pillow tries every format it knows, whatever a file's suffix, and for EPS it starts Ghostscript:
# a data set must not be able to start a program.
_FORMATS = (
    *("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000", "AVIF", "ICO"),
    *("PCX", "SGI"),
)
_ORIENTATION = 0x0112
_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_XMP = re.compile(rb"""tiff:Orientation(?:=["']|>)\s*([1-8])""")
# The PNG chunks that matter: the critical ones, transparency, and orientation. Of a JPEG, all segments matter but APPn
# and comments; among APPn, Adobe's (14) does, as it names the colour transform.
_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"))
_LARGEST = 1 << 30  # bytes; a larger file is not tried again


@functools.cache
def formats() -> tuple[str, ...]:
    """Names of the formats that are read and that this Pillow has."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)  # AVIF came with Pillow 11.3


def opened(path: Path, use: Callable[[Image.Image], Result]) -> Result:
    """Opens an image file and uses it; where that raises, once more without the file's metadata.

    Args:
        path: The file.
        use: What to do with the open image.

    Returns:
        The result of `use`.

    Raises:
        Exception: What the first attempt raised, if the second failed too.
    """
    try:
        with Image.open(path, formats=formats()) as image:
            return use(image)
    except Image.DecompressionBombError:
        raise
    except Exception:
        bare = _without_metadata(path)
        if bare is None:
            raise
        data, exif = bare
        try:
            with Image.open(io.BytesIO(data), formats=formats()) as image:
                if exif:
                    image.info["exif"] = exif
                return use(image)
        except Exception:
            pass
        raise


def upright(image: Image.Image) -> Image.Image:
    """The image, rotated or mirrored by its EXIF or XMP orientation; as it is where none can be read."""
    image.load()
    method = _TRANSPOSED.get(orientation(image))
    return image if method is None else image.transpose(method)


def orientation(image: Image.Image) -> int:
    """The orientation of an image, 1 to 8 as in EXIF; 1 where there is none. Never raises."""
    found = None
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        try:
            found = _whole(tags.get(_ORIENTATION))
        except Exception:  # another tag of the same directory is damaged
            found = None
    exif = image.info.get("exif")
    if found is None and isinstance(exif, bytes):
        found = _exif_orientation(exif)
    profile = image.info.get("Raw profile type exif")
    if found is None and isinstance(profile, str):
        try:
            found = _exif_orientation(bytes.fromhex("".join(profile.split("\n")[3:])))
        except ValueError:
            found = None
    for name in ("xmp", "XML:com.adobe.xmp"):
        xmp = image.info.get(name)
        xmp = xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp
        if found is None and isinstance(xmp, bytes) and (match := _XMP.search(xmp)):
            found = int(match[1])
    return found or 1


def _whole(value: object) -> int | None:
    """A number from 1 to 8, also as the only item of a tuple or as text; None for anything else."""
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        value = value.strip("\0 ")
    if not isinstance(value, (str, bytes, SupportsFloat)):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    return int(number) if number in range(1, 9) else None


def _exif_orientation(exif: bytes) -> int | None:
    """The orientation's entry in the first directory of a TIFF header; nothing else is read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    start = struct.unpack_from(f"{order}L", exif, 4)[0]
    if start + 2 > len(exif):
        return None
    for number in range(struct.unpack_from(f"{order}H", exif, start)[0]):
        at = start + 2 + 12 * number
        if at + 12 > len(exif):
            break
        tag, kind, count = struct.unpack_from(f"{order}HHL", exif, at)
        if tag == _ORIENTATION and count >= 1:
            layout = {1: "B", 2: "c", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}.get(kind)
            if layout is not None:
                value = struct.unpack_from(f"{order}{layout}", exif, at + 8)[0]
                return _whole(value.decode("latin-1") if isinstance(value, bytes) else value)
    return None


def _without_metadata(path: Path) -> tuple[bytes, bytes] | None:
    """The bytes of a JPEG, PNG or WebP file that decide its pixels, and its EXIF; None for other files."""
    try:
        if os.path.getsize(path) > _LARGEST:
            return None
        data = Path(path).read_bytes()
    except OSError:
        return None
    if data[:2] == b"\xff\xd8":
        return _bare_jpeg(data)
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _bare_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _bare_webp(data)
    return None


def _bare_jpeg(data: bytes) -> tuple[bytes, bytes]:
    kept, exif, at = [data[:2]], b"", 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        length = struct.unpack_from(">H", data, at + 2)[0]
        if marker == 0xDA or length < 2:
            break
        segment = data[at : at + 2 + length]
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0" and not exif:
            exif = segment[4:]
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            kept.append(segment)
        at += 2 + length
    return b"".join((*kept, data[at:])), exif


def _bare_png(data: bytes) -> tuple[bytes, bytes]:
    kept, at = [data[:8]], 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">L", data, at)[0]
        if data[at + 4 : at + 8] in _PNG_KEPT:
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    exif = next((chunk[8:-4] for chunk in kept if chunk[4:8] == b"eXIf"), b"")
    return b"".join(chunk for chunk in kept if chunk[4:8] != b"eXIf"), exif


def _bare_webp(data: bytes) -> tuple[bytes, bytes]:
    kept, exif, at = [], b"", 12
    while at + 8 <= len(data):
        name, length = data[at : at + 4], struct.unpack_from("<L", data, at + 4)[0]
        whole = data[at : at + 8 + length + length % 2]
        if name == b"EXIF":
            exif = exif or whole[8 : 8 + length]
        elif name == b"VP8X":  # clears the flags of the chunks left out
            kept.append(whole[:8] + bytes([whole[8] & ~0x2C & 0xFF]) + whole[9:])
        elif name not in (b"ICCP", b"XMP "):
            kept.append(whole)
        at += 8 + length + length % 2
    body = b"".join(kept)
    return b"RIFF" + struct.pack("<L", len(body) + 4) + b"WEBP" + body, exif
