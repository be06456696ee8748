"""What the report of one run is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from scatsimclr.config import Config
from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.imageset import ImageSet
from scatsimclr.evaluation.evaluate import Evaluation


@dataclass(frozen=True, eq=False)
class Subject:
    """A run, finished or not.

    folder: the run folder. model: the encoder. pretrain: the images it was trained on. evaluation: its probes, None
    where there are no labels. records: those of metrics.jsonl, in order.
    """

    folder: Path
    config: Config
    model: nn.Module
    pretrain: ImageSet
    spec: AugmentSpec
    evaluation: Evaluation | None
    records: list[dict]
