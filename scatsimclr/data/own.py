"""A user's own images: a folder, a table of files, a file of arrays, or what was given to `scatsimclr.fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from scatsimclr.data.csvfile import TABLES, read_paths
from scatsimclr.data.decode import all_grey, read_files, shorter_side, stacked
from scatsimclr.data.folder import scan
from scatsimclr.data.given import Given
from scatsimclr.data.imageset import DataError, ImageSet, Request
from scatsimclr.data.listing import Listing, first
from scatsimclr.data.splitting import digest

SURVEYED = 512


def read(request: Request) -> ImageSet:
    """Reads the images of a split.

    `data_dir` is a folder, in one of the layouts of `scatsimclr.data.folder.scan`; a CSV file with a column of paths
    and perhaps others of labels and splits, see `scatsimclr.data.csvfile.read_paths`; or a NumPy file of images
    (N, H, W) or (N, H, W, C). Files that cannot be read are left out and listed in `skipped`.

    Raises:
        DataError: There is no such place, no readable image, or no label for a split that needs labels.
    """
    given = given_images(request)
    found: Listing[Any] = given.found
    chosen = found.chosen(request.split)
    items = [item for item, _ in chosen]
    skipped = list(found.unreadable)
    if given.images is None:
        images, kept, failed = read_files(
            items, request.size, request.channels, request.progress, request.scale
        )
        skipped += ((found.key(items[i]), why) for i, why in failed.items())
        if not kept:
            count = f"none of {len(chosen)} image files can be read"
            where = f"{found.where}: no readable image for the split {request.split!r}"
            raise DataError(f"{where}: {count}{first(skipped)}")
    else:
        images = given.pixels(items, request.size, request.channels, request.scale, request.progress)
        kept = list(range(len(items)))
    labels = torch.tensor([chosen[i][1] for i in kept], dtype=torch.int64)
    paths = tuple(found.key(items[i]) for i in kept) if given.images is None else None
    return ImageSet(images, labels, tuple(found.classes), paths, tuple(skipped), tuple(found.notes))


def survey(request: Request, seed: int) -> tuple[list[int], int]:
    """Surveys the images of all splits.

    Which images are measured is decided by a hash of seed and path or number: the same ones with every version, and in
    whatever order they are found. Files that cannot be read do not count.

    Returns:
        Shorter sides of up to `SURVEYED` images, and the number of channels: 1 where all images are grey; what all
        measured images have where that is the last axis of arrays, beyond RGB and alpha, or the pages of TIFF files;
        else 3.

    Raises:
        DataError: There is no such place, no image in it, or no label for a split that needs labels.
    """
    given = given_images(request)
    found: Listing[Any] = given.found
    found.chosen(request.split)
    items = found.all()
    drawn = sorted(items, key=lambda item: digest(found.key(item), seed))[:SURVEYED]
    if given.images is None:
        sides = [side for side in map(shorter_side, drawn) if side]
        stacks = {stacked(path) for path in drawn}
    else:
        shapes = given.shapes(drawn)
        sides = [min(shape[:2]) for shape in shapes]
        stacks = {shape[2] if shape[2] > 4 else 0 for shape in shapes}
    if len(stacks) == 1 and (count := stacks.pop()):
        return sides, count
    grey = all_grey(items) if given.images is None else given.grey(items)
    return sides, 1 if grey else 3


def given_images(request: Request) -> Given:
    """Which images a request means, found but not yet read; DataError where there is no such place."""
    if request.given is not None:
        return request.given
    place = request.data_dir
    if place is None:
        raise DataError(
            f"{request.name}: which images? Name their folder with --data-dir; those of a run by scatsimclr.fit have "
            "to be passed to it again"
        )
    if place.is_dir():
        return Given(None, scan(place))
    if not place.is_file():
        raise DataError(f"{request.name}: {place} is not there")
    if place.suffix.lower() == ".npy":
        return _of_arrays(place)
    if place.suffix.lower() in TABLES:
        return Given(None, read_paths(place))
    raise DataError(f"{request.name}: {place} is no folder, {', '.join(TABLES)} or .npy")


def _of_arrays(place: Path) -> Given:
    try:
        images = np.load(place, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{place} cannot be read: {error}") from None
    if images.ndim not in (3, 4):
        raise DataError(f"{place} must hold images (N, H, W) or (N, H, W, C), got shape {images.shape}")
    return Given.of(images)
