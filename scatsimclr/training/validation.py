"""The held-out images: their loss during training, and which epoch's encoder is the best by them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scatsimclr.config import Config
from scatsimclr.data.imageset import ImageSet
from scatsimclr.data.loader import PairLoader
from scatsimclr.evaluation.features import extract
from scatsimclr.evaluation.knn import knn_accuracy
from scatsimclr.evaluation.standard import Standard
from scatsimclr.training.metrics import Sums
from scatsimclr.training.setup import Data, build_loader
from scatsimclr.training.update import Update


def validation_loader(config: Config, data: Data, device: torch.device) -> PairLoader | None:
    """Batches of the held-out images; None where there are too few.

    Validation uses the views of epoch 0 every time, so that its losses compare across epochs.
    """
    count = len(data.validation)
    if count < 2:
        return None
    return build_loader(config, data.validation, min(config.batch_size, count), config.seed + 1, device)


class Validation:
    """Measures the encoder on the held-out images.

    Args:
        config: The settings of the run.
        data: Its images.
        loader: As from `validation_loader`.
        update: Holds the encoder and its losses.
    """

    def __init__(self, config: Config, data: Data, loader: PairLoader | None, update: Update):
        self.config, self.data, self.loader, self.update = config, data, loader, update

    @torch.no_grad()
    def measure(self, *, pretext: bool) -> dict[str, float]:
        """The loss on the held-out images and, with best_by=knn and labels, kNN from the other pre-training images.

        `pretext` says whether the pretext task's loss is part of it. Empty where there are too few images.
        """
        if self.loader is None:
            return {}
        self.update.modules().eval()
        sums = Sums()
        for batch in self.loader.epoch(0, pretext=pretext):
            sums.add(self.update.losses(batch))
        figures = sums.means()
        bank, queries = (
            images.subset(images.labels >= 0) for images in (self.data.pretrain, self.data.validation)
        )
        if self.config.best_by == "knn" and len(bank) and len(queries):
            known = self._features(bank)
            standard, device = Standard.of(known), self.update.device
            figures["knn"] = knn_accuracy(
                standard(known),
                bank.labels.to(device),
                standard(self._features(queries)),
                queries.labels.to(device),
                k=self.config.evaluation.knn_k,
            )
        return figures

    def _features(self, images: ImageSet) -> Tensor:
        return extract(
            self.update.model,
            images.images,
            self.data.spec,
            batch_size=self.config.evaluation.batch_size,
            amp=self.update.amp,
        )

    def score(self, figures: dict[str, float]) -> float:
        """What the best checkpoint minimises; infinite where it was not measured.

        Of a run with a pretext task, the contrastive loss alone: it compares before and after `start_epoch`.
        """
        if self.config.best_by == "knn":
            return -figures.get("knn", -math.inf)
        return figures.get("contrastive_loss", figures.get("loss", math.inf))
