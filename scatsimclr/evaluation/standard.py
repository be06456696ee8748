"""Standardised features: what distances, angles and penalties of features are measured in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Deviation, in parts of the feature's root mean square, below which a float32 feature counts as constant.
CONSTANT = 1e-6


@dataclass(frozen=True, eq=False)
class Standard:
    """Mean and scale of features: (x − mean) · scale has mean 0, equal variances, and a total variance of one.

    mean, scale: float32 (F,); scale is 0 for a feature that is constant in the images that it was measured on.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Standard:
        """Of features (n ≥ 1, F), labelled or not."""
        variance, mean = torch.var_mean(features.float(), 0, correction=0)
        return cls._from(mean, variance)

    @classmethod
    def _from(cls, mean: Tensor, variance: Tensor) -> Standard:
        varying = variance > CONSTANT**2 * (variance + mean.square())
        width = max(1, int(varying.sum()))
        return cls(mean, torch.where(varying, (variance * width).rsqrt(), 0))

    @classmethod
    def side_by_side(cls, parts: Sequence[Standard]) -> Standard:
        """Of features that stand side by side: each part with an equal share of the total variance."""
        share = 1 / math.sqrt(len(parts))
        return cls(
            torch.cat([part.mean for part in parts]), torch.cat([share * part.scale for part in parts])
        )

    def __call__(self, features: Tensor) -> Tensor:
        """Standardised features, float32 (m, F) of (m, F)."""
        return (features.float() - self.mean) * self.scale
