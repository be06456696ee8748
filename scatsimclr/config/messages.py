"""Messages about settings that are unknown or ill-typed: one line that names the setting."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from scatsimclr.errors import shortened

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80


def dotted_names(section: type[Any], prefix: str = "") -> list[str]:
    """Dotted names of all settings below a section, a pydantic model or a dataclass."""
    if not issubclass(section, BaseModel):
        return [prefix + field.name for field in dataclasses.fields(section)]
    names: list[str] = []
    for name, field in section.model_fields.items():
        dotted = prefix + (field.alias or name)
        candidates = (field.annotation, *getattr(field.annotation, "__args__", ()))
        inner = next((found for found in candidates if _is_section(found)), None)
        names += [dotted] if inner is None else dotted_names(inner, dotted + ".")
    return names


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    )


def describe(error: ErrorDetails, known: Iterable[str]) -> str:
    """A validation error in one line.

    Args:
        error: The error as pydantic reports it.
        known: The names of all settings.

    Returns:
        The setting, what it must be, and what it is.
    """
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return unknown(key, known)
    requirement = must(error)
    return f"setting {key} {requirement}, got {shown(error['input'])}" if key else requirement


def shown(value: object) -> str:
    """A value of any size, in at most some 80 characters."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**60:
        return f"a number of about {value.bit_length() * 3 // 10} digits"
    return shortened(_REPR.repr(value), 80)


def must(error: ErrorDetails) -> str:
    """What a value must be, by pydantic's message or a validator's own."""
    if error["type"] == "missing":
        return "must be given"
    message = error["msg"].removeprefix("Value error, ")
    for subject in ("Input", "Tuple", "List", "String", "Value"):
        message = message.replace(f"{subject} should ", "must ")
    return message


def unknown(key: str, known: Iterable[str]) -> str:
    """That there is no such setting, with the nearest name there is."""
    names, key = list(known), shortened(key, 80)
    by_leaf = {name.rpartition(".")[2]: name for name in names}
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    leaf = difflib.get_close_matches(key.rpartition(".")[2], list(by_leaf), n=1, cutoff=0.7)
    nearest = near[0] if near else by_leaf[leaf[0]] if leaf else None
    return f"unknown setting {key}" + (f"; did you mean {nearest}?" if nearest else "")
