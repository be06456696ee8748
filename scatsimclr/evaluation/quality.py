"""How good an encoder is without labels: invariance and spread of its embeddings, and whether they collapse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scatsimclr.data.augment import Augment
from scatsimclr.data.imageset import ImageSet
from scatsimclr.models.encoder import Encoder

IMAGES = 256  # of a probe: RankMe of 128 dimensions needs more than 128, and each image costs two views
# Below this spread, embeddings count as collapsed to a point. Evenly spread ones have 1; digits had 0.06 before
# training and 0.95 after six epochs (scatsimclr8, 2026-11).
POINT = 0.05
# Below this share of the possible directions beyond the first, embeddings count as collapsed to a few.
DIRECTIONS = 0.015
# Before so many steps nothing counts as a collapse: running batch statistics still contain those of the first weights,
# so that healthy runs of twenty steps look collapsed in evaluation mode (0.9^100 = 3e-5 of them is left).
SETTLED = 100


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of the two views' normalised embeddings, each (n, D): 0 if equal, 2 if unrelated.

    Source: Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on
    the hypersphere", 2020, with α = 2. Computed in float64.
    """
    difference = F.normalize(first.double(), dim=1) - F.normalize(second.double(), dim=1)
    return difference.square().sum(1).mean().item()


def uniformity(z: Tensor) -> float:
    """log of the mean of exp(−2 |u − v|²) over all pairs of different rows u, v of the normalised z (n ≥ 2, D).

    0 if all are equal; the lower, the more evenly they fill the sphere. Source: Wang and Isola, 2020, with t = 2.
    Computed in float64.
    """
    distances = torch.pdist(F.normalize(z.double(), dim=1))
    return distances.square().mul(-2).logsumexp(0).item() - math.log(len(distances))


def rankme(z: Tensor) -> float:
    """Effective rank of embeddings z (n, D): exp of the entropy of their normalised singular values.

    Between 1 and min(n, D). Source: Garrido, Balestriero, Najman, LeCun, "RankMe: assessing the downstream
    performance of pretrained self-supervised representations by their rank", 2023, with ε = 1e-7. Computed in
    float64.
    """
    values: Tensor = torch.linalg.svdvals(z.double())
    share = values / values.sum().clamp_min(1e-300) + 1e-7
    return (-(share * share.log()).sum()).exp().item()


def spread(z: Tensor) -> float:
    """Standard deviation of the coordinates of the normalised z (n, D), times √D: 1 if spread evenly, 0 for a point.

    Source: Chen and He, "Exploring simple Siamese representation learning", 2021, figure 2. Computed in float64.
    """
    deviation: Tensor = F.normalize(z.double(), dim=1).std(0, correction=0)
    return (deviation.mean() * float(z.shape[1] ** 0.5)).item()


def found_again(first: Tensor, second: Tensor) -> float:
    """Share of first views whose most similar second view, by cosine, is of the same image; each (n, D)."""
    similarity = F.normalize(first.double(), dim=1) @ F.normalize(second.double(), dim=1).T
    return (similarity.argmax(1) == torch.arange(len(first), device=first.device)).double().mean().item()


def collapse(figures: Mapping[str, float]) -> str | None:
    """Says how embeddings with these figures of `Probe.measure` have collapsed; None where they have not."""
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

    Attributes:
        images: uint8 (n, H, W, C), on any device.
        indices: int64 (n,), which their augmentation draws depend on.
        augment: Makes the views.
    """

    images: Tensor
    indices: Tensor
    augment: Augment

    @classmethod
    def of(cls, augment: Augment, *sets: ImageSet) -> Probe:
        """Takes up to IMAGES images from the sets in turn, each shuffled with the augmentation's seed."""
        parts: list[Tensor] = []
        for images in sets:
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(augment.seed))
            parts.append(images.images[order[: IMAGES - sum(len(part) for part in parts)]])
        chosen = torch.cat(parts)
        return cls(chosen, torch.arange(len(chosen)), augment)

    @torch.inference_mode()
    def measure(self, model: Encoder, *, batch_size: int = 64) -> dict[str, float]:
        """Measures an encoder in evaluation mode, and restores its mode.

        Returns:
            "images", their number; of z "alignment", "uniformity", "spread", "rankme", "rank_limit" (the highest that
            it could be) and "found_again"; of h "rankme_h" and "rank_limit_h". {} for fewer than two images.
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

    def _embed(self, model: Encoder, view: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """h (n, F) and z (n, D) of one view, float32 on the model's device."""
        device, training = next(model.parameters()).device, model.training
        model.eval()
        try:
            parts = [
                model(self.augment(self.images[chosen].to(device), self.indices[chosen], 0, view))
                for chosen in torch.split(torch.arange(len(self.images)), batch_size)
            ]
        finally:
            model.train(training)
        return torch.cat([h for h, _ in parts]).float(), torch.cat([z for _, z in parts]).float()
