"""L-BFGS for several regularised logistic regressions on the same examples at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MEMORY = 8  # pairs of steps and gradient changes in the quasi-Newton approximation

Precondition = Callable[[Tensor], Tensor]


class Objective:
    """½ ‖W‖² + Σ_i s_i · cross-entropy of the scores z_i W + b, for P problems that differ in the shares s.

    Variables are (d + 1, P, k), the bias last. Shares are (n, P): C where an example is fitted, 0 where it is not.
    """

    def __init__(self, z: Tensor, labels: Tensor, classes: int, axes: tuple[Tensor, Tensor] | None = None):
        """Sets up the problems.

        Args:
            z: Examples (n, d) with mean 0.
            labels: Their classes, int64 (n,).
            classes: Number of classes k.
            axes: Orthonormal directions (d, r) and the sums (r,) of squares of z along them; by default the
                coordinates themselves.
        """
        self.z, self.axes = z, axes
        self.target = F.one_hot(labels, classes).to(z.dtype)

    def zeros(self, problems: int) -> Tensor:
        """Variables (d + 1, P, k) of zeros."""
        return self.z.new_zeros(self.z.shape[1] + 1, problems, self.target.shape[1])

    def scores(self, weight: Tensor) -> Tensor:
        """Scores (n, P, k) of the examples."""
        return torch.unflatten(self.z @ weight[:-1].flatten(1) + weight[-1].flatten(), 1, weight.shape[1:])

    def __call__(self, weight: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """Values (P,), float64, and gradients (d + 1, P, k)."""
        log_p = torch.log_softmax(self.scores(weight), 2)
        loss = -(share * (log_p * self.target[:, None]).sum(2)).sum(0, dtype=torch.float64)
        residual = share[:, :, None] * (log_p.exp() - self.target[:, None])
        gradient = torch.cat((self.z.T @ residual.flatten(1), residual.sum(0).flatten()[None]))
        gradient = torch.unflatten(gradient, 1, weight.shape[1:])
        gradient[:-1] += weight[:-1]
        return loss + 0.5 * weight[:-1].square().sum((0, 2), dtype=torch.float64), gradient

    def curvature(self, weight: Tensor, share: Tensor) -> Tensor:
        """The Hessian's curvature at `weight`, along each axis and the bias: (r + 1, P, k)."""
        p = torch.softmax(self.scores(weight), 2)
        spread = share[:, :, None] * p * (1 - p)
        if self.axes is None:
            rows = self.z.square().T @ spread.flatten(1)
        else:
            rows = self.axes[1][:, None] * spread.mean(0).flatten()
        # A class that is alone, or certain, has no curvature.
        bias = spread.sum(0).flatten()[None].clamp_min(torch.finfo(rows.dtype).eps)
        return torch.unflatten(torch.cat((1 + rows, bias)), 1, weight.shape[1:])

    def precondition(self, gradient: Tensor, curvature: Tensor) -> Tensor:
        """Multiplies the gradient by the inverse of a Hessian of `curvature` along the axes and 1 across them."""
        if self.axes is None:
            return gradient / curvature
        slope, axes = gradient[:-1], self.axes[0]
        along = torch.unflatten(axes.T @ slope.flatten(1), 1, slope.shape[1:])
        correction = axes @ (along / curvature[:-1] - along).flatten(1)
        slope = slope + torch.unflatten(correction, 1, slope.shape[1:])
        return torch.cat((slope, gradient[-1:] / curvature[-1:]))


def solve(
    objective: Objective, share: Tensor, start: Tensor | None, tolerance: float, limit: int = 1000
) -> tuple[Tensor, Tensor]:
    """Minimises the objective by L-BFGS, preconditioned with the Hessian's curvature at the start.

    The penalty makes the objective strongly convex with modulus 1, so that a point is no further from the minimum than
    its gradient is long.

    Args:
        objective: The objective.
        share: The problems' shares, (n, P).
        start: (d + 1, P, k); zeros where None.
        tolerance: A problem has converged where its gradient is no longer than this share of the solution's norm, or
            of 1 if that is larger.
        limit: Steps at most.

    Returns:
        Minima (d + 1, P, k), and which problems have converged, bool (P,).
    """
    weight = objective.zeros(share.shape[1]) if start is None else start
    curvature = objective.curvature(weight, share)
    result, converged = weight.clone(), torch.zeros(share.shape[1], dtype=torch.bool, device=weight.device)
    left = torch.arange(share.shape[1], device=weight.device)
    value, gradient = objective(weight, share)
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(limit):
        size = weight.square().sum((0, 2)).sqrt().clamp_min(1)
        done = gradient.square().sum((0, 2)).sqrt() <= tolerance * size
        result[:, left], converged[left] = weight, done
        if done.all():
            break
        if done.sum() * 2 >= len(done):  # the others continue without them
            keep = (~done).nonzero().flatten()
            left, share, curvature = left[keep], share[:, keep], curvature[:, keep]
            weight, gradient, value = weight[:, keep], gradient[:, keep], value[keep]
            pairs = [(s[:, keep], y[:, keep], r[:, keep]) for s, y, r in pairs]
        direction = _direction(objective, gradient, curvature, pairs)
        moved, lower, turned = _step(objective, share, weight, value, gradient, direction)
        change, turn = moved - weight, turned - gradient
        product = (change * turn).sum((0, 2), keepdim=True)
        inverse = torch.where(product > 0, 1 / product.clamp_min(torch.finfo(product.dtype).tiny), 0)
        pairs = [*pairs, (change, turn, inverse)][-MEMORY:]
        weight, value, gradient = moved, lower, turned
    return result, converged


def _step(
    objective: Objective, share: Tensor, weight: Tensor, value: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The point, value and gradient after a step that decreases each objective sufficiently (Armijo's rule)."""
    step = torch.ones_like(value)
    slope = (gradient * direction).sum((0, 2), dtype=torch.float64)
    # Values are compared up to rounding error, which near the minimum is all that differs.
    rounding = 10 * torch.finfo(weight.dtype).eps * value.abs()
    for _ in range(30):
        moved = weight - step.to(weight.dtype)[None, :, None] * direction
        after, turned = objective(moved, share)
        short = after > value - 1e-4 * step * slope + rounding
        if not short.any():
            break
        step = torch.where(short, step / 2, step)
    return moved, after, turned


def _direction(
    objective: Objective, gradient: Tensor, curvature: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """The two-loop recursion of L-BFGS, for each problem by itself."""
    direction, factors = gradient, []
    for change, turn, inverse in reversed(pairs):
        factor = inverse * (change * direction).sum((0, 2), keepdim=True)
        direction = direction - factor * turn
        factors.append(factor)
    direction = objective.precondition(direction, curvature)
    for (change, turn, inverse), factor in zip(pairs, reversed(factors), strict=True):
        direction = direction + change * (factor - inverse * (turn * direction).sum((0, 2), keepdim=True))
    return direction
