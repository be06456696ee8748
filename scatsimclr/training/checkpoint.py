"""Checkpoints: one file with everything an exact resume needs, written atomically, read without executing code.

Weights are also read from `.safetensors`, from the original code's `.pth` files and from torchvision's ResNets.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scatsimclr.errors import UserError
from scatsimclr.files import replacing, write_text
from scatsimclr.models.resnet import ResNetSimCLR, from_torchvision, is_torchvision

FORMAT = "scatsimclr-checkpoint-1"


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a state of tensors, numbers, strings, lists and dicts; a crash leaves the earlier file untouched."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        torch.save({"format": FORMAT, **state}, partial)


def save_pretrained(folder: Path, model: nn.Module, settings: dict[str, Any]) -> None:
    """Writes the weights alone, model.safetensors, and config.json, for sharing: see `ScatSimCLR.from_pretrained`."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    with replacing(folder / "model.safetensors") as partial:
        save_file(state, partial, {"format": "pt"})
    write_text(folder / "config.json", json.dumps(settings, indent=1) + "\n")


def load(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state written by `save`; UserError where the file is missing, unreadable or something else.

    `path` is a file or a run folder, and so it is in the functions below.
    """
    path = _file(path)
    state = _read(path, device)
    if not _is_checkpoint(state):
        raise UserError(f"checkpoint {path} was not written by this program")
    return state


def load_if_whole(path: Path | str) -> dict[str, Any] | None:
    """As `load`, but None for a readable file that holds mere weights, without the settings of a run."""
    state = _read(_file(path), "cpu")
    return state if _is_checkpoint(state) else None


def load_weights(path: Path | str, model: nn.Module) -> None:
    """Loads the weights of a file into an encoder.

    Checkpoints of this program, `.safetensors` and the original's `.pth` files load strictly. A torchvision ResNet is
    loaded without its classifier, and the projection head keeps its weights.

    Raises:
        UserError: The file is missing or unreadable, or its weights do not fit the encoder.
    """
    path = _file(path)
    state = _read(path, "cpu")
    if _is_checkpoint(state):
        state = state["model"]
    if not _is_state_dict(state):
        raise UserError(f"checkpoint {path} holds no weights of an encoder")
    # DataParallel's prefix.
    state = {name.removeprefix("module."): value for name, value in state.items()}
    part: nn.Module = model
    if isinstance(model, ResNetSimCLR) and is_torchvision(state):
        part, state = model._features, from_torchvision(state)
    _fill(part, state, path)


def load_head(path: Path | str, head: nn.Module) -> None:
    """Loads a pretext head's weights from a checkpoint of this program or from the original's second file.

    Raises:
        UserError: The file is missing or unreadable, or its weights do not fit the head.
    """
    path = _file(path)
    state = _read(path, "cpu")
    if _is_checkpoint(state):
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
        state: object = torch.load(path, map_location=device, weights_only=True)
        return state
    except (
        pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError, OSError, SafetensorError
    ) as error:  # fmt: skip
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path} cannot be read: {reason}") from None


def _is_checkpoint(state: object) -> TypeGuard[dict[str, Any]]:
    """Whether `save` wrote it."""
    return isinstance(state, dict) and state.get("format") == FORMAT


def _is_state_dict(state: object) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(state, dict) and bool(state) and all(isinstance(v, Tensor) for v in state.values())


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise UserError(f"checkpoint {path} does not fit the model: {problem[:300]}") from None
