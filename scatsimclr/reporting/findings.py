"""What is computed for a report: a map of the embeddings, clusters, neighbours and mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch.nn import functional as F

from scatsimclr.data.imageset import ImageSet
from scatsimclr.evaluation.features import extract
from scatsimclr.evaluation.standard import Standard
from scatsimclr.reporting.subject import Subject

SHOWN = 1500  # points of the map: t-SNE takes seconds for them, and the file stays small
NEIGHBOURS = 6
GALLERY = 10  # queries of the gallery
PAIRS = 8  # pairs of confused classes
EXAMPLES = 6  # images of each pair
CLUSTERS = (2, 3, 4, 5, 6, 8, 10, 12)  # numbers of clusters to try


@dataclass(frozen=True)
class Confused:
    """Images of class `true` that the evaluation's shown probe takes for class `predicted`.

    Attributes:
        true: The class.
        predicted: The class that the probe takes them for.
        count: How many there are.
        of: Test images of class `true`.
        examples: Indices of some of them in the test set.
    """

    true: int
    predicted: int
    count: int
    of: int
    examples: list[int]


@dataclass(frozen=True)
class Clusters:
    """k-means of the shown images.

    Attributes:
        members: The cluster of each image, int64 (n,).
        central: For each cluster the images nearest to its centre.
        silhouette: How well the clusters are separated, from −1 to 1.
    """

    members: np.ndarray
    central: list[list[int]]
    silhouette: float


@dataclass(frozen=True, eq=False)
class Findings:
    """What was computed for one subject.

    Attributes:
        images: The n images of the map.
        bank: The images among which the gallery's neighbours were searched for.
        features: Standardised features of `images`, (n, F).
        points: Their places on the map, (n, 2).
        method: How these were computed, in words.
        near: The shown images nearest to each, int64 (n, k).
        gallery: (index into `images`, its neighbours in the bank, their cosines).
        predicted: Classes of `images` by the evaluation's shown probe, (n,); None without labels.
        confusion: Counts of that probe on all test images; None without labels.
        confused: The pairs of classes most often confused.
        clusters: Clusters of the images where there are no labels.
    """

    images: ImageSet
    bank: ImageSet
    features: np.ndarray
    points: np.ndarray
    method: str
    near: np.ndarray
    gallery: list[tuple[int, list[int], list[float]]]
    predicted: np.ndarray | None = None
    confusion: np.ndarray | None = None
    confused: list[Confused] = field(default_factory=list)
    clusters: Clusters | None = None


def find(subject: Subject) -> Findings:
    """Computes everything about the embeddings of the test images, or of the training images without labels."""
    evaluation = subject.evaluation
    if evaluation is None:
        images = subject.pretrain.subset(_chosen(len(subject.pretrain)))
        features = extract(subject.model, images.images, subject.spec, batch_size=64).cpu()
        features = Standard.of(features)(features)
        near, cosines = nearest(features, features, skip_self=True)
        gallery = [(i, near[i].tolist(), cosines[i].tolist()) for i in _spaced(len(images))]
        points, method = project(features.numpy())
        return Findings(
            images,
            images,
            features.numpy(),
            points,
            method,
            near.numpy(),
            gallery,
            clusters=cluster(features),
        )
    standard = evaluation.standard(evaluation.shown)
    bank, tested = (standard(part).cpu() for part in evaluation.features)
    chosen = _chosen(len(tested))
    images, features = evaluation.test.subset(chosen), tested[chosen]
    near, _ = nearest(features, features, skip_self=True)
    queries = _one_of_each(images.labels)
    found, cosines = nearest(features[queries], bank)
    gallery = [
        (query, found[row].tolist(), cosines[row].tolist()) for row, query in enumerate(queries.tolist())
    ]
    counts = evaluation.confusion().numpy()
    points, method = project(features.numpy())
    predicted = evaluation.predicted.cpu()
    return Findings(
        images, evaluation.train, features.numpy(), points, method, near.numpy(), gallery, predicted[chosen].numpy(),
        counts, most_confused(counts, evaluation.test.labels.numpy(), predicted.numpy()),
    )  # fmt: skip


def _chosen(count: int) -> torch.Tensor:
    """Up to SHOWN random but fixed indices, ascending: the first images of a sorted set would be of one class."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:SHOWN].sort().values


