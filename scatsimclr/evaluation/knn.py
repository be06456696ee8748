"""k-nearest-neighbour accuracy, weighted as by Wu et al. (2018)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def knn_predict(bank: Tensor, labels: Tensor, queries: Tensor, *, k: int, temperature: float = 0.1) -> Tensor:
    """Class of each query by its k nearest features of the bank.

    Features are to be standardised: those of an encoder have a common mean, beside which the cosines of all of them
    are 0.97 to 1, and all k votes weigh the same.

    bank (n, F) with labels int64 (n,), queries (m, F) → int64 (m,). Neighbours by cosine similarity s vote with
    weight exp(s / temperature). k is lowered to n where the bank is smaller. Source: Wu, Xiong, Yu, Lin,
    "Unsupervised feature learning via non-parametric instance discrimination", 2018.
    """
    if len(bank) == 0:
        raise ValueError("bank must hold at least one feature, got 0")
    bank = F.normalize(bank.float(), dim=1)
    n_classes = int(labels.max()) + 1
    predictions = []
    for chunk in queries.split(1024):
        similarity, nearest = (F.normalize(chunk.float(), dim=1) @ bank.T).topk(min(k, len(bank)))
        votes = torch.zeros(len(chunk), n_classes, device=chunk.device)
        votes.scatter_add_(1, labels[nearest], ((similarity - 1) / temperature).exp())
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)


def knn_accuracy(bank: Tensor, labels: Tensor, queries: Tensor, query_labels: Tensor, *, k: int) -> float:
    """Share of queries (m, F) whose class is the vote's."""
    return (knn_predict(bank, labels, queries, k=k) == query_labels).double().mean().item()
