"""The classifier that a run with labels leaves beside its encoder: logistic regression on the recommended features."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from scatsimclr.errors import UserError
from scatsimclr.evaluation.features import FEATURES
from scatsimclr.evaluation.logistic import LogisticFit, logistic_fit
from scatsimclr.evaluation.standard import Standard
from scatsimclr.files import replacing, write_text
from scatsimclr.models.stored import MALFORMED

MOST = (
    5000  # images that a classifier is fitted on: of more, as many of each class as there are in this number
)
CLASSES, WEIGHTS = "classifier.json", "classifier.safetensors"
_PARTS = ("weight", "bias", "mean", "scale")


@dataclass(frozen=True, eq=False)
class Classifier:
    """Tells classes by features.

    Attributes:
        classes: Their names.
        features: A name of FEATURES.
        fit: The logistic regression.
    """

    classes: tuple[str, ...]
    features: str
    fit: LogisticFit

    @classmethod
    def of(
        cls, classes: tuple[str, ...], features: str, rows: Tensor, labels: Tensor, standard: Standard
    ) -> Classifier:
        """Fits one.

        Args:
            classes: Names of the classes.
            features: What the rows are, a name of FEATURES.
            rows: (n, F), not standardised.
            labels: int64 (n,), indices into `classes`.
            standard: How the rows are standardised.
        """
        return cls(classes, features, logistic_fit(rows, labels, standard=standard, classes=len(classes)))

    def probabilities(self, rows: Tensor) -> Tensor:
        """Of each class, float32 (m, k), for features (m, F)."""
        return self.fit.log_probabilities(rows).exp()

    def save(self, folder: Path) -> None:
        """Writes classifier.json and classifier.safetensors."""
        fit = self.fit
        tensors = dict(
            zip(_PARTS, (fit.weight, fit.bias, fit.standard.mean, fit.standard.scale), strict=True)
        )
        with replacing(folder / WEIGHTS) as partial:
            save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial)
        entries = {"classes": self.classes, "features": self.features, "strength": fit.strength}
        write_text(folder / CLASSES, json.dumps(entries, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Classifier | None:
        """Reads the classifier of a folder; None where it has none.

        Raises:
            UserError: For one that cannot be read.
        """
        if not (folder / CLASSES).is_file() or not (folder / WEIGHTS).is_file():
            return None
        try:
            entries, tensors = (
                json.loads((folder / CLASSES).read_text(encoding="utf-8")),
                load_file(folder / WEIGHTS),
            )
            weight, bias, mean, scale = (tensors[name].to(device) for name in _PARTS)
            classes, features, strength = entries["classes"], entries["features"], float(entries["strength"])
            fits = (
                features in FEATURES
                and weight.shape == (len(mean), len(classes))
                and len(bias) == len(classes)
            )
            if not fits or mean.shape != scale.shape or not all(isinstance(name, str) for name in classes):
                raise ValueError("parts that do not fit together")
        except MALFORMED as error:
            raise UserError(f"{folder / CLASSES} cannot be read: {type(error).__name__}: {error}") from None
        return cls(tuple(classes), features, LogisticFit(Standard(mean, scale), weight, bias, strength, None))


def representative(labels: Tensor, most: int = MOST) -> Tensor:
    """Indices, int64, of at most `most` labelled images: all or, of each class, the same share at random."""
    known = (labels >= 0).nonzero().flatten()
    if len(known) <= most:
        return known
    order = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(0))]
    classes = torch.unique(labels[known])
    share = most / len(known)
    parts = [order[labels[order] == label] for label in classes]
    return torch.cat([part[: max(1, round(share * len(part)))] for part in parts]).sort().values
