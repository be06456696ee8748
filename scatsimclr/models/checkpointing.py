"""Activation checkpointing: activations inside a block are made again in the backward pass instead of kept.

Source: Chen, Xu, Zhang, Guestrin, "Training deep nets with sublinear memory cost", 2016, arXiv 1604.06174.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_checkpointed(modules: nn.Sequential, x: Tensor) -> Tensor:
    """`modules(x)` with the same gradients and buffers; of every block (an item of a nested Sequential) only the
    input is kept until the backward pass.
    """
    for module in modules:
        if not isinstance(module, nn.Sequential):
            x = module(x)
            continue
        for block in module:
            x = checkpoint(
                block,
                x,
                use_reentrant=False,
                context_fn=lambda block=block: (contextlib.nullcontext(), _statistics_kept(block)),
            )
    return x


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """The second forward pass normalises by the batch as the first did, and leaves the running statistics as they are.

    It saves what the first pass saved, so the statistics take part in it, with no weight; it may end early, so the
    count of batches is put back rather than counted down.
    """
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
