"""What the report of one run is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scatsimclr.config import Config
from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.imageset import ImageSet
from scatsimclr.evaluation.evaluate import Evaluation
from scatsimclr.models.encoder import Encoder
from scatsimclr.reporting.results import Record


@dataclass(frozen=True, eq=False)
class Subject:
    """A run, finished or not.

    Attributes:
        folder: The run folder.
        config: Its settings.
        model: The encoder.
        pretrain: The images that it is trained on.
        spec: Their augmentation.
        evaluation: The probes; None where there are no labels.
        records: The lines of metrics.jsonl, in order.
    """

    folder: Path
    config: Config
    model: Encoder
    pretrain: ImageSet
    spec: AugmentSpec
    evaluation: Evaluation | None
    records: Sequence[Record]
