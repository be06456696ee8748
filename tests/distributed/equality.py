"""The same run by 1, 2 and 4 processes: losses of every step, and weights at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scatsimclr.config import load_config
from scatsimclr.data.loader import Batch
from scatsimclr.training.distributed import joined
from scatsimclr.training.interruption import Interruption
from scatsimclr.training.loop import Trainer
from scatsimclr.training.metrics import read_metrics
from tests.distributed.processes import GENTLE, together

SIZES = (1, 2, 4)
SETTINGS = [*GENTLE, "evaluation.probes=[]"]
MODES = {
    "contrastive": [],
    "rotation": ["mode=pretext", "pretext.rotation=true"],
    "jigsaw": ["mode=pretext", "pretext.jigsaw=true", "accumulate=2"],
    "views apart": ["views=separate", "model.base_model=resnet18", "activation_checkpointing=true"],
    "ring": ["loss.gather=ring"],
    "local statistics": ["model.sync_bn=false"],
}


def in_double(trainer: Trainer) -> None:
    """Makes a trainer that has not trained yet compute in float64, on the same float32 views."""
    trainer.update.modules().double()
    losses = trainer.update.losses

    def widened(batch: Batch) -> Any:
        pretext = None if batch.pretext is None else (batch.pretext[0].double(), batch.pretext[1])
        return losses(dataclasses.replace(batch, views=batch.views.double(), pretext=pretext))

    trainer.update.losses = widened  # type: ignore[method-assign]


def train(folder: Path, settings: list[str], double: bool) -> tuple[list[float], dict[str, Tensor]]:
    """Trains by this process's part of a run; the losses of all steps (in the first process) and the weights."""
    torch.set_num_threads(1)
    with joined(Interruption()) as world:
        trainer = Trainer(load_config(None, [*SETTINGS, *settings]), folder, world=world)
        if double:
            in_double(trainer)
        for epoch in range(trainer.config.epochs):
            trainer.progress.epoch = epoch
            trainer._train_epoch()
        trainer.log.close()
        trainer.checkpoints.close()
        losses = [r["loss"] for r in read_metrics(folder / "metrics.jsonl") if r["event"] == "train"]
        return losses, trainer.update.modules().state_dict()


def differences(
    folder: Path, mode: str, seed: int, *, double: bool, sizes: Sequence[int] = SIZES
) -> dict[int, tuple[float, float]]:
    """By number of processes, the largest relative difference of a step's loss from the first number's, and the largest
    absolute difference of a weight or a running statistic.
    """
    found: dict[int, tuple[float, float]] = {}
    whole: tuple[list[float], dict[str, Tensor]] | None = None
    for size in sizes:
        place = folder / f"{seed}-{size}"
        place.mkdir()
        results = together(size, partial(train, place, [*MODES[mode], f"seed={seed}"], double), place)
        losses, weights = results[0]
        assert len(losses) == 30, len(losses)
        for _, others in results[1:]:  # all processes have the same weights, to the last bit
            same = (torch.equal(others[name], value) for name, value in weights.items())
            assert all(same) or mode == "local statistics"
        whole = whole or results[0]
        found[size] = (
            max(abs(a - b) / abs(b) for a, b in zip(losses, whole[0], strict=True)),
            max((weights[name] - value).abs().max().item() for name, value in whole[1].items()),
        )
    return {size: pair for size, pair in found.items() if size != sizes[0]}


def in_float64(folder: Path, mode: str, sizes: Sequence[int] = SIZES) -> str:
    """Equal to rounding, whatever the number of processes; with local statistics, far from it."""
    found = differences(folder, mode, 0, double=True, sizes=sizes)
    if mode == "local statistics":
        assert min(loss for loss, _ in found.values()) > 1e-2, found
    else:
        assert max(map(max, found.values())) < 1e-12, found
    return _table(found)


def in_float32(folder: Path, mode: str, seeds: int) -> str:
    """Losses within 1e-6 and weights within 1e-5, in one seed of a few at least.

    A ReLU that rounding turns on or off changes a gradient by a thousandth, in a single process too: seeds that meet
    one go on as another run.
    """
    lines, within = [], 0
    for seed in range(seeds):
        found = differences(folder, mode, seed, double=False)
        good = max(loss for loss, _ in found.values()) < 1e-6 and max(w for _, w in found.values()) < 1e-5
        assert max(loss for loss, _ in found.values()) < 1e-2, found
        within += good
        lines.append(_table(found))
    assert within, lines
    return f"{within} of {len(lines)} seeds within 1e-6 and 1e-5; {'; '.join(lines)}"


def _table(found: dict[int, tuple[float, float]]) -> str:
    return ", ".join(f"{size} processes {loss:.1e} {weight:.1e}" for size, (loss, weight) in found.items())
