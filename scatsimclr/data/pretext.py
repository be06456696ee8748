"""Views of the two pretext tasks: which rotation is it, and how were the tiles shuffled.

A task turns images into `copies` pictures each, and one or `copies` labels, drawn per (seed, epoch, sample) like
the contrastive views, which are the views 0 and 1 of a sample.
"""

from __future__ import annotations

import math
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from .augment import Augment, center_view
from .randomness import uniforms
from .resample import resize

_FIRST_VIEW = 2


class Rotation:
    """Four augmented copies of every image, turned by 0°, 90° clockwise, 180°, 90° counter-clockwise.

    Turned first, augmented then, as the original does; each copy is a draw of its own.
    """

    classes = copies = 4

    def __init__(self, augment: Augment):
        if augment.spec.size[0] != augment.spec.size[1]:
            raise ValueError(f"size: rotation needs square images, got {augment.spec.size}")
        self.augment = augment

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Views and labels of images uint8 (B, H, W, 3) at `indices` (B,).

        Returns float32 (4B, 3, H, W), channels-last and normalised, the four of an image in a row, and their
        classes int64 (4B,).
        """
        turned = [
            self.augment(
                torch.rot90(images, -label, (1, 2)).contiguous(), indices, epoch, _FIRST_VIEW + label
            )
            for label in range(4)
        ]
        views = (
            torch.stack([view.permute(0, 2, 3, 1) for view in turned], 1).flatten(0, 1).permute(0, 3, 1, 2)
        )
        return views, torch.arange(4, device=images.device).repeat(len(images))


class Jigsaw:
    """The 3 × 3 tiles of every image, each stretched to the whole size, in one of 35 orders.

    Tile t of the result is tile `permutations[label, t]` of the image, in reading order. No augmentation besides,
    as in the original; unlike there, tiles are normalised like every other picture that the encoder sees.
    """

    copies = 9

    def __init__(self, augment: Augment):
        self.augment = augment
        with resources.files("scatsimclr").joinpath("data/permutations_35.npy").open("rb") as file:
            self.permutations = torch.from_numpy(np.load(file))
        self.classes = len(self.permutations)

    def __call__(self, images: Tensor, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Tiles and labels of images uint8 (B, H, W, 3) at `indices` (B,).

        Returns float32 (9B, 3, H, W), channels-last and normalised, the nine of an image in a row, and the
        permutation of each image int64 (B,).
        """
        spec = self.augment.spec
        rows, columns = (_thirds(side) for side in spec.size)
        tiles = torch.stack(
            [
                resize(images[:, top:bottom, left:right], spec.size)
                for top, bottom in rows
                for left, right in columns
            ],
            1,
        )
        drawn = uniforms(self.augment.seed, indices.cpu().numpy(), epoch, _FIRST_VIEW, 1)[:, 0]
        labels = torch.from_numpy((drawn * self.classes).astype(np.int64))
        order = self.permutations[labels].to(images.device)
        shuffled = tiles[torch.arange(len(images), device=images.device)[:, None], order].flatten(0, 1)
        return center_view(shuffled, spec), labels.to(images.device)


def _thirds(side: int) -> list[tuple[int, int]]:
    """The original's cuts of a side: whole pixels inside each third."""
    return [(math.ceil(side * i / 3), side * (i + 1) // 3) for i in range(3)]


TASKS = {"rotation": Rotation, "jigsaw": Jigsaw}
