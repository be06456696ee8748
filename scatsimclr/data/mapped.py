"""Images that stay on the disk: files of bytes that are mapped into memory, of which only what is asked for is read."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

OPEN = 256  # files that are mapped at a time: each takes one of the file descriptors that a process may have


class MappedImages:
    """Images uint8 (n, H, W, C) in files of a number of images each; indexing reads them.

    Args:
        files: The files, whose images follow one another.
        counts: Images of each.
        shape: (H, W, C).

    Attributes:
        shape: (n, H, W, C).
        device: Where indexing puts what it has read.
    """

    def __init__(self, files: Sequence[Path], counts: Sequence[int], shape: tuple[int, int, int]):
        self._files, self._image = list(files), shape
        self._counts = list(counts)
        self._ends = np.cumsum(self._counts, dtype=np.int64)
        # Which images these are; None for all of them.
        self._chosen: npt.NDArray[np.int64] | None = None
        self._maps: dict[int, npt.NDArray[np.uint8]] = {}
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        if self._chosen is not None:
            return len(self._chosen)
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), *self._image)

    @property
    def is_cuda(self) -> bool:
        """Whether indexing puts what it has read on a GPU."""
        return self.device.type == "cuda"

    def to(self, device: torch.device) -> MappedImages:
        """The same images, which indexing puts on a device."""
        other = copy.copy(self)
        other._maps, other.device = {}, device
        return other

    def select(self, index: Tensor | slice) -> MappedImages:
        """Some of the images, still on the disk.

        Args:
            index: int64 (k,), or a boolean mask (n,), or a slice.
        """
        other = self.to(self.device)
        other._chosen = self._numbers(index)
        return other

    def __getitem__(self, index: SupportsIndex | slice | Tensor) -> Tensor:
        """Reads images: uint8 (H, W, C) of one, else (k, H, W, C)."""
        if isinstance(index, slice | Tensor):
            return self._read(self._numbers(index))
        return self._read(self._numbers(torch.tensor([operator.index(index)])))[0]

    def _numbers(self, index: Tensor | slice) -> npt.NDArray[np.int64]:
        """Which of all images are meant."""
        chosen = self._chosen
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            # Not np.arange(n)[index]: of very many images, few may be asked for.
            within = np.arange(start, stop, step, dtype=np.int64)
        else:
            within = index.cpu().numpy()
            within = np.flatnonzero(within) if within.dtype == np.bool_ else within.astype(np.int64)
            if len(within) and not -len(self) <= within.min() <= within.max() < len(self):
                raise IndexError(f"index must be in 0..{len(self) - 1}, got {within.min()}..{within.max()}")
            within = np.where(within < 0, within + len(self), within)
        return within if chosen is None else chosen[within]

    def _read(self, numbers: npt.NDArray[np.int64]) -> Tensor:
        found = np.empty((len(numbers), *self._image), np.uint8)
        place = np.searchsorted(self._ends, numbers, side="right")
        for shard in np.unique(place).tolist():
            rows = np.flatnonzero(place == shard)
            first = int(self._ends[shard]) - self._counts[shard]
            found[rows] = self._mapped(shard)[numbers[rows] - first]
        return torch.from_numpy(found).to(self.device)

    def _mapped(self, shard: int) -> npt.NDArray[np.uint8]:
        # Threads that make batches may map a file twice: that costs time alone.
        maps = self._maps
        found = maps.get(shard)
        if found is None:
            if len(maps) >= OPEN:
                self._maps = maps = {}
            shape = (self._counts[shard], *self._image)
            found = maps[shard] = np.memmap(self._files[shard], np.uint8, "r", shape=shape)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}


AnyImages: TypeAlias = Tensor | MappedImages  # uint8 (n, H, W, C), resident or not


def part(images: AnyImages, start: int, end: int) -> AnyImages:
    """Images start … end − 1, nothing of which is copied or read."""
    return images[start:end] if isinstance(images, Tensor) else images.select(slice(start, end))
