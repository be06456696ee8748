"""A user's own images in a folder, with or without class subfolders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from scatsimclr.data.decode import SUFFIXES
from scatsimclr.data.imageset import DataError
from scatsimclr.data.listing import Listing

# In upper or lower case, with or without one of _ADDED, and with any separator between the words.
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing", "val", "valid", "validation")
_UNLABELLED_NAMES = ("unlabeled", "unlabelled")
_ADDED = ("", "set", "data", "images", "imgs")
DEPTH = 100  # of folders in folders
# Bytes of a folder's path: with a file's name of 255 below it, no more than systems take (PATH_MAX).
LONGEST_PATH = 4096 - 256


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
            listing = _listing(path)
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


def _listing(root: Path) -> Listing[Path]:
    return Listing(root, str(root))


def scan(root: Path) -> Listing[Path]:
    """Finds the images below a folder, in one of these layouts; opens no file.

    - root/CLASS/**: to be split 80/20 per class by `stratified_split` over the relative paths, always in the same way;
    - root/train/CLASS/** with root/test, val, valid or validation/CLASS/** (the first that has classes); without
      any of these, train is to be split as above;
    - no class folders: all images of root (or of root/train) without labels, split pretrain only;
    - root/unlabeled/**, beside any of these, adds unlabelled images to pretrain.

    Split folders are recognised under similar names too, such as Training or train_images. Labels are never needed for
    training. Folders are not classes if only one has images or if, where a test split would be split off, more than
    half hold a single image: their images are then taken without labels. Whatever is left out (images beside class
    folders, a test folder without classes, a class that train does not have) is counted in `notes`.

    Files are recognised by suffix and taken in natural order (img2 before img10), through symbolic links. Hidden files,
    other suffixes and this program's run folders are ignored.
    """
    listing = _listing(root)
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
            listing.leave_out(_walk(folder, listing), f"in {folder.name}/, beside {train[0].name}/")
        listing.leave_out(loose, f"beside {train[0].name}/")
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
            listing.leave_out(_walk(folder, listing), f"in {folder.name}/{why}")
    return listing


def _named(folders: Sequence[Path], names: Sequence[str]) -> list[Path]:
    """The folders with one of these names, in the order of the names."""
    wanted = [name + added for name in names for added in _ADDED]
    by_name: dict[str, Path] = {}
    for folder in folders:
        by_name.setdefault(re.sub(r"[\s_.-]", "", folder.name.casefold()), folder)
    return [by_name[name] for name in wanted if name in by_name]


def _add_classes(listing: Listing[Path], folders: list[Path], loose: list[Path], *, alone: bool) -> None:
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
    listing.leave_out(loose, f"directly in {parent}/, outside any class folder")


def _test_files(listing: Listing[Path], test: Path) -> list[tuple[Path, int]]:
    folders, loose = _entries(test, listing)
    found = []
    for folder in folders:
        files = _walk(folder, listing)
        if folder.name in listing.classes:
            found += [(path, listing.classes.index(folder.name)) for path in files]
        else:
            listing.leave_out(files, f"of {test.name}/{folder.name}/, a class that train does not have")
    listing.leave_out(loose, f"directly in {test.name}/, outside any class folder")
    return found


def _is_run(folder: Path) -> bool:
    """Whether the folder holds a run or a study of this program, whose plots are not images to train on."""
    if (folder / "cells").is_dir() and any(folder.glob("*.csv")):
        return True
    return (folder / "config.yaml").is_file() and (
        (folder / "metrics.jsonl").is_file() or (folder / "checkpoints").is_dir()
    )


def _entries(folder: Path, listing: Listing[Path]) -> tuple[list[Path], list[Path]]:
    """Subfolders and image files directly in `folder`, in natural order, without hidden ones.

    Broken links and folders that may not be read go to `listing.unreadable`. Pipes and devices are never taken,
    whatever their name: opening one could block for ever.
    """
    folders, files = [], []
    try:
        entries = sorted(folder.iterdir(), key=lambda path: _natural(path.name))
    except OSError as error:
        listing.unreadable.append((listing.key(folder), error.strerror or str(error)))
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
                listing.unreadable.append((listing.key(path), "a broken link"))
    return folders, files


def _walk(folder: Path, listing: Listing[Path]) -> list[Path]:
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
            listing.unreadable.append((listing.key(current), "nested too deep"))
            continue
        folders, files = _entries(current, listing)
        found.extend(files)
        waiting.extend((below, depth + 1) for below in reversed(folders))
    return found


def _natural(name: str) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
