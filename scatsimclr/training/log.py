"""The log of a run: its records in files, and its lines on the terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

from scatsimclr.config import Config
from scatsimclr.evaluation.quality import SETTLED, collapse
from scatsimclr.evaluation.table import Figures, titles
from scatsimclr.reporting.page import write_report
from scatsimclr.reporting.subject import Subject
from scatsimclr.training.metrics import METRICS, Metrics, read_metrics
from scatsimclr.training.progress import Progress

TIMED = 5  # steps after the first that are timed to tell how long training will take


class RunLog:
    """Records what a run measures, at the epoch and step it has come to.

    Args:
        folder: The run folder.
        config: The settings of the run.
        progress: How far it has come.
        steps: Per epoch.
        resumed: Whether the run continues from a checkpoint; else the folder's earlier records are removed.
        verbose: Whether to print anything.
        writes: Whether this process is the one that writes and prints; the others' logs do nothing.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        progress: Progress,
        steps: int,
        *,
        resumed: bool,
        verbose: bool = True,
        writes: bool = True,
    ):
        self.config, self.progress, self.folder = config, progress, folder
        self.verbose = verbose and writes
        self.steps, self.images = steps, steps * config.batch_size
        self._times: list[float] | None = []
        self.metrics = Metrics(folder, resume_step=progress.step if resumed else None) if writes else None

    def write(self, event: str, **figures: float | str) -> None:
        """Appends a record."""
        if self.metrics is not None:
            self.metrics.write(event, self.progress.epoch, self.progress.step, **figures)

    def records(self) -> list[dict[str, Any]]:
        """Everything recorded so far, as in metrics.jsonl."""
        return read_metrics(self.folder / METRICS)

    def close(self) -> None:
        """Ends the log."""
        if self.metrics is not None:
            self.metrics.close()

    def bar(self, done: int) -> tqdm[NoReturn]:
        """A progress bar of the whole training's images; of the current epoch, `done` were seen before."""
        return tqdm(
            initial=self.progress.epoch * self.images + done,
            total=self.config.epochs * self.images,
            desc=f"epoch {self.progress.epoch + 1}/{self.config.epochs}",
            unit="img",
            # Silent where the output is not a terminal; the epoch's line is printed all the same.
            disable=None if self.verbose else True,
            leave=False,
        )

    def step(self, done: int) -> None:
        """Notes the time of a step, the `done`-th of its epoch; after a few, prints how long training will take."""
        if self._times is None:
            return
        self._times.append(time.perf_counter())
        if len(self._times) > TIMED:
            each = (self._times[-1] - self._times[0]) / TIMED
            left = (self.config.epochs - self.progress.epoch) * self.steps - done
            self._times = None
            if left:
                self.line(
                    f"about {spoken(left * each)} of training ahead, {self.config.batch_size / each:.0f} img/s"
                )

    def untrained(self, evaluation: Figures, watched: Mapping[str, float]) -> None:
        """Prints what the untrained encoder reaches: with labels its accuracies, else how often views are found."""
        probes = titles(self.config.evaluation)
        parts = [f"{text} {float(evaluation[key]):.1%}" for key, text in probes.items() if key in evaluation]
        if not parts and "found_again" in watched:
            parts = [f"twin found {watched['found_again']:.1%} of the time"]
        if parts:
            self.line("untrained  " + "; ".join(parts))

    def epoch(
        self,
        figures: dict[str, float],
        rate: float,
        seconds: float,
        validation: dict[str, float],
        evaluation: Figures,
    ) -> None:
        """Records a finished epoch and prints its line.

        Args:
            figures: Means over its steps.
            rate: Its learning rate.
            seconds: It took.
            validation: Figures on the held-out images, empty where they were not measured.
            evaluation: The probes' figures, likewise.
        """
        epoch, epochs = self.progress.epoch, self.config.epochs
        speed, left = self.images / seconds, (epochs - epoch) * seconds
        self.write("epoch", **figures, lr=rate, images_per_second=speed)
        parts = [f"epoch {epoch}/{epochs}", f"loss {figures['loss']:.4f}"]
        if "pretext_accuracy" in figures:
            parts.append(f"{self.config.task} {figures['pretext_accuracy']:.1%}")
        parts += [f"val {validation['loss']:.4f}"] if validation else []
        if figures.get("skipped_updates"):
            parts.append(f"{figures['skipped_updates']} updates skipped (float16 overflow)")
        parts += [f"{name} {evaluation[name]:.1%}" for name in ("knn", "linear") if name in evaluation]
        parts += [f"{speed:.0f} img/s", f"{left / 60:.1f} min left" if left else "done"]
        self.line("  ".join(parts))

    def quality(self, figures: dict[str, float]) -> None:
        """Records what needs no labels, and warns of a collapse."""
        if not figures:
            return
        self.write("quality", **figures)
        if self.progress.step >= SETTLED and (reason := collapse(figures)):
            self.write("warning", text=reason)
            self.line(
                f"warning: after epoch {self.progress.epoch} {reason}; a lower lr or stronger augmentation may help"
            )

    def report(self, subject: Subject) -> None:
        """Writes report.html and plots/. The run is complete without them: no failure here ends it."""
        try:
            write_report(subject)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.line(
                f"warning: no report, {reason}; `python -m scatsimclr.report {self.folder}` tries again and shows where"
            )

    def line(self, text: str) -> None:
        """Prints a line above the progress bar."""
        if self.verbose:
            tqdm.write(text)


def spoken(seconds: float) -> str:
    """A duration for a reader."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
