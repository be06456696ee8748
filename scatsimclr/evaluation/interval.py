"""Confidence intervals of accuracies."""

from __future__ import annotations


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927) of a share of `count` independent trials."""
    z2 = 1.96**2 / count
    middle, half = share + z2 / 2, (z2 * (share * (1 - share) + z2 / 4)) ** 0.5
    return (middle - half) / (1 + z2), (middle + half) / (1 + z2)
