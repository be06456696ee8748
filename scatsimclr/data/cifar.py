"""CIFAR-10, CIFAR-100 and CIFAR-20 (CIFAR-100 with its 20 super-classes), 32x32.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html. The binary archives are downloaded; the Python ones are read where a user
has them already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from scatsimclr.data.archive import Archive, find, obtain
from scatsimclr.data.decode import pack
from scatsimclr.data.imageset import DataError, ImageSet, Request
from scatsimclr.data.pickles import load_batch
from scatsimclr.data.records import checked_labels, count_records

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

_PIXELS = 3 * 32 * 32
_CHUNK = 1000


@dataclass(frozen=True)
class _Source:
    """One of the two forms of a data set.

    Attributes:
        archive: Holds the files.
        train: Files of the split.
        test: Likewise.
    """

    archive: Archive
    train: tuple[str, ...]
    test: tuple[str, ...]

    def files(self, split: str) -> tuple[str, ...]:
        return self.test if split == "test" else self.train


@dataclass(frozen=True)
class _Labelling:
    """How labels are stored.

    Attributes:
        binary: The binary form.
        pickled: The Python form.
        label_bytes: Before the pixels of a binary record.
        column: Which of them is the label.
        count: Classes.
        names_file: The binary form's file with the class names.
        meta_file: Likewise for the Python form.
        labels_key: The Python form's key of the labels.
        names_key: Likewise for the names.
    """

    binary: _Source
    pickled: _Source
    label_bytes: int
    column: int
    count: int
    names_file: str
    meta_file: str
    labels_key: str
    names_key: str


def _sources(
    prefix: str,
    md5: str,
    folders: tuple[str, str],
    train: tuple[str, ...],
    test: str,
    names: tuple[str, ...],
    meta: str,
) -> tuple[_Source, _Source]:
    """The binary and the Python form, with the `folders` of both; class names are in `names` and in `meta`."""
    binary_train, binary_test = tuple(f"{name}.bin" for name in train), (f"{test}.bin",)
    file = f"{prefix}-binary.tar.gz"
    url = f"https://www.cs.toronto.edu/~kriz/{file}"
    binary = Archive(file, folders[0], (*binary_train, *binary_test, *names), url, md5)
    pickled = Archive(f"{prefix}-python.tar.gz", folders[1], (*train, test, meta))
    return _Source(binary, binary_train, binary_test), _Source(pickled, train, (test,))


_TEN = _sources(
    "cifar-10",
    "c32a1d4ab5d03f1284b67883e8d87530",
    folders=("cifar-10-batches-bin", "cifar-10-batches-py"),
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    names=("batches.meta.txt",),
    meta="batches.meta",
)
_HUNDRED = _sources(
    "cifar-100",
    "03b5dce01913d631647c71ecec9e9cb8",
    folders=("cifar-100-binary", "cifar-100-python"),
    train=("train",),
    test="test",
    names=("coarse_label_names.txt", "fine_label_names.txt"),
    meta="meta",
)


def _hundred(column: int, count: int, kind: str) -> _Labelling:
    """CIFAR-100's records hold the coarse label, then the fine one."""
    names = f"{kind}_label_names"
    return _Labelling(*_HUNDRED, 2, column, count, f"{names}.txt", "meta", f"{kind}_labels", names)


_SETS = {
    "cifar10": _Labelling(*_TEN, 1, 0, 10, "batches.meta.txt", "batches.meta", "labels", "label_names"),
    "cifar20": _hundred(0, 20, "coarse"),
    "cifar100": _hundred(1, 100, "fine"),
}


def read(request: Request) -> ImageSet:
    """Reads the split train (50,000 images, also pretrain) or test (10,000).

    Takes the binary files, else the Python ones (through `load_batch`, which runs no code), else downloads the binary
    archive.

    Raises:
        DataError: Files are absent, truncated or tampered with, or labels are out of range.
    """
    kind = _SETS[request.name]
    folder, pickled = _locate(kind, request)
    reader = _read_pickled if pickled else _read_binary
    files = [folder / name for name in (kind.pickled if pickled else kind.binary).files(request.split)]
    classes = _pickled_names(folder, kind) if pickled else _names(folder / kind.names_file)
    if len(classes) != kind.count:
        raise DataError(f"{folder}: expected the names of {kind.count} classes, found {len(classes)}")
    parts = [reader(file, kind) for file in files]
    labels = np.concatenate([part[1] for part in parts])
    images = pack(
        _chunks([part[0] for part in parts]), len(labels), request.size, request.channels, request.progress
    )
    return ImageSet(images, torch.from_numpy(labels), classes)


def _locate(kind: _Labelling, request: Request) -> tuple[Path, bool]:
    """The folder with the split's files, and whether they are the pickled ones."""
    binary = (*kind.binary.files(request.split), kind.names_file)
    folder = find(kind.binary.archive, binary, request)
    if folder is not None:
        return folder, False
    folder = find(kind.pickled.archive, (*kind.pickled.files(request.split), kind.meta_file), request)
    if folder is not None:
        return folder, True
    return obtain(kind.binary.archive, binary, request), False


def _read_binary(file: Path, kind: _Labelling) -> tuple[Pixels, Labels]:
    """Pixels (n, 3072) and labels (n,) of one .bin file: records of label bytes, then pixels."""
    record = kind.label_bytes + _PIXELS
    count_records(file, record, "CIFAR records")
    records = np.fromfile(file, np.uint8).reshape(-1, record)
    return records[:, kind.label_bytes :], checked_labels(records[:, kind.column], file, 0, kind.count)


def _read_pickled(file: Path, kind: _Labelling) -> tuple[Pixels, Labels]:
    """The same from one pickled batch."""
    batch = load_batch(file)
    pixels, labels = batch.get("data"), batch.get(kind.labels_key)
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list):
        raise DataError(
            f"{file}: not a CIFAR batch: expected data and {kind.labels_key}, found {sorted(batch)}"
        )
    if not labels or not all(type(label) is int for label in labels):
        raise DataError(f"{file}: {kind.labels_key} must be integers, at least one")
    if pixels.shape != (len(labels), _PIXELS):
        raise DataError(f"{file}: expected data of shape ({len(labels)}, {_PIXELS}), found {pixels.shape}")
    return pixels, checked_labels(labels, file, 0, kind.count)


def _names(file: Path) -> tuple[str, ...]:
    text = file.read_text(encoding="utf-8", errors="replace")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _pickled_names(folder: Path, kind: _Labelling) -> tuple[str, ...]:
    names = load_batch(folder / kind.meta_file).get(kind.names_key)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise DataError(f"{folder / kind.meta_file}: has no list of {kind.names_key}")
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)


def _chunks(parts: list[Pixels]) -> Iterator[Pixels]:
    """Images (k, 32, 32, 3): stored as a red, a green and a blue plane, each row by row."""
    for pixels in parts:
        for start in range(0, len(pixels), _CHUNK):
            yield pixels[start : start + _CHUNK].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
