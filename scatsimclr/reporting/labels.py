"""The page to check labels on: one HTML file, the least certain images first, that saves corrections as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor

from scatsimclr.files import printable, write_text
from scatsimclr.labelling import Labelling
from scatsimclr.labelling.assigned import Assigned
from scatsimclr.labelling.images import Images
from scatsimclr.reporting import pictures
from scatsimclr.reporting.templates import json_text, render

UNCERTAIN = 300  # images on the page, those of least confidence
OF_EACH = 6  # further ones of each class, those of most confidence, which show a class that has gone wrong
SKIPPED = 20  # unreadable files that are named
SIDE = 72  # pixels of a thumbnail


def write_page(path: Path, assigned: Assigned, notes: Sequence[str]) -> Path:
    """Writes the page.

    Args:
        path: The file to write.
        assigned: The images and their labels.
        notes: Remarks for the reader.

    Returns:
        `path`.
    """
    images, found, classes, given = assigned.images, assigned.found, assigned.classes, assigned.given
    known = given >= 0
    suggested = [suggestion.index for suggestion in assigned.suggestions]
    groups = [
        (key, name, [_card(images, found, i) for i in members])
        for key, name, members in _sections(found, classes, known, suggested)
        if members
    ]
    counts = torch.bincount(found.labels, minlength=len(classes)).tolist()
    told = known.nonzero().flatten().tolist()
    told_counts = torch.bincount(given[known], minlength=len(classes)).tolist()
    left_out = [f"{printable(name)} cannot be read: {why}" for name, why in images.skipped[:SKIPPED]]
    if len(images.skipped) > SKIPPED:
        left_out.append(f"{len(images.skipped) - SKIPPED} more files cannot be read")
    context = {
        "title": images.root.resolve().name or str(images.root),
        "made": f"{datetime.now():%Y-%m-%d %H:%M}",
        "count": len(images.files),
        "given": len(told),
        "shown": sum(len(cards) for _, _, cards in groups),
        "found": found,
        "classes": list(zip(classes, counts, told_counts, strict=True)),
        "groups": groups,
        "notes": [*notes, *left_out],
        "pixelated": max(images.pixels.shape[1:3]) <= 32,
        "data": json_text(
            {
                "classes": list(classes),
                "given": [[printable(images.files[i]), classes[int(given[i])]] for i in told],
            }
        ),
    }  # fmt: skip
    write_text(path, printable(render("labels.html", context)))
    return path


def _sections(
    found: Labelling, classes: Sequence[str], known: Tensor, suggested: Sequence[int]
) -> list[tuple[str, str, Sequence[int]]]:
    """The sections of the page: (id, heading, indices of images)."""
    order = found.confidence.argsort(stable=True)
    order = order[~known[order]]
    uncertain = order[:UNCERTAIN].tolist()
    rest = order[UNCERTAIN:].flip(0)
    return [
        ("suggested", "To label next", suggested),
        ("uncertain", "Least certain", sorted(set(uncertain) - set(suggested), key=uncertain.index)),
        *(
            (f"class-{label}", name, rest[found.labels[rest] == label][:OF_EACH].tolist())
            for label, name in enumerate(classes)
        ),
    ]


def _card(images: Images, found: Labelling, index: int) -> dict[str, object]:
    """What the page shows of an image."""
    height, width = images.pixels.shape[1:3]
    return {
        "uri": pictures.photo(images.pixels[index].numpy(), SIDE), "path": printable(images.files[index]),
        "label": int(found.labels[index]), "confidence": float(found.confidence[index]), "width": width,
        "height": height,
    }  # fmt: skip
