"""How good an encoder is without labels: invariance and spread of its embeddings, and whether they collapse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.data.augment import Augment
from scatsimclr.data.imageset import ImageSet

IMAGES = 256  # that a probe looks at: RankMe of 128 dimensions needs more than 128, and each costs two views
# Spread below which embeddings count as collapsed to a point. Evenly spread ones have 1; digits had 0.06 before
# training and 0.95 after six epochs (scatsimclr8, 2026-11).
POINT = 0.05
# Share of the directions there could be, beyond the first, below which embeddings count as collapsed to a few.
DIRECTIONS = 0.015
# Steps before which nothing counts as a collapse: running batch statistics still hold those of the first weights,
# and runs of twenty steps look collapsed in evaluation mode that are not (0.9^100 = 3e-5 of them is left).
SETTLED = 100


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of the two views' normalised embeddings, each (n, D): 0 for the same, 2 for unrelated.

    Source: Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on
    the hypersphere", 2020, with α = 2. Computed in float64.
    """
    difference = F.normalize(first.double(), dim=1) - F.normalize(second.double(), dim=1)
    return difference.square().sum(1).mean().item()


def uniformity(z: Tensor) -> float:
    """log of the mean of exp(−2 |u − v|²) over all pairs of different rows u, v of the normalised z (n ≥ 2, D).

    0 where all are the same; the lower, the more evenly they fill the sphere. Source: Wang and Isola, 2020, with
    t = 2. Computed in float64.
    """
    distances = torch.pdist(F.normalize(z.double(), dim=1))
    return distances.square().mul(-2).logsumexp(0).item() - math.log(len(distances))


def rankme(z: Tensor) -> float:
    """Effective rank of embeddings z (n, D): exp of the entropy of their normalised singular values.

    Between 1 and min(n, D). Source: Garrido, Balestriero, Najman, LeCun, "RankMe: assessing the downstream
    performance of pretrained self-supervised representations by their rank", 2023, with ε = 1e-7. In float64.
    """
    values = torch.linalg.svdvals(z.double())
    share = values / values.sum().clamp_min(1e-300) + 1e-7
    return (-(share * share.log()).sum()).exp().item()


def spread(z: Tensor) -> float:
    """Standard deviation of the coordinates of the normalised z (n, D), times √D: 1 where spread evenly, 0 for a point.

    Source: Chen and He, "Exploring simple Siamese representation learning", 2021, figure 2. In float64.
    """
    deviation = F.normalize(z.double(), dim=1).std(0, correction=0)
    return (deviation.mean() * z.shape[1] ** 0.5).item()


def found_again(first: Tensor, second: Tensor) -> float:
    """Share of the first views whose most similar second view (by cosine, of n) is that of the same image."""
    similarity = F.normalize(first.double(), dim=1) @ F.normalize(second.double(), dim=1).T
    return (similarity.argmax(1) == torch.arange(len(first), device=first.device)).double().mean().item()


def collapse(figures: dict[str, float]) -> str | None:
    """In words what is wrong with embeddings of these figures (those of `Probe.measure`), None where nothing is."""
    if figures["spread"] < POINT:
        return f"the embeddings of all images are nearly the same (spread {figures['spread']:.3f}, even is 1)"
    if figures["rankme"] < 1 + DIRECTIONS * figures["rank_limit"]:
        return (
            f"the embeddings use few of their directions (effective rank {figures['rankme']:.1f} "
            f"of at most {figures['rank_limit']:.0f})"
        )
    return None


@dataclass(frozen=True, eq=False)
class Probe:
    """Two fixed views of fixed images, the same whenever an encoder is measured.

    images: uint8 (n, H, W, C), the same device as the encoder's or another; indices: int64 (n,), what their
    augmentation draws depend on.
    """

    images: Tensor
    indices: Tensor
    augment: Augment

    @classmethod
    def of(cls, augment: Augment, *sets: ImageSet) -> Probe:
        """Up to IMAGES images: the sets' in their order, each shuffled with the augmentation's seed."""
        parts = []
        for images in sets:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(augment.seed))
            parts.append(images.images[order[: IMAGES - sum(map(len, parts))]])
        chosen = torch.cat(parts)
        return cls(chosen, torch.arange(len(chosen)), augment)

    @torch.inference_mode()
    def measure(self, model: nn.Module, *, batch_size: int = 64) -> dict[str, float]:
        """The figures of an encoder in evaluation mode (its mode before is restored).

        Of z: "alignment", "uniformity", "spread", "rankme" (of "rank_limit" at most) and "found_again". "rankme_h" is
        that of h. "images" is how many were looked at; fewer than two have no figures, {}.
        """
        if len(self.images) < 2:
            return {}
        (h_first, first), (_, second) = (self._embed(model, view, batch_size) for view in (0, 1))
        both = torch.cat((first, second))
        return {
            "images": len(first),
            "alignment": alignment(first, second),
            "uniformity": (uniformity(first) + uniformity(second)) / 2,
            "spread": spread(both),
            "rankme": rankme(first),
            "rank_limit": min(first.shape),
            "rankme_h": rankme(h_first),
            "rank_limit_h": min(h_first.shape),
            "found_again": found_again(first, second),
        }

    def _embed(self, model: nn.Module, view: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """h (n, F) and z (n, D) of one view, float32 on the model's device."""
        device, training = next(model.parameters()).device, model.training
        model.eval()
        try:
            parts = [
                model(self.augment(self.images[chosen].to(device), self.indices[chosen], 0, view))
                for chosen in torch.arange(len(self.images)).split(batch_size)
            ]
        finally:
            model.train(training)
        return tuple(torch.cat(part).float() for part in zip(*parts, strict=True))
