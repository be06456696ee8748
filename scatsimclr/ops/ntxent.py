"""The operators `ntxent` and `ntxent_backward`: schema, shapes, autograd, validation, implementations."""

from __future__ import annotations

import importlib.util
import math
import numbers
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from scatsimclr.ops.library import (
    IMPLEMENTATIONS,
    LIBRARY,
    NO_GPU,
    Implementation,
    called,
    differentiable,
    extension_missing,
    forward_mode,
    gradients_again,
    key_call,
    select,
)
from scatsimclr.reference import ntxent as reference

# x (M, D): all rows. The rows first … first + rows − 1 are the local ones: `ntxent` returns their share of
# the loss (0-d) and their statistics (2, rows), `ntxent_backward` their gradient (rows, D) and their share
# of the temperature's (0-d). Without labels, x is blocks of `rows` rows, each `views` views of rows/views
# images. τ is `temperature` where there is one (a single element, never read by the host on a GPU), else tau.
LIBRARY.define(
    "ntxent(Tensor x, Tensor? labels, Tensor? temperature, float tau, bool normalize, int views, int first, "
    "int rows) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.define(
    "ntxent_backward(Tensor grad, Tensor x, Tensor stats, Tensor? labels, Tensor? temperature, float tau, "
    "bool normalize, int views, int first, int rows) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("ntxent", reference.ntxent, "CompositeExplicitAutograd")
LIBRARY.impl("ntxent_backward", reference.ntxent_backward, "CompositeExplicitAutograd")

forward = torch.ops.scatsimclr.ntxent.default
backward = torch.ops.scatsimclr.ntxent_backward.default


@torch.library.register_fake("scatsimclr::ntxent", lib=LIBRARY)
def _(x, labels, temperature, tau, normalize, views, first, rows):
    dtype = reference.accumulate_dtype(x.dtype)
    return x.new_empty((), dtype=dtype), x.new_empty((2, rows), dtype=dtype)


@torch.library.register_fake("scatsimclr::ntxent_backward", lib=LIBRARY)
def _(grad, x, stats, labels, temperature, tau, normalize, views, first, rows):
    dtype = reference.accumulate_dtype(x.dtype)
    return x.new_empty((rows, x.shape[1])), x.new_empty((), dtype=dtype)


def _setup_context(ctx, inputs, output):
    x, labels, temperature, *ctx.settings = inputs
    if ctx.settings[-1] != x.shape[0]:
        raise RuntimeError(
            "ntxent of a share of the rows has no autograd formula: see scatsimclr.ops.ntxent_distributed"
        )
    stats = output[1]
    ctx.mark_non_differentiable(stats)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, stats, labels, temperature)


def of_dead_rows(dx: Tensor, x: Tensor, normalize: bool) -> Tensor:
    """The gradient, in float16 0 at rows of zeros: it cannot hold what F.normalize has there, 1e12 times the others."""
    if x.dtype != torch.float16 or not normalize:
        return dx
    return dx.masked_fill((x == 0).all(1, keepdim=True), 0)


def like(dtau, temperature):
    return None if temperature is None else dtau.to(temperature.dtype).reshape(temperature.shape)


def _setup_backward_context(ctx, inputs, output):
    grad, x, _, labels, temperature, *ctx.settings = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, x, labels, temperature)


def _second_derivative(ctx, *cotangents):
    """Of the gradients in x and the temperature, by the reference."""
    grad, x, labels, temperature = ctx.saved_tensors
    tau, normalize, views, *_ = ctx.settings
    # 0-d, as the second result is; a number where no tensor is.
    inputs = (grad, x) if temperature is None else (grad, x, temperature)

    def gradient(grad, x, temperature=None):
        one = (
            torch.tensor(tau, dtype=torch.float64, requires_grad=True) if temperature is None else temperature
        )
        loss = reference.ntxent_by_autograd(x, labels, one, 1.0, normalize, views)
        dx, dtau = torch.autograd.grad(loss, (x, one), grad, create_graph=True, allow_unused=True)
        return dx, dtau if dtau is None else dtau.reshape(())

    found = gradients_again(gradient, inputs, cotangents)
    return *found[:2], None, None, found[2] if len(found) > 2 else None, *[None] * 5


