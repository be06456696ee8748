"""MNIST, Fashion-MNIST, KMNIST and the six parts of EMNIST: grey images of 28×28 in IDX files, gzipped or plain.

Sources: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits; H. Xiao, K. Rasul, R. Vollgraf,
Fashion-MNIST, arXiv 1708.07747; T. Clanuwat et al., Deep Learning for Classical Japanese Literature, arXiv 1812.01718;
G. Cohen et al., EMNIST, arXiv 1702.05373. Checksums are those of torchvision's data sets.
"""

from __future__ import annotations

import gzip
import shutil
import string
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt
import torch

from scatsimclr.data.archive import data_dir
from scatsimclr.data.decode import pack
from scatsimclr.data.download import fetch
from scatsimclr.data.imageset import DataError, ImageSet, Request
from scatsimclr.data.records import checked_labels
from scatsimclr.files import replacing

SIDE = 28
MOST = 1 << 20  # images in one file; the largest, EMNIST by class, has 697,932
_IMAGES, _LABELS = 0x803, 0x801  # magic numbers: unsigned bytes in 3 dimensions and in 1
_CHUNK = 4096  # images, 3 MB
_LARGEST = MOST * SIDE**2  # bytes of a file in an archive
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class _Source:
    """One data set.

    Attributes:
        classes: Names, in the order of the labels.
        folders: Below the data folder, where the files are looked for before the data folder itself.
        url: The folder to download from.
        md5: Of the files in that folder.
        train: The start of the names of the split's files.
        test: Likewise.
        first: The first label.
        transposed: Whether images are stored column by column.
        archive: The one file to download, if all files are in it.
        places: Where systems install the files.
    """

    classes: tuple[str, ...]
    folders: tuple[str, ...]
    url: str
    md5: Mapping[str, str]
    train: str = "train"
    test: str = "t10k"
    first: int = 0
    transposed: bool = False
    archive: str | None = None
    places: tuple[Path, ...] = ()

    def files(self, split: str) -> tuple[str, str]:
        """Names of the split's images and labels, without .gz."""
        part = self.test if split == "test" else self.train
        return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _four(*md5: str) -> dict[str, str]:
    names = (
        f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    )
    return dict(zip(names, md5, strict=True))


def _emnist(part: str, classes: str, first: int = 0) -> _Source:
    return _Source(
        tuple(classes),
        (f"emnist_{part}", "emnist", "EMNIST/raw", "gzip"),
        "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST",
        {"gzip.zip": "58c8d27c78d21e728a6bc7b3cc06412e"},
        train=f"emnist-{part}-train",
        test=f"emnist-{part}-test",
        first=first,
        transposed=True,
        archive="gzip.zip",
    )


