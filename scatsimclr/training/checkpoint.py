"""Checkpoints: one file with everything an exact resume needs, written atomically, read without executing code.

Weights are also read from `.safetensors`, from the original code's `.pth` files and from torchvision's ResNets.
"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scatsimclr.errors import UserError
from scatsimclr.models.resnet import ResNetSimCLR, from_torchvision, is_torchvision

FORMAT = "scatsimclr-checkpoint-1"


def save(path: Path, state: dict) -> None:
    """Writes `state` (tensors, numbers, strings, lists, dicts); a crash leaves the file before untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    torch.save({"format": FORMAT, **state}, temporary)
    os.replace(temporary, path)


def save_pretrained(folder: Path, model: nn.Module, settings: dict) -> None:
    """Writes the weights alone, model.safetensors, and config.json, for sharing: see `ScatSimCLR.from_pretrained`."""
    weights, config = folder / "model.safetensors", folder / "config.json"
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, weights.with_suffix(".partial"), {"format": "pt"})
    os.replace(weights.with_suffix(".partial"), weights)
    config.with_suffix(".partial").write_text(json.dumps(settings, indent=1) + "\n")
    os.replace(config.with_suffix(".partial"), config)


def load(path: Path | str, device: torch.device | str = "cpu") -> dict:
    """The state written by `save`; UserError where the file is missing, unreadable or something else."""
    path = _file(path)
    state = _read(path, device)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"checkpoint {path} was not written by this program")
    return state


def load_if_whole(path: Path | str) -> dict | None:
    """As `load`, but None for a readable file that holds mere weights, without the settings of a run."""
    state = _read(_file(path), "cpu")
    return state if isinstance(state, dict) and state.get("format") == FORMAT else None


def load_weights(path: Path | str, model: nn.Module) -> None:
    """Loads the weights of a file into `model`.

    Our checkpoints, `.safetensors` and the original's `.pth` files load strictly; of a torchvision ResNet all but
    the classifier is loaded, and the projection head keeps its weights.
    """
    path = _file(path)
    state = _read(path, "cpu")
    if isinstance(state, dict) and state.get("format") == FORMAT:
        state = state["model"]
    if not _is_state_dict(state):
        raise UserError(f"checkpoint {path} holds no weights of an encoder")
    # DataParallel's prefix.
    state = {name.removeprefix("module."): value for name, value in state.items()}
    part = model
    if isinstance(model, ResNetSimCLR) and is_torchvision(state):
        part, state = model._features, from_torchvision(state)
    _fill(part, state, path)


def load_head(path: Path | str, head: nn.Module) -> None:
    """Loads a pretext head's weights: of our checkpoints, or of the original's second file."""
    path = _file(path)
    state = _read(path, "cpu")
    if isinstance(state, dict) and state.get("format") == FORMAT:
        state = state.get("head") or {}
    elif isinstance(state, dict) and set(state) == {"fc1", "fc2", "classification_fc"}:
        state = {f"{part}.{name}": value for part, inner in state.items() for name, value in inner.items()}
    if not _is_state_dict(state):
        raise UserError(f"checkpoint {path} holds no pretext head")
    _fill(head, state, path)


def _file(path: Path | str) -> Path:
    path = Path(path)
    if path.is_dir():
        path = path / "checkpoints" / "last.pt"
    if not path.is_file():
        raise UserError(f"checkpoint {path} does not exist")
    return path


def _read(path: Path, device: torch.device | str) -> object:
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device=str(device))
        return torch.load(path, map_location=device, weights_only=True)
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, OSError, SafetensorError
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path} cannot be read: {reason}") from None


def _is_state_dict(state: object) -> bool:
    return isinstance(state, dict) and bool(state) and all(isinstance(v, Tensor) for v in state.values())


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"checkpoint {path} does not fit the model: {problem[:300]}") from None
