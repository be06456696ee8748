"""Fine-tuning: the whole encoder and a linear layer, trained with labels."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.data.augment import Augment, AugmentSpec, center_view
from scatsimclr.data.mapped import AnyImages
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.processes import share_moments


def fine_tune_predict(
    model: Encoder,
    images: AnyImages,
    labels: Tensor,
    test: AnyImages,
    spec: AugmentSpec,
    *,
    epochs: int = 20,
    batch_size: int = 64,
    lr: float = 3e-4,
    seed: int = 0,
) -> Tensor:
    """Trains a copy of the encoder with labels, and predicts the classes of other images.

    Adam with cosine decay of the learning rate to 0, on views by `spec` without its colour changes and blur. The
    encoder itself is left as it is. Deterministic for a seed.

    Args:
        model: The encoder.
        images: Images to train on, uint8 (n, H, W, C).
        labels: Their classes, int64 (n,).
        test: Images to predict, uint8 (m, H, W, C).
        spec: The augmentation.
        epochs: Epochs of training.
        batch_size: Images per batch, at most.
        lr: The initial learning rate.
        seed: Of the layer's initial weights, the order and the augmentation.

    Returns:
        The predicted classes, int64 (m,), on the model's device.
    """
    device = next(model.parameters()).device
    augment = Augment(replace(spec, jitter=0.0, grayscale=0.0, blur=0.0), seed)
    network = copy.deepcopy(model)
    share_moments(network, "")  # this process trains it alone
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        layer = nn.Linear(model.h_dim, int(labels.max()) + 1).to(device)
    parameters = [p for p in network.parameters() if p.requires_grad] + list(layer.parameters())
    optimizer = torch.optim.Adam(parameters, lr, fused=True)
    batches = -(-len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    generator = torch.Generator().manual_seed(seed)
    network.train()
    with torch.enable_grad():
        for epoch in range(epochs):
            # Batches of equal size, give or take one: batch normalisation cannot handle a single image.
            for chosen in torch.randperm(len(images), generator=generator).tensor_split(batches):
                x = augment(images[chosen].to(device), chosen, epoch, 0)
                optimizer.zero_grad()
                torch.autograd.backward(F.cross_entropy(layer(network.encode(x)), labels[chosen].to(device)))
                optimizer.step()
                schedule.step()
    network.eval()
    with torch.inference_mode():
        return torch.cat(
            [
                layer(network.encode(center_view(test[start : start + 256].to(device), spec))).argmax(1)
                for start in range(0, len(test), 256)
            ]
        )
