"""The images that are most like each image before training: positives beside its own views.

Two views of one image teach what augmentation may change; that another image shows the same kind of thing they cannot
teach. The nearest images by whitened scattering are of the same class for most images (89 % of 5,000 of Fashion-MNIST
at five neighbours), and contrastive training with them as positives is Dwibedi et al., "With a little help from my
friends", ICCV 2021, with neighbours that are found once, by a transform that is not trained.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from scatsimclr.data.augment import AugmentSpec
from scatsimclr.errors import UserError
from scatsimclr.evaluation.features import extract
from scatsimclr.evaluation.standard import Standard
from scatsimclr.models.scatsimclr import ScatSimCLR

ROWS = 1024  # similarities of so many images to all at once


@torch.inference_mode()
def nearest_images(model: ScatSimCLR, images: Tensor, spec: AugmentSpec, count: int) -> Tensor:
    """The `count` images nearest to each by the cosine of whitened scattering; int64 (n, count), on the CPU.

    images: uint8 (n, H, W, C), n > count. Takes n² F products, F the features' width. UserError for too few images.
    """
    if len(images) <= count:
        raise UserError(f"neighbours={count} needs more than the {len(images)} images to train on")
    features = extract(model, images, spec, features="whitened")
    features = F.normalize(Standard.of_part("whitened", features)(features), dim=1)
    found = []
    for start in range(0, len(features), ROWS):
        similarity = features[start : start + ROWS] @ features.T
        similarity.diagonal(start).fill_(-torch.inf)
        found.append(similarity.topk(count).indices.cpu())
    return torch.cat(found)
