"""STL-10: 96x96, 5,000 training and 8,000 test images of ten classes and 100,000 unlabelled ones.

Source: A. Coates, H. Lee, A. Ng, An Analysis of Single-Layer Networks in Unsupervised Feature Learning,
AISTATS 2011; http://ai.stanford.edu/~acoates/stl10.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from scatsimclr.data.archive import Archive, obtain
from scatsimclr.data.decode import pack
from scatsimclr.data.imageset import DataError, ImageSet, Request
from scatsimclr.data.records import checked_labels, count_records

ARCHIVE = Archive(
    "stl10_binary.tar.gz",
    "stl10_binary",
    (
        *("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin"),
        *("class_names.txt", "fold_indices.txt"),
    ),
    "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    "91f7769df0f17e558f3565bffb0c7dfb",
)
_PARTS = {
    "pretrain": ("train", "unlabeled"),
    "train": ("train",),
    "test": ("test",),
    "unlabeled": ("unlabeled",),
}
_BYTES = 3 * 96 * 96
_CHUNK = 500  # images, 14 MB


def read(request: Request) -> ImageSet:
    """Reads the split train (5,000 images), test (8,000), unlabeled (100,000) or pretrain (train, then unlabeled).

    The files' labels 1..10 become 0..9; unlabelled images have -1. Files are read chunk by chunk: memory holds the
    result and 14 MB.

    Raises:
        DataError: Files are absent, do not hold whole images, or do not agree.
    """
    parts = _PARTS[request.split]
    labelled = [part for part in parts if part != "unlabeled"]
    needed = (
        [f"{part}_X.bin" for part in parts] + [f"{part}_y.bin" for part in labelled] + ["class_names.txt"]
    )
    folder = obtain(ARCHIVE, needed, request)
    classes = tuple((folder / "class_names.txt").read_text(encoding="utf-8", errors="replace").split())
    counts = [count_records(folder / f"{part}_X.bin", _BYTES, "images") for part in parts]
    labels = [
        _labels(folder, part, count, len(classes)) if part in labelled else np.full(count, -1, np.int64)
        for part, count in zip(parts, counts, strict=True)
    ]
    chunks = _chunks([folder / f"{part}_X.bin" for part in parts])
    images = pack(chunks, sum(counts), request.size, request.channels, request.progress)
    return ImageSet(images, torch.from_numpy(np.concatenate(labels)), classes)


def folds(request: Request) -> tuple[torch.Tensor, ...]:
    """The ten predefined folds, int64 index tensors (1,000,) into the train split.

    The data set's own protocol trains on each fold and reports the mean test accuracy.

    Raises:
        DataError: Files are absent, or an index is out of range.
    """
    folder = obtain(ARCHIVE, ["fold_indices.txt", "train_y.bin"], request)
    file = folder / "fold_indices.txt"
    images = (folder / "train_y.bin").stat().st_size
    result = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        try:
            indices = [int(word) for word in line.split()]
        except ValueError as error:
            raise DataError(f"{file}: line {number}: {error}") from error
        if indices and not 0 <= min(indices) <= max(indices) < images:
            raise DataError(f"{file}: line {number} has an index that is not in 0..{images - 1}")
        if indices:
            result.append(torch.tensor(indices, dtype=torch.int64))
    return tuple(result)


def _labels(folder: Path, part: str, count: int, classes: int) -> npt.NDArray[np.int64]:
    file = folder / f"{part}_y.bin"
    labels = np.fromfile(file, np.uint8)
    if len(labels) != count:
        raise DataError(
            f"{file}: expected {count} labels, one byte for each image of {part}_X.bin, found {len(labels)}"
        )
    return checked_labels(labels, file, 1, classes)


def _chunks(files: list[Path]) -> Iterator[npt.NDArray[np.uint8]]:
    """Images (k, 96, 96, 3): stored plane by plane and, as in MATLAB, column by column."""
    buffer = bytearray(_CHUNK * _BYTES)
    for path in files:
        with open(path, "rb") as file:
            while filled := file.readinto(buffer):
                planes = np.frombuffer(buffer, np.uint8, filled).reshape(-1, 3, 96, 96)
                yield planes.transpose(0, 3, 2, 1)
