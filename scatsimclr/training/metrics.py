"""What a run measures: one JSON object per line in `metrics.jsonl`, and the same as TensorBoard events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from scatsimclr.files import write_text
from scatsimclr.training.update import Losses

METRICS = "metrics.jsonl"
# What every record has.
_FIELDS = {"event": str, "epoch": int, "step": int}


class Metrics:
    """Appends records to a run folder.

    A record has "event" ("train", "validation", "epoch", "evaluation", "quality" or "warning"), "epoch", "step" and its
    figures; a warning has its "text". Wall-clock figures end in "_seconds" or "_per_second"; everything else is exactly
    the same for the same seed.

    Args:
        folder: The run folder.
        resume_step: The step of the checkpoint that the run continues from, whose later records are removed; None for a
            new run.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None):
        self.path = folder / METRICS
        # Without a checkpoint an interrupted run starts anew.
        self._drop_after(-1 if resume_step is None else resume_step)
        self._file = self.path.open("a", buffering=1)
        self._events: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step)

    def _drop_after(self, step: int) -> None:
        """Removes what an interrupted run wrote after the checkpoint it continues from."""
        records = [record for record in read_metrics(self.path) if record["step"] <= step]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in records))

    def write(self, event: str, epoch: int, step: int, **figures: float | str) -> None:
        """Appends a record."""
        self._file.write(json.dumps({"event": event, "epoch": epoch, "step": step, **figures}) + "\n")
        for name, value in figures.items():
            add = self._events.add_text if isinstance(value, str) else self._events.add_scalar
            add(f"{event}/{name}", value, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, without lines that are damaged or that a crash cut off."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and all(isinstance(record.get(k), t) for k, t in _FIELDS.items()):
            records.append(record)
    return records


class Sums:
    """Sums of the figures of steps, on their device, so that no step waits for it."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, losses: Losses) -> None:
        """Adds the figures of a step."""
        self.count += 1
        for name, value in {"loss": losses.total.detach(), **losses.parts}.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()

    def means(self) -> dict[str, float]:
        """The means over all steps."""
        return {name: (value / self.count).item() for name, value in self.sums.items()}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": dict(self.sums), "count": self.count}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Takes over a state from `state`."""
        self.sums, self.count = {name: v.to(device) for name, v in state["sums"].items()}, state["count"]
