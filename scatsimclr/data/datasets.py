"""Data sets by name, each as one `ImageSet`: uint8 images and labels, in memory but for "shards".

    from scatsimclr.data.datasets import load
    images = load("stl10", "pretrain", size=(96, 96))

Splits: "pretrain" is what self-supervised training sees; "train" and "test" are the labelled splits of the probes.
Images of another size than requested are resized with Pillow's Lanczos filter. `channels=1` makes them grey.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import torch

from scatsimclr.config.values import OWN, SCALES
from scatsimclr.data import cifar, digits, idx, own, photos, shards, stl10
from scatsimclr.data.given import Given
from scatsimclr.data.imageset import DataError, ImageSet, Request
from scatsimclr.data.levels import Scale
from scatsimclr.files import expanded

__all__ = [
    "DATASETS",
    "DataError",
    "Dataset",
    "ImageSet",
    "folds",
    "load",
    "names",
    "normalization",
    "splits",
]

T = TypeVar("T")
Channels = tuple[float, ...]

# Those of the paper's recipe: ImageNet's for photographs, CIFAR's own; the digits' were measured on their train split.
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR = ((0.491, 0.482, 0.447), (0.247, 0.243, 0.261))
_DIGITS = ((0.312,) * 3, (0.357,) * 3)
# Those in common use, over all pixels of the train split; EMNIST's parts differ by a hundredth.
_MNIST = ((0.1307,) * 3, (0.3081,) * 3)
_FASHION = ((0.2860,) * 3, (0.3530,) * 3)
_KMNIST = ((0.1918,) * 3, (0.3483,) * 3)
_EMNIST = ((0.1751,) * 3, (0.3332,) * 3)
_SPLITS = ("pretrain", "train", "test")


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set before it is read.

    Attributes:
        about: One line for a reader.
        size: The usual (H, W).
        splits: Names of its splits.
        normalization: (mean, std) per channel, for pixels in 0..1.
        read: Reads a split.
        natural: (H, W, C) of its images as stored, C = 1 for grey; None where only the images tell.
    """

    about: str
    size: tuple[int, int]
    splits: tuple[str, ...]
    normalization: tuple[Channels, Channels]
    read: Callable[[Request], ImageSet]
    natural: tuple[int, int, int] | None = (32, 32, 3)


def _idx(about: str, normalization: tuple[Channels, Channels]) -> Dataset:
    return Dataset(about, (32, 32), _SPLITS, normalization, idx.read, (idx.SIDE, idx.SIDE, 1))


DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {
        "digits": Dataset(
            "scikit-learn's 1,797 digits, no download", (32, 32), _SPLITS, _DIGITS, digits.read, (8, 8, 1)
        ),
        "photos": Dataset(
            "patches of scikit-learn's two photographs, no download",
            (32, 32),
            _SPLITS,
            _IMAGENET,
            photos.read,
            (photos.PATCH, photos.PATCH, 3),
        ),
        "cifar10": Dataset("CIFAR-10", (32, 32), _SPLITS, _CIFAR, cifar.read),
        "cifar20": Dataset("CIFAR-100 with its 20 super-classes", (32, 32), _SPLITS, _CIFAR, cifar.read),
        "cifar100": Dataset("CIFAR-100", (32, 32), _SPLITS, _CIFAR, cifar.read),
        "mnist": _idx("MNIST: 70,000 handwritten digits", _MNIST),
        "fashion_mnist": _idx("Fashion-MNIST: 70,000 pieces of clothing", _FASHION),
        "kmnist": _idx("KMNIST: 70,000 cursive Japanese characters", _KMNIST),
        "emnist_balanced": _idx("EMNIST, 47 classes of equal size", _EMNIST),
        "emnist_byclass": _idx("EMNIST, 62 classes: digits, upper and lower case", _EMNIST),
        "emnist_bymerge": _idx("EMNIST, 47 classes as they occur", _EMNIST),
        "emnist_letters": _idx("EMNIST, 26 letters in either case", _EMNIST),
        "emnist_digits": _idx("EMNIST, 280,000 digits", _EMNIST),
        "emnist_mnist": _idx("EMNIST, 70,000 digits prepared as MNIST", _EMNIST),
        "stl10": Dataset("STL-10", (96, 96), (*_SPLITS, "unlabeled"), _IMAGENET, stl10.read, (96, 96, 3)),
        "folder": Dataset("your own images", (96, 96), (*_SPLITS, "unlabeled"), _IMAGENET, own.read, None),
        "shards": Dataset(
            "your own images, more than memory holds",
            (96, 96),
            (*_SPLITS, "unlabeled"),
            _IMAGENET,
            shards.read,
            None,
        ),
    }
)


