"""Files beside the code: the templates, style sheets and scripts of the pages."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def asset(name: str) -> str:
    """Text of `assets/<name>`."""
    return (resources.files("scatsimclr.reporting") / "assets" / name).read_text(encoding="utf-8")
