"""L2-regularised multinomial logistic regression with cross-validated strength: exact, and fast where labels are few.

For examples x_i with classes y_i the weights W and the bias b are the minimum of

    ½ ‖W‖² + C Σ_i −log softmax(Wᵀ x_i + b)[y_i],

the objective of scikit-learn's LogisticRegression(C) for three or more classes; for two classes scikit-learn keeps one
weight vector, the difference of our two, and our C is 2 C there. The features are standardised to a total variance of
one (`scatsimclr.evaluation.standard`), so that C means the same for any number of them.

With fewer examples n than features F, W lies in the span of the examples: the gradient of the sum does, and the penalty
removes what lies outside. With the Gram matrix X Xᵀ = U Λ Uᵀ, the rows of Z = U √Λ have the same inner products as the
examples, and W = Xᵀ U Λ^(−½) W_Z has the norm of W_Z: the n-dimensional problem is equivalent, not an approximation,
for any subset of the examples too. With few features, X is rotated to its principal axes. Both make the Hessian nearly
diagonal, and its diagonal preconditions L-BFGS.

Many examples of many features are fitted as they are, in float32, starting from the fit of a sample. C is then the
sample's, and the preconditioner has the curvature along the sample's principal axes.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from scatsimclr.evaluation.minimise import Objective, solve
from scatsimclr.evaluation.standard import Standard
from scatsimclr.evaluation.threads import one_thread

STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
# Used where no class has two examples, so that nothing can be held out.
DEFAULT_STRENGTH = 1.0
# With at most so many examples or features, the problem is rotated to its principal axes, in float64; with more of
# both, this is the size of the sample. The eigenvectors of 1,000 take 0.3 s, those of 2,000 three (Zen 4, one thread).
LARGEST_ROTATION = 1024
ONE_THREAD = 1 << 26  # Up to so many numbers, one thread is enough.
FIVE_FOLDS = 500  # Up to so many examples, five folds are held out in turn; beyond that, three.
# Distance from the minimum, as a share of the solution's norm, see `solve`.
TOLERANCE, LARGE_TOLERANCE = 1e-4, 5e-2
SELECTION = 500  # Strengths are told apart at so many times the tolerance.


@dataclass(frozen=True, eq=False)
class LogisticFit:
    """A fitted classifier of features.

    Attributes:
        standard: How the features are standardised.
        weight: For standardised features, float32 (F, k).
        bias: float32 (k,); −∞ for a class without examples.
        strength: C.
        held_out: Log-probabilities (n, k) of the examples by fits that had not seen them, NaN for those never held
            out; None where the strength could not be chosen.
    """

    standard: Standard
    weight: Tensor
    bias: Tensor
    strength: float
    held_out: Tensor | None

    def log_probabilities(self, features: Tensor) -> Tensor:
        """log p of each class, float32 (m, k), for features (m, F) of the kind given to `logistic_fit`."""
        return torch.cat(
            [
                torch.log_softmax(self.standard(part) @ self.weight + self.bias, 1)
                for part in torch.split(features, 4096)
            ]
        )

    def predict(self, features: Tensor) -> Tensor:
        """The most probable class, int64 (m,)."""
        return self.log_probabilities(features).argmax(1)


@torch.no_grad()
def logistic_fit(
    features: Tensor,
    labels: Tensor,
    *,
    standard: Standard | None = None,
    classes: int | None = None,
    strengths: tuple[float, ...] = STRENGTHS,
    seed: int = 0,
) -> LogisticFit:
    """Fits a logistic regression, and chooses its strength by cross-validation.

    Stratified folds are held out in turn, five of at most 500 examples and three of more; with more than 1,024
    examples and features, this is done on a stratified sample of 1,024. The only example of a class is always fitted,
    and where every class has only one, C is DEFAULT_STRENGTH. Deterministic for a seed.

    Args:
        features: (n ≥ 1, F).
        labels: int64 (n,) in 0..classes − 1.
        standard: How the features are standardised, best measured on all images, labelled or not; by default on
            `features`.
        classes: Number of classes; by default up to the largest label.
        strengths: Candidates for C. The highest held-out likelihood wins, the smaller C among equals.
        seed: Of folds and sample.

    Returns:
        The classifier.

    Raises:
        ValueError: For arguments that do not fit together.
    """
    classes = _checked(features, labels, classes, strengths)
    standard = standard or Standard.of(features)
    present, compact = torch.unique(labels, return_inverse=True)
    strengths = tuple(sorted(map(float, strengths)))
    x = standard(features)
    with one_thread(x.numel() <= ONE_THREAD):
        if min(x.shape) <= LARGEST_ROTATION:
            fitted = _Rotated(x, compact, len(present)).fit(stratified_folds(compact, seed), strengths)
        else:
            fitted = _large(x, compact, len(present), strengths, seed)
    if not fitted.converged:
        warnings.warn(f"logistic regression of {len(labels)} examples did not converge", stacklevel=2)
    weight = x.new_zeros(x.shape[1], classes)
    bias, held_out = x.new_full((classes,), -torch.inf), None
    weight[:, present], bias[present] = fitted.weight.float(), fitted.bias.float()
    if fitted.held_out is not None:
        held_out = torch.where(fitted.held_out[:, :1].isnan(), torch.nan, -torch.inf).repeat(1, classes)
        held_out[:, present] = fitted.held_out
    return LogisticFit(standard, weight, bias, fitted.strength, held_out)


def _checked(features: Tensor, labels: Tensor, classes: int | None, strengths: tuple[float, ...]) -> int:
    """The number of classes.

    Raises:
        ValueError: For what cannot be fitted.
    """
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"features must be (n, F) and labels (n,), n ≥ 1, got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, got {labels.dtype}")
    low, high = int(labels.min()), int(labels.max())
    classes = high + 1 if classes is None else classes
    if low < 0 or high >= classes:
        raise ValueError(f"labels must be 0..{classes - 1}, got {low}..{high}")
    if not torch.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinity")
    if not strengths or min(strengths) <= 0:
        raise ValueError(f"strengths must be positive, got {strengths}")
    return classes


def stratified_folds(labels: Tensor, seed: int = 0) -> Tensor | None:
    """Deals the examples of each class out to folds one by one, so that no class is ever held out whole.

    Returns:
        The fold of each example, int64 (n,), −1 for the only example of a class, which is never held out; None where
        no class has two examples.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    count = 5 if len(labels) <= FIVE_FOLDS else 3
    folds, dealt = torch.full((len(labels),), -1), 0
    shuffled = labels.cpu()[order]
    for label in torch.unique(shuffled):
        members = order[shuffled == label]
        if len(members) > 1:
            folds[members] = (torch.arange(len(members)) + dealt) % count
            dealt += len(members)
    return folds.to(labels.device) if dealt else None


