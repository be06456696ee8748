"""Batches of augmented view pairs from resident images: which samples a step sees, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from scatsimclr.data.augment import Augment
from scatsimclr.errors import UserError


@dataclass(frozen=True)
class Batch:
    """One step's data.

    views: two float32 (B, 3, H, W), channels-last, normalised. indices: int64 (B,).
    pretext: the pretext task's pictures and labels (see scatsimclr.data.pretext), None where it is not active.
    """

    views: tuple[Tensor, Tensor]
    indices: Tensor
    pretext: tuple[Tensor, Tensor] | None = None


class PairLoader:
    """Two augmented views of every image, in an order that depends on (seed, epoch) alone.

    images: uint8 (n, H, W, 3), already on the device that trains. Every batch has `batch_size` images; the
    remainder of an epoch is left out (NT-Xent's value depends on the batch's size), another one each epoch.
    pretext: makes the pretext task's pictures of (images, indices, epoch).
    """

    def __init__(
        self,
        images: Tensor,
        augment: Augment,
        batch_size: int,
        seed: int,
        pretext: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None,
    ):
        if batch_size > len(images):
            raise UserError(
                f"batch_size={batch_size} is larger than the {len(images)} images to train on; "
                f"batch_size={len(images)} or less works"
            )
        self.images, self.augment, self.batch_size, self.seed = images, augment, batch_size, seed
        self.pretext = pretext

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """The epoch's permutation of the images, int64 (n,)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.images), generator=generator)

    def epoch(self, epoch: int, *, pretext: bool = False) -> Iterator[Batch]:
        """The batches of an epoch, with `pretext` also the pictures of that task."""
        order = self.order(epoch)
        for step in range(len(self)):
            indices = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self.batch(indices, epoch, pretext=pretext)

    def batch(self, indices: Tensor, epoch: int, *, pretext: bool = False) -> Batch:
        """The views of the images at `indices`."""
        images = self.images[indices]
        first, second = (self.augment(images, indices, epoch, view) for view in (0, 1))
        return Batch((first, second), indices, self.pretext(images, indices, epoch) if pretext else None)
