"""The train/test split of data sets that come without one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

TEST_FRACTION = 0.2
SEED = 0


def stratified_split(labels: Sequence[int], keys: Sequence[str]) -> tuple[list[int], list[int]]:
    """Splits off one fifth of every class for testing.

    Within a class the images are ordered by a hash of seed and key, and the first fifth (rounded, at least one) is the
    test part. A hash rather than a random generator: the split is the same with every version of every library, and
    adding an image hardly moves the others. The only image of a class is in train.

    Args:
        labels: Of all images.
        keys: What identifies each image.

    Returns:
        Indices (train, test), each ascending.
    """
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    test: set[int] = set()
    for indices in members.values():
        if len(indices) > 1:
            ordered = sorted(indices, key=lambda i: (digest(keys[i]), i))
            test.update(ordered[: max(1, round(TEST_FRACTION * len(indices)))])
    return [i for i in range(len(labels)) if i not in test], sorted(test)


def digest(key: str, seed: int = SEED) -> bytes:
    """A hash of key and seed: an order that looks random and is the same with every version of every library."""
    # surrogateescape: file names that are not valid UTF-8 are keys too
    return hashlib.blake2b(f"{seed}/{key}".encode(errors="surrogateescape"), digest_size=16).digest()
