"""All the probes of one encoder on one data set."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from scatsimclr.config import EvaluationSettings
from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.datasets import ImageSet
from scatsimclr.evaluation.features import extract
from scatsimclr.evaluation.fine_tune import fine_tune_predict
from scatsimclr.evaluation.knn import knn_accuracy
from scatsimclr.evaluation.probe import accuracy, few_labels, linear_predict, logistic_predict


class Evaluation:
    """Test accuracies of probes trained on the labelled images of `train`.

    folds: index tensors into `train` for the probe "folds", STL-10's protocol: one linear layer for each.
    amp: precision of the network that makes the features, see `extract`.
    """

    def __init__(
        self,
        model: nn.Module,
        train: ImageSet,
        test: ImageSet,
        spec: AugmentSpec,
        settings: EvaluationSettings,
        folds: Sequence[Tensor] = (),
        amp: torch.dtype | None = None,
    ):
        self.model, self.train, self.test = model, train, test
        self.spec, self.settings, self.folds, self.amp = spec, settings, folds, amp

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Of the train and of the test images, on the model's device."""
        settings = self.settings
        return tuple(
            extract(
                self.model,
                part.images,
                self.spec,
                batch_size=settings.batch_size,
                features=settings.features,
                amp=self.amp,
            )
            for part in (self.train, self.test)
        )

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor]:
        device = self.features[0].device
        return self.train.labels.to(device), self.test.labels.to(device)

    @cached_property
    def predicted(self) -> Tensor:
        """Class of each test image by the linear probe on all labels, int64 (m,)."""
        return self._layer(slice(None))

    def _layer(self, chosen: Tensor | slice, seed: int = 0) -> Tensor:
        (bank, queries), labels = self.features, self.labels[0]
        return linear_predict(
            bank[chosen], labels[chosen], queries, epochs=self.settings.probe_epochs, seed=seed
        )

    def figures(self, *, quick: bool = False) -> dict[str, float]:
        """Accuracies in [0, 1] of the settings' probes, with `quick` of kNN and the linear layer alone.

        Keys: "knn", "linear", "logistic", "fine_tune"; for each n of labels_per_class "linear_n", and "folds", both
        with their standard deviation as "…_sd".
        """
        probes = {
            "knn": self._knn,
            "linear": self._linear,
            "few": self._few,
            "logistic": self._logistic,
            "folds": self._folds,
            "fine_tune": self._fine_tune,
        }
        results = {}
        for name in self.settings.probes:
            if not quick or name in ("knn", "linear"):
                results.update(probes[name]())
        return results

    def _knn(self) -> dict[str, float]:
        (bank, queries), (labels, truth) = self.features, self.labels
        return {"knn": knn_accuracy(bank, labels, queries, truth, k=self.settings.knn_k)}

    def _linear(self) -> dict[str, float]:
        return {"linear": accuracy(self.predicted, self.labels[1])}

    def _few(self) -> dict[str, float]:
        results = {}
        for n in self.settings.labels_per_class:
            chosen = [few_labels(self.train.labels, n, seed) for seed in range(self.settings.seeds)]
            results.update(self._spread(f"linear_{n}", chosen))
        return results

    def _folds(self) -> dict[str, float]:
        return self._spread("folds", self.folds)

    def _spread(self, name: str, subsets: Sequence[Tensor]) -> dict[str, float]:
        """Mean and standard deviation over linear probes on subsets of the labels."""
        scores = [
            accuracy(self._layer(chosen.to(self.labels[0].device), seed), self.labels[1])
            for seed, chosen in enumerate(subsets)
        ]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        return {name: statistics.fmean(scores), name + "_sd": spread}

    def _logistic(self) -> dict[str, float]:
        (bank, queries), (labels, truth) = self.features, self.labels
        return {"logistic": accuracy(logistic_predict(bank, labels, queries), truth)}

    def _fine_tune(self) -> dict[str, float]:
        predicted = fine_tune_predict(
            self.model,
            self.train.images,
            self.train.labels,
            self.test.images,
            self.spec,
            epochs=self.settings.fine_tune_epochs,
        )
        return {"fine_tune": accuracy(predicted, self.labels[1].to(predicted.device))}

    def confusion(self) -> Tensor:
        """Counts of the linear probe, int64 (classes, classes): rows are true classes, columns predicted ones."""
        count = len(self.test.classes)
        pairs = self.labels[1].cpu() * count + self.predicted.cpu()
        return torch.bincount(pairs, minlength=count * count).view(count, count)


def titles(settings: EvaluationSettings) -> dict[str, str]:
    """What a person reads for each key of `Evaluation.figures`, in the settings' order; spreads left out."""
    texts = {
        "knn": {"knn": "kNN, all labels"},
        "linear": {"linear": "linear probe, all labels"},
        "few": {f"linear_{n}": f"linear probe, {n} labels per class" for n in settings.labels_per_class},
        "logistic": {"logistic": "logistic regression, all labels"},
        "folds": {"folds": "linear probe, folds of the data set"},
        "fine_tune": {"fine_tune": "whole encoder fine-tuned, all labels"},
    }
    return {key: text for probe in settings.probes for key, text in texts[probe].items()}
