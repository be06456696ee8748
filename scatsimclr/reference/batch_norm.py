r"""Batch normalisation over the values of all processes of a group, plain PyTorch.

Of the n values of a channel that all processes hold, in two passes over the own ones,

    m = Σ x / n,   d = x − m,   v = Σ d² / n,   s = 1/√(v + ε),   y = w s d + b

and with ⟨·⟩ the mean over all n values and g the incoming gradient

    ∂x = w s ( g − ⟨g⟩ − d s² ⟨g d⟩ ),   ∂w = s Σ g d,   ∂b = Σ g.

The second pass is there because E[x²] − m² in float32 makes an encoder's gradients 0.4 % wrong. Sums are float64, on
each process and between them: whatever the number of processes, moments are the same in all the digits of float32, and
so is everything that is computed from them value by value. (PyTorch's own float32 sums are off by 1e-6 at 1,000 values,
enough to turn a ReLU on or off here and there.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from scatsimclr.reference.accumulation import accumulate_dtype
from scatsimclr.reference.collectives import summed


def _sum(x: Tensor) -> Tensor:
    """Over all but the channels of (N, C, …): float64 (C,)."""
    return x.sum([0, *range(2, x.dim())], dtype=torch.float64)


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """Values (C,) that broadcast against x (N, C, …), in the dtype of its arithmetic."""
    return values.to(accumulate_dtype(x.dtype)).view(-1, *[1] * (x.dim() - 2))


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, group: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalises the own values by the moments of all processes.

    Args:
        x: (N, C, …), the own values; N may differ between processes and be 0.
        weight, bias: (C,), or None for 1 and 0.
        eps: ε.
        group: The name of the group; "" for this process alone.

    Returns:
        y, of x's shape, dtype and layout; the mean m and the variance v, (C,) float64; n, 0-d float64.
    """
    count = x.new_full((1,), x.numel() // max(1, x.shape[1]), dtype=torch.float64)
    first = summed(torch.cat((count, _sum(x))), group)
    n, mean = first[0], first[1:] / first[0]
    # In the dtype of x, m is off by a rounding, δ: Σ (d + δ)² = Σ d² + n δ².
    rounded = mean.to(accumulate_dtype(x.dtype))
    d, off = x.to(rounded.dtype) - _wide(rounded, x), mean - rounded
    variance = (summed(_sum(d.square()), group) / n - off.square()).clamp_min(0)
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -off * scale if bias is None else bias - off * scale
    y = d * _wide(scale, x) + _wide(shift, x)
    return y.to(x.dtype), mean, variance, n.clone()


def batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    eps: float,
    group: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the sum of all processes' losses in the own values, and the own share of those in w and b.

    Args:
        grad: g, of x's shape.
        x, weight, eps, group: as for `batch_norm`.
        mean, variance, count: its results.

    Returns:
        ∂x, of x's dtype; ∂w and ∂b, (C,) float64.
    """
    dtype = accumulate_dtype(x.dtype)
    g, d = grad.to(dtype), x.to(dtype) - _wide(mean, x)
    scale = (variance + eps).rsqrt()
    own = torch.stack((_sum(g), _sum(g * d)))
    mean_g, mean_gd = summed(own.clone(), group) / count
    dx = g - _wide(mean_g, x) - d * _wide(scale.square() * mean_gd, x)
    dx = dx * _wide(scale if weight is None else scale * weight, x)
    return dx.to(x.dtype), scale * own[1], own[0]
