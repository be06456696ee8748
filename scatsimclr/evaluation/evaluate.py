"""All the probes of one encoder on one data set."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from scatsimclr.config import EvaluationSettings
from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.datasets import ImageSet
from scatsimclr.evaluation.classifier import Classifier, representative
from scatsimclr.evaluation.features import FEATURES, Extract, extract
from scatsimclr.evaluation.fine_tune import fine_tune_predict
from scatsimclr.evaluation.knn import knn_predict
from scatsimclr.evaluation.logistic import LogisticFit, logistic_fit
from scatsimclr.evaluation.probe import accuracy, few_labels, linear_predict
from scatsimclr.evaluation.recommendation import (
    Recommendation,
    fits_memory,
    likelihoods,
    simplest_of_the_best,
)
from scatsimclr.evaluation.standard import Standard
from scatsimclr.evaluation.table import Figures, titles_of
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.scattering import Scattering2D

# Probes that are also run on the scattering alone and on the recommended features. The linear layer and fine-tuning are
# the paper's probes of the network.
COMPARED = ("knn", "few", "logistic")
# Whose mistakes are shown: the first of these that is run.
SHOWN = ("linear", "logistic", "knn", "few", "fine_tune", "folds")
CHOICE_LABELS = 10  # labels per class that features are chosen by, where the settings give no number


class Evaluation:
    """Test accuracies of probes trained on the labelled images of `train`.

    Features are standardised by all images of `train`, whether a probe sees their labels or not.
    """

    def __init__(
        self,
        model: Encoder,
        train: ImageSet,
        test: ImageSet,
        spec: AugmentSpec,
        settings: EvaluationSettings,
        folds: Sequence[Tensor] = (),
        amp: torch.dtype | None = None,
        scattering: Scattering2D | None = None,
        joint: bool = True,
        extract: Extract = extract,
    ):
        """Sets up the probes; they run when their results are asked for.

        Args:
            model: The encoder.
            train: Images that the probes are trained on.
            test: Images that they are tested on.
            spec: The normalisation, and the augmentation for fine-tuning.
            settings: The probes.
            folds: Index tensors into `train` for the probe "folds", STL-10's protocol: one linear layer for each.
            amp: Precision of the network, see `extract`.
            scattering: The transform to compare the network with; None for no comparison.
            joint: Whether features other than h may be recommended, as suits a network on this transform.
            extract: Makes the features.
        """
        self.model, self.train, self.test = model, train, test
        self.spec, self.settings, self.folds, self.amp = spec, settings, folds, amp
        self.scattering, self.joint = scattering, joint and scattering is not None
        self.extract = extract
        self.shown = "h" if settings.features == "auto" else settings.features
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}
        self._standards: dict[str, Standard] = {}
        self._fits: dict[tuple[str, int], list[LogisticFit]] = {}
        self._predictions: dict[tuple[str, str], list[Tensor]] = {}

    def _part(self, name: str) -> tuple[Tensor, Tensor]:
        """One part of features of the train and of the test images, on the model's device."""
        if name not in self._parts:
            self._parts[name] = self._extracted(self.train, name), self._extracted(self.test, name)
        return self._parts[name]

    def _extracted(self, images: ImageSet, part: str) -> Tensor:
        return self.extract(
            self.model,
            images.images,
            self.spec,
            batch_size=self.settings.batch_size,
            features=part,
            amp=self.amp,
            scattering=self.scattering,
        )

    def rows(self, features: str, split: int, chosen: Tensor | slice = slice(None)) -> Tensor:
        """Features (k, F), not standardised, of chosen train images (split 0) or test images (1)."""
        parts = [self._part(name)[split][chosen] for name in FEATURES[features]]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def standard(self, features: str) -> Standard:
        """The standard of features over all train images."""
        for part in FEATURES[features]:
            if part not in self._standards:
                self._standards[part] = Standard.of_part(part, self._part(part)[0])
        return Standard.side_by_side({part: self._standards[part] for part in FEATURES[features]})

    @property
    def features(self) -> tuple[Tensor, Tensor]:
        """The settings' features, h for "auto", of the train and of the test images; not standardised."""
        return self.rows(self.shown, 0), self.rows(self.shown, 1)

    @cached_property
    def labels(self) -> tuple[Tensor, Tensor]:
        """Labels of the train and of the test images, on the model's device."""
        device = next(self.model.parameters()).device
        return self.train.labels.to(device), self.test.labels.to(device)

    def _layer(self, chosen: Tensor | slice, seed: int = 0) -> Tensor:
        (bank, queries), labels = self.features, self.labels[0]
        return linear_predict(
            bank[chosen], labels[chosen], queries, epochs=self.settings.probe_epochs, seed=seed
        )

    def figures(self, *, quick: bool = False, recommend: bool = True) -> Figures:
        """Runs the settings' probes.

        Args:
            quick: Only run kNN and the linear layer, on the network alone.
            recommend: With features=auto, also run probes on the recommended features.

        Returns:
            Accuracies in [0, 1]: "knn", "linear", "logistic", "fine_tune"; "logistic_n" for each n of labels_per_class,
            and "folds", both with their standard deviation as "…_sd". For the probes in COMPARED also "scattering_…",
            of the scattering alone, with the log front "whitened_…", and "recommended_…", all with the same draws of
            labels; "scattering_features", "whitened_features" and "recommended_features" name the features.
        """
        names = [name for name in self.settings.probes if not quick or name in ("knn", "linear")]
        results: Figures = {}
        for name in names:
            results |= self._measure(name, self.shown)
        if quick or self.scattering is None:
            return results
        others = {"scattering": self.scattering_features}
        if self._whitens:
            others["whitened"] = "whitened"
        if recommend and self.settings.features == "auto":
            others["recommended"] = self.recommended
        for prefix, features in others.items():
            results[f"{prefix}_features"] = features
            for name in (name for name in names if name in COMPARED):
                found = self._measure(name, features)
                results |= {f"{prefix}_{key}": value for key, value in found.items()}
        return results

    def _measure(self, probe: str, features: str) -> dict[str, float]:
        """The accuracies of one probe on some features."""
        found: dict[str, float] = {}
        for key in titles_of(probe, self.settings):
            scores = [accuracy(p, self.labels[1]) for p in self.predictions(key, features)]
            found[key] = statistics.fmean(scores)
            if probe in ("few", "folds"):
                found[f"{key}_sd"] = statistics.stdev(scores) if len(scores) > 1 else 0.0
        return found

    def predictions(self, key: str, features: str) -> list[Tensor]:
        """Classes of the test images, int64 (m,), by the probe with a key of `figures`; one for each draw or fold."""
        if (key, features) not in self._predictions:
            kind, _, n = key.partition("_")
            if kind == "logistic":
                predicted = self._logistic(features, int(n) if n else None)
            else:
                predict = {
                    "knn": self._knn, "linear": self._linear, "folds": self._folds, "fine": self._fine_tune
                }  # fmt: skip
                predicted = predict[kind](features)
            self._predictions[key, features] = predicted
        return self._predictions[key, features]

    @property
    def shown_probe(self) -> str:
        """The key of the probe that `predicted` and `confusion` are of: one of the settings' probes."""
        order = [probe for probe in SHOWN if probe in self.settings.probes]
        keys = [key for probe in order for key in titles_of(probe, self.settings)]
        return keys[0] if keys else "linear"

    @property
    def predicted(self) -> Tensor:
        """Class of each test image by `shown_probe`, int64 (m,); of several draws or folds by the first."""
        return self.predictions(self.shown_probe, self.shown)[0]

    def _knn(self, features: str) -> list[Tensor]:
        standard = self.standard(features)
        bank, queries = (standard(self.rows(features, split)) for split in (0, 1))
        return [knn_predict(bank, self.labels[0], queries, k=self.settings.knn_k)]

    def _linear(self, _: str) -> list[Tensor]:
        return [self._layer(slice(None))]

    def _logistic(self, features: str, n: int | None) -> list[Tensor]:
        """By logistic regression on draws of n labels per class, or on all labels."""
        if n is not None:
            return [self._classes(fit, features) for fit in self.fits(features, n)]
        standard, classes = self.standard(features), len(self.train.classes)
        fit = logistic_fit(self.rows(features, 0), self.labels[0], standard=standard, classes=classes)
        return [self._classes(fit, features)]

    def draws(self, n: int) -> list[Tensor]:
        """Indices of n labelled train images of each class, for each seed."""
        return [few_labels(self.train.labels, n, seed) for seed in range(self.settings.seeds)]

    def fits(self, features: str, n: int) -> list[LogisticFit]:
        """Logistic regressions on the draws of n labels per class."""
        if (features, n) not in self._fits:
            labels, classes = self.labels[0], len(self.train.classes)
            self._fits[features, n] = [
                logistic_fit(
                    self.rows(features, 0, chosen), labels[chosen],
                    standard=self.standard(features), classes=classes, seed=seed,
                )
                for seed, chosen in enumerate(draw.to(labels.device) for draw in self.draws(n))
            ]  # fmt: skip
        return self._fits[features, n]

    def _classes(self, fit: LogisticFit, features: str) -> Tensor:
        starts = range(0, len(self.test), 4096)
        return torch.cat([fit.predict(self.rows(features, 1, slice(s, s + 4096))) for s in starts])

    def _folds(self, _: str) -> list[Tensor]:
        subsets = [fold.to(self.labels[0].device) for fold in self.folds]
        return [self._layer(fold, seed) for seed, fold in enumerate(subsets)]

    def _fine_tune(self, _: str) -> list[Tensor]:
        predicted = fine_tune_predict(
            self.model,
            self.train.images,
            self.train.labels,
            self.test.images,
            self.spec,
            epochs=self.settings.fine_tune_epochs,
        )
        return [predicted.to(self.labels[1].device)]

    @property
    def _choice_labels(self) -> int:
        return max(self.settings.labels_per_class, default=CHOICE_LABELS)

    def _better(self, candidates: Sequence[str]) -> str | None:
        """The best of features, simplest first, on held-out training labels; None where none can be held out."""
        draws = [self.labels[0][draw.to(self.labels[0].device)] for draw in self.draws(self._choice_labels)]
        return simplest_of_the_best(
            {name: likelihoods(self.fits(name, self._choice_labels), draws) for name in candidates}
        )

    @property
    def _all_fit(self) -> bool:
        """Whether all coefficients of all images fit in memory."""
        count, channels = len(self.train) + len(self.test), self.train.images.shape[3]
        return fits_memory(count, channels, self.spec, self.scattering)

    @property
    def _whitens(self) -> bool:
        """Whether there is a log front to whiten with."""
        return isinstance(self.model, ScatSimCLR) and self.model.front is not None and self._all_fit

    @cached_property
    def scattering_features(self) -> str:
        """The features of the scattering alone: texture, pooled or, where they fit in memory, all coefficients.

        Those that do best on training labels, and of equals the simplest.
        """
        candidates = ("texture", "pooled", "scattering")[: 3 if self._all_fit else 2]
        return self._better(candidates) or candidates[-1]

    @cached_property
    def recommended(self) -> str:
        """The best of the scattering alone, h, and both, on training labels: see `simplest_of_the_best`.

        With the log front, whitened scattering is a candidate too, and takes the place of scattering in both. Compared
        with the largest number of labels of the settings' labels_per_class; both are recommended where that is one.
        """
        if not self.joint:
            return "h"
        if self._whitens:
            candidates = (self.scattering_features, "whitened", "h", "h_whitened")
            return self._better(candidates) or candidates[-1]
        both = "both" if self.scattering_features == "scattering" else "both_pooled"
        return self._better((self.scattering_features, "h", both)) or both

    def recommendation(self) -> Recommendation:
        """The recommended features, why, and the statistics of their parts."""
        n, seeds = self._choice_labels, self.settings.seeds
        reason = f"highest held-out likelihood of {n} training labels per class, {seeds} draws"
        if not self.joint:
            reason = "the network has no scattering front end"
        self.standard("h" if not self.joint else "both_pooled")
        if self.joint and self._all_fit:
            self.standard("both")
        if self.joint and self._whitens:
            self.standard("h_whitened")
        return Recommendation(self.recommended, reason, dict(self._standards))

    def classifier(self) -> Classifier:
        """Logistic regression on the recommended features and the labels of all train images, or of many."""
        chosen = representative(self.train.labels).to(self.labels[0].device)
        rows, labels = self.rows(self.recommended, 0, chosen), self.labels[0][chosen]
        return Classifier.of(
            self.train.classes, self.recommended, rows, labels, self.standard(self.recommended)
        )

    def confusion(self) -> Tensor:
        """Confusion matrix of `shown_probe`, int64 (classes, classes): rows true, columns predicted; over all draws."""
        count = len(self.test.classes)
        found = torch.stack([p.cpu() for p in self.predictions(self.shown_probe, self.shown)])
        pairs = (self.labels[1].cpu() * count + found).flatten()
        return torch.bincount(pairs, minlength=count * count).view(count, count)
