"""Labels and features spread over the graph of nearest neighbours.

Zhou et al., "Learning with local and global consistency", NeurIPS 2004: of the symmetric graph's normalised weights
S = D^(−½) W D^(−½) and the given labels Y the scores are the solution of (1 − α S) F = Y. A weight is
exp(−d_ij² / (σ_i σ_j)) with σ_i the distance to the farthest neighbour of i (Zelnik-Manor and Perona, "Self-tuning
spectral clustering", NeurIPS 2004).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

COMPONENTS = 300  # principal components that distances are measured in
ITERATIONS, PRECISION = 200, 1e-6
CHUNK = 2048  # rows of distances that are in memory at a time
LEAST = 1e-9  # probability of a class that no neighbour speaks for


@torch.no_grad()
def directions(features: Tensor, components: int = COMPONENTS, seed: int = 0) -> Tensor:
    """Unit vectors float32 (n, c) of features (n, F): their principal components, at most `components`, normalised.

    A component's deviation is the square root of its own: the first few would drown the others, and of equal weights
    the last would drown the first. Propagation of 10 labels a class over neighbours in scattering coefficients is right
    in 75.8 ± 1.8 % with full, 77.6 ± 1.5 with square-root and 75.8 ± 1.9 with equal weights; in whitened ones 80.8 ±
    1.1, 80.2 ± 1.1 and 78.4 ± 1.6 (5,000 images of Fashion-MNIST, 5 draws, 2026-11). Euclidean distances between unit
    vectors are those of the angles. The same for a seed (of the randomised decomposition); torch's global generator is
    left as it was.
    """
    x = features.float() - features.float().mean(0)
    count = min(components, *x.shape)
    if count < min(x.shape):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            u, s, _ = torch.svd_lowrank(x, q=count, niter=2)
    else:
        u, s, _ = torch.linalg.svd(x, full_matrices=False)
    x = u * s.sqrt()
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)


@torch.no_grad()
def nearest(vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Squared distances float32 (n, k) and indices int64 (n, k) of each unit vector's k nearest others, ascending."""
    squared, index = [], []
    for start in range(0, len(vectors), CHUNK):
        part = 2 - 2 * vectors[start : start + CHUNK] @ vectors.T
        rows = torch.arange(len(part))
        part[rows, rows + start] = torch.inf
        found = part.topk(min(k, len(vectors) - 1), largest=False)
        squared.append(found.values.clamp_min(0))
        index.append(found.indices)
    return torch.cat(squared), torch.cat(index)


def graph(squared: Tensor, index: Tensor) -> sparse.csr_matrix:
    """Normalised symmetric weights S (n, n) of `nearest`: an edge where either is a neighbour of the other."""
    n, k = index.shape
    scale = squared[:, -1].sqrt().double().clamp_min(1e-12)
    weight = torch.exp(-squared.double() / (scale[:, None] * scale[index])).numpy()
    rows = np.repeat(np.arange(n), k)
    w = sparse.csr_matrix((weight.ravel(), (rows, index.numpy().ravel())), shape=(n, n))
    w = w.maximum(w.T).tocsr()
    root = sparse.diags(1 / np.sqrt(np.maximum(np.asarray(w.sum(1)).ravel(), 1e-12)))
    return (root @ w @ root).tocsr()


def smooth(s: sparse.csr_matrix, vectors: Tensor, alpha: float) -> Tensor:
    """Unit vectors float32 (n, c): the solution of (1 − α S) F = (1 − α) V for `directions` V, centred and normalised.

    Each image's features become a mean over those of the images around it.
    """
    v = vectors.double().numpy()
    f = torch.from_numpy(_solved(s, v, alpha)).float()
    f = f - f.mean(0)
    return f / f.norm(dim=1, keepdim=True).clamp_min(1e-12)


def propagate(
    s: sparse.csr_matrix, given: np.ndarray, labels: np.ndarray, classes: int, alpha: float
) -> np.ndarray:
    """Log-probabilities float64 (n, k) of all n images from labels int64 (m,) of the images at `given`.

    A class's scores are divided by its number of labels (of which it may have none), and then by the sum of an image's
    scores; an image that no label reaches has equal ones.
    """
    y = np.zeros((s.shape[0], classes))
    y[given, labels] = 1
    y /= np.maximum(y.sum(0), 1)
    f = _solved(s, y, alpha)
    total = f.sum(1, keepdims=True)
    share = np.where(total > 0, f / np.where(total > 0, total, 1), 1 / classes)
    return np.log(np.maximum(share, LEAST))


def _solved(s: sparse.csr_matrix, y: np.ndarray, alpha: float) -> np.ndarray:
    """F of (1 − α S) F = (1 − α) Y, by fixed-point iteration."""
    f = y
    for _ in range(ITERATIONS):
        after = alpha * (s @ f) + (1 - alpha) * y
        change, f = np.abs(after - f).max(), after
        if change < PRECISION * np.abs(f).max():
            break
    return f
