"""The original's linear probe of frozen features, and which labels a probe gets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.evaluation.threads import one_thread

# A hundred labels make two batches: the recipe's 100 epochs would be 200 steps, which fit nothing at 3e-4.
MINIMUM_STEPS = 1000


def linear_predict(
    train: Tensor, train_labels: Tensor, test: Tensor, *, epochs: int = 100, seed: int = 0
) -> Tensor:
    """Classes that one linear layer, trained on frozen features, gives to others.

    train (n, F), labels int64 (n,), test (m, F) → int64 (m,). The original's recipe: standard scaling by the
    training features, Adam 3e-4, weight decay 1e-4, batches of 64, `epochs` epochs but at least 1,000 steps.
    Deterministic for a seed.
    """
    mean, scale = train.mean(0), train.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    train, test = (train - mean) / scale, (test - mean) / scale
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(train.shape[1], int(train_labels.max()) + 1)
    bound = 1 / math.sqrt(train.shape[1])
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    layer.to(train.device)
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-4, weight_decay=1e-4, fused=True)
    epochs = max(epochs, math.ceil(MINIMUM_STEPS / math.ceil(len(train) / 64)))
    with torch.enable_grad(), one_thread():
        for _ in range(epochs):
            for batch in torch.randperm(len(train), generator=generator).to(train.device).split(64):
                optimizer.zero_grad()
                F.cross_entropy(layer(train[batch]), train_labels[batch]).backward()
                optimizer.step()
    with torch.no_grad():
        return layer(test).argmax(1)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of the predictions (m,) that are the labels (m,)."""
    return (predicted == labels).double().mean().item()


def few_labels(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Indices of `per_class` random samples of each class, fewer where a class is smaller; int64, sorted."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels.cpu()[order]
    chosen = [order[shuffled == label][:per_class] for label in shuffled.unique()]
    return torch.cat(chosen).sort().values
