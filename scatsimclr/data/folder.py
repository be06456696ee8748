"""Anybody's own images in a folder, with class sub-folders or without."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from scatsimclr.data.decode import SUFFIXES, read_files
from scatsimclr.data.imageset import DataError, ImageSet, Request
from scatsimclr.data.splitting import stratified_split

_TEST_NAMES = ("test", "val", "valid", "validation")
_UNLABELLED_NAMES = ("unlabeled", "unlabelled")


@dataclass
class _Listing:
    """Image files below the root, found but not yet opened; a label is an index into `classes` or -1."""

    root: Path
    classes: list[str] = field(default_factory=list)
    train: list[tuple[Path, int]] = field(default_factory=list)
    test: list[tuple[Path, int]] | None = None  # None: to be split off from train
    unlabelled: list[tuple[Path, int]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def read(request: Request) -> ImageSet:
    """The images below `data_dir`, in one of these layouts (names of split folders in any case):

    - root/CLASS/**: split 80/20 per class by `stratified_split` over the relative paths, the same every time;
    - root/train/CLASS/** with root/test, val, valid or validation/CLASS/** (the first that exists); without
      one of these, train is split as above;
    - no class folders: images of root (or of root/train) without labels, split pretrain only;
    - root/unlabeled/**, beside any of these, adds unlabelled images to pretrain.

    Files are taken by suffix, in natural order (img2 before img10), through symbolic links; hidden files and
    other suffixes are ignored. Files that cannot be read are left out and named in `skipped`.
    DataError when there is no such folder, no readable image, or no label for a split that needs one.
    """
    if request.data_dir is None:
        raise DataError(f"{request.name}: which folder has the images? name it with --data-dir")
    root = request.data_dir
    if not root.is_dir():
        raise DataError(f"{request.name}: {root} is {'not a folder' if root.exists() else 'not there'}")
    listing = _scan(root)
    chosen = _choose(listing, request)
    if not chosen:
        raise DataError(
            f"{root}: no image for the split {request.split!r} in this folder{_first(listing.unreadable)}"
        )
    files = [path for path, _ in chosen]
    images, kept, failed = read_files(files, request.size, request.channels, request.progress)
    skipped = [*listing.unreadable, *((listing.relative(chosen[i][0]), why) for i, why in failed.items())]
    if not kept:
        count = f"none of {len(chosen)} image files can be read"
        raise DataError(
            f"{root}: no readable image for the split {request.split!r}: {count}{_first(skipped)}"
        )
    labels = torch.tensor([chosen[i][1] for i in kept], dtype=torch.int64)
    paths = tuple(listing.relative(chosen[i][0]) for i in kept)
    return ImageSet(images, labels, tuple(listing.classes), paths, tuple(skipped), tuple(listing.notes))


def image_files(inputs: Sequence[Path]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Every image file that is named, or lies in a folder that is named, and what could not be looked into.

    Folders are walked in natural order, through symbolic links, without hidden files; a file that is named is taken
    whatever its suffix. DataError for a name that does not exist.
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
    """The files of the split; notes what a reader of the split should know."""
    root, split = listing.root, request.split
    if split == "unlabeled":
        return listing.unlabelled
    if not listing.classes:
        if split == "pretrain":
            return listing.train + listing.unlabelled
        if not listing.train and not listing.unlabelled:
            raise DataError(f"{root}: no image in this folder{_first(listing.unreadable)}")
        raise DataError(f"{root}: the split {split!r} needs labels, and there are none: no class sub-folders")
    train, test = listing.train, listing.test
    if test is None:
        keys = [listing.relative(path) for path, _ in train]
        first, second = stratified_split([label for _, label in train], keys)
        train, test = [listing.train[i] for i in first], [listing.train[i] for i in second]
        for label, name in enumerate(listing.classes):
            if sum(1 for _, other in listing.train if other == label) == 1:
                listing.notes.append(f"class {name!r} has a single image: it is in train, none is in test")
    if split == "test":
        return test
    return train + listing.unlabelled if split == "pretrain" else train


def _scan(root: Path) -> _Listing:
    """Finds the layout. Nothing is opened."""
    listing = _Listing(root)
    folders, loose = _entries(root, listing)
    by_name = {folder.name.casefold(): folder for folder in reversed(folders)}
    unlabelled = [by_name[name] for name in _UNLABELLED_NAMES if name in by_name]
    listing.unlabelled = [(path, -1) for folder in unlabelled for path in _walk(folder, listing)]
    train = by_name.get("train")
    if train is None:
        misplaced = [name for name in _TEST_NAMES if name in by_name and _entries(by_name[name], listing)[0]]
        if misplaced:
            raise DataError(f"{root}: has {by_name[misplaced[0]].name}/ with class folders, but no train/")
        _add_classes(listing, [folder for folder in folders if folder not in unlabelled], loose)
        return listing
    class_folders, loose = _entries(train, listing)
    _add_classes(listing, class_folders, loose)
    test = next((by_name[name] for name in _TEST_NAMES if name in by_name), None)
    if test is not None and listing.classes:
        listing.test = _test_files(listing, test)
    return listing


def _add_classes(listing: _Listing, folders: list[Path], loose: list[Path]) -> None:
    """Classes are the folders with an image file somewhere below; without any the loose files are the set."""
    for folder in folders:
        files = _walk(folder, listing)
        if files:
            listing.train += [(path, len(listing.classes)) for path in files]
            listing.classes.append(folder.name)
    if not listing.classes:
        listing.train = [(path, -1) for path in loose]
    elif loose:
        where = loose[0].parent
        listing.notes.append(f"left out {len(loose)} images directly in {where}, outside of any class folder")


def _test_files(listing: _Listing, test: Path) -> list[tuple[Path, int]]:
    found = []
    for folder in _entries(test, listing)[0]:
        files = _walk(folder, listing)
        if files and folder.name not in listing.classes:
            raise DataError(f"{folder}: a class that train/ has not: {folder.name!r}")
        found += [(path, listing.classes.index(folder.name)) for path in files]
    return found


def _entries(folder: Path, listing: _Listing) -> tuple[list[Path], list[Path]]:
    """Sub-folders and image files directly in `folder`, in natural order, hidden ones left out.

    Links that lead nowhere and folders that may not be read go to `listing.unreadable`. Pipes and devices
    are never taken, whatever their name: opening one could wait for ever.
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
            folders.append(path)
        elif path.suffix.lower() in SUFFIXES:
            if path.is_file():
                files.append(path)
            elif path.is_symlink():
                listing.unreadable.append((listing.relative(path), "a link that leads nowhere"))
    return folders, files


def _walk(folder: Path, listing: _Listing) -> list[Path]:
    """Every image file at or below `folder`; each real folder once and never the root, as links may loop."""
    found: list[Path] = []
    visited = {os.path.realpath(listing.root)}

    def visit(current: Path) -> None:
        real = os.path.realpath(current)
        if real not in visited:
            visited.add(real)
            folders, files = _entries(current, listing)
            found.extend(files)
            for below in folders:
                visit(below)

    visit(folder)
    return found


def _natural(name: str) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name
