"""Checkpoints: one file with everything an exact resume needs, written atomically, read without executing code.

Weights are also read from `.safetensors`, from the original code's `.pth` files and from torchvision's ResNets.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from scatsimclr.errors import UserError
from scatsimclr.files import check_space, link, replacing, sync, write_text
from scatsimclr.models.integrity import intact, seal
from scatsimclr.models.resnet import ResNetSimCLR, from_torchvision, is_torchvision
from scatsimclr.models.stored import (
    BEST,
    FORMAT,
    LAST,
    PREVIOUS,
    exists,
    file_of,
    is_checkpoint,
    is_state_dict,
    load,
    read,
    settings_of,
    weights_of,
)

__all__ = [
    "BEST",
    "LAST",
    "PREVIOUS",
    "exists",
    "load",
    "load_head",
    "load_weights",
    "save",
    "save_pretrained",
    "settings_of",
    "written",
]


def written(folder: Path) -> int:
    """When a run folder's newest checkpoint was written, in ns; for one that has any."""
    files = [folder / "checkpoints" / name for name in (LAST, PREVIOUS)]
    return max(path.stat().st_mtime_ns for path in files if path.is_file())


def save(path: Path, state: dict[str, Any], keep: Path | None = None) -> None:
    """Writes a state so that it is on the disk, as a whole, or the earlier file is untouched.

    The file is written beside `path`, sealed with a digest, waited for, read back and compared with its digest; only
    then it takes the place of the earlier one.

    Args:
        path: The file.
        state: Tensors, numbers, strings, lists and dicts.
        keep: Another name that the earlier file gets.

    Raises:
        OSError: It cannot be written, or does not read back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    check_space(path.parent, _size(state))
    with replacing(path, durable=True) as partial:
        try:
            torch.save({"format": FORMAT, **state}, partial)
        except RuntimeError as error:  # torch's writer has no other error for a disk
            raise OSError(errno.EIO, f"writing failed ({str(error).splitlines()[0]})", str(path)) from None
        seal(partial)
        sync(partial)
        if not intact(partial):
            raise OSError(errno.EIO, "what was written does not read back", str(path))
        if keep is not None and path.exists():
            link(path, keep)


def _size(value: object) -> int:
    """Bytes of all tensors in a state, and of what is around them."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size() + 1024
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 64


def save_pretrained(folder: Path, model: nn.Module, settings: dict[str, Any]) -> None:
    """Writes the weights alone, model.safetensors, and config.json, for sharing: see `ScatSimCLR.from_pretrained`."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    path = folder / "model.safetensors"
    check_space(folder, _size(state))
    with replacing(path) as partial:
        try:
            save_file(state, partial, {"format": "pt"})
        except SafetensorError as error:  # its writer has no other error for a disk
            raise OSError(errno.EIO, f"writing failed ({error})", str(path)) from None
    write_text(folder / "config.json", json.dumps(settings, indent=1) + "\n")


def load_weights(path: Path | str, model: nn.Module) -> None:
    """Loads the weights of a file into an encoder.

    Checkpoints of this program, `.safetensors` and the original's `.pth` files load strictly. A torchvision ResNet is
    loaded without its classifier, and the projection head keeps its weights.

    Raises:
        UserError: The file is missing or unreadable, or its weights do not fit the encoder.
    """
    path = file_of(path)
    state = weights_of(path)
    part: nn.Module = model
    if isinstance(model, ResNetSimCLR) and is_torchvision(state):
        part, state = model._features, from_torchvision(state)
    _fill(part, state, path)


def load_head(path: Path | str, head: nn.Module) -> None:
    """Loads a pretext head's weights from a checkpoint of this program or from the original's second file.

    Raises:
        UserError: The file is missing or unreadable, or its weights do not fit the head.
    """
    path = file_of(path)
    state = read(path, "cpu")
    if is_checkpoint(state):
        state = state.get("head") or {}
    elif isinstance(state, dict) and set(state) == {"fc1", "fc2", "classification_fc"}:
        state = {f"{part}.{name}": value for part, inner in state.items() for name, value in inner.items()}
    if not is_state_dict(state):
        raise UserError(f"checkpoint {path} holds no pretext head")
    _fill(head, state, path)


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    try:
        module.load_state_dict(state)
    except (RuntimeError, NotImplementedError) as error:  # also of sparse tensors and the like
        raise UserError(f"checkpoint {path} does not fit the model: {error}") from None
