"""What a run measures: one JSON object a line in `metrics.jsonl`, and the same as TensorBoard events."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from scatsimclr.training.update import Losses


class Metrics:
    """Appends records to a run folder.

    A record has "event" ("train", "validation", "epoch", "evaluation", "quality" or "warning"), "epoch", "step" and its
    figures, a warning its "text"; wall-clock figures end in "_seconds" or "_per_second", everything else repeats
    exactly for a seed.
    """

    def __init__(self, folder: Path, *, resume_step: int | None = None):
        self.path = folder / "metrics.jsonl"
        # Without a checkpoint an interrupted run starts anew.
        self._drop_after(-1 if resume_step is None else resume_step)
        self._file = self.path.open("a", buffering=1)
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step)

    def _drop_after(self, step: int) -> None:
        """Removes what an interrupted run wrote after the checkpoint it is resumed from."""
        records = [record for record in read_metrics(self.path) if record["step"] <= step]
        kept = self.path.with_suffix(".partial")
        kept.write_text("".join(json.dumps(record) + "\n" for record in records))
        os.replace(kept, self.path)

    def write(self, event: str, epoch: int, step: int, **figures: float | str) -> None:
        self._file.write(json.dumps({"event": event, "epoch": epoch, "step": step, **figures}) + "\n")
        for name, value in figures.items():
            add = self._events.add_text if isinstance(value, str) else self._events.add_scalar
            add(f"{event}/{name}", value, step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict]:
    """Records of a `metrics.jsonl`; a last line cut off by a crash is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class Sums:
    """Sums of the figures of steps, on their device, so that no step waits for it."""

    def __init__(self):
        self.sums, self.count = {}, 0

    def add(self, losses: Losses) -> None:
        self.count += 1
        for name, value in {"loss": losses.total.detach(), **losses.parts}.items():
            self.sums[name] = self.sums.get(name, 0) + value.double()

    def means(self) -> dict[str, float]:
        return {name: (value / self.count).item() for name, value in self.sums.items()}

    def state(self) -> dict:
        return {"sums": dict(self.sums), "count": self.count}

    def restore(self, state: dict, device: torch.device) -> None:
        self.sums, self.count = {name: v.to(device) for name, v in state["sums"].items()}, state["count"]
