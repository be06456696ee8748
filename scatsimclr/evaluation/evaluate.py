"""All the probes of one encoder on one data set."""

from __future__ import annotations

import statistics

from torch import nn

from scatsimclr.config import EvaluationSettings
from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.datasets import ImageSet
from scatsimclr.evaluation.features import extract
from scatsimclr.evaluation.knn import knn_accuracy
from scatsimclr.evaluation.probe import few_labels, linear_probe


def evaluate_encoder(
    model: nn.Module,
    train: ImageSet,
    test: ImageSet,
    spec: AugmentSpec,
    settings: EvaluationSettings,
    *,
    few: bool = True,
) -> dict[str, float]:
    """Test accuracies in [0, 1] of probes trained on the labelled images of `train`.

    Keys: "knn", "linear", and with `few` for each n of settings.labels_per_class "linear_n" with its standard
    deviation over seeds "linear_n_sd".
    """
    bank, queries = (
        extract(model, images.images, spec, batch_size=settings.batch_size) for images in (train, test)
    )
    labels, query_labels = train.labels.to(bank.device), test.labels.to(bank.device)
    results = {
        "knn": knn_accuracy(bank, labels, queries, query_labels, k=settings.knn_k),
        "linear": linear_probe(bank, labels, queries, query_labels, epochs=settings.probe_epochs),
    }
    for n in settings.labels_per_class if few else ():
        scores = []
        for seed in range(settings.seeds):
            chosen = few_labels(train.labels, n, seed).to(bank.device)
            scores.append(
                linear_probe(
                    bank[chosen],
                    labels[chosen],
                    queries,
                    query_labels,
                    epochs=settings.probe_epochs,
                    seed=seed,
                )
            )
        results[f"linear_{n}"] = statistics.fmean(scores)
        results[f"linear_{n}_sd"] = statistics.stdev(scores) if len(scores) > 1 else 0.0
    return results
