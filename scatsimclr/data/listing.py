"""Which images a user's own data has and how they are divided, before any of them is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from scatsimclr.data.imageset import DataError
from scatsimclr.data.splitting import stratified_split

# A file, or the number of an image that is in memory.
Item = TypeVar("Item", Path, int)


@dataclass
class Listing(Generic[Item]):
    """Images that were found and not yet opened; a label is an index into `classes`, or -1.

    Attributes:
        root: The folder that paths are relative to; "" for images that are in memory.
        where: What messages call the place.
        test: None where the test split has to be split off from `train`.
        unreadable: (path, reason) of what could not be searched.
        notes: One-line remarks for the user.
    """

    root: Path
    where: str
    classes: list[str] = field(default_factory=list)
    train: list[tuple[Item, int]] = field(default_factory=list)
    test: list[tuple[Item, int]] | None = None
    unlabelled: list[tuple[Item, int]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def key(self, item: Item) -> str:
        """What an image is called: its path below `root`, or its number. Splits depend on it alone."""
        if isinstance(item, Path):
            return (
                item.relative_to(self.root).as_posix() if item.is_relative_to(self.root) else item.as_posix()
            )
        return str(item)

    def all(self) -> list[Item]:
        """The images of all splits."""
        return [item for item, _ in (*self.train, *(self.test or ()), *self.unlabelled)]

    def leave_out(self, items: Sequence[Item], where: str) -> None:
        """Notes that images are left out."""
        if items:
            images = "1 image" if len(items) == 1 else f"{len(items)} images"
            self.notes.append(f"left out {images} {where}")

    def chosen(self, split: str) -> list[tuple[Item, int]]:
        """The images of a split; adds to the notes what a user of the split should know.

        Raises:
            DataError: There are none.
        """
        found = self.split(split)
        if not found:
            raise DataError(f"{self.where}: no image for the split {split!r}{first(self.unreadable)}")
        return found

    def split(self, split: str) -> list[tuple[Item, int]]:
        """As `chosen`, where there may be none; DataError for labelled images where there are no labels."""
        if split == "unlabeled":
            return self.unlabelled
        if not self.classes:
            if split == "pretrain":
                return self.train + self.unlabelled
            if not self.train and not self.unlabelled:
                raise DataError(f"{self.where}: no image{first(self.unreadable)}")
            raise DataError(f"{self.where}: the split {split!r} needs labels, and there are none")
        train, test = self.train, self.test
        if test is None:
            train, test = self._divided()
        if split == "test":
            return test
        return train + self.unlabelled if split == "pretrain" else train

    def _divided(self) -> tuple[list[tuple[Item, int]], list[tuple[Item, int]]]:
        keys = [self.key(item) for item, _ in self.train]
        first, second = stratified_split([label for _, label in self.train], keys)
        sizes = Counter(label for _, label in self.train)
        single = [name for label, name in enumerate(self.classes) if sizes[label] == 1]
        if single:
            names = ", ".join(map(repr, single[:5])) + (", …" if len(single) > 5 else "")
            which = f"class {names} has" if len(single) == 1 else f"{len(single)} classes have"
            more = "" if len(single) == 1 else f" ({names})"
            self.notes.append(f"{which} a single image{more}: it is in train, none is in test")
        return [self.train[i] for i in first], [self.train[i] for i in second]


def first(skipped: Sequence[tuple[str, str]]) -> str:
    """The first of what could not be read, for a message."""
    return f" (first: {skipped[0][0]}: {skipped[0][1]})" if skipped else ""
