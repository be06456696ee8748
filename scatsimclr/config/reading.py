"""Reading settings: shipped recipes, a user's file, and `key=value` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from scatsimclr import plain_yaml
from scatsimclr.config.messages import unknown
from scatsimclr.config.run import Config, parse_config, setting_names
from scatsimclr.config.values import OWN
from scatsimclr.errors import UserError, shortened
from scatsimclr.plain_yaml import LARGEST


def shipped(name: str) -> str | None:
    """The text of the shipped settings file `configs/<name>.yaml`, or None."""
    file = resources.files("scatsimclr") / "configs" / f"{name}.yaml"
    return file.read_text() if file.is_file() else None


def load_config(
    file: str | None = None,
    overrides: Sequence[str | tuple[str, Any]] = (),
    base: dict[str, Any] | None = None,
) -> Config:
    """Reads settings and applies overrides.

    Args:
        file: A path, or the name of a shipped file. None: the shipped one of the data set that `overrides` name,
            "digits" if none.
        overrides: `key=value`, a setting's dotted name and its value in YAML; or (key, value).
        base: Settings to start from instead of a file's.

    Returns:
        The settings.

    Raises:
        UserError: A file cannot be read, or a setting is unknown or ill-typed. The message names it and, for an
            unknown one, its nearest valid name.
    """
    changes = [_split(override) if isinstance(override, str) else override for override in overrides]
    if base is not None:
        settings = base
    elif file is not None:
        settings = _read(file)
    else:
        dataset = dict(changes).get("dataset.dataset", "digits")
        settings = _recipe(str(dataset)) or {}
    for key, value in changes:
        _set(settings, key, value)
    if {"epochs", "minutes"} <= dict(changes).keys() and settings["minutes"] is not None:
        raise UserError("epochs and minutes both say how long to train: give one of them")
    return parse_config(settings)


def _recipe(name: str) -> dict[str, Any] | None:
    """The shipped settings of a data set, or None. The data sets of a family, such as EMNIST's, share a file."""
    for file in (name, name.partition("_")[0], *(OWN[:1] if name in OWN else ())):
        if (text := shipped(file)) is not None:
            settings: dict[str, Any] = plain_yaml.load(text)
            if file != name:
                settings["dataset"]["dataset"] = name
            return settings
    return None


def _read(file: str) -> dict[str, Any]:
    path = Path(file)
    if not path.is_file():
        if (recipe := _recipe(file)) is not None:
            return recipe
        raise UserError(f"settings file {file} does not exist")
    if path.stat().st_size > 4 * LARGEST:
        raise UserError(f"settings file {file} is too large: {path.stat().st_size / 1e6:.0f} MB")
    try:
        settings = plain_yaml.load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"settings file {file} is not UTF-8") from None
    except plain_yaml.PlainYamlError as error:
        raise UserError(f"settings file {file} is not valid: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"settings file {file} must hold `name: value` lines, got {type(settings).__name__}")
    return settings


def _split(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"{shortened(override, 80)!r} is neither an option nor key=value")
    try:
        return key, plain_yaml.load(text)
    except plain_yaml.PlainYamlError as error:
        raise UserError(f"the value of {shortened(override, 80)!r} is not valid: {error}") from None


def _set(settings: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        if settings.get(section) is None:
            settings[section] = {}
        settings = settings[section]
        if not isinstance(settings, dict):
            raise UserError(unknown(key, setting_names()))
    settings[name] = value
