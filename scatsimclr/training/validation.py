"""The held-out images: their loss during training, and which epoch's encoder is the best by them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scatsimclr.config import Config
from scatsimclr.data.imageset import ImageSet
from scatsimclr.data.loader import PairLoader
from scatsimclr.evaluation.knn import knn_accuracy
from scatsimclr.evaluation.standard import Standard
from scatsimclr.training.distributed import World
from scatsimclr.training.leading import Lead
from scatsimclr.training.metrics import Sums
from scatsimclr.training.setup import Data, build_loader
from scatsimclr.training.update import Update


def validation_loader(config: Config, data: Data, device: torch.device, world: World) -> PairLoader | None:
    """Batches of the held-out images; None where there are too few.

    Validation uses the views of epoch 0 every time, so that its losses compare across epochs. Batches with fewer images
    than processes are everybody's.
    """
    count = len(data.validation)
    if count < 2:
        return None
    size = min(config.batch_size, count)
    sharing = world if size >= world.size else None
    return build_loader(config, data.validation, size, config.seed + 1, device, sharing)


class Validation:
    """Measures the encoder on the held-out images.

    Args:
        config: The settings of the run.
        data: Its images.
        loader: As from `validation_loader`.
        update: Holds the encoder and its losses.
        lead: Lets the first process measure kNN.
    """

    def __init__(self, config: Config, data: Data, loader: PairLoader | None, update: Update, lead: Lead):
        self.config, self.data, self.loader, self.update, self.lead = config, data, loader, update, lead

    @torch.no_grad()
    def measure(self, *, pretext: bool) -> dict[str, float]:
        """The loss on the held-out images and, with best_by=knn and labels, kNN from the other pre-training images.

        `pretext` says whether the pretext task's loss is part of it. Empty where there are too few images; kNN is the
        first process's alone.
        """
        if self.loader is None:
            return {}
        self.update.modules().eval()
        sums = Sums()
        for batch in self.loader.epoch(0, pretext=pretext):
            sums.add(self.update.losses(batch))
            self.update.world.check()
        figures = sums.means()
        if self.config.best_by == "knn":
            figures |= self.lead(self._knn, dict[str, float]())
        return figures

    def _knn(self) -> dict[str, float]:
        bank, queries = (
            images.subset(images.labels >= 0) for images in (self.data.pretrain, self.data.validation)
        )
        if not len(bank) or not len(queries):
            return {}
        known = self._features(bank)
        standard, device = Standard.of(known), self.update.device
        accuracy = knn_accuracy(
            standard(known),
            bank.labels.to(device),
            standard(self._features(queries)),
            queries.labels.to(device),
            k=self.config.evaluation.knn_k,
        )
        return {"knn": accuracy}

    def _features(self, images: ImageSet) -> Tensor:
        return self.lead.extract(
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
