"""Orientation is read by itself; all other metadata is not looked at."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from scatsimclr.data.decode import read_image
from scatsimclr.data.metadata import orientation

PIXELS = np.array([[[0] * 3, [60] * 3, [120] * 3], [[180] * 3, [220] * 3, [255] * 3]], np.uint8).repeat(8, 0)
PIXELS = PIXELS.repeat(8, 1)  # (16, 24), six blocks of their own
# As EXIF's definition: where the stored row 0 and column 0 belong.
UPRIGHT = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS),
}


def exif(*entries, order="<"):
    """Entries (tag, type, count, four bytes) as an EXIF block."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HL", 42, 8)
    body = b"".join(struct.pack(f"{order}HHL", *entry[:3]) + entry[3] for entry in entries)
    return b"Exif\0\0" + head + struct.pack(f"{order}H", len(entries)) + body + bytes(4)


def turned(value, order="<"):
    return (0x0112, 3, 1, struct.pack(f"{order}HH", value, 0))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_orientation(tmp_path, suffix, value, order):
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        Image.fromarray(PIXELS).save(path, tiffinfo={0x0112: value})
    else:
        options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0}
        options = {} if suffix == "png" else options
        Image.fromarray(PIXELS).save(path, exif=exif(turned(value, order), order=order), **options)
    found = read_image(path, UPRIGHT[value].shape[:2])
    assert np.abs(found.astype(int) - UPRIGHT[value]).max() <= 3


SPOILED = {
    "software as rational": (0x131, 5, 1, struct.pack("<L", 60)),
    "software as double": (0x131, 12, 1, struct.pack("<L", 60)),
    "resolution as text": (0x11A, 2, 3, b"72\0\0"),
    "two resolutions": (0x11A, 5, 2, struct.pack("<L", 50)),
    "a value outside of the block": (0x10F, 2, 999, struct.pack("<L", 2**31)),
    "a directory that is none": (0x8769, 4, 1, struct.pack("<L", 3)),
    "an unknown type": (0x10F, 99, 1, bytes(4)),
    "four thousand million entries": (0x10F, 1, 2**32 - 1, bytes(4)),
}


@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_a_good_orientation_beside_a_bad_tag(tmp_path, spoiled, suffix):
    path = tmp_path / f"a.{suffix}"
    for entries in ((spoiled, turned(6)), (turned(6), spoiled)):
        Image.fromarray(PIXELS).save(path, exif=exif(*entries), quality=100)
        found = read_image(path, UPRIGHT[6].shape[:2])
        assert np.abs(found.astype(int) - UPRIGHT[6]).max() <= 12


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ((0x112, 4, 1, struct.pack("<L", 6)), 6),
        ((0x112, 1, 1, b"\6\0\0\0"), 6),
        ((0x112, 2, 2, b"6\0\0\0"), 6),
        ((0x112, 3, 1, struct.pack("<HH", 0, 0)), 1),
        ((0x112, 3, 1, struct.pack("<HH", 9, 0)), 1),
        ((0x112, 5, 1, bytes(4)), 1),
        ((0x112, 3, 0, struct.pack("<HH", 6, 0)), 1),
    ],
)
def test_orientations_of_other_types(entry, expected):
    image = Image.new("L", (2, 2))
    image.info["exif"] = exif(entry)
    assert orientation(image) == expected


@pytest.mark.parametrize(
    "block", [b"", b"Exif\0\0", b"Exif\0\0II*\0", b"Exif\0\0XX*\0\x08\0\0\0", exif(turned(6))[:20]]
)
def test_blocks_that_are_cut_off(block):
    image = Image.new("L", (2, 2))
    image.info["exif"] = block
    assert orientation(image) == 1


def test_an_orientation_in_xmp():
    image = Image.new("L", (2, 2))
    image.info["xmp"] = b'<rdf:Description tiff:Orientation="8"/>'
    assert orientation(image) == 8
    image.info = {"XML:com.adobe.xmp": "<tiff:Orientation>3</tiff:Orientation>"}
    assert orientation(image) == 3
