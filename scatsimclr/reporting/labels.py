"""The page to check labels: one HTML file, the uncertain images first, that gives a CSV file of what a person says."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import torch
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from scatsimclr.labelling import Labelling, Suggestion
from scatsimclr.labelling.images import Images
from scatsimclr.reporting import pictures
from scatsimclr.reporting.assets import asset
from scatsimclr.reporting.page import encoded, json_text, percent

UNCERTAIN = 300  # images on the page, the least confident of all
OF_EACH = 6  # and of each class, the most confident, so that a class that has gone wrong is seen
SKIPPED = 20  # files that cannot be read that are named
SIDE = 72  # pixels of a thumbnail


def write_page(
    path: Path,
    images: Images,
    found: Labelling,
    classes: Sequence[str],
    given: Tensor,
    suggestions: Sequence[Suggestion],
    notes: Sequence[str],
) -> Path:
    """Writes the page, whole or not at all, and returns its path. given: labels int64 (n,) of a person, −1 without."""
    known = given >= 0
    order = found.confidence.argsort(stable=True)
    order = order[~known[order]]
    uncertain = order[:UNCERTAIN].tolist()
    rest = order[UNCERTAIN:].flip(0)
    typical = [
        (name, rest[found.labels[rest] == label][:OF_EACH].tolist()) for label, name in enumerate(classes)
    ]
    groups = [
        ("suggested", "To label next", [suggestion.index for suggestion in suggestions]),
        (
            "uncertain",
            "Least certain",
            sorted(set(uncertain) - {s.index for s in suggestions}, key=uncertain.index),
        ),
    ]
    groups += [(f"class-{number}", name, members) for number, (name, members) in enumerate(typical)]
    groups = [
        (key, name, [_card(images, found, i) for i in members]) for key, name, members in groups if members
    ]
    counts = torch.bincount(found.labels, minlength=len(classes)).tolist()
    told = known.nonzero().flatten().tolist()
    told_counts = torch.bincount(given[known], minlength=len(classes)).tolist()
    left_out = [f"{_text(name)} cannot be read: {why}" for name, why in images.skipped[:SKIPPED]]
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
                "given": [[_text(images.files[i]), classes[int(given[i])]] for i in told],
            }
        ),
    }  # fmt: skip
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(encoded(render(context)))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render(context: dict) -> str:
    """The page; everything in the context is escaped unless it is Markup."""
    templates = Environment(
        loader=DictLoader({name: asset(name) for name in ("base.html", "labels.html")}), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.filters.update(percent=percent)
    script = asset("labels.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = "".join(asset(name) for name in ("theme.css", "page.css", "labels.css"))
    return templates.get_template("labels.html").render(
        style=Markup(style), script=Markup(script), script_hash=digest, **context
    )


def _card(images: Images, found: Labelling, index: int) -> dict:
    height, width = images.pixels.shape[1:3]
    return {
        "uri": pictures.photo(images.pixels[index].numpy(), SIDE), "path": _text(images.files[index]),
        "label": int(found.labels[index]), "confidence": float(found.confidence[index]), "width": width,
        "height": height,
    }  # fmt: skip


def _text(name: str) -> str:
    """A file name as valid text: undecodable bytes become question marks."""
    return name.encode(errors="replace").decode()
