"""Activation checkpointing: activations inside a block are recomputed in the backward pass instead of kept.

Source: Chen, Xu, Zhang, Guestrin, "Training deep nets with sublinear memory cost", 2016, arXiv 1604.06174.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run_checkpointed(modules: nn.Sequential, x: Tensor) -> Tensor:
    """`modules(x)` with the same gradients and buffers, keeping less memory until the backward pass.

    Of every block (an item of a nested Sequential) only the input is kept.
    """
    for module in modules:
        if not isinstance(module, nn.Sequential):
            x = module(x)
            continue
        for block in module:
            x = checkpoint(block, x, use_reentrant=False, context_fn=partial(_contexts, block))
    return x


def _contexts(
    block: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Those of the first and of the second forward pass."""
    return contextlib.nullcontext(), _statistics_kept(block)


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Within the block, batches are normalised as in the first pass, and running statistics stay as they are.

    The second pass has to save what the first one saved, so the statistics are updated, with a weight of zero. It may
    end early, so the count of batches is set back rather than counted down.
    """
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [
        (norm.momentum, None if (n := norm.num_batches_tracked) is None else n.clone()) for norm in norms
    ]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
