"""The original code's linear probe of frozen features, and the draw of labels for a probe."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.evaluation.threads import one_thread

# A hundred labels make two batches: the recipe's 100 epochs would be 200 steps, too few at a rate of 3e-4.
MINIMUM_STEPS = 1000


def linear_predict(
    train: Tensor, train_labels: Tensor, test: Tensor, *, epochs: int = 100, seed: int = 0
) -> Tensor:
    """Trains one linear layer on frozen features, and predicts the classes of others.

    The original code's recipe: standard scaling by the training features, Adam with rate 3e-4 and weight decay 1e-4,
    batches of 64, `epochs` epochs but at least 1,000 steps. Deterministic for a seed.

    Args:
        train: Features (n, F).
        train_labels: Their classes, int64 (n,).
        test: Features (m, F).
        epochs: Epochs of training.
        seed: Of the initial weights and the order.

    Returns:
        The predicted classes, int64 (m,).
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
            order = torch.randperm(len(train), generator=generator).to(train.device)
            for batch in torch.split(order, 64):
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(layer(train[batch]), train_labels[batch]))
                optimizer.step()
    with torch.no_grad():
        scores: Tensor = layer(test)
        return scores.argmax(1)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of predictions (m,) that equal the labels (m,)."""
    return (predicted == labels).double().mean().item()


def few_labels(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Sorted indices, int64, of `per_class` random examples of each class, or all of a smaller one."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels.cpu()[order]
    chosen = [order[shuffled == label][:per_class] for label in torch.unique(shuffled)]
    return torch.cat(chosen).sort().values
