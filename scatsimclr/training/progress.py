"""How far a run has come, and its checkpoints: what is saved of a run, and how a resumed run takes it over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scatsimclr.config import Config
from scatsimclr.errors import UserError
from scatsimclr.evaluation.table import Figures
from scatsimclr.training import checkpoint
from scatsimclr.training.metrics import Sums
from scatsimclr.training.update import Update


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps.
        best: The lowest score so far, see `scatsimclr.training.validation.Validation.score`.
        before: The untrained encoder's accuracy; None until it is measured.
        seconds: Of training.
        partial: The sums of the epoch's finished steps, where a checkpoint was made in the middle of it.
    """

    epoch: int = 0
    step: int = 0
    best: float = math.inf
    before: Figures | None = None
    seconds: float = 0.0
    partial: dict[str, Any] | None = None


class Checkpoints:
    """The checkpoints of a run, last.pt and best.pt.

    The views of a step depend on its number alone: of the loader nothing is saved but who makes the views.

    Args:
        folder: The run folder.
        config: The settings of the run.
        update: Holds the weights and the optimizer.
        pipeline: The name of the augmentation.
    """

    def __init__(self, folder: Path, config: Config, update: Update, pipeline: str):
        self.folder, self.config, self.update, self.pipeline = (
            folder / "checkpoints",
            config,
            update,
            pipeline,
        )

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / "last.pt"

    def save(self, progress: Progress, *, best: bool) -> None:
        """Writes the checkpoint at the end of an epoch; `best` says that it is also the best one."""
        state = self._state(progress)
        checkpoint.save(self.last, state)
        if best:
            checkpoint.save(self.folder / "best.pt", state)

    def save_partial(self, progress: Progress, sums: Sums, seconds: float) -> None:
        """Writes a checkpoint in the middle of an epoch, `seconds` after its start."""
        checkpoint.save(self.last, {**self._state(progress), "partial": {**sums.state(), "seconds": seconds}})

    def _state(self, progress: Progress) -> dict[str, Any]:
        update = self.update
        device = update.device
        return {
            "config": self.config.as_json(),
            "model": update.model.state_dict(),
            "head": None if update.head is None else update.head.state_dict(),
            "update": update.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "epoch": progress.epoch,
            "step": progress.step,
            "best": progress.best,
            "before": progress.before,
            "seconds": progress.seconds,
            "pipeline": self.pipeline,
        }


def restore(state: dict[str, Any], update: Update, pipeline: str) -> Progress:
    """Takes over a checkpoint: weights, optimizer and random generators.

    Args:
        state: As from `checkpoint.load`.
        update: Gets the weights and the optimizer's state.
        pipeline: The name of the augmentation that is to continue the run.

    Returns:
        How far the run had come.

    Raises:
        UserError: The run's views were made by another augmentation.
    """
    update.model.load_state_dict(state["model"])
    if update.head is not None:
        update.head.load_state_dict(state["head"])
    update.load_state_dict(state["update"])
    torch.set_rng_state(state["rng"].cpu())
    if update.device.type == "cuda" and state["cuda_rng"] is not None:
        torch.cuda.set_rng_state(state["cuda_rng"].cpu(), update.device)
    before = state.get("pipeline", pipeline)
    if before != pipeline:
        raise UserError(
            f"the run's views were made by {before}, here {pipeline} would make them, and the two differ by rounding: "
            f"set data.pipeline={before} where it is installed, or start a new run"
        )
    return Progress(
        state["epoch"],
        state["step"],
        state["best"],
        state["before"],
        state["seconds"],
        state.get("partial"),
    )
