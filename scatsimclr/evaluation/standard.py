"""Standardised features: what distances, angles and penalties of features are measured in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Deviation, in parts of the feature's root mean square, below which a float32 feature counts as constant.
CONSTANT = 1e-6
# Parts whose features keep their scales among each other: whitening has given them, and they mean something.
TOGETHER = frozenset({"whitened"})
# Share of the total variance of parts that stand side by side, where it is not 1. Of h (12 epochs) beside whitened
# scattering, 10 and 100 labels a class: 77.1 and 86.3 % with equal shares, 78.2 and 87.1 with these (held-out training
# images of Fashion-MNIST).
SHARES = {"whitened": 4.0}


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
    def of_part(cls, name: str, features: Tensor) -> Standard:
        """Of one part (n ≥ 1, F) by its name: the features of those in TOGETHER have one scale."""
        standard = cls.of(features)
        if name not in TOGETHER:
            return standard
        variance = features.float().var(0, correction=0).sum()
        scale = torch.where(variance > 0, variance.rsqrt(), 0)
        return cls(standard.mean, torch.where(standard.scale > 0, scale, 0))

    @classmethod
    def side_by_side(cls, parts: Mapping[str, Standard]) -> Standard:
        """Of features that stand side by side, by their names, each with its share of the total variance."""
        shares = [SHARES.get(name, 1.0) for name in parts]
        scales = [
            math.sqrt(share / sum(shares)) * part.scale
            for share, part in zip(shares, parts.values(), strict=True)
        ]
        return cls(torch.cat([part.mean for part in parts.values()]), torch.cat(scales))

    def __call__(self, features: Tensor) -> Tensor:
        """Standardised features, float32 (m, F) of (m, F)."""
        return (features.float() - self.mean) * self.scale
