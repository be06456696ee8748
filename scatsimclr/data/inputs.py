"""Images to work on, however they are given: as batches of pixels, with their names and classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scatsimclr.data.decode import decode_batches
from scatsimclr.data.folder import image_files, scan
from scatsimclr.data.given import Given, by_name, common_folder, listed
from scatsimclr.data.imageset import DataError, ImageSet
from scatsimclr.data.levels import Scale
from scatsimclr.data.listing import Listing
from scatsimclr.files import expanded


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch.

    Attributes:
        index: Which of the inputs these are, ascending.
        images: uint8 (k, H, W, C).
        failed: Why an input, by its index, could not be read.
    """

    index: list[int]
    images: torch.Tensor
    failed: dict[int, str]


@dataclass(frozen=True, eq=False)
class Inputs:
    """Images to work on.

    Attributes:
        names: Of each, its path or number.
        labels: Of each, an index into `classes`, −1 where it has none: class folders, or labels that items come with.
        classes: Names.
        skipped: (path, reason) of what could not be searched for images.
    """

    names: list[str]
    labels: list[int]
    classes: tuple[str, ...]
    skipped: list[tuple[str, str]]
    _files: list[Path]
    _given: Given | None = None
    _set: ImageSet | None = None

    @classmethod
    def of(cls, images: object, labels: object = None) -> Inputs:
        """Takes an image file or a folder, a list of these, or anything that `Given.of` takes.

        Args:
            images: The images.
            labels: As for `Given.of`. None: class folders, or the labels that items come with.

        Raises:
            DataError: It is none of these, there is no image, or labels and images do not fit together.
        """
        places: Any = [images] if isinstance(images, (str, os.PathLike)) else images
        if isinstance(places, Sequence) and all(isinstance(place, (str, os.PathLike)) for place in places):
            return cls._of_places([expanded(place) for place in places], labels)
        return cls._of_memory(Given.of(images, labels), "{}")

    @classmethod
    def of_set(cls, images: ImageSet) -> Inputs:
        """Takes the images of a data set; those that are not made of files have no names."""
        names = list(images.paths or [""] * len(images))
        return cls(names, images.labels.tolist(), images.classes, [], [], _set=images)

    @classmethod
    def _of_memory(cls, given: Given, name: str) -> Inputs:
        found: Listing[Any] = given.found
        labels = [-1] * len(found.all())
        for number, label in found.train:
            labels[number] = label
        names = [name.format(number) for number in range(len(labels))]
        return cls(names, labels, tuple(found.classes), [], [], given)

    @classmethod
    def _of_places(cls, places: list[Path], labels: object) -> Inputs:
        if len(places) == 1 and (stack := _stack(places[0])) is not None:
            return cls._of_memory(
                Given.of(stack, labels), str(places[0]).replace("{", "{{").replace("}", "}}") + "[{}]"
            )
        files, skipped = image_files(places)
        if not files:
            raise DataError(f"no image file in {' '.join(map(str, places))}")
        if labels is not None:
            root = places[0] if len(places) == 1 and places[0].is_dir() else common_folder(files)
            found = listed(list(range(len(files))), by_name(labels, root, files), root, str(root))
            given = [-1] * len(files)
            for number, label in found.train:
                given[number] = label
            return cls([str(file) for file in files], given, tuple(found.classes), skipped, files)
        by_file: dict[Path, str] = {}
        for place in places:
            if place.is_dir():
                below = scan(place)
                known = [*below.train, *(below.test or ())] if below.classes else []
                by_file |= {file: below.classes[label] for file, label in known}
        classes = tuple(sorted(set(by_file.values())))
        own = [classes.index(by_file[file]) if file in by_file else -1 for file in files]
        return cls([str(file) for file in files], own, classes, skipped, files)

    def __len__(self) -> int:
        return len(self.names)

    def batches(self, shape: tuple[int, int, int], scale: Scale, batch_size: int) -> Iterator[Rows]:
        """The images in order, in batches.

        Args:
            shape: (H, W, C) that they are brought to; images of a data set have it.
            scale: Of more than 8 bits.
            batch_size: Images at a time.

        Yields:
            The batches.
        """
        size, channels = shape[:2], shape[2]
        if self._set is not None:
            if tuple(self._set.images.shape[1:]) != shape:
                raise ValueError(
                    f"shape must be that of the images, {self._set.images.shape[1:]}, got {shape}"
                )
            for start in range(0, len(self), batch_size):
                pixels = self._set.images[start : start + batch_size]
                yield Rows(list(range(start, start + len(pixels))), pixels, {})
            return
        if self._given is None:
            for index, images, failed in decode_batches(self._files, size, channels, batch_size, scale):
                yield Rows(index, images, failed)
            return
        for start in range(0, len(self), batch_size):
            index = list(range(start, min(start + batch_size, len(self))))
            yield Rows(index, self._given.pixels(index, size, channels, scale, progress=False), {})


def _stack(place: Path) -> np.ndarray[Any, Any] | None:
    """The images (N, H, W, C) of a NumPy file; None for another file, or for one image."""
    if place.suffix.lower() != ".npy" or not place.is_file():
        return None
    try:
        array = np.load(place, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        return None  # reading it as an image says why
    return array if array.ndim == 4 else None
