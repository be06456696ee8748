"""A sweep: a study on one data set at one scale, and the results that its folder holds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict, cast

from scatsimclr.config import Config, load_config
from scatsimclr.data.shape import with_shape
from scatsimclr.errors import UserError
from scatsimclr.evaluation.table import Figures
from scatsimclr.studies.catalogue import Cell, Study

SCALES = ("full", "small", "tiny")


class Series(NamedTuple):
    """Where a figure stands in a run's results: in which evaluation, and what precedes the probe's name in its key."""

    when: Literal["before", "after"]
    prefix: str


# What is measured in every run.
SERIES = {
    "scattering alone": Series("after", "scattering_"),
    "whitened scattering": Series("after", "whitened_"),
    "untrained": Series("before", ""),
    "trained": Series("after", ""),
    "trained, recommended": Series("after", "recommended_"),
}


class Result(TypedDict):
    """The contents of result.json: a run's settings, and its figures before and after training."""

    config: dict[str, Any]
    before: Figures
    after: Figures


@dataclass(frozen=True)
class Sweep:
    """A study on one data set at one scale.

    Attributes:
        study: What is run.
        dataset: Name of the data set.
        scale: One of SCALES.
        seeds: Runs per cell.
        settings: `key=value` settings for all cells, which win over the study's own.
        output: The folder of the results.
    """

    study: Study
    dataset: str
    scale: str
    seeds: int
    settings: tuple[str, ...]
    output: Path

    def config(self, cell: Cell, seed: int) -> Config:
        """All settings of one run."""
        study = self.study
        own = [
            f"dataset.dataset={self.dataset}",
            *study.settings,
            *study.adapted.get(self.dataset, ()),
            *cell.settings,
        ]
        scaled = _scaled(load_config(None, own), self.scale, study.metric)
        return with_shape(load_config(None, [*own, *scaled, *self.settings, f"seed={seed}"]))

    def folder(self, cell: Cell, seed: int) -> Path:
        """The run folder."""
        return self.output / "cells" / cell.name / f"seed{seed}"

    def accuracies(self, cell: Cell, what: str = "trained") -> list[float]:
        """Accuracies of the finished runs of a cell, in %, by seed.

        Args:
            cell: The cell.
            what: A name of SERIES. Runs of earlier versions have not measured all of them, and are left out.
        """
        found = [read_result(self.folder(cell, seed)) for seed in range(self.seeds)]
        series = SERIES[what]
        key = series.prefix + self.study.metric
        values = [result[series.when].get(key) for result in found if result is not None]
        return [100 * value for value in values if isinstance(value, (int, float))]


def _scaled(config: Config, scale: str, metric: str) -> list[str]:
    """The settings that make a smaller run of `config`."""
    if scale == "full":
        return []
    if scale == "tiny":
        # J=4 needs 16 pixels.
        labels = config.evaluation.labels_per_class if metric.startswith("logistic_") else ()
        settings = ["epochs=1", "batch_size=32", "dataset.limit=128", "evaluation.probe_epochs=1",
                    "dataset.input_shape=(16, 16, 3)", "evaluation.seeds=1",
                    f"evaluation.labels_per_class={list(labels)}"]  # fmt: skip
        return settings + (["pretext.start_epoch=0"] if config.mode == "pretext" else [])
    settings = [f"epochs={max(2, config.epochs // 10)}", f"flat_epochs={max(1, config.flat_epochs // 10)}",
                "dataset.limit=10000"]  # fmt: skip
    if config.mode == "pretext" and config.pretext is not None:
        settings.append(f"pretext.start_epoch={config.pretext.start_epoch // 10}")
    return settings


def read_result(folder: Path) -> Result | None:
    """The results of a finished run; None for one that has not finished.

    Raises:
        UserError: For a file that is not JSON.
    """
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        return cast(Result, json.loads(path.read_text()))
    except json.JSONDecodeError:
        raise UserError(f"{path} cannot be read; remove it to run the cell again") from None


def mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation; None where there are too few values."""
    return (
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
    )
