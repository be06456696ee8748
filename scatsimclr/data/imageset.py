"""What every data set becomes: `ImageSet`; how one is requested: `Request`; what goes wrong: `DataError`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from scatsimclr.data.levels import Scale
from scatsimclr.data.mapped import AnyImages
from scatsimclr.errors import UserError

if TYPE_CHECKING:
    from scatsimclr.data.given import Given


class DataError(UserError):
    """A problem with a user's data or request, in one line that names the file, folder or argument."""


@dataclass(frozen=True)
class Request:
    """The checked arguments of `scatsimclr.data.datasets.load`, as a data set's reader gets them.

    Attributes:
        scale: Of images of more than 8 bits.
        given: Images that are passed rather than read from `data_dir`.
    """

    name: str
    split: str
    size: tuple[int, int]
    data_dir: Path | None
    download: bool
    progress: bool
    channels: int = 3
    scale: Scale = "auto"
    given: Given | None = None


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and labels of one split, resident in memory or, images of shards, on the disk.

    Attributes:
        images: uint8 (n, H, W, C), contiguous, 0..255: RGB with C = 3, grey with C = 1, or any other channels.
        labels: int64 (n,), indices into `classes`; -1 where an image has no label.
        classes: Names; () where there are no labels.
        paths: Each image's file, relative to the data folder, with `/`; None for sets that are not made of files.
        skipped: (path, reason) for every file left out because it could not be read.
        notes: One-line remarks that a report should show, such as a class without a test image.

    Raises:
        TypeError: A dtype is wrong.
        ValueError: Shapes, labels and names do not fit together.
    """

    images: AnyImages
    labels: torch.Tensor
    classes: tuple[str, ...]
    paths: tuple[str, ...] | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if isinstance(images, torch.Tensor):
            if images.dtype != torch.uint8:
                raise TypeError(f"images must be uint8, got {images.dtype}")
            if images.ndim != 4 or not images.is_contiguous():
                raise ValueError(f"images must be contiguous (n, H, W, C), got {tuple(images.shape)}")
        if labels.dtype != torch.int64:
            raise TypeError(f"labels must be int64, got {labels.dtype}")
        n = images.shape[0]
        if labels.shape != (n,):
            raise ValueError(f"labels must be ({n},) for {n} images, got {tuple(labels.shape)}")
        if self.paths is not None and len(self.paths) != n:
            raise ValueError(f"paths must name all {n} images, got {len(self.paths)}")
        if n and not -1 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            raise ValueError(
                f"labels must be in -1..{len(self.classes) - 1}, got {labels.min()}..{labels.max()}"
            )

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def labelled(self) -> bool:
        """Whether every image has a label (an empty set has none)."""
        return len(self) > 0 and bool((self.labels >= 0).all())

    def subset(self, indices: Sequence[int] | npt.NDArray[Any] | torch.Tensor) -> ImageSet:
        """The images at `indices`, integers in the order wanted or a boolean mask (n,); copies those in memory.

        `skipped` and `notes` stay those of the whole set.

        Raises:
            IndexError: An index is out of range.
        """
        index = torch.as_tensor(indices)
        if index.dtype != torch.bool:
            index = index.to(torch.int64)
        chosen = torch.arange(len(self))[index]
        paths = None if self.paths is None else tuple(self.paths[i] for i in chosen.tolist())
        images = self.images[chosen] if isinstance(self.images, torch.Tensor) else self.images.select(chosen)
        return replace(self, images=images, labels=self.labels[chosen], paths=paths)


def allocate(count: int, size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    """An uninitialised uint8 (count, H, W, channels); DataError with the gigabytes where memory is too small."""
    shape = (count, *size, channels)
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except RuntimeError as error:
        gigabytes = count * size[0] * size[1] * channels / 1e9
        raise DataError(
            f"{count} images of {size[0]}x{size[1]} need {gigabytes:.1f} GB of memory, more than there is"
        ) from error
