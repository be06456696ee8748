"""How far a run has come, and its checkpoints: what is saved of a run, and how a resumed run takes it over."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, InstanceOf, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from scatsimclr.config import Config
from scatsimclr.config.messages import must
from scatsimclr.errors import UserError
from scatsimclr.evaluation.table import Figures
from scatsimclr.files import link
from scatsimclr.models.integrity import intact
from scatsimclr.training.checkpoint import BEST, LAST, PREVIOUS, load, save
from scatsimclr.training.fingerprint import differences
from scatsimclr.training.metrics import Sums
from scatsimclr.training.update import Update
from scatsimclr.version import __version__

Count = Annotated[int, Field(strict=True, ge=0, le=2**62)]


class PartialEpoch(TypedDict):
    """The finished steps of an epoch that is not finished: what `Sums.state` gives, and the seconds they took."""

    sums: dict[str, InstanceOf[Tensor]]
    count: Count
    seconds: float


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps.
        best: The lowest score so far, see `scatsimclr.training.validation.Validation.score`.
        before: The untrained encoder's accuracy; None until it is measured.
        seconds: Of training.
        partial: The epoch's finished steps, where a checkpoint was made in the middle of it.
    """

    epoch: Count = 0
    step: Count = 0
    best: float = math.inf
    before: Figures | None = None
    seconds: float = 0.0
    partial: PartialEpoch | None = None


class Checkpoints:
    """The checkpoints of a run: last.pt, previous.pt, the one before it, and best.pt.

    best.pt is a second name of the file that was last.pt when it became the best one; last.pt says whether it is. They
    agree by construction, and a crash between the two names is mended from what last.pt says.

    The views of a step depend on its number alone: of the loader nothing is saved but who makes the views. Files are
    written by a thread, from a copy of the state, while training goes on; an error of its is raised by the next call.

    Of several processes, whose states are the same, the first one writes.

    Args:
        folder: The run folder.
        config: The settings of the run.
        update: Holds the weights and the optimizer.
        pipeline: The name of the augmentation.
        data: The fingerprint of the images.
    """

    def __init__(self, folder: Path, config: Config, update: Update, pipeline: str, data: dict[str, Any]):
        self.folder, self.config, self.update = folder / "checkpoints", config, update
        self.pipeline, self.data = pipeline, data
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="scatsimclr-checkpoint")
        self._pending: Future[None] | None = None
        self.saved = time.monotonic()  # when the last one was begun

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.folder / LAST

    def adopt(self, state: dict[str, Any]) -> None:
        """Mends the names of a run's files, from the state that it continues from.

        What a crash left undone is done: best.pt is the file that its last.pt says it is, and a last.pt that is damaged
        is replaced by the one before it.
        """
        if not self.update.world.main:
            return
        previous = self.folder / PREVIOUS
        if previous.is_file() and (not self.last.is_file() or intact(self.last) is False):
            link(previous, self.last)
        # A run that continues from its best.pt, or another file, says nothing of last.pt.
        if state.get("is_best") and state["step"] == load(self.last)["step"]:
            link(self.last, self.folder / BEST)

    def save(self, progress: Progress, *, best: bool) -> None:
        """Writes the checkpoint at the end of an epoch; `best` says that it is also the best one."""
        self._write(progress, {"is_best": best})

    def save_partial(self, progress: Progress, sums: Sums, seconds: float) -> None:
        """Writes a checkpoint in the middle of an epoch, `seconds` after its start."""
        self._write(progress, {"partial": {**sums.state(), "seconds": seconds}})

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk.

        Raises:
            OSError: It could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _write(self, progress: Progress, more: dict[str, Any]) -> None:
        if not self.update.world.main:
            return
        self.wait()
        self.saved = time.monotonic()
        self._pending = self._writer.submit(self._write_files, copied({**self._state(progress), **more}))

    def _write_files(self, state: dict[str, Any]) -> None:
        save(self.last, state, keep=self.folder / PREVIOUS)
        if state.get("is_best"):
            link(self.last, self.folder / BEST)

    def _state(self, progress: Progress) -> dict[str, Any]:
        update = self.update
        device = update.device
        return {
            "version": __version__,
            "config": self.config.as_json(),
            "data": self.data,
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


def copied(value: Any) -> Any:
    """A copy of a state whose tensors are on the CPU and nobody else's."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(inner) for key, inner in value.items()}
    return [copied(inner) for inner in value] if isinstance(value, list) else value


def check_continuable(state: dict[str, Any], config: Config, data: dict[str, Any], *, anyway: bool) -> None:
    """Compares a checkpoint with what is there now; checkpoints of before they said so are taken as they are.

    Args:
        state: As from `load`.
        config: The settings that the run continues with.
        data: The fingerprint of its images.
        anyway: Whether images and version may differ.

    Raises:
        UserError: The run would not be the same: the message says what differs.
    """
    if config.epochs < state["epoch"]:
        raise UserError(f"epochs must be at least the {state['epoch']} that are done, got {config.epochs}")
    if anyway:
        return
    found = []
    if (version := state.get("version", __version__)) != __version__:
        found.append(f"version {__version__} of this package instead of {version}")
    if isinstance(before := state.get("data"), dict):
        found += differences(before, data)
    if found:
        raise UserError(
            f"the run would not be the same: {'; '.join(found)} (--resume-anyway continues it nevertheless)"
        )


def restore(state: dict[str, Any], update: Update, pipeline: str) -> Progress:
    """Takes over a checkpoint: weights, optimizer and random generators.

    Args:
        state: As from `checkpoint.load`.
        update: Gets the weights and the optimizer's state.
        pipeline: The name of the augmentation that is to continue the run.

    Returns:
        How far the run had come.

    Raises:
        UserError: The state does not fit, or the run's views were made by another augmentation.
    """
    known = {field.name: state[field.name] for field in fields(Progress) if field.name in state}
    try:
        progress = TypeAdapter(Progress).validate_python(known)
        update.model.load_state_dict(state["model"])
        if update.head is not None:
            update.head.load_state_dict(state["head"])
        update.load_state_dict(state["update"])
        torch.set_rng_state(state["rng"].cpu())
        if update.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), update.device)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, found["loc"]))
        raise UserError(f"the checkpoint does not fit the run: {name} {must(found)}") from None
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the checkpoint does not fit the run: {type(error).__name__}: {error}") from None
    before = state.get("pipeline", pipeline)
    if before != pipeline:
        raise UserError(
            f"the run's views were made by {before}, here {pipeline} would make them, and the two differ by rounding: "
            f"set data.pipeline={before} where it is installed, or start a new run"
        )
    return progress
