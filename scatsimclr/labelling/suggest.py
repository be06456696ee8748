"""Which images to label next.

First come typical images of what no label covers yet (TypiClust: Hacohen et al., "Active learning on a budget: opposite
strategies suit high and low budgets", ICML 2022): with as many k-means clusters as labels and suggestions together, the
image in the densest place of each of the largest clusters without a label. With PLENTY labels per class, half of the
suggestions are images between two classes instead: those with the smallest difference between their two largest
probabilities, one per cluster.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from scatsimclr.labelling.classifier import Space

LARGEST = 400  # clusters; more take minutes
PLENTY = 10  # labels per class
TYPICAL, UNCERTAIN = "typical", "uncertain"


@dataclass(frozen=True)
class Suggestion:
    """An image to label: its index, and the reason, TYPICAL or UNCERTAIN."""

    index: int
    reason: str


@torch.no_grad()
def suggest(
    space: Space, labels: Tensor, count: int, *, probabilities: Tensor | None = None, seed: int = 0
) -> list[Suggestion]:
    """The images whose labels would help most, the best first. Deterministic for a seed.

    Args:
        space: The images.
        labels: int64 (n,), −1 where there is none, which may be everywhere.
        count: How many to suggest; fewer are where fewer are unlabelled.
        probabilities: (n, k) by `label`; None without labels.
        seed: Of k-means.

    Raises:
        ValueError: For a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    given = labels >= 0
    count = min(count, int((~given).sum()))
    if not count:
        return []
    clusters = _clusters(space.vectors, min(int(given.sum()) + count, LARGEST, len(labels)), seed)
    order: list[Suggestion] = []
    uncertain = count // 2 if probabilities is not None and _plenty(labels) else 0
    typical = _typical(space, clusters, given)
    order += [Suggestion(index, TYPICAL) for index in typical[: count - uncertain]]
    if probabilities is not None:
        taken = {suggestion.index for suggestion in order}
        found = [index for index in _uncertain(clusters, given, probabilities) if index not in taken]
        order += [Suggestion(index, UNCERTAIN) for index in found[: count - len(order)]]
    taken = {suggestion.index for suggestion in order}
    rest = [index for index in typical if index not in taken]
    return order + [Suggestion(index, TYPICAL) for index in rest[: count - len(order)]]


def _plenty(labels: Tensor) -> bool:
    """Whether every class that has a label has PLENTY of them."""
    counts = labels[labels >= 0].bincount()
    return bool(len(counts)) and int(counts[counts > 0].min()) >= PLENTY


def _clusters(vectors: Tensor, count: int, seed: int) -> Tensor:
    """Clusters by k-means, int64 (n,)."""
    from sklearn.cluster import KMeans  # takes a second to import, and labelling alone does not need it
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # raised for fewer different images than clusters
        found = KMeans(count, n_init=1, random_state=seed).fit(vectors.numpy())
    return torch.from_numpy(found.labels_).long()


def _typical(space: Space, clusters: Tensor, given: Tensor) -> list[int]:
    """Unlabelled images: the one in the densest place of each cluster, then the second of each, and so on.

    Clusters without a label come first, the largest ones at the head.
    """
    distance = space.squared.sqrt().mean(1)
    sizes, covered = clusters.bincount(), clusters[given].bincount(minlength=int(clusters.max()) + 1)
    rank = torch.zeros(len(clusters), dtype=torch.int64)
    for cluster in range(len(sizes)):
        members = ((clusters == cluster) & ~given).nonzero().flatten()
        rank[members[distance[members].argsort(stable=True)]] = torch.arange(len(members))
    rank += covered[clusters]
    order = sorted(
        (~given).nonzero().flatten().tolist(),
        key=lambda i: (int(rank[i]), -int(sizes[clusters[i]]), float(distance[i]), i),
    )
    return order


def _uncertain(clusters: Tensor, given: Tensor, probabilities: Tensor) -> list[int]:
    """Unlabelled images by margin, the smallest first: the first of every cluster, then the second of each."""
    top = probabilities.topk(2, 1).values
    order = (top[:, 0] - top[:, 1]).argsort(stable=True).tolist()
    seen: dict[int, int] = {}
    ranked = []
    for place, index in enumerate(order):
        if not given[index]:
            cluster = int(clusters[index])
            ranked.append((seen.get(cluster, 0), place, index))
            seen[cluster] = seen.get(cluster, 0) + 1
    return [index for _, _, index in sorted(ranked)]
