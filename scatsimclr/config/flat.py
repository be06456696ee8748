"""Settings by their dotted names."""

from __future__ import annotations

from collections.abc import Mapping


def flattened(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Turns nested settings, {"model": {"J": 2}}, into {"model.J": 2}."""
    flat: dict[str, object] = {}
    for name, value in settings.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