@dataclass(frozen=True, eq=False)
class _Fitted:
    """Weight (F, k) and bias (k,) for standardised features and the classes that occur; see LogisticFit."""

    weight: Tensor
    bias: Tensor
    strength: float
    held_out: Tensor | None
    converged: bool


class _Rotated:
    """Examples in coordinates in which the Hessian is nearly diagonal."""

    def __init__(self, x: Tensor, labels: Tensor, classes: int):
        """Rotates standardised features x (n, F)."""
        # The bias absorbs a shift of all examples; without one it is nearly independent of the weights.
        self.labels, self.classes, self.mean = labels, classes, x.mean(0)
        self.x = (x - self.mean).double()
        self.wide = x.shape[0] < x.shape[1]
        self.values, vectors = _eigen(self.x @ self.x.T if self.wide else self.x.T @ self.x)  # those of XᵀX
        # With fewer examples than features, `basis` spans the examples: the axes are Xᵀ · basis.
        self.basis = vectors / self.values.sqrt() if self.wide else vectors
        z = vectors * self.values.sqrt() if self.wide else self.x @ vectors
        self.objective = Objective(z, labels, classes)

    def fit(
        self, folds: Tensor | None, strengths: tuple[float, ...], tolerance: float = TOLERANCE
    ) -> _Fitted:
        """The fit of all examples, with the strength that suits the folds best."""
        strength = DEFAULT_STRENGTH
        held_out: Tensor | None = None
        start: Tensor | None = None
        if folds is not None:
            strength, held_out, start = self._choose(folds, strengths)
        elif len(strengths) == 1:
            strength = strengths[0]
        share = self.objective.z.new_full((len(self.labels), 1), strength)
        solution, converged = solve(self.objective, share, start, tolerance)
        slope, bias = solution[:-1, 0], solution[-1, 0]
        weight = self.lifted(slope)
        return _Fitted(weight, bias - self.mean.double() @ weight, strength, held_out, bool(converged.all()))

    def lifted(self, slope: Tensor) -> Tensor:
        """Weights (F, k) for the features from those (d, k) for the coordinates, of the same norm."""
        return self.x.T @ (self.basis @ slope) if self.wide else self.basis @ slope

    def _choose(self, folds: Tensor, strengths: tuple[float, ...]) -> tuple[float, Tensor, Tensor]:
        """Finds the best of `strengths` (ascending), in float32, which is enough to tell them apart.

        The likelihood rises with the strength and then falls. Strengths beyond its first fall are not tried; they
        would take longest.

        Returns:
            The strength, its log-probabilities (n, k) of the held-out examples, and a start for the fit of all.
        """
        names = torch.unique(folds[folds >= 0])
        fitted = torch.stack([folds != name for name in names], 1).float()  # (n, folds)
        objective = Objective(self.objective.z.float(), self.labels, self.classes)
        held = (folds >= 0).nonzero().flatten()
        place = torch.searchsorted(names, folds[held])
        best: tuple[float, Tensor, Tensor] | None = None
        highest, start = -math.inf, None
        for strength in strengths:
            start, _ = solve(objective, strength * fitted, start, SELECTION * TOLERANCE)
            log_p = start.new_full((len(folds), self.classes), torch.nan)
            log_p[held] = torch.log_softmax(objective.scores(start), 2)[held, place]
            likelihood = log_p[held].gather(1, self.labels[held, None]).sum().item()
            if best is not None and likelihood <= highest:
                break
            highest, best = likelihood, (strength, log_p, start.mean(1, keepdim=True).double())
        assert best is not None  # `_checked` refuses empty strengths
        return best


