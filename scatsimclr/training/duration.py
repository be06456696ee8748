"""How long training takes, measured before it begins."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from scatsimclr.config import Config
from scatsimclr.data.loader import PairLoader
from scatsimclr.models.encoder import Encoder
from scatsimclr.training.distributed import World
from scatsimclr.training.update import Update

WARM_UP = 3  # steps that are not counted: first calls allocate, and batches made ahead cost nothing
SECONDS = 8.0  # of steps that are counted


def seconds_per_epoch(
    config: Config,
    model: Encoder,
    head: nn.Module | None,
    loader: PairLoader,
    device: torch.device,
    world: World | None = None,
) -> float:
    """The seconds that an epoch's steps take, measured on copies of the model and the head.

    The originals and the random generators stay as they are. Batches are those of the training; an epoch that is
    shorter than SECONDS is measured whole. All processes stop when the first one's time is over.
    """
    world = world or World()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        update = Update(config, copy.deepcopy(model), copy.deepcopy(head), device, world)
        update.modules().train()
        ignored, counted, start = min(WARM_UP, len(loader) - 1), 0, 0.0
        for index, batch in enumerate(loader.epoch(0)):
            if index == ignored:
                start = time.perf_counter()
            update(batch).total.item()
            counted += index >= ignored
            if counted and world.broadcast(time.perf_counter() - start > SECONDS):
                break
    return (time.perf_counter() - start) / counted * len(loader)


def epochs_in(minutes: float, epoch: float, held_out: float) -> int:
    """How many epochs fit, one at least.

    Args:
        minutes: The time.
        epoch: Seconds that an epoch's training takes.
        held_out: Validation images per training image. A training step goes forward and backward, three times the work
            of the validation's forward pass.
    """
    return max(1, int(60 * minutes / (epoch * (1 + held_out / 3))))


def timed(
    config: Config,
    model: Encoder,
    head: nn.Module | None,
    loader: PairLoader,
    device: torch.device,
    held_out: float,
    world: World,
) -> Config:
    """The settings with as many epochs as `minutes` allows, and no more than a quarter of them flat."""
    if config.minutes is None:
        return config
    seconds = world.broadcast(seconds_per_epoch(config, model, head, loader, device, world))
    epochs = epochs_in(config.minutes, seconds, held_out)
    return config.model_copy(update={"epochs": epochs, "flat_epochs": min(config.flat_epochs, epochs // 4)})
