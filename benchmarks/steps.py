"""Training steps to compare: the original code's, a plain one with good PyTorch practice, and ours."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers import original_ntxent, plain_ntxent
from scatsimclr.data.loader import Batch
from scatsimclr.models.convolution import plain_convolutions
from scatsimclr.training.update import Update

J, L, LR, DECAY, TAU = 2, 16, 3e-4, 1e-5, 0.5


class PlainEncoder(nn.Module):
    """A copy of an encoder in PyTorch's own layers, behind a given scattering, called as in the original code."""

    def __init__(self, encoder, scattering):
        super().__init__()
        self.scattering = scattering
        encoder = plain_convolutions(encoder)
        self.adapter, self.l1, self.l2 = encoder._adapter_network, encoder.l1, encoder.l2

    def encode(self, x):
        coefficients = self.scattering(x.contiguous()).flatten(1, 2)
        return self.adapter(coefficients).flatten(1)

    def forward(self, x):
        h = self.encode(x)
        return h, self.l2(F.relu(self.l1(h)))


class OriginalStep:
    """The loss of a pair of views (2, B, C, H, W), then an update of the weights."""

    def __init__(self, encoder, scattering):
        self.model = PlainEncoder(encoder.to(memory_format=torch.contiguous_format), scattering).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), LR, weight_decay=DECAY)

    def loss(self, pair):
        z_i, z_j = (self.model(view)[1] for view in pair)
        return original_ntxent(F.normalize(z_i, dim=1), F.normalize(z_j, dim=1), TAU)

    def __call__(self, pair):
        self.optimizer.zero_grad()
        loss = self.loss(pair)
        loss.backward()
        self.optimizer.step()
        return loss


class PlainStep(OriginalStep):
    """Both views together, channels-last, fused Adam, a masked cross-entropy; under autocast with a dtype `amp`."""

    def __init__(self, encoder, scattering, amp=None):
        super().__init__(encoder, scattering)
        self.amp = amp
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), LR, weight_decay=DECAY, fused=True)

    def loss(self, pair):
        with torch.autocast(pair.device.type, self.amp) if self.amp else contextlib.nullcontext():
            return plain_ntxent(*self.model(pair.flatten(0, 1))[1].chunk(2), TAU)


class OurStep:
    """`Update` as `train` makes it of these settings."""

    def __init__(self, encoder, settings):
        self.model = encoder.to(memory_format=torch.channels_last).train()
        self.update = Update(settings, self.model, None, next(encoder.parameters()).device)

    def loss(self, pair):
        return self.update.losses(Batch(pair, torch.arange(pair.shape[1]))).total

    def __call__(self, pair):
        return self.update(Batch(pair, torch.arange(pair.shape[1]))).total


def views(size, batch, device, channels=3):
    """A pair of views as the loader makes them: (2, batch, channels, size, size), channels-last."""
    generator = torch.Generator().manual_seed(size)
    drawn = torch.rand(2 * batch, channels, size, size, generator=generator)
    return drawn.to(device, memory_format=torch.channels_last).unflatten(0, (2, batch))
