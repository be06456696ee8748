"""Layers that see the batch of all processes: BatchNorm and Dropout of `torch.nn`, whose results then do not depend on
how many processes share a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from scatsimclr.ops.batch_norm import batch_norm


class _SharedBatchNorm(_BatchNorm):
    """A BatchNorm that in training normalises by the moments of all processes of `group`, where there is one."""

    group = ""

    def forward(self, x: Tensor) -> Tensor:
        if not self.group or not self.training:
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        y, mean, variance, count = batch_norm(x, self.weight, self.bias, eps=self.eps, group=self.group)
        if self.track_running_stats:
            self._track(mean, variance, count)
        return y

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Updates the running statistics as `torch.nn` does, with the unbiased variance."""
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1).clamp_min(1))
        for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.mul_(1 - share).add_(value.to(running.dtype), alpha=share)


class BatchNorm1d(_SharedBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d`, over all processes after `share_moments`."""


class BatchNorm2d(_SharedBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d`, over all processes after `share_moments`."""


def share_moments(model: nn.Module, group: str) -> None:
    """Makes every BatchNorm of a model use the moments of all processes of a group; "" for each process its own.

    Args:
        model: Its processes must train it in step: the layers wait for each other in forward and backward.
        group: `ProcessGroup.group_name`.
    """
    for module in model.modules():
        if isinstance(module, _SharedBatchNorm):
            module.group = group


class Dropout(nn.Dropout):
    """`nn.Dropout`, whose mask in a share of a batch is that share of the whole batch's mask.

    All processes draw the whole mask, so that their random generators stay the same.

    Attributes:
        images: (first, count, total): the images of the share, and of the whole batch, which the next call's rows are
            of; None for a whole batch.
    """

    images: tuple[int, int, int] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.images is None or not self.training:
            return super().forward(x)
        first, count, total = self.images
        each = len(x) // count  # rows of an image
        mask = F.dropout(x.new_ones((total * each, *x.shape[1:])), self.p)
        return x * mask[first * each : first * each + len(x)]


def set_images(model: nn.Module, images: tuple[int, int, int] | None) -> None:
    """Tells every `Dropout` of a model which images of a batch its next rows are of."""
    for module in model.modules():
        if isinstance(module, Dropout):
            module.images = images