def _make_backward(backward):
    again = differentiable(backward, _setup_backward_context, _second_derivative)

    def run(ctx, grad, _=None):
        if grad is None:
            return (None,) * 8
        x, stats, labels, temperature = ctx.saved_tensors
        gradient = again if torch.is_grad_enabled() else backward
        dx, dtau = gradient(grad, x, stats, labels, temperature, *ctx.settings)
        dx = of_dead_rows(dx, x, ctx.settings[1])
        return dx, None, like(dtau, temperature), *[None] * 5

    return run


torch.library.register_autograd(
    "scatsimclr::ntxent", _make_backward(backward), setup_context=_setup_context, lib=LIBRARY
)


def _triton_forward(*args):
    from scatsimclr.kernels import ntxent as kernels

    return kernels.ntxent(*args)


def _triton_backward(*args):
    from scatsimclr.kernels import ntxent as kernels

    return kernels.ntxent_backward(*args)


def _cuda_forward(x, *args):
    # float64 has no Triton kernel.
    return (reference.ntxent if x.dtype == torch.float64 else _triton_forward)(x, *args)


def _cuda_backward(grad, x, *args):
    return (reference.ntxent_backward if x.dtype == torch.float64 else _triton_backward)(grad, x, *args)


_HAVE_TRITON = importlib.util.find_spec("triton") is not None
if _HAVE_TRITON:
    LIBRARY.impl("ntxent", _cuda_forward, "CUDA")
    LIBRARY.impl("ntxent_backward", _cuda_backward, "CUDA")


def _triton_missing() -> str | None:
    if not _HAVE_TRITON:
        return "triton is not installed"
    return None if torch.cuda.is_available() else NO_GPU


IMPLEMENTATIONS["ntxent"] = {
    "cpu": Implementation(
        "cpu",
        "cpu",
        key_call(forward, torch._C.DispatchKey.CPU),
        key_call(backward, torch._C.DispatchKey.CPU),
        extension_missing,
    ),
    # Interpreter and ahead-of-time compiler only so far: not yet run on hardware (house rule 18).
    "triton": Implementation("triton", "cuda", _triton_forward, _triton_backward, _triton_missing),
    "reference": Implementation("reference", "any", reference.ntxent, reference.ntxent_backward),
}

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _check_view(z: Tensor, name: str, like: Tensor | None, like_name: str) -> None:
    if not isinstance(z, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(z).__name__}")
    if z.dtype not in FLOATING:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {z.dtype}")
    if z.dim() != 2:
        raise ValueError(f"{name} must have two dimensions (N, D), got shape {tuple(z.shape)}")
    if z.shape[0] == 0 or z.shape[1] == 0:
        raise ValueError(f"{name} must hold at least one row and one column, got shape {tuple(z.shape)}")
    if like is None:
        return
    if z.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape of {like_name}, {tuple(like.shape)}, got {tuple(z.shape)}"
        )
    if z.dtype != like.dtype:
        raise TypeError(f"{name} must have the dtype of {like_name}, {like.dtype}, got {z.dtype}")
    if z.device != like.device:
        raise ValueError(f"{name} must be on the device of {like_name}, {like.device}, got {z.device}")


def stack_views(
    z_i: Tensor | Sequence[Tensor], z_j: Tensor | None = None, views_dim: int | None = None
) -> tuple[Tensor, int]:
    """All views as one (V·N, D) tensor, view-major, and V.

    Two (N, D) tensors; or, with z_j None, one (V, N, D) tensor, (N, V, D) with `views_dim` 1, or a sequence of V (N, D)
    tensors, V ≥ 2. Without `views_dim`, more views than images are said to be unlikely by a warning.
    """
    if views_dim not in (None, 0, 1):
        raise ValueError(f"views_dim must be 0, 1 or None, got {views_dim!r}")
    if is_number(z_j):
        raise TypeError(
            f"z_j must be a tensor, got {type(z_j).__name__}: the temperature is the third argument, or "
            f"temperature={z_j}"
        )
    if z_j is not None:
        _check_view(z_i, "z_i", None, "")
        _check_view(z_j, "z_j", z_i, "z_i")
        return torch.cat((z_i, z_j)), 2
    if isinstance(z_i, Tensor):
        if z_i.dim() != 3 or z_i.shape[1 if views_dim == 1 else 0] < 2:
            raise ValueError(
                f"z_i without z_j must hold all views as (V, N, D) with V ≥ 2, got shape {tuple(z_i.shape)}"
            )
        if views_dim == 1:
            z_i = z_i.transpose(0, 1)
        elif views_dim is None and z_i.shape[0] >= z_i.shape[1] > 1 and not torch.compiler.is_compiling():
            warnings.warn(
                f"a tensor of shape {tuple(z_i.shape)} is taken as {z_i.shape[0]} views of {z_i.shape[1]} images; "
                "views_dim=1 takes it as (images, views, D), views_dim=0 is this without a warning",
                stacklevel=4,
            )
        _check_view(z_i[0], "z_i", None, "")
        return z_i.flatten(0, 1), z_i.shape[0]
    if not isinstance(z_i, Sequence) or len(z_i) < 2:
        raise TypeError(
            "z_i without z_j must be a (V, N, D) tensor or a sequence of at least two (N, D) tensors, got "
            f"{type(z_i).__name__}" + (f" of length {len(z_i)}" if isinstance(z_i, Sequence) else "")
        )
    for index, view in enumerate(z_i):
        _check_view(view, f"z_i[{index}]", z_i[0] if index else None, "z_i[0]")
    return torch.cat(tuple(z_i)), len(z_i)


