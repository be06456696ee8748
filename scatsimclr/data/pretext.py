"""Pictures of the two pretext tasks: which rotation is it, and how were the tiles shuffled.

A task turns images into `copies` pictures each, and one label or `copies` labels, drawn per (seed, epoch, sample) like
the contrastive views, which are the views 0 and 1 of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from scatsimclr.data.augment import Augment
from scatsimclr.data.randomness import uniforms

# (images, indices, epoch) -> pictures and labels.
Task = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]

_FIRST_VIEW = 2


class Rotation:
    """Four augmented copies of every image, rotated by 0°, 90° clockwise, 180° and 90° counter-clockwise.

    Rotated first, then augmented, as in the original; each copy is a draw of its own.

    Raises:
        ValueError: Images are not square.
    """

    classes = copies = 4

    def __init__(self, augment: Augment):
        if augment.spec.size[0] != augment.spec.size[1]:
            raise ValueError(f"size must be square for rotation, got {augment.spec.size}")
        self.augment = augment

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Makes the pictures and labels of images.

        Args:
            images: uint8 (B, H, W, C).
            indices: int64 (B,), their positions in the data set.
            epoch: Which epoch.

        Returns:
            Pictures (4B, C, H, W), channels-last and normalised, the four of an image in a row; and their classes,
            int64 (4B,).
        """
        turned = torch.stack([torch.rot90(images, -label, (1, 2)) for label in range(4)], 1).flatten(0, 1)
        labels = torch.arange(4).repeat(len(images))
        views = self.augment(turned, indices.repeat_interleave(4), epoch, _FIRST_VIEW + labels)
        return views, labels.to(images.device)


class Jigsaw:
    """The 3 × 3 tiles of every image, each stretched to full size, in one of 35 orders.

    Tile t of the result is tile `permutations[label, t]` of the image, in reading order. There is no other
    augmentation, as in the original; unlike there, tiles are normalised like every other picture the encoder sees.
    """

    copies = 9

    def __init__(self, augment: Augment):
        self.augment = augment
        with resources.files("scatsimclr").joinpath("data/permutations_35.npy").open("rb") as file:
            self.permutations = torch.from_numpy(np.load(file))
        self.classes = len(self.permutations)
        rows, columns = (_thirds(side) for side in augment.spec.size)
        # Top, left, height and width of the tiles in reading order.
        self.boxes = torch.tensor([(y, x, v - y, w - x) for y, v in rows for x, w in columns])

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Makes the tiles and labels of images; arguments as in `Rotation`.

        Returns:
            Tiles (9B, C, H, W), channels-last and normalised, the nine of an image in a row; and the permutation
            of each image, int64 (B,).
        """
        drawn = uniforms(self.augment.seed, indices.cpu().numpy(), epoch, _FIRST_VIEW, 1)[:, 0]
        labels = torch.from_numpy((drawn * self.classes).astype(np.int64))
        boxes = self.boxes[self.permutations[labels]].flatten(0, 1)
        views = self.augment.tiles(images.repeat_interleave(self.copies, 0), boxes)
        return views, labels.to(images.device)


def _thirds(side: int) -> list[tuple[int, int]]:
    """The original's cuts of a side: whole pixels inside each third."""
    return [(math.ceil(side * i / 3), side * (i + 1) // 3) for i in range(3)]


TASKS: dict[str, type[Rotation] | type[Jigsaw]] = {"rotation": Rotation, "jigsaw": Jigsaw}
