"""Where the time of a training step goes: `python -m scatsimclr.train --profile`."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

WARM_UP, STEPS = 3, 10


class Parts:
    """Marks the parts of a step, and while `recording` measures them.

    On CUDA a part lasts from its first kernel to its last, on the stream: nothing waits for it before `seconds`.
    """

    def __init__(self, device: torch.device):
        self.device, self.recording = device, False
        self._spans: list[tuple[str, object, object]] = []

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if not self.recording:
            yield
            return
        with record_function(name):
            begin = self._now()
            yield
            self._spans.append((name, begin, self._now()))

    def _now(self) -> object:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
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
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class StepProfiler:
    """Measures some steps of a run after its first few; call `step` after each.

    Leaves profile.json in the run folder, {"part", "seconds", "share"} for each part of a mean step and "idle", what
    no part accounts for and on CUDA the time in which no kernel ran, and trace.json for chrome://tracing or Perfetto.
    """

    def __init__(self, folder: Path, parts: Parts):
        self.folder, self.parts = folder, parts
        self.table: list[dict] | None = None
        self._seen = 0
        self._begin = self._wall = 0.0
        activities = [ProfilerActivity.CPU]
        if parts.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)

    def step(self) -> bool:
        """Counts a step; True when it was the last that is measured, and `table` is there."""
        self._seen += 1
        if self._seen == WARM_UP:
            self.parts.wait()
            self._profile.start()
            self.parts.recording = True
            self._begin = time.perf_counter()
        if self._seen == WARM_UP + STEPS:
            self.finish()
            return True
        return False

    def finish(self) -> None:
        """Ends the measurement early, after `step` was called more than WARM_UP times; else there is no table."""
        steps = self._seen - WARM_UP
        if self.table is not None or steps < 1:
            return
        self.parts.wait()
        self._wall = (time.perf_counter() - self._begin) / steps
        self.parts.recording = False
        self._profile.stop()
        seconds = {name: total / steps for name, total in self.parts.seconds().items()}
        busy = sum(seconds.values())
        if self.parts.device.type == "cuda":
            events = self._profile.key_averages()
            busy = sum(event.self_device_time_total for event in events) / 1e6 / steps
        seconds["idle"] = max(0.0, self._wall - busy)
        self.table = [
            {"part": name, "seconds": value, "share": value / self._wall} for name, value in seconds.items()
        ]
        (self.folder / "profile.json").write_text(json.dumps(self.table, indent=1) + "\n")
        self._profile.export_chrome_trace(str(self.folder / "trace.json"))

    def text(self) -> str:
        """The table for a terminal."""
        rows = [*self.table, {"part": "in all", "seconds": self._wall, "share": 1.0}]
        lines = [
            f"  {row['part']:14}{1e3 * row['seconds']:9.2f} ms {100 * row['share']:6.1f} %" for row in rows
        ]
        return "\n".join([f"a step, mean of {self._seen - WARM_UP}:", *lines])
