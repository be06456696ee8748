"""`python -m tests.fuzz.images`: image files with mutated bytes, first of metadata alone, then of all.

A file is good where Pillow decodes the pixels of what is left of it without its metadata; such a file may not be left
out, and its pixels are those. Whatever the bytes, reading gives pixels or a reason, never an exception. Prints how many
were read and left out.
"""

from __future__ import annotations

import argparse
import io
import random
import struct
import tempfile
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from scatsimclr.data.decode import read_image, shorter_side

SIZE = (24, 32)  # (H, W)
KINDS = {1: "B", 2: "B", 3: "H", 4: "L", 5: "LL", 6: "b", 7: "B", 8: "h", 9: "l", 10: "ll", 11: "f", 12: "d"}
WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 200: 1}
TAGS = (0x0100, 0x0101, 0x0103, 0x010E, 0x010F, 0x0112, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769,
        0x8825, 0xA005, 0xC4A5, 0x02BC)  # fmt: skip


def picture(rng: random.Random, mode: str) -> Image.Image:
    levels = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (*SIZE, 3), np.uint8)
    smooth = Image.fromarray(levels).resize((4, 3)).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    return smooth.convert(mode)


def exif(rng: random.Random) -> bytes:
    """A directory with entries of any tag, type, count and value, and some bytes changed."""
    order, endian = rng.choice((("II", "<"), ("MM", ">")))
    entries, data = [], b""
    count = rng.randint(0, 8)
    for tag in sorted(rng.choice(TAGS) for _ in range(count)):
        kind = rng.choice(list(WIDTHS))
        number = rng.choice((0, 1, 1, 1, 2, 3, 20, 65536, 2**31, 2**32 - 1))
        size = WIDTHS[kind] * number
        raw = rng.randbytes(min(size, 64))
        if size <= 4:
            value = raw.ljust(4, b"\0")[:4]
        else:
            value = struct.pack(f"{endian}L", rng.choice((8 + 2 + 12 * count + 4 + len(data), 0, 7, 2**31)))
            data += raw
        entries.append(struct.pack(f"{endian}HHL", tag, kind, number) + value)
    head = order.encode() + struct.pack(f"{endian}HL", 42, 8) + struct.pack(f"{endian}H", len(entries))
    made = bytearray(
        b"Exif\0\0" + head + b"".join(entries) + struct.pack(f"{endian}L", rng.choice((0, 0, 8))) + data
    )
    for _ in range(rng.choice((0, 0, 1, 4))):
        made[rng.randrange(len(made))] = rng.randrange(256)
    return bytes(made[: rng.choice((len(made), len(made), rng.randint(0, len(made))))])


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def chunk(name: bytes, body: bytes, good: bool) -> bytes:
    check = zlib.crc32(name + body) ^ (0 if good else 1)
    return struct.pack(">L", len(body)) + name + body + struct.pack(">L", check)