def _spaced(count: int) -> list[int]:
    """Up to GALLERY indices, evenly spaced."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(GALLERY, count))})


def _one_of_each(labels: torch.Tensor) -> torch.Tensor:
    """Up to GALLERY indices, the first of each class, then the second of each, and so on; by class."""
    order = labels.argsort(stable=True)
    rank = torch.zeros_like(labels)
    for label in torch.unique(labels):
        rank[labels == label] = torch.arange(int((labels == label).sum()))
    picked = sorted(order.tolist(), key=lambda i: (int(rank[i]), int(labels[i])))[:GALLERY]
    return torch.tensor(sorted(picked, key=lambda i: (int(labels[i]), i)), dtype=torch.int64)


def nearest(
    queries: torch.Tensor, bank: torch.Tensor, *, skip_self: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The NEIGHBOURS rows of bank (n, F) most similar to each query (m, F).

    Args:
        queries: The queries.
        bank: The rows to search.
        skip_self: Whether the queries are the bank, and no row counts as its own neighbour.

    Returns:
        Indices int64 (m, k), and their cosines.
    """
    bank = F.normalize(bank.float(), dim=1)
    count = min(NEIGHBOURS, len(bank) - skip_self)
    found = []
    for start in range(0, len(queries), 1024):
        similarity = F.normalize(queries[start : start + 1024].float(), dim=1) @ bank.T
        if skip_self:
            similarity.diagonal(start).fill_(-torch.inf)
        found.append(similarity.topk(count))
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])


def _standardised(features: np.ndarray) -> np.ndarray:
    """At most 50 principal components of features of zero mean and unit deviation; zeros where all rows are equal."""
    standard = (features - features.mean(0)) / (features.std(0) + 1e-6)
    reduced: np.ndarray = standard[:, :50]
    if standard.any():
        reduced = PCA(min(50, *standard.shape), random_state=0).fit_transform(standard)
    return reduced


def project(features: np.ndarray) -> tuple[np.ndarray, str]:
    """Puts features (n, F) on a plane: by t-SNE, or by two principal components where there are too few.

    Returns:
        The points (n, 2), and the name of the method.
    """
    reduced = _standardised(features)
    plane = np.pad(reduced, ((0, 0), (0, 2)))[:, :2]
    if len(reduced) < 10:
        return plane, "PCA"
    # scikit-learn's own start divides by the deviation of the first component. Where all features are equal (the
    # encoder collapsed) that is 0/0, and its tree of points then crashes the process (1.9.1, segmentation fault).
    start = 1e-4 * plane / (plane[:, 0].std() or 1.0) + np.random.default_rng(0).normal(0, 1e-6, plane.shape)
    model = TSNE(perplexity=min(30, len(reduced) / 4), init=start.astype(np.float32), random_state=0)
    return model.fit_transform(reduced), "t-SNE"


def cluster(features: torch.Tensor) -> Clusters | None:
    """k-means with the number of clusters, of CLUSTERS, that has the best silhouette.

    Returns:
        The clusters; None for fewer than eight images, or where too few of them differ.
    """
    if len(features) < 8:
        return None
    reduced = _standardised(features.numpy())
    tried = []
    different = len(np.unique(reduced, axis=0))
    for count in (count for count in CLUSTERS if count <= min(len(reduced) // 4, different - 1)):
        model = KMeans(count, n_init=4, random_state=0).fit(reduced)
        tried.append((silhouette_score(reduced, model.labels_), model))
    if not tried:
        return None
    score, best = max(tried, key=lambda entry: entry[0])
    distances = best.transform(reduced)
    central = [
        sorted(np.flatnonzero(best.labels_ == number).tolist(), key=lambda i: distances[i, number])[:NEIGHBOURS + 2]
        for number in range(best.n_clusters)
    ]  # fmt: skip
    return Clusters(best.labels_.astype(np.int64), central, float(score))


def most_confused(counts: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> list[Confused]:
    """The pairs of classes with the most mistakes, from labels and predictions (n,) and their confusion matrix."""
    wrong = counts - np.diag(np.diag(counts))
    found = []
    for index in np.argsort(-wrong, axis=None, kind="stable")[:PAIRS].tolist():
        true, guess = divmod(index, len(counts))
        if wrong[true, guess]:
            examples = np.flatnonzero((labels == true) & (predicted == guess))[:EXAMPLES].tolist()
            found.append(Confused(true, guess, int(wrong[true, guess]), int(counts[true].sum()), examples))
    return found


def group_names(found: Findings, classes: Sequence[str]) -> tuple[list[int], list[str]]:
    """The group of each shown image and the groups' names: classes, or clusters where there are no labels."""
    if found.predicted is not None:
        return found.images.labels.tolist(), list(classes)
    if found.clusters is None:
        return [-1] * len(found.images), []
    return found.clusters.members.tolist(), [f"cluster {i + 1}" for i in range(len(found.clusters.central))]
