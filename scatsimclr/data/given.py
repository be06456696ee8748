"""Images that are passed from Python: files, arrays, tensors, Pillow images, or a PyTorch data set of them."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scatsimclr.data.arrays import as_array
from scatsimclr.data.csvfile import read_labels
from scatsimclr.data.decode import coloured, from_memory, pack
from scatsimclr.data.folder import image_files, scan
from scatsimclr.data.imageset import DataError
from scatsimclr.data.levels import Scale
from scatsimclr.data.listing import Listing
from scatsimclr.files import expanded

WHERE = "images"  # what messages call images that are in memory
CHUNK = 4096  # images that are converted at a time
KEYS = (("image", "img", "pixel_values"), ("label", "labels", "target"))  # of data sets whose items are dicts


@dataclass(frozen=True, eq=False)
class Given:
    """Images, and what is known of their classes.

    Attributes:
        images: The images in memory, by number; None for files.
        found: Which there are, and how they are divided.
    """

    images: Any
    found: Listing[Path] | Listing[int]

    @classmethod
    def of(cls, images: object, labels: object = None) -> Given:
        """Takes images as people have them.

        Args:
            images: A folder; a list of files; an array (N, H, W) or (N, H, W, C) or tensor (N, C, H, W); a list of
                arrays, tensors or Pillow images; or anything with a length and items that are such images, (image,
                label) or {"image": …, "label": …}, such as a PyTorch data set.
            labels: One per image, None or -1 where there is none; for files also a dict by path, or a CSV file of
                path,label. None: those that the images come with, class folders or the items' own.

        Raises:
            DataError: It is none of these, or labels and images do not fit together.
        """
        if isinstance(images, (str, os.PathLike)):
            return cls._of_folder(expanded(images), labels)
        if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
            raise DataError(
                f"images must be a folder, files, arrays or a data set, got {type(images).__name__}"
            )
        items: Any = images
        if not len(items):
            raise DataError("images must be one or more, got none")
        if isinstance(items, (np.ndarray, torch.Tensor)):
            if items.ndim not in (3, 4):
                raise DataError(
                    f"images must be (N, H, W[, C]), as tensors (N, C, H, W), got {items.ndim} axes"
                )
        elif all(isinstance(item, (str, os.PathLike)) for item in items):
            return cls._of_files([expanded(item) for item in items], labels)
        else:
            items, own = _unpacked(items)
            labels = own if labels is None else labels
        if labels is not None and not _is_sequence(labels):
            raise DataError(f"labels must be one per image, got {type(labels).__name__}")
        return cls(items, listed(list(range(len(items))), labels, Path(), WHERE))

    @classmethod
    def _of_folder(cls, root: Path, labels: object) -> Given:
        if not root.is_dir():
            raise DataError(f"images: {root} is {'not a folder' if root.exists() else 'not there'}")
        if labels is None:
            return cls(None, scan(root))
        files, unreadable = image_files([root])
        found = listed(files, by_name(labels, root, files), root, str(root))
        found.unreadable += unreadable
        return cls(None, found)

    @classmethod
    def _of_files(cls, files: list[Path], labels: object) -> Given:
        root = common_folder(files)
        whole = [path.absolute() for path in files]
        return cls(None, listed(whole, by_name(labels, root, whole), root, f"the {len(files)} files"))

    def pixels(
        self, items: Sequence[int], size: tuple[int, int], channels: int, scale: Scale, progress: bool
    ) -> torch.Tensor:
        """Images in memory as uint8 (n, H, W, channels), by `scatsimclr.data.decode.pixels_of`.

        Raises:
            DataError: One cannot be converted: its number is in the message.
        """
        images = self.images
        if images is None:
            raise ValueError("pixels are of images in memory, these are files")
        if isinstance(images, np.ndarray) and images.dtype == np.uint8 and channels in (1, 3):
            stack = images[..., None] if images.ndim == 3 else images
            if stack.shape[3] in (1, 3):
                parts = (stack[items[start : start + CHUNK]] for start in range(0, len(items), CHUNK))
                return pack(parts, len(items), size, channels, progress)
        try:
            return from_memory([images[item] for item in items], size, channels, progress, scale)
        except ValueError as error:
            raise DataError(f"{WHERE}: {error}") from None

    def shapes(self, items: Sequence[int]) -> list[tuple[int, ...]]:
        """(H, W, C) of images in memory, without those that are none."""
        found = []
        for item in items:
            try:
                found.append(_array(self.images, item).shape)
            except ValueError:
                continue
        return found

    def grey(self, items: Sequence[int]) -> bool:
        """Whether no image in memory has colours."""
        return not any(coloured(_array(self.images, item)) for item in items)


def _array(images: Any, item: int) -> Any:
    image = images[item]
    return as_array(np.asarray(image) if isinstance(image, Image.Image) else image)


def listed(items: Sequence[Any], labels: object, root: Path, where: str) -> Listing[Any]:
    """Items with labels, a sequence of one per item or None.

    Raises:
        DataError: There is not one for each.
    """
    found: Listing[Any] = Listing(root, where)
    if labels is None:
        found.train = [(item, -1) for item in items]
        return found
    given: Any = labels
    if len(given) != len(items):
        raise DataError(f"labels must be one per image, {len(items)}, got {len(given)}")
    names = [_name(label) for label in (given.tolist() if hasattr(given, "tolist") else given)]
    numeric = all(name is None or name.lstrip("-").isdigit() for name in names)
    found.classes = sorted({name for name in names if name is not None}, key=int if numeric else str)
    if len(found.classes) == 1:
        found.notes.append(f"all labels are {found.classes[0]!r}: the images are taken without labels")
        found.classes, names = [], [None] * len(names)
    place = {name: index for index, name in enumerate(found.classes)}
    for item, name in zip(items, names, strict=True):
        if name is None:
            found.unlabelled.append((item, -1))
        else:
            found.train.append((item, place[name]))
    return found


def _name(label: object) -> str | None:
    """The name of a class; None for what stands for no label."""
    if label is None or label == "" or (isinstance(label, float) and math.isnan(label)):
        return None
    if isinstance(label, numbers.Integral) and label == -1:
        return None
    return str(label)


def common_folder(files: Sequence[Path]) -> Path:
    """The innermost folder that all files are below."""
    return Path(os.path.commonpath([path.absolute().parent for path in files]))


def _is_sequence(labels: object) -> bool:
    return hasattr(labels, "__len__") and not isinstance(labels, (str, bytes, Mapping, os.PathLike))


def by_name(labels: object, root: Path, files: Sequence[Path]) -> object:
    """Labels of files as a sequence, also from a dict by path or a CSV file."""
    if isinstance(labels, Mapping):
        known = {expanded(path).absolute(): label for path, label in labels.items()}
        known |= {(root / path).absolute(): label for path, label in labels.items()}
        return [known.get(path.absolute()) for path in files]
    if isinstance(labels, (str, os.PathLike)):
        names = [path.absolute().relative_to(root.absolute()).as_posix() for path in files]
        found = read_labels(Path(labels), root, names).labels
        return [found.get(index) for index in range(len(files))]
    if labels is not None and not _is_sequence(labels):
        raise DataError(f"labels must be one per image, a dict or a CSV file, got {type(labels).__name__}")
    return labels


def _unpacked(items: Any) -> tuple[list[Any], list[Any] | None]:
    """The images of a sequence whose items are images, (image, label) or dicts; and the labels, if all have one."""
    images, labels = [], []
    for index in range(len(items)):
        item = items[index]
        if isinstance(item, Mapping):
            image, label = (next((item[key] for key in keys if key in item), None) for keys in KEYS)
        elif isinstance(item, (tuple, list)):
            image, label = (*item, None, None)[:2]
        else:
            image, label = item, None
        if isinstance(label, torch.Tensor):
            label = label.item() if label.numel() == 1 else None
        images.append(image)
        labels.append(label if isinstance(label, (str, numbers.Integral)) else None)
    return images, labels if any(label is not None for label in labels) else None
