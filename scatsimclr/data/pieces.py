"""A data set piece by piece, in order, so that no more than a piece is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from scatsimclr.data import datasets, own
from scatsimclr.data.decode import decode_batches
from scatsimclr.data.imageset import ImageSet, Request
from scatsimclr.data.listing import Listing
from scatsimclr.data.shards import PARTS

IMAGES = 256  # of a piece


@dataclass(frozen=True, eq=False)
class Piece:
    """Some images in order, all of one part of a data set.

    Attributes:
        part: One of PARTS.
        images: uint8 (k, H, W, C).
        labels: Of each, an index into the classes or −1.
        paths: Of each; None where they have none.
    """

    part: str
    images: torch.Tensor
    labels: Sequence[int]
    paths: Sequence[str] | None


@dataclass(frozen=True, eq=False)
class Source:
    """A data set.

    Attributes:
        shape: (H, W, C) of the images.
        classes: Names; () where there are no labels.
        pieces: Part by part, in the order of PARTS.
        count: Images, at most; None where only reading them tells.
        skipped: (path, reason) of files that could not be read; complete when the last piece was taken.
        notes: As in `ImageSet`.
    """

    shape: tuple[int, int, int]
    classes: Sequence[str]
    pieces: Iterator[Piece]
    count: int | None
    skipped: Sequence[tuple[str, str]]
    notes: Sequence[str]


def source(request: Request) -> Source:
    """The data set of a request, whatever its split.

    A user's own images are read piece by piece; the parts of other data sets, one after the other.

    Raises:
        DataError: As `datasets.load` does; in the course of the pieces, too.
    """
    return _own(request) if request.name == "folder" else _known(request)


def _own(request: Request) -> Source:
    given = own.given_images(request)
    found: Listing[Any] = given.found
    labelled = bool(found.classes)
    parts = {
        "train": found.split("train") if labelled else found.train,
        "unlabeled": found.unlabelled,
        "test": found.split("test") if labelled else [],
    }
    skipped = list(found.unreadable)

    def pieces() -> Iterator[Piece]:
        for part, chosen in parts.items():
            items = [item for item, _ in chosen]
            for index, images, failed in _batches(items):
                skipped.extend((found.key(items[i]), why) for i, why in failed.items())
                paths = [found.key(items[i]) for i in index] if given.images is None else None
                yield Piece(part, images, [chosen[i][1] for i in index], paths)

    def _batches(items: list[Any]) -> Iterator[tuple[list[int], torch.Tensor, dict[int, str]]]:
        if given.images is None:
            yield from decode_batches(items, request.size, request.channels, IMAGES, request.scale)
            return
        for start in range(0, len(items), IMAGES):
            index = list(range(start, min(start + IMAGES, len(items))))
            wanted = [items[i] for i in index]
            yield index, given.pixels(wanted, request.size, request.channels, request.scale, False), {}

    count = sum(map(len, parts.values()))
    return Source((*request.size, request.channels), found.classes, pieces(), count, skipped, found.notes)


def _known(request: Request) -> Source:
    def load(part: str) -> ImageSet:
        return datasets.load(
            request.name, part, size=request.size, channels=request.channels, data_dir=request.data_dir,
            download=request.download, progress=request.progress,
        )  # fmt: skip

    train = load("train")

    def pieces() -> Iterator[Piece]:
        for part in (name for name in PARTS if name in datasets.splits(request.name)):
            images = train if part == "train" else load(part)
            for start in range(0, len(images), IMAGES):
                some = slice(start, start + IMAGES)
                yield Piece(part, images.images[some], images.labels[some].tolist(), None)

    return Source((*request.size, request.channels), train.classes, pieces(), None, (), train.notes)
