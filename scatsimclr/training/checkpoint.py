"""Checkpoints: one file with everything an exact resume needs, written atomically, read without executing code.

Weights are also read from `.safetensors`, from the original code's `.pth` files and from torchvision's ResNets.
"""

from __future__ import annotations

import errno
import json
import pickle
import struct
import sys
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scatsimclr.errors import UserError
from scatsimclr.files import check_space, link, replacing, sync, write_text
from scatsimclr.models.resnet import ResNetSimCLR, from_torchvision, is_torchvision
from scatsimclr.training.integrity import intact, seal

FORMAT = "scatsimclr-checkpoint-1"
LAST, PREVIOUS, BEST = "last.pt", "previous.pt", "best.pt"
# What every state has, in every version.
_PARTS: dict[str, type | tuple[type, ...]] = {
    "config": dict, "model": dict, "update": dict, "rng": Tensor, "epoch": int, "step": int, "best": (int, float),
    "seconds": (int, float),
}  # fmt: skip


def exists(folder: Path) -> bool:
    """Whether a run folder has a checkpoint to continue from."""
    return any((folder / "checkpoints" / name).is_file() for name in (LAST, PREVIOUS))


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


def load(path: Path | str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Reads a state written by `save`.

    Args:
        path: A file, or a run folder: its last checkpoint or, where that is damaged, the one before it, which a warning
            says. The functions below take the same.
        device: Of the tensors.

    Returns:
        The state, with the kinds of values that every checkpoint has.

    Raises:
        UserError: The file is missing, damaged or something else.
    """
    path = _file(path)
    state = _read(path, device)
    if not _is_checkpoint(state):
        raise UserError(f"checkpoint {path} was not written by this program")
    for name, kinds in _PARTS.items():
        if not isinstance(state.get(name), kinds) or isinstance(state.get(name), bool):
            raise UserError(f"checkpoint {path} is incomplete: {name} is missing or of the wrong kind")
    if not _is_state_dict(state["model"]) or min(state["epoch"], state["step"]) < 0:
        raise UserError(f"checkpoint {path} holds no weights of an encoder")
    return state


def load_if_whole(path: Path | str) -> dict[str, Any] | None:
    """As `load`, but None for a readable file that holds mere weights, without the settings of a run."""
    path = _file(path)
    return load(path) if _is_checkpoint(_read(path, "cpu")) else None


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


def _damaged(path: Path) -> bool:
    """Whether a checkpoint is missing or differs from what was written."""
    try:
        return not path.is_file() or intact(path) is False
    except OSError:
        return True


def _read(path: Path, device: torch.device | str) -> object:
    if _damaged(path):
        raise UserError(f"checkpoint {path} is damaged: it differs from what was written")
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device=str(device))
        state: object = torch.load(path, map_location=device, weights_only=True)
        return state
    except (
        # What torch's reader raises for files that are none, or that it would have to run code for.
        pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, OSError,
        OverflowError, MemoryError, AssertionError, struct.error, SafetensorError,
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
    except (RuntimeError, NotImplementedError) as error:  # also of sparse tensors and the like
        raise UserError(f"checkpoint {path} does not fit the model: {error}") from None
