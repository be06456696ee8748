"""The learning rate over the epochs."""

from __future__ import annotations

import math


def learning_rate_factor(epoch: int, flat_epochs: int, epochs: int) -> float:
    """Share of the base learning rate in an epoch: 1 for `flat_epochs`, then half a cosine down to 0."""
    if epoch < flat_epochs:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (epoch - flat_epochs) / max(1, epochs - flat_epochs)))