def names() -> tuple[str, ...]:
    """The names that `load` knows."""
    return tuple(DATASETS)


def splits(name: str) -> tuple[str, ...]:
    """The splits of a data set; DataError for an unknown name."""
    return _dataset(name).splits


def normalization(name: str, channels: int = 3) -> tuple[Channels, Channels]:
    """(mean, std) of the channels, for pixels scaled to 0..1; DataError for an unknown name.

    One channel has the numbers of the first of three: a view of a grey image is the first channel of its view in RGB.
    Other numbers of channels have 0.5 and 0.25 in each.
    """
    mean, std = _dataset(name).normalization
    if channels not in (1, 3):
        mean, std = (0.5,) * channels, (0.25,) * channels
    return mean[:channels], std[:channels]


def natural(name: str) -> tuple[int, int, int] | None:
    """`Dataset.natural` of a data set; DataError for an unknown name."""
    return _dataset(name).natural


def request(
    name: str,
    split: str,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    progress: bool = True,
    scale: Scale = "auto",
    given: Given | None = None,
) -> Request:
    """The arguments of `load`, checked, as readers get them."""
    dataset = _dataset(name)
    if split not in dataset.splits:
        raise DataError(f"{name} has no split {split!r}: {_choices(split, dataset.splits)}")
    size = dataset.size if size is None else size
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise DataError(f"size must be two positive integers (H, W), got {size!r}")
    if channels not in (1, 3) and not (name in OWN and isinstance(channels, int) and channels > 0):
        wanted = "a positive integer" if name in OWN else "1 or 3"
        raise DataError(f"channels must be {wanted}, got {channels!r}")
    if scale not in SCALES and not (isinstance(scale, tuple) and len(scale) == 2):
        raise DataError(f"scale must be auto, dtype, image or (low, high), got {scale!r}")
    place = None if data_dir is None else expanded(data_dir)
    height, width = size
    return Request(name, split, (height, width), place, download, progress, channels, scale, given)


def load(
    name: str,
    split: str,
    *,
    size: tuple[int, int],
    channels: int = 3,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    progress: bool = True,
    scale: Scale = "auto",
    given: Given | None = None,
) -> ImageSet:
    """Reads one split of a data set.

    Args:
        name: One of `names()`.
        split: One of `splits(name)`.
        size: (H, W) in pixels, positive; `DATASETS[name].size` is the usual one.
        channels: 3, RGB, a grey image with three equal ones; 1, grey, a colour image as Pillow's mode L; or, for
            "folder" and "shards", another number, which the images must have.
        data_dir: Where files are looked for and downloaded to, by default pooch's cache folder for "scatsimclr". For
            "folder", the images themselves: see `scatsimclr.data.own.read`; for "shards", the folder with the manifest.
            Not used by "digits" and "photos".
        download: Whether archives that are not there may be fetched from their official source.
        progress: Whether to show progress bars, on a terminal only.
        scale: Of images of more than 8 bits, in "folder"; see `scatsimclr.data.levels`.
        given: For "folder", images that are passed instead of `data_dir`.

    Returns:
        Images uint8 (n, H, W, channels) and labels int64 (n,).

    Raises:
        DataError: For everything that a user can cause: an unknown name; a folder or file that is absent, truncated,
            damaged or tampered with; no network; a wrong checksum.
    """
    asked = request(
        name,
        split,
        size=size,
        channels=channels,
        data_dir=data_dir,
        download=download,
        progress=progress,
        scale=scale,
        given=given,
    )
    return _reading(DATASETS[name].read, asked)


def folds(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
    progress: bool = True,
) -> tuple[torch.Tensor, ...]:
    """The predefined folds of a data set.

    Only stl10 has them: ten of 1,000 images each. Arguments as for `load`.

    Returns:
        int64 index tensors into the split "train".

    Raises:
        DataError: For any other data set, absent files, or indices out of range.
    """
    _dataset(name)
    if name != "stl10":
        raise DataError(f"{name} has no predefined folds: only stl10 has")
    asked = request(name, "train", data_dir=data_dir, download=download, progress=progress)
    return _reading(stl10.folds, asked)


def _reading(read: Callable[[Request], T], request: Request) -> T:
    """`read(request)`, with a DataError where the system cannot open a file."""
    try:
        return read(request)
    except OSError as error:
        where = error.filename or request.data_dir
        raise DataError(f"{request.name}: {where}: {error.strerror or error}") from error


def _dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}: {_choices(name, names())}")
    return DATASETS[name]


def _choices(given: str, known: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(str(given).lower(), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{hint}known are {', '.join(known)}"
