"""What a run was trained on, in a few words and a digest: whether a resumed run sees the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from scatsimclr.data.imageset import ImageSet
from scatsimclr.errors import UserError

SAMPLED = 4096  # images whose pixels are looked at


def fingerprint(images: ImageSet) -> dict[str, Any]:
    """Number, size, classes, labels and pixels of images, of large sets those of a regular sample."""
    every = max(1, len(images) // SAMPLED)
    return {
        "images": len(images),
        "size": list(images.images.shape[1:]),
        "classes": list(images.classes),
        "labels": hashlib.sha256(images.labels.contiguous().numpy().tobytes()).hexdigest(),
        "pixels": hashlib.sha256(images.images[::every].contiguous().numpy().tobytes()).hexdigest(),
    }


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In words, what differs between two fingerprints; empty where they are equal."""
    found = []
    for name in ("images", "size", "classes"):
        old, new = before.get(name), now[name]
        if old != new:
            found.append(f"{name} {_shown(old, new)} instead of {_shown(new, old)}")
    if not found:
        found += [f"other {name}" for name in ("labels", "pixels") if before.get(name) != now[name]]
    return found


def check_same_images(seen: Sequence[dict[str, Any]]) -> None:
    """Compares the fingerprints of several processes, by their ranks.

    Raises:
        UserError: One differs from the first; in every process.
    """
    for rank, other in enumerate(seen):
        if found := differences(seen[0], other):
            raise UserError(f"rank {rank} has other images than rank 0: {'; '.join(found)}")


def _shown(value: object, other: object) -> object:
    """A value, of a list of classes those that the other list has not."""
    if isinstance(value, list) and isinstance(other, list) and all(isinstance(name, str) for name in value):
        return ", ".join(name for name in value if name not in other) or "others in another order"
    return value
