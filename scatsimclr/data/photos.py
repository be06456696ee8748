"""Patches of scikit-learn's two colour photographs, which need no download: which region is a patch from?

A photograph of 427×640 pixels is a grid of 2×3 regions, and each region is a class: 12 classes. A region is a grid of
4×4 blocks of 53×53 pixels. Patches of 40×40 lie within one block, and a block belongs to one split, so no pixel of a
test patch is in a training patch. The test split has the four blocks of a broken diagonal, one in every row and column
of blocks, so that it tests the look of the whole region and not of one side of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from scatsimclr.data.decode import pack
from scatsimclr.data.imageset import ImageSet, Request

PHOTOGRAPHS = ("china", "flower")  # in the order of `sklearn.datasets.load_sample_images`
ROWS, COLUMNS = 2, 3
CLASSES = tuple(
    f"{photograph} {row} {column}"
    for photograph in PHOTOGRAPHS
    for row in ("top", "bottom")
    for column in ("left", "middle", "right")
)
BLOCKS = 4  # per side of a region
BLOCK, PATCH = 53, 40  # pixels per side: 2·4·53 = 424 of 427 and 3·4·53 = 636 of 640 are used
PER_BLOCK = {"train": 8, "test": 10}  # 96 and 40 patches per class
SEED = 0


class Patch(NamedTuple):
    """A patch: the index of its photograph, its upper left pixel, and its class."""

    photograph: int
    top: int
    left: int
    label: int


def positions(split: str) -> list[Patch]:
    """The patches of "train" (1,152) or "test" (480), class by class; the same with every library version."""
    return [patch for label in range(len(CLASSES)) for patch in _of_class(label, split)]


def _of_class(label: int, split: str) -> Iterator[Patch]:
    photograph, region = divmod(label, ROWS * COLUMNS)
    row, column = divmod(region, COLUMNS)
    for y, x in np.ndindex(BLOCKS, BLOCKS):
        if ((x + y) % BLOCKS == 0) == (split == "test"):
            top, left = (row * BLOCKS + y) * BLOCK, (column * BLOCKS + x) * BLOCK
            for down, right in _offsets(f"{label}/{y}/{x}", PER_BLOCK[split]):
                yield Patch(photograph, top + down, left + right, label)


def _offsets(key: str, count: int) -> list[tuple[int, int]]:
    """`count` different places of a patch in a block, drawn by a hash: see `splitting.stratified_split`."""
    side = BLOCK - PATCH + 1
    everywhere = [(down, right) for down in range(side) for right in range(side)]
    return sorted(everywhere, key=lambda place: hashlib.blake2b(f"{SEED}/{key}/{place}".encode()).digest())[
        :count
    ]


def read(request: Request) -> ImageSet:
    """Reads the split train (96 patches per class, also pretrain) or test (40), resized to the requested size.

    Source: `sklearn.datasets.load_sample_images`, photographs under a Creative Commons licence (CC BY 2.0) by
    danielbuechele (china.jpg) and vultilion (flower.jpg).
    """
    from sklearn.datasets import load_sample_images  # a second of import that other data sets do not need

    photographs = load_sample_images().images
    patches = positions("test" if request.split == "test" else "train")
    chunk = np.stack(
        [photographs[p.photograph][p.top : p.top + PATCH, p.left : p.left + PATCH] for p in patches]
    )
    images = pack([chunk], len(chunk), request.size, request.channels, request.progress)
    return ImageSet(images, torch.tensor([p.label for p in patches]), CLASSES)