def single_view(z: Tensor, name: str) -> Tensor:
    """Rows (M, D), checked."""
    _check_view(z, name, None, "")
    return z


def repeat_labels(labels: Tensor, views: int, images: int) -> Tensor:
    """Labels (N,) of images as those of their V·N rows, view-major."""
    if isinstance(labels, Tensor) and labels.shape != (images,):
        other = (
            f"; where the rows are (images, views, D), {views} images of {images} views, give views_dim=1"
            if labels.shape == (views,)
            else ""
        )
        raise ValueError(
            f"labels must hold one entry per image, ({images},), got shape {tuple(labels.shape)}{other}"
        )
    return labels.repeat(views) if isinstance(labels, Tensor) else labels


def is_number(value: object) -> bool:
    """A real number: of Python, NumPy (a 0-d array too) or any type that registers as one; no bool."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return isinstance(value, numbers.Real)


def check_temperature(temperature: float | Tensor, device: torch.device | None = None) -> None:
    """A positive, finite number, or a floating-point tensor of one element on `device`.

    A tensor on a GPU is not read: that would wait for the device.
    """
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or not temperature.is_floating_point():
            raise TypeError(
                "temperature must be a number or a floating-point tensor of one element, got a "
                f"{temperature.dtype} tensor of shape {tuple(temperature.shape)}"
            )
        if device is not None and temperature.device != device:
            raise ValueError(
                f"temperature must be on the device of the rows, {device}, got {temperature.device}"
            )
        if temperature.device.type != "cpu" or torch.compiler.is_compiling():
            return
        value = float(temperature.detach())
    elif is_number(temperature):
        value = float(temperature)
    else:
        raise TypeError(f"temperature must be a number or a tensor, got {type(temperature).__name__}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"temperature must be positive and finite, got {value}")


def _check_labels(labels: Tensor, x: Tensor) -> None:
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must hold one entry per row, ({len(x)},), got shape {tuple(labels.shape)}")
    if labels.device != x.device:
        raise ValueError(f"labels must be on the device of the rows, {x.device}, got {labels.device}")


def resolve(temperature, x, backend):
    """(temperature tensor or None, tau, implementation or None for the dispatcher's choice)."""
    check_temperature(temperature, x.device)
    tensor, tau = (temperature, 1.0) if isinstance(temperature, Tensor) else (None, float(temperature))
    return tensor, tau, None if backend == "auto" else select("ntxent", backend, x.device)


def ntxent_loss(
    x: Tensor,
    *,
    temperature: float | Tensor,
    normalize: bool,
    views: int = 1,
    labels: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The loss (0-d) of all rows x (M, D), as in `scatsimclr.reference.ntxent`.

    Positives are the `views` views of an image (`stack_views` gives the layout) or, with labels (M,), the
    rows of the same label. Products, sums and loss in float32 (float64 for float64 rows); gradients in x's
    dtype. Differentiable in x and in a tensor temperature, any number of times: derivatives of the gradient are
    the reference's, which stores all similarities. Raises ValueError, TypeError.
    """
    tensor, tau, chosen = resolve(temperature, x, backend)
    if labels is not None:
        _check_labels(labels, x)
        labels = labels.to(torch.int64)
    args = (x, labels, tensor, tau, bool(normalize), views, 0, x.shape[0])
    if forward_mode(x, tensor):
        return reference.ntxent_by_autograd(*args[:6])
    if chosen is None:
        return called(forward, args, (x, tensor))[0]
    return differentiable(chosen.forward, _setup_context, _make_backward(chosen.backward))(*args)[0]
