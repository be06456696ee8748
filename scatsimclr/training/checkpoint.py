"""Checkpoints: one file with everything an exact resume needs, written atomically, read without executing code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch

from scatsimclr.errors import UserError

FORMAT = "scatsimclr-checkpoint-1"


def save(path: Path, state: dict) -> None:
    """Writes `state` (tensors, numbers, strings, lists, dicts); a crash leaves the file before untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    torch.save({"format": FORMAT, **state}, temporary)
    os.replace(temporary, path)


def load(path: Path | str, device: torch.device | str = "cpu") -> dict:
    """The state written by `save`; UserError where the file is missing, unreadable or something else."""
    path = Path(path)
    if path.is_dir():
        path = path / "checkpoints" / "last.pt"
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path} cannot be read: {reason}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"checkpoint {path} was not written by this program")
    return state


def load_weights(path: Path | str, model: torch.nn.Module) -> None:
    """Loads the model's weights of a checkpoint into `model`, strictly."""
    state = load(path)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"checkpoint {path} does not fit the model: {problem[:300]}") from None