def riff(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<L", len(body)) + body + b"\0" * (len(body) % 2)


def with_metadata(rng: random.Random) -> tuple[bytes, bytes, str]:
    """A file, the same without its metadata, and its suffix."""
    suffix = rng.choice(("jpg", "jpg", "png", "webp"))
    mode = rng.choice(("RGB", "RGB", "L")) if suffix != "webp" else "RGB"
    buffer = io.BytesIO()
    picture(rng, mode).save(buffer, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[suffix], quality=95)
    plain = buffer.getvalue()
    junk = rng.randbytes(rng.randint(0, 300))
    if suffix == "jpg":
        names = (
            b"Exif\0\0",
            b"ICC_PROFILE\0\1\1",
            b"MPF\0",
            b"Photoshop 3.0\x008BIM",
            b"http://ns.adobe.com/xap/1.0/\0",
        )
        parts = [segment(0xE1, exif(rng))] if rng.random() < 0.8 else []
        parts += [
            segment(rng.choice((0xE0, 0xE1, 0xE2, 0xED, 0xEC, 0xFE)), rng.choice(names) + junk)
            for _ in range(rng.randint(0, 2))
        ]
        return plain[:2] + b"".join(parts) + plain[2:], plain, suffix
    if suffix == "png":
        huge = zlib.compress(bytes(rng.choice((10, 2 << 20))))
        choices = (
            (b"eXIf", exif(rng).removeprefix(b"Exif\0\0")), (b"iCCP", b"icc\0\0" + huge), (b"zTXt", b"note\0\0" + huge),
            (b"zTXt", junk), (b"iTXt", junk), (b"tEXt", junk), (b"pHYs", junk[:9]), (b"gAMA", junk[:4]),
            (b"cHRM", junk[:32]), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + junk),
        )  # fmt: skip
        parts = [chunk(*rng.choice(choices), rng.random() < 0.8) for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.7:
            return plain[:33] + b"".join(parts) + plain[33:], plain, suffix
        return plain[:-12] + b"".join(parts) + plain[-12:], plain, suffix
    flags = rng.choice((0x08, 0x0C, 0x2C))
    size = struct.pack("<L", SIZE[1] - 1)[:3] + struct.pack("<L", SIZE[0] - 1)[:3]
    body = riff(b"VP8X", bytes([flags, 0, 0, 0]) + size)
    body += riff(b"ICCP", junk) if flags & 0x20 else b""
    body += plain[12:] + riff(b"EXIF", exif(rng)) + (riff(b"XMP ", junk) if flags & 4 else b"")
    return b"RIFF" + struct.pack("<L", len(body) + 4) + b"WEBP" + body, plain, suffix


def with_mutated_bytes(rng: random.Random) -> tuple[bytes, str]:
    suffix = rng.choice(("jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "tga", "jp2", "pcx", "sgi", "ico"))
    buffer = io.BytesIO()
    names = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}
    picture(rng, "RGB").save(buffer, names.get(suffix, suffix.upper()))
    raw = bytearray(buffer.getvalue())
    for _ in range(rng.choice((1, 1, 3, 10, 50))):
        raw[rng.randrange(min(len(raw), rng.choice((64, len(raw)))))] = rng.randrange(256)
    return bytes(raw[: rng.choice((len(raw), len(raw), rng.randint(0, len(raw))))]), suffix


def turns(pixels: np.ndarray) -> list[np.ndarray]:
    """The eight ways in which an orientation may turn them."""
    return [turned for k in range(4) for turned in (np.rot90(pixels, k), np.rot90(pixels, k)[:, ::-1])]


def metadata_case(number: int, folder: Path) -> str:
    """Reads one file with mutated metadata; what is wrong, or "read"."""
    rng = random.Random(number)
    data, plain, suffix = with_metadata(rng)
    path = folder / f"case.{suffix}"
    path.write_bytes(data)
    with Image.open(io.BytesIO(plain)) as image:
        expected = np.asarray(image.convert("RGB"))
    for size in (SIZE, SIZE[::-1]):
        found = read_image(path, size)
        if isinstance(found, str):
            return f"left out: {found}"
        if any(np.array_equal(found, turned) for turned in turns(expected)):
            return "read"
    return "other pixels"


def pixels_case(number: int, folder: Path) -> str:
    data, suffix = with_mutated_bytes(random.Random(number))
    path = folder / f"case.{suffix}"
    path.write_bytes(data)
    shorter_side(path)
    return "left out" if isinstance(read_image(path, SIZE), str) else "read"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metadata", type=int, default=6000)
    parser.add_argument("--pixels", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        first = options.seed * 1_000_003
        found = {
            number: metadata_case(number, Path(name)) for number in range(first, first + options.metadata)
        }
        wrong = {number: what for number, what in found.items() if what != "read"}
        print(f"mutated metadata: {len(found)} files, {len(wrong)} left out or with other pixels")
        for number, what in list(wrong.items())[:20]:
            print(f"  {number}: {what}")
        counts = Counter(pixels_case(n, Path(name)) for n in range(first, first + options.pixels))
        print(f"mutated bytes: {counts['read']} files read, {counts['left out']} left out")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
