"""A user's own images in a folder, with or without class subfolders."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from scatsimclr.data.decode import SUFFIXES, all_grey, read_files, shorter_side
from scatsimclr.data.imageset import DataError, ImageSet, Request
from scatsimclr.data.splitting import digest, stratified_split

SURVEYED = 512
# In upper or lower case, with or without one of _ADDED, and with any separator between the words.
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")
_UNLABELLED_NAMES = ("unlabeled", "unlabelled")
_ADDED = ("", "set", "data", "images", "imgs")
DEPTH = 100  # of folders in folders
# Bytes of a folder's path: with a file's name of 255 below it, no more than systems take (PATH_MAX).
LONGEST_PATH = 4096 - 256


@dataclass
class _Listing:
    """Image files below the root, found but not yet opened; a label is an index into `classes` or -1.

    Attributes:
        test: None where the test split has to be split off from `train`.
    """

    root: Path
    classes: list[str] = field(default_factory=list)
    train: list[tuple[Path, int]] = field(default_factory=list)
    test: list[tuple[Path, int]] | None = None
    unlabelled: list[tuple[Path, int]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def read(request: Request) -> ImageSet:
    """Reads the images below `data_dir`, in one of these layouts.

    - root/CLASS/**: split 80/20 per class by `stratified_split` over the relative paths, always in the same way;
    - root/train/CLASS/** with root/test, val, valid or validation/CLASS/** (the first that has classes); without
      any of these, train is split as above;
    - no class folders: all images of root (or of root/train) without labels, split pretrain only;
    - root/unlabeled/**, beside any of these, adds unlabelled images to pretrain.

    Split folders are recognised under similar names too, such as Training or train_images. Labels are never needed for
    training. Folders are not classes if only one has images or if, where a test split would be split off, more than
    half hold a single image: their images are then taken without labels. Whatever is left out (images beside class
    folders, a test folder without classes, a class that train does not have) is counted in `notes`.

    Files are recognised by suffix and taken in natural order (img2 before img10), through symbolic links. Hidden files,
    other suffixes and this program's run folders are ignored. Files that cannot be read are left out and listed in
    `skipped`.

    Raises:
        DataError: There is no such folder, no readable image, or no label for a split that needs labels.
    """
    listing, chosen = _listed(request)
    root = listing.root
    files = [path for path, _ in chosen]
    images, kept, failed = read_files(files, request.size, request.channels, request.progress, request.scale)
    skipped = [*listing.unreadable, *((listing.relative(chosen[i][0]), why) for i, why in failed.items())]
    if not kept:
        count = f"none of {len(chosen)} image files can be read"
        raise DataError(
            f"{root}: no readable image for the split {request.split!r}: {count}{_first(skipped)}"
        )
    labels = torch.tensor([chosen[i][1] for i in kept], dtype=torch.int64)
    paths = tuple(listing.relative(chosen[i][0]) for i in kept)
    return ImageSet(images, labels, tuple(listing.classes), paths, tuple(skipped), tuple(listing.notes))


def survey(request: Request, seed: int) -> tuple[list[int], bool]:
    """Surveys the folder's images, of all splits.

    Which images are measured is decided by a hash of seed and path: the same ones with every version, and in whatever
    order they are found. Files that cannot be read do not count.

    Returns:
        Shorter sides of up to `SURVEYED` images, and whether all images are grey.

    Raises:
        DataError: There is no such folder, no image file in it, or no label for a split that needs labels.
    """
    listing, _ = _listed(request)
    files = [path for path, _ in (*listing.train, *(listing.test or ()), *listing.unlabelled)]
    drawn = sorted(files, key=lambda path: digest(listing.relative(path), seed))[:SURVEYED]
    return [side for side in map(shorter_side, drawn) if side], all_grey(files)


def _listed(request: Request) -> tuple[_Listing, list[tuple[Path, int]]]:
    """The folder's files and those of the split; DataError where there are none."""
    if request.data_dir is None:
        raise DataError(f"{request.name}: which folder has the images? Name it with --data-dir")
    root = request.data_dir
    if not root.is_dir():
        raise DataError(f"{request.name}: {root} is {'not a folder' if root.exists() else 'not there'}")
    listing = _scan(root)
    chosen = _choose(listing, request)
    if not chosen:
        raise DataError(
            f"{root}: no image for the split {request.split!r} in this folder{_first(listing.unreadable)}"
        )
    return listing, chosen


def image_files(inputs: Sequence[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Lists image files.

    Args:
        inputs: Files, taken whatever their suffix; and folders, walked in natural order, through symbolic links and
            without hidden files.

    Returns:
        The files; and (path, reason) for each folder or link that could not be followed.

    Raises:
        DataError: An input does not exist.
    """
    files: list[Path] = []
    unreadable: list[tuple[str, str]] = []
    for path in inputs:
        if path.is_dir():
            listing = _Listing(path)
            folders, loose = _entries(path, listing)
            files += loose
            for folder in folders:
                files += _walk(folder, listing)
            unreadable += [(str(path / name), why) for name, why in listing.unreadable]
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path} does not exist")
    return files, unreadable


def _first(skipped: list[tuple[str, str]]) -> str:
    return f" (first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""


def _choose(listing: _Listing, request: Request) -> list[tuple[Path, int]]:
    """The files of the split; adds to the notes what a user of the split should know."""
    root, split = listing.root, request.split
    if split == "unlabeled":
        return listing.unlabelled
    if not listing.classes:
        if split == "pretrain":
            return listing.train + listing.unlabelled
        if not listing.train and not listing.unlabelled:
            raise DataError(f"{root}: no image in this folder{_first(listing.unreadable)}")
        raise DataError(f"{root}: the split {split!r} needs labels, and there are none: no class subfolders")
    train, test = listing.train, listing.test
    if test is None:
        keys = [listing.relative(path) for path, _ in train]
        first, second = stratified_split([label for _, label in train], keys)
        train, test = [listing.train[i] for i in first], [listing.train[i] for i in second]
        sizes = Counter(label for _, label in listing.train)
        single = [name for label, name in enumerate(listing.classes) if sizes[label] == 1]
        if single:
            names = ", ".join(map(repr, single[:5])) + (", …" if len(single) > 5 else "")
            which = f"class {names} has" if len(single) == 1 else f"{len(single)} classes have"
            more = "" if len(single) == 1 else f" ({names})"
            listing.notes.append(f"{which} a single image{more}: it is in train, none is in test")
    if split == "test":
        return test
    return train + listing.unlabelled if split == "pretrain" else train


def _scan(root: Path) -> _Listing:
    """Finds the layout; opens no file."""
    listing = _Listing(root)
    folders, loose = _entries(root, listing)
    unlabelled = _named(folders, _UNLABELLED_NAMES)
    listing.unlabelled = [(path, -1) for folder in unlabelled for path in _walk(folder, listing)]
    train, tests = _named(folders, _TRAIN_NAMES)[:1], _named(folders, _TEST_NAMES)
    rest = [folder for folder in folders if folder not in (*unlabelled, *train, *tests)]
    with_classes = [folder for folder in tests if _entries(folder, listing)[0]]
    if train:
        inside, within = _entries(train[0], listing)
        _add_classes(listing, inside, within, alone=not with_classes)
        for folder in rest:
            _leave_out(listing, _walk(folder, listing), f"in {folder.name}/, beside {train[0].name}/")
        _leave_out(listing, loose, f"beside {train[0].name}/")
    elif with_classes and not any(_walk(folder, listing) for folder in rest):
        files = [path for folder in tests for path in _walk(folder, listing)]
        listing.train = [(path, -1) for path in (*files, *loose)]
        names = ", ".join(f"{folder.name}/" for folder in tests)
        listing.notes.append(
            f"{names} but no train/: all {len(listing.train)} images are taken without labels"
        )
        return listing
    else:
        _add_classes(listing, rest, loose, alone=True)
    if train and listing.classes and with_classes:
        listing.test = _test_files(listing, with_classes[0])
    for folder in tests:
        if listing.test is None or folder != with_classes[0]:
            why = "" if folder in with_classes else ", which has no class folders"
            _leave_out(listing, _walk(folder, listing), f"in {folder.name}/{why}")
    return listing


def _named(folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """The folders with one of these names, in the order of the names."""
    wanted = [name + added for name in names for added in _ADDED]
    by_name: dict[str, Path] = {}
    for folder in folders:
        by_name.setdefault(re.sub(r"[\s_.-]", "", folder.name.casefold()), folder)
    return [by_name[name] for name in wanted if name in by_name]


def _leave_out(listing: _Listing, files: Sequence[Path], where: str) -> None:
    if files:
        images = "1 image" if len(files) == 1 else f"{len(files)} images"
        listing.notes.append(f"left out {images} {where}")


def _add_classes(listing: _Listing, folders: list[Path], loose: list[Path], *, alone: bool) -> None:
    """Takes the folders with images somewhere below as classes, or, where they cannot be classes, all as one set.

    `alone` says that there is no test set, so that one has to be split off.
    """
    found = [(folder, files) for folder in folders if (files := _walk(folder, listing))]
    several = sum(len(files) > 1 for _, files in found)
    if len(found) < 2 or (alone and 2 * several < len(found)):
        listing.train = [(path, -1) for path in (*loose, *(path for _, files in found for path in files))]
        if found:
            beside = (
                f", {len(loose)} of them outside {'it' if len(found) == 1 else 'these'}," if loose else ""
            )
            why = (
                f"{found[0][0].name}/ is the only folder with images, so it is not a class"
                if len(found) == 1
                else f"{len(found) - several} of {len(found)} folders hold a single image, so they are not classes"
            )
            listing.notes.append(f"{why}: all {len(listing.train)} images{beside} are taken without labels")
        return
    for folder, files in found:
        listing.train += [(path, len(listing.classes)) for path in files]
        listing.classes.append(folder.name)
    parent = loose[0].parent.name if loose else ""
    _leave_out(listing, loose, f"directly in {parent}/, outside any class folder")


def _test_files(listing: _Listing, test: Path) -> list[tuple[Path, int]]:
    folders, loose = _entries(test, listing)
    found = []
    for folder in folders:
        files = _walk(folder, listing)
        if folder.name in listing.classes:
            found += [(path, listing.classes.index(folder.name)) for path in files]
        else:
            _leave_out(listing, files, f"of {test.name}/{folder.name}/, a class that train does not have")
    _leave_out(listing, loose, f"directly in {test.name}/, outside any class folder")
    return found


def _is_run(folder: Path) -> bool:
    """Whether the folder holds a run or a study of this program, whose plots are not images to train on."""
    if (folder / "cells").is_dir() and any(folder.glob("*.csv")):
        return True
    return (folder / "config.yaml").is_file() and (
        (folder / "metrics.jsonl").is_file() or (folder / "checkpoints").is_dir()
    )


def _entries(folder: Path, listing: _Listing) -> tuple[list[Path], list[Path]]:
    """Subfolders and image files directly in `folder`, in natural order, without hidden ones.

    Broken links and folders that may not be read go to `listing.unreadable`. Pipes and devices are never taken,
    whatever their name: opening one could block for ever.
    """
    folders, files = [], []
    try:
        entries = sorted(folder.iterdir(), key=lambda path: _natural(path.name))
    except OSError as error:
        listing.unreadable.append((listing.relative(folder), error.strerror or str(error)))
        return [], []
    for path in entries:
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        if path.is_dir():
            if not _is_run(path):
                folders.append(path)
        elif path.suffix.lower() in SUFFIXES:
            if path.is_file():
                files.append(path)
            elif path.is_symlink():
                listing.unreadable.append((listing.relative(path), "a broken link"))
    return folders, files


def _walk(folder: Path, listing: _Listing) -> list[Path]:
    """Every image file in or below `folder`; each real folder once and never the root, as links may loop.

    What is nested more than DEPTH deep goes to `listing.unreadable`.
    """
    found: list[Path] = []
    visited = {os.path.realpath(listing.root)}
    waiting = [(folder, 0)]
    while waiting:
        current, depth = waiting.pop()
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        if depth > DEPTH or len(os.fsencode(current)) > LONGEST_PATH:
            listing.unreadable.append((listing.relative(current), "nested too deep"))
            continue
        folders, files = _entries(current, listing)
        found.extend(files)
        waiting.extend((below, depth + 1) for below in reversed(folders))
    return found


def _natural(name: str) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