def _large(x: Tensor, labels: Tensor, classes: int, strengths: tuple[float, ...], seed: int) -> _Fitted:
    """The fit of many examples of many features: see the module's docstring."""
    sample = _sample(labels, LARGEST_ROTATION, seed)
    rotated = _Rotated(x[sample], labels[sample], classes)
    first = rotated.fit(stratified_folds(labels[sample], seed), strengths, SELECTION * TOLERANCE)
    mean = x.mean(0)
    axes = rotated.x.T @ rotated.basis if rotated.wide else rotated.basis
    values = rotated.values * (len(labels) / len(sample))
    objective = Objective(x - mean, labels, classes, (axes.float(), values.float()))
    bias = first.bias + mean.double() @ first.weight
    start = torch.cat((first.weight, bias[None])).float()[:, None]
    share = objective.z.new_full((len(labels), 1), first.strength)
    solution, converged = solve(objective, share, start, LARGE_TOLERANCE)
    weight, bias = solution[:-1, 0].double(), solution[-1, 0].double()
    held_out = None
    if first.held_out is not None:
        held_out = first.held_out.new_full((len(labels), classes), torch.nan)
        held_out[sample] = first.held_out
    return _Fitted(weight, bias - mean.double() @ weight, first.strength, held_out, bool(converged.all()))


def _sample(labels: Tensor, count: int, seed: int) -> Tensor:
    """Indices of about `count` examples, of each class its share and at least one."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    parts = [order[labels[order] == label] for label in torch.unique(labels)]
    return torch.cat([part[: max(1, round(count * len(part) / len(labels)))] for part in parts])


def _eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues above rounding error, in descending order, and their vectors."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    rank = int((values > len(gram) * torch.finfo(values.dtype).eps * values[0].clamp_min(0)).sum())
    return values[:rank], vectors[:, :rank]
