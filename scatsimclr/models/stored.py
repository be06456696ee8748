"""Files with an encoder's weights: reading them without executing code, whoever wrote them."""

from __future__ import annotations

import json
import pickle
import struct
import sys
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scatsimclr.errors import UserError
from scatsimclr.models.integrity import intact

FORMAT = "scatsimclr-checkpoint-1"
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
# What reading a file raises that is not what it should be, and using what is in it.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OSError, SafetensorError)
WEIGHTS, SETTINGS = "model.safetensors", "config.json"  # of a finished run or an export
# What every state has, in every version.
_PARTS: dict[str, type | tuple[type, ...]] = {
    "config": dict, "model": dict, "update": dict, "rng": Tensor, "epoch": int, "step": int, "best": (int, float),
    "seconds": (int, float),
}  # fmt: skip


def load(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a checkpoint, written by `scatsimclr.training.checkpoint.save`.

    Args:
        path: A file, or a run folder: its last checkpoint or, where that is damaged, the one before it, which a warning
            says.
        device: Of the tensors.

    Returns:
        The state, with the kinds of values that every checkpoint has.

    Raises:
        UserError: The file is missing, damaged or something else.
    """
    path = file_of(path)
    state = read(path, device)
    if not is_checkpoint(state):
        raise UserError(f"checkpoint {path} was not written by this program")
    for name, kinds in _PARTS.items():
        if not isinstance(state.get(name), kinds) or isinstance(state.get(name), bool):
            raise UserError(f"checkpoint {path} is incomplete: {name} is missing or of the wrong kind")
    if not is_state_dict(state["model"]) or min(state["epoch"], state["step"]) < 0:
        raise UserError(f"checkpoint {path} holds no weights of an encoder")
    return state


def settings_of(path: Path | str) -> tuple[dict[str, Any], str] | None:
    """The settings of an encoder and a few words on what it is; None for mere weights.

    Args:
        path: A checkpoint, a run folder, or a folder with model.safetensors and config.json.

    Raises:
        UserError: The file is missing, damaged or something else.
    """
    path = file_of(path)
    if path.name == WEIGHTS and (beside := path.with_name(SETTINGS)).is_file():
        try:
            settings = json.loads(beside.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError):
            settings = None
        if not isinstance(settings, dict):
            raise UserError(f"{beside} cannot be read: it must hold the settings of a run")
        return settings, f"from {path.parent}"
    if not is_checkpoint(read(path, "cpu")):
        return None
    state = load(path)
    return state["config"], f"after epoch {state['epoch']}"


def exists(folder: Path) -> bool:
    """Whether a run folder has a checkpoint to continue from."""
    return any((folder / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS))


def file_of(path: Path | str) -> Path:
    """The file that a path names: itself; of a run folder, the last checkpoint that is whole; of others, the weights.

    Raises:
        UserError: There is none.
    """
    path = Path(path)
    if path.is_dir() and not exists(path) and (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if path.is_dir():
        path = path / "checkpoints" / LAST
        previous = path.with_name(PREVIOUS)
        if previous.is_file() and _damaged(path) and not _damaged(previous):
            print(
                f"scatsimclr: warning: {path} is damaged; using {previous}, the one before", file=sys.stderr
            )
            return previous
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    return path


def weights_of(path: Path) -> dict[str, Tensor]:
    """The weights of an encoder in a file, by their names, without DataParallel's prefix.

    Raises:
        UserError: It cannot be read, or holds none.
    """
    state = read(path, "cpu")
    if is_checkpoint(state):
        state = state["model"]
    if not is_state_dict(state):
        raise UserError(f"checkpoint {path} holds no weights of an encoder")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _damaged(path: Path) -> bool:
    """Whether a checkpoint is missing or differs from what was written."""
    try:
        return not path.is_file() or intact(path) is False
    except OSError:
        return True


def read(path: Path, device: torch.device | str) -> object:
    """What a file holds.

    Raises:
        UserError: It is damaged, or cannot be read.
    """
    if _damaged(path):
        raise UserError(f"checkpoint {path} is damaged: it differs from what was written")
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device=str(device))
        state: object = torch.load(path, map_location=device, weights_only=True)
        return state
    except (
        # What torch's reader raises for files that are none, or that it would have to run code for.
        *MALFORMED, pickle.UnpicklingError, RuntimeError, EOFError, OverflowError, MemoryError, AssertionError,
        struct.error,
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path} cannot be read: {reason}") from None


def is_checkpoint(state: object) -> TypeGuard[dict[str, Any]]:
    """Whether `save` wrote it."""
    return isinstance(state, dict) and state.get("format") == FORMAT


def is_state_dict(state: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether these are weights by their names."""
    return isinstance(state, dict) and bool(state) and all(isinstance(v, Tensor) for v in state.values())