# Where upper and lower case look alike, EMNIST has one class for both.
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
_SETS = {
    "mnist": _Source(
        tuple(string.digits),
        ("mnist", "MNIST/raw"),
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        _four(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion_mnist": _Source(
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw"),
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        _four(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        places=(Path("/usr/share/datasets/fashion-mnist"),),  # Debian's package dataset-fashion-mnist
    ),
    "kmnist": _Source(
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        ("kmnist", "KMNIST/raw"),
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist",
        _four(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
    "emnist_balanced": _emnist("balanced", _MERGED),
    "emnist_byclass": _emnist("byclass", string.digits + string.ascii_uppercase + string.ascii_lowercase),
    "emnist_bymerge": _emnist("bymerge", _MERGED),
    "emnist_letters": _emnist("letters", string.ascii_uppercase, first=1),
    "emnist_digits": _emnist("digits", string.digits),
    "emnist_mnist": _emnist("mnist", string.digits),
}


def read(request: Request) -> ImageSet:
    """Reads the split train (also pretrain) or test of one of the data sets.

    Files are looked for in a folder with the data set's name below the data folder, then in the data folder itself,
    then, where no data folder was named, where Debian installs them; else they are downloaded. Both files of a split
    are taken from the same folder. They are read chunk by chunk: memory holds the result and 3 MB.

    Raises:
        DataError: Files are absent, damaged, truncated, no IDX files, longer than they say, or do not agree; or labels
            are out of range.
    """
    source = _SETS[request.name]
    images, labels = _locate(source, request)
    answers = _labels(labels, source)
    with _opened(images) as file:
        count = _header(file, images, _IMAGES, 4)[0]
        if count != len(answers):
            raise DataError(f"{images} has {count} images, but {labels} has {len(answers)} labels")
        chunks = _chunks(file, images, count, source.transposed)
        pixels = pack(chunks, count, request.size, request.channels, request.progress)
    return ImageSet(pixels, torch.from_numpy(answers), source.classes)


def _locate(source: _Source, request: Request) -> tuple[Path, Path]:
    """The split's files, downloaded where they are not there and downloading is allowed."""
    root, names = data_dir(request), source.files(request.split)
    folders = [*(root / name for name in source.folders), root]
    if request.data_dir is None:
        folders += source.places
    for folder in folders:
        if source.archive and (folder / source.archive).is_file() and _file(folder, names[1]) is None:
            _unzip(folder / source.archive, [f"{name}.gz" for name in names])
        found = [path for name in names if (path := _file(folder, name)) is not None]
        if len(found) == len(names):
            return found[0], found[1]
    missing = next(
        (name for name in names if all(_file(folder, name) is None for folder in folders)), names[0]
    )
    absent = f"{request.name}: {missing}.gz is neither in {root} nor in {root / source.folders[0]}"
    remedy = "put it there, or name the folder that has it with --data-dir"
    if not request.download:
        raise DataError(f"{absent} and downloading is off: {remedy}")
    target = root / source.folders[1 if source.archive else 0]
    for name in [source.archive] if source.archive else [f"{name}.gz" for name in names]:
        fetch(f"{source.url}/{name}", source.md5[name], target / name, absent, remedy, request.progress)
    if source.archive:
        _unzip(target / source.archive, [f"{name}.gz" for name in names])
    return target / f"{names[0]}.gz", target / f"{names[1]}.gz"


def _file(folder: Path, name: str) -> Path | None:
    """`name` in `folder`, gzipped or plain, with - or, as some unpackers write it, a full stop before idx."""
    dotted = name.replace("-idx", ".idx")
    candidates = (folder / (form + suffix) for form in (name, dotted) for suffix in (".gz", ""))
    return next((path for path in candidates if path.is_file()), None)


def _unzip(archive: Path, names: list[str]) -> None:
    """Unpacks files of the archive's folder gzip/ beside the archive."""
    try:
        with zipfile.ZipFile(archive) as source:
            for name in names:
                if (size := source.getinfo(f"gzip/{name}").file_size) > _LARGEST:
                    raise DataError(f"{archive}: gzip/{name} is too large: {size} bytes")
                with (
                    replacing(archive.with_name(name)) as partial,
                    source.open(f"gzip/{name}") as content,
                    partial.open("wb") as file,
                ):
                    shutil.copyfileobj(content, file, 1 << 20)
    except KeyError as error:
        raise DataError(f"{archive}: {error.args[0]}") from error
    except (zipfile.BadZipFile, *_DAMAGED) as error:
        size = archive.stat().st_size
        raise DataError(f"{archive}: damaged or truncated archive ({size} bytes found): {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's content, decompressed if its first bytes say so, whatever its name; DataError where it is damaged."""
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            yield cast(IO[bytes], file)
    except _DAMAGED as error:
        size = path.stat().st_size
        raise DataError(f"{path}: damaged or truncated ({size} bytes found): {error}") from error


def _header(file: IO[bytes], path: Path, magic: int, words: int) -> tuple[int, ...]:
    """The dimensions of an IDX file. The format: magic number, then each dimension, as big-endian 32-bit words."""
    header = file.read(4 * words)
    if len(header) < 4 * words:
        raise DataError(f"{path}: truncated: expected a header of {4 * words} bytes, found {len(header)}")
    found, count, *sides = struct.unpack(f">{words}I", header)
    if found != magic:
        kind = "images" if magic == _IMAGES else "labels"
        raise DataError(
            f"{path}: not an IDX file of {kind}: expected the magic number {magic}, found {found}"
        )
    if not 0 < count <= MOST:
        raise DataError(f"{path}: expected 1 to {MOST} entries, found {count}")
    if any(side != SIDE for side in sides):
        raise DataError(f"{path}: expected images of {SIDE}x{SIDE}, found {'x'.join(map(str, sides))}")
    return count, *sides


def _labels(path: Path, source: _Source) -> npt.NDArray[np.int64]:
    """Indices into the classes, (n,)."""
    with _opened(path) as file:
        count = _header(file, path, _LABELS, 2)[0]
        raw = np.frombuffer(_exactly(file, path, count, count), np.uint8)
        _at_end(file, path, count)
    return checked_labels(raw, path, source.first, len(source.classes))


def _chunks(file: IO[bytes], path: Path, count: int, transposed: bool) -> Iterator[npt.NDArray[np.uint8]]:
    """Images (k, 28, 28, 1)."""
    whole = count * SIDE**2
    for start in range(0, count, _CHUNK):
        raw = _exactly(file, path, min(_CHUNK, count - start) * SIDE**2, whole, start * SIDE**2)
        images = np.frombuffer(raw, np.uint8).reshape(-1, SIDE, SIDE, 1)
        yield images.transpose(0, 2, 1, 3) if transposed else images
    _at_end(file, path, whole)


def _exactly(file: IO[bytes], path: Path, size: int, whole: int, before: int = 0) -> bytes:
    """The next `size` of `whole` bytes after the header, `before` of which were read already."""
    raw = file.read(size)
    if len(raw) < size:
        raise DataError(
            f"{path}: truncated: expected {whole} bytes after the header, found {before + len(raw)}"
        )
    return raw


def _at_end(file: IO[bytes], path: Path, whole: int) -> None:
    # One more byte: a file without end is refused at once, and at the end gzip verifies its checksum.
    if file.read(1):
        raise DataError(f"{path}: longer than it says: expected {whole} bytes after the header, found more")
