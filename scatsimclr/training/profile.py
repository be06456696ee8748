"""Where the time of a training step goes: `python -m scatsimclr.train --profile`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from scatsimclr.files import write_text

WARM_UP, STEPS = 3, 10


class Parts:
    """Marks the parts of a step, and measures them while `recording`.

    On CUDA a part lasts from its first kernel to its last, on the stream: nothing waits for it before `seconds`. The
    parts of a part are not marked: those of a recorded step would become part of the recording.

    Args:
        device: Where the steps run.
    """

    def __init__(self, device: torch.device):
        self.device, self.recording, self._inside = device, False, False
        # Name, begin and end; the latter two as CUDA events, or in seconds.
        self._spans: list[tuple[str, Any, Any]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Marks the block as a part."""
        if not self.recording or self._inside:
            yield
            return
        self._inside = True
        try:
            with record_function(name):
                begin = self._now()
                yield
                self._spans.append((name, begin, self._now()))
        finally:
            self._inside = False

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> dict[str, float]:
        """Seconds by part, in the order of the step."""
        self.wait()
        totals: dict[str, float] = {}
        for name, begin, end in self._spans:
            took = begin.elapsed_time(end) / 1e3 if self.device.type == "cuda" else end - begin
            totals[name] = totals.get(name, 0.0) + took
        return totals

    def wait(self) -> None:
        """Waits for a GPU to finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class StepProfiler:
    """Measures some steps of a run after its first few; call `step` after each.

    It writes profile.json to the run folder, {"part", "seconds", "share"} for each part of a mean step and for "idle",
    the time of no part, and on CUDA the time in which no kernel ran; and trace.json for chrome://tracing or Perfetto.

    Args:
        folder: The run folder.
        parts: Marks the parts.
        warm_up: Steps before the first one that is measured.
    """

    def __init__(self, folder: Path, parts: Parts, warm_up: int = WARM_UP):
        self.folder, self.parts, self.warm_up = folder, parts, warm_up
        self.table: list[dict[str, Any]] | None = None
        self._seen = 0
        self._begin = self._wall = 0.0
        activities = [ProfilerActivity.CPU]
        if parts.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)

    def step(self) -> bool:
        """Counts a step; True if it was the last one to measure, and `table` is there."""
        self._seen += 1
        if self._seen == self.warm_up:
            self.parts.wait()
            self._profile.start()
            self.parts.recording = True
            self._begin = time.perf_counter()
        if self._seen == self.warm_up + STEPS:
            self.finish()
            return True
        return False

    def finish(self) -> None:
        """Ends the measurement early; there is a table if `step` was called more than `warm_up` times."""
        if not self.parts.recording:
            return
        steps = self._seen - self.warm_up
        self.parts.wait()
        seconds_in_all = time.perf_counter() - self._begin
        self.parts.recording = False
        self._profile.stop()  # also without a step: one that still runs as Python ends takes it down
        if not steps:
            return
        self._wall = seconds_in_all / steps
        seconds = {name: total / steps for name, total in self.parts.seconds().items()}
        busy = sum(seconds.values())
        if self.parts.device.type == "cuda":
            events = self._profile.key_averages()
            busy = sum(event.self_device_time_total for event in events) / 1e6 / steps
        seconds["idle"] = max(0.0, self._wall - busy)
        self.table = [
            {"part": name, "seconds": value, "share": value / self._wall} for name, value in seconds.items()
        ]
        write_text(self.folder / "profile.json", json.dumps(self.table, indent=1) + "\n")
        self._profile.export_chrome_trace(str(self._trace))

    @property
    def _trace(self) -> Path:
        return self.folder / "trace.json"

    def text(self) -> str:
        """The table for a terminal, or why there is none."""
        if self.table is None:
            return f"no profile: an epoch has too few steps, {self._seen}, of which {self.warm_up} are for warm-up"
        rows = [*self.table, {"part": "in all", "seconds": self._wall, "share": 1.0}]
        lines = [
            f"  {row['part']:14}{1e3 * row['seconds']:9.2f} ms {100 * row['share']:6.1f} %" for row in rows
        ]
        head = f"a step, mean of {self._seen - self.warm_up}:"
        return "\n".join([head, *lines, f"{self._trace} is its trace"])
