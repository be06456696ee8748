"""How long training takes, measured before it begins."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from scatsimclr.config import Config
from scatsimclr.data.loader import PairLoader
from scatsimclr.training.update import Update

WARM_UP = 3  # steps that are not counted: first calls allocate, and batches made ahead cost nothing
SECONDS = 8.0  # of steps that are counted


def seconds_per_epoch(
    config: Config, model: nn.Module, head: nn.Module | None, loader: PairLoader, device: torch.device
) -> float:
    """Of an epoch's steps, from some steps of a copy: model, head and random generators stay as they are.

    With the same batches as the training; of an epoch that is shorter than SECONDS all of its steps.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        update = Update(config, copy.deepcopy(model), copy.deepcopy(head), device)
        update.modules().train()
        ignored, counted, start = min(WARM_UP, len(loader) - 1), 0, 0.0
        for index, batch in enumerate(loader.epoch(0)):
            if index == ignored:
                start = time.perf_counter()
            update(batch).total.item()
            counted += index >= ignored
            if counted and time.perf_counter() - start > SECONDS:
                break
    return (time.perf_counter() - start) / counted * len(loader)


def epochs_in(minutes: float, epoch: float, held_out: float) -> int:
    """Epochs of so many seconds that fit, one at least; held_out: validation images for each training image.

    A step goes forward and backward, which is three times the work of the validation's forward.
    """
    return max(1, int(60 * minutes / (epoch * (1 + held_out / 3))))


def timed(
    config: Config,
    model: nn.Module,
    head: nn.Module | None,
    loader: PairLoader,
    device: torch.device,
    held_out: float,
) -> Config:
    """The settings with as many epochs as `minutes` allows, and no more than a quarter of them flat."""
    epochs = epochs_in(config.minutes, seconds_per_epoch(config, model, head, loader, device), held_out)
    return config.model_copy(update={"epochs": epochs, "flat_epochs": min(config.flat_epochs, epochs // 4)})
