"""k-nearest-neighbour classification with the weights of Wu et al. (2018)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def knn_predict(bank: Tensor, labels: Tensor, queries: Tensor, *, k: int, temperature: float = 0.1) -> Tensor:
    """Class of each query by a vote of its k nearest features in the bank.

    Neighbours of cosine similarity s vote with weight exp(s / temperature). Source: Wu, Xiong, Yu, Lin, "Unsupervised
    feature learning via non-parametric instance discrimination", 2018. Features should be standardised: an encoder's
    have a large common mean, so that all cosines are between 0.97 and 1 and all k votes weigh the same.

    Args:
        bank: Features (n ≥ 1, F).
        labels: Their classes, int64 (n,).
        queries: Features (m, F).
        k: Number of neighbours; all n where the bank is smaller.
        temperature: See above.

    Returns:
        Classes, int64 (m,).

    Raises:
        ValueError: For an empty bank.
    """
    if len(bank) == 0:
        raise ValueError("bank must hold at least one feature, got 0")
    bank = F.normalize(bank.float(), dim=1)
    n_classes = int(labels.max()) + 1
    predictions = []
    for chunk in torch.split(queries, 1024):
        similarity, nearest = (F.normalize(chunk.float(), dim=1) @ bank.T).topk(min(k, len(bank)))
        votes = torch.zeros(len(chunk), n_classes, device=chunk.device)
        votes.scatter_add_(1, labels[nearest], ((similarity - 1) / temperature).exp())
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)


def knn_accuracy(bank: Tensor, labels: Tensor, queries: Tensor, query_labels: Tensor, *, k: int) -> float:
    """Share of queries (m, F) whose class `knn_predict` gets right."""
    return (knn_predict(bank, labels, queries, k=k) == query_labels).double().mean().item()
