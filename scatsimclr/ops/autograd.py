"""Derivatives of operators: of named implementations, past the dispatcher, forward mode and second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.autograd import forward_ad

from scatsimclr.ops.library import LIBRARY, Operator

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")


class Context(Protocol):
    """What autograd hands from the forward to the backward pass."""

    saved_tensors: tuple[Any, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


def differentiable(
    forward: Callable[P, R], setup_context: Callable[..., None], backward: Callable[..., tuple[Any, ...]]
) -> Callable[P, R]:
    """An implementation with the operator's own autograd formula, outside the dispatcher.

    Args:
        forward: computes the operator.
        setup_context, backward: as for `torch.library.register_autograd`. What `backward` computes with PyTorch's
            operators or other such callables is differentiable in turn.
    """

    class Named(torch.autograd.Function):
        @staticmethod
        def forward(*args: P.args, **kwargs: P.kwargs) -> R:
            return forward(*args, **kwargs)

        @staticmethod
        def backward(ctx: Context, *grads: Tensor | None) -> tuple[Any, ...]:
            # For a list of tensors the dispatcher expects a list of gradients; a Function takes the list as one input.
            return tuple(None if isinstance(g, list) else g for g in backward(ctx, *grads))

    Named.setup_context = staticmethod(setup_context)  # type: ignore[method-assign]
    run: Callable[P, R] = Named.apply
    return run


def derive(
    operator: Operator[P, R],
    gradient: Operator[Q, S],
    setup_context: Callable[..., None],
    make_backward: Callable[[Callable[Q, S]], Callable[..., tuple[Any, ...]]],
) -> dict[str, Callable[P, R]]:
    """Registers an operator's derivative, which another operator computes.

    Args:
        operator: the operator.
        gradient: the operator that computes its gradient.
        setup_context: as for `torch.library.register_autograd`.
        make_backward: makes the backward pass of a callable that computes `gradient`.

    Returns:
        For each named implementation the operator by it, with its gradient by the implementation of the same name.
    """
    torch.library.register_autograd(
        f"scatsimclr::{operator.name}",
        make_backward(gradient.overload),
        setup_context=setup_context,
        lib=LIBRARY,
    )
    return {
        name: differentiable(entry.run, setup_context, make_backward(gradient.by(name)))
        for name, entry in operator.implementations.items()
    }


def called(op: OpOverload[P, R], args: Sequence[Any], tensors: Sequence[Tensor | None]) -> R:
    """op(*args), where none of `tensors` asks for a gradient past the dispatcher's autograd, 10 µs of Python."""
    wanted = torch.is_grad_enabled() and any([t is not None and t.requires_grad for t in tensors])
    run: Callable[..., R] = op
    if wanted or torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return run(*args)
    with torch._C._AutoDispatchBelowAutograd():
        return run(*args)


def forward_mode(*tensors: Tensor | None) -> bool:
    """Whether a forward-mode derivative (`torch.func.jvp`, dual tensors) goes through one of the tensors.

    The operators have none: plain PyTorch then has to compute the value.
    """
    if forward_ad._current_level < 0:
        return False
    return any(t is not None and forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def gradients_again(
    function: Callable[..., Sequence[Tensor | None]],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Products of cotangents with the derivative of a gradient, by PyTorch's own derivatives of plain PyTorch.

    Args:
        function: takes `inputs`, or copies of them that ask for a gradient, and returns gradients computed with
            `create_graph`.
        inputs: what to differentiate by.
        cotangents: one for each result of `function`, or None.

    Returns:
        A tensor or None for each input, differentiable in turn where gradients are enabled.
    """
    higher = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = [
            x if higher and x.requires_grad else x.detach().requires_grad_(x.is_floating_point())
            for x in inputs
        ]
        found = function(*leaves)
        pairs = [
            (y, g)
            for y, g in zip(found, cotangents, strict=True)
            if y is not None and g is not None and y.requires_grad
        ]
        if not pairs:
            return [None] * len(inputs)
        outputs, weights = zip(*pairs, strict=True)
        return list(torch.autograd.grad(outputs, leaves, weights, create_graph=higher, allow_unused=True))
