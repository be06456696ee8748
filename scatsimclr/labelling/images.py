"""The images to label: their files, the class folders of these, and copies of the same picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scatsimclr.data.csvfile import decide, named
from scatsimclr.data.decode import read_files
from scatsimclr.data.folder import image_files
from scatsimclr.data.levels import Scale
from scatsimclr.errors import UserError

UNLABELLED = ("unlabeled", "unlabelled")


@dataclass(frozen=True, eq=False)
class Images:
    """The images of a folder.

    Attributes:
        root: The folder.
        files: Those that could be read, relative to `root`, with `/`.
        pixels: Their pixels, uint8 (n, H, W, C).
        skipped: (path, reason) of the others.
    """

    root: Path
    files: tuple[str, ...]
    pixels: Tensor
    skipped: tuple[tuple[str, str], ...]


def find(root: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """The image files below a folder, in natural order, and (path, reason) of what could not be searched.

    Raises:
        UserError: For a folder without images.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise UserError(f"IMAGES must be a folder of images, got {root}, which is {found}")
    files, skipped = image_files([root])
    if not files:
        raise UserError(f"no image file in {root}")
    return files, skipped


def read(
    root: Path,
    files: Sequence[Path],
    skipped: Sequence[tuple[str, str]],
    shape: tuple[int, int, int],
    scale: Scale = "auto",
) -> Images:
    """Decodes the files.

    Args:
        root: The folder.
        files: Its image files.
        skipped: (path, reason) of what could not be searched.
        shape: (H, W, C) of the images.
        scale: How grey levels of more than 8 bits are scaled.

    Raises:
        UserError: Where fewer than two can be read.
    """
    pixels, kept, failed = read_files(list(files), shape[:2], shape[2], progress=True, scale=scale)
    names = [path.relative_to(root).as_posix() for path in files]
    left_out = [*skipped, *((names[index], why) for index, why in failed.items())]
    if len(kept) < 2:
        first = f", the first that cannot: {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise UserError(f"{root}: {len(kept)} of {len(files)} image files can be read, two are needed{first}")
    return Images(root, tuple(names[index] for index in kept), pixels, tuple(left_out))


def class_folders(files: Sequence[str]) -> dict[int, str]:
    """The class of each file that is in a folder: the first folder of its path, unless it is of UNLABELLED.

    A single folder is where the images are, not a class.
    """
    found = {
        index: name.split("/")[0]
        for index, name in enumerate(files)
        if "/" in name and name.split("/")[0].casefold() not in UNLABELLED
    }
    return found if len(set(found.values())) > 1 else {}


def same_pixels(images: Images, labels: dict[int, str]) -> tuple[dict[int, str], list[str]]:
    """Gives every copy of a labelled picture its label. Returns the labels, and remarks on contradictory ones.

    Copies with different labels get the most frequent one, or none where two are equally frequent.
    """
    groups: dict[bytes, list[int]] = {}
    for index, picture in enumerate(images.pixels.numpy()):
        groups.setdefault(picture.tobytes(), []).append(index)
    result = dict(labels)
    contradictory = []
    for members in groups.values():
        votes = Counter(labels[index] for index in members if index in labels)
        if len(votes) > 1:
            contradictory += [images.files[index] for index in members if index in labels]
            decided, _ = decide({0: votes})
            for index in members:
                if index in labels:
                    del result[index]
                if decided:
                    result[index] = decided[0]
        elif votes:
            result.update(dict.fromkeys(members, next(iter(votes))))
    notes = []
    if contradictory:
        notes.append(
            f"files with the same pixels and different labels; the most frequent label counts, of equally frequent "
            f"ones none ({len(contradictory)}): {named(contradictory)}"
        )
    return result, notes


def as_indices(labels: dict[int, str], count: int) -> tuple[Tensor, tuple[str, ...], list[str]]:
    """Labels int64 (n,), −1 where there is none, the names of the classes, and remarks.

    Raises:
        UserError: For labels of fewer than two images or classes.
    """
    classes = tuple(sorted(set(labels.values())))
    if len(labels) < 2:
        raise UserError(
            f"{len(labels)} labelled image{'' if labels else 's'}: at least two, of two classes, are needed"
        )
    if len(classes) < 2:
        raise UserError(
            f"all {len(labels)} labels are of one class, {classes[0]!r}: at least two classes are needed"
        )
    result = torch.full((count,), -1)
    for index, name in labels.items():
        result[index] = classes.index(name)
    single = [name for name, number in Counter(labels.values()).items() if number == 1]
    notes = [f"classes with one labelled image: {named(sorted(single))}"] if single else []
    return result, classes, notes
