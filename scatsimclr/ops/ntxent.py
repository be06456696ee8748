"""The operators `ntxent` and `ntxent_backward`: schema, shapes, derivatives, implementations; checks of arguments."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from scatsimclr.ops import availability
from scatsimclr.ops.autograd import Context, called, derive, differentiable, forward_mode, gradients_again
from scatsimclr.ops.library import late, register
from scatsimclr.reference import ntxent as reference
from scatsimclr.reference.accumulation import accumulate_dtype

P = ParamSpec("P")
R = TypeVar("R")


def _triton() -> Any:
    from scatsimclr.kernels import ntxent as kernels

    return kernels


def _on_gpu(plain: Callable[P, R], kernel: Callable[P, R], rows_at: int) -> Callable[P, R]:
    """The kernel, or plain PyTorch where argument `rows_at`, the rows, has no Triton kernel: float64, some GPUs."""

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        rows: Any = args[rows_at]
        served = rows.dtype != torch.float64 and not availability.cannot_multiply(rows.device)
        return (kernel if served else plain)(*args, **kwargs)

    return run


def _fake_forward(x: Tensor, *settings: Any, **named: Any) -> tuple[Tensor, Tensor]:
    dtype, rows = accumulate_dtype(x.dtype), settings[-1]
    return x.new_empty((), dtype=dtype), x.new_empty((2, rows), dtype=dtype)


def _fake_backward(grad: Tensor, x: Tensor, *settings: Any, **named: Any) -> tuple[Tensor, Tensor]:
    rows = settings[-1]
    return x.new_empty((rows, x.shape[1])), x.new_empty((), dtype=accumulate_dtype(x.dtype))


# x (M, D): all rows. The rows first … first + rows − 1 are the local ones: `ntxent` returns their share of
# the loss (0-d) and their statistics (2, rows), `ntxent_backward` their gradient (rows, D) and their share
# of the temperature's (0-d). Without labels, x is blocks of `rows` rows, each `views` views of rows/views
# images. τ is `temperature` where there is one (a single element, never read by the host on a GPU), else tau.
_SETTINGS = "Tensor? labels, Tensor? temperature, float tau, bool normalize, int views, int first, int rows"

_triton_forward = late(lambda: _triton().ntxent)
_triton_backward = late(lambda: _triton().ntxent_backward)

NTXENT = register(
    "ntxent",
    f"(Tensor x, {_SETTINGS}) -> (Tensor, Tensor)",
    fake=_fake_forward,
    reference=reference.ntxent,
    cpu=True,
    triton=_triton_forward,
    on_gpu=_on_gpu(reference.ntxent, _triton_forward, 0),
    products=True,
)
NTXENT_BACKWARD = register(
    "ntxent_backward",
    f"(Tensor grad, Tensor x, Tensor stats, {_SETTINGS}) -> (Tensor, Tensor)",
    fake=_fake_backward,
    reference=reference.ntxent_backward,
    cpu=True,
    triton=_triton_backward,
    on_gpu=_on_gpu(reference.ntxent_backward, _triton_backward, 1),
    products=True,
    part_of="ntxent",
)


class _Context(Context, Protocol):
    settings: tuple[float, bool, int, int, int]


def _setup_context(ctx: _Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, labels, temperature, *settings = inputs
    ctx.settings = tuple(settings)
    if settings[-1] != x.shape[0]:
        raise RuntimeError(
            "ntxent of a share of the rows has no autograd formula: NTXentLoss(gather_distributed=True) has one"
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


def like(dtau: Tensor, temperature: Tensor | None) -> Tensor | None:
    """The temperature's gradient (0-d) in the temperature's shape and dtype; None where it is a number."""
    return None if temperature is None else dtau.to(temperature.dtype).reshape(temperature.shape)


def _setup_backward_context(ctx: _Context, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    grad, x, _, labels, temperature, *settings = inputs
    ctx.settings = tuple(settings)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, x, labels, temperature)


def _second_derivative(ctx: _Context, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    """Of the gradients in x and the temperature, by the reference."""
    grad, x, labels, temperature = ctx.saved_tensors
    tau, normalize, views, *_ = ctx.settings
    # 0-d, as the second result is; a number where no tensor is.
    inputs = (grad, x) if temperature is None else (grad, x, temperature)

    def gradient(
        grad: Tensor, x: Tensor, temperature: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        one = (
            torch.tensor(tau, dtype=torch.float64, requires_grad=True) if temperature is None else temperature
        )
        loss = reference.ntxent_by_autograd(x, labels, one, 1.0, normalize, views)
        dx, dtau = torch.autograd.grad(loss, (x, one), grad, create_graph=True, allow_unused=True)
        return dx, dtau if dtau is None else dtau.reshape(())

    found = gradients_again(gradient, inputs, cotangents)
    return *found[:2], None, None, found[2] if len(found) > 2 else None, *[None] * 5


def _make_backward(
    backward: Callable[..., tuple[Tensor, Tensor]],
) -> Callable[..., tuple[Tensor | None, ...]]:
    again = differentiable(backward, _setup_backward_context, _second_derivative)

    def run(ctx: _Context, grad: Tensor | None, _: None = None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        x, stats, labels, temperature = ctx.saved_tensors
        gradient = again if torch.is_grad_enabled() else backward
        dx, dtau = gradient(grad, x, stats, labels, temperature, *ctx.settings)
        dx = of_dead_rows(dx, x, ctx.settings[1])
        return dx, None, like(dtau, temperature), *[None] * 5

    return run


_NAMED: dict[str, Callable[..., tuple[Tensor, Tensor]]] = derive(
    NTXENT, NTXENT_BACKWARD, _setup_context, _make_backward
)

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def _check_view(z: object, name: str, like: Tensor | None, like_name: str) -> Tensor:
    """z, if it is rows (N, D), of the shape, dtype and device of `like` where there is one."""
    if not isinstance(z, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(z).__name__}")
    if z.dtype not in FLOATING:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {z.dtype}")
    if z.dim() != 2:
        raise ValueError(f"{name} must have two dimensions (N, D), got shape {tuple(z.shape)}")
    if z.shape[0] == 0 or z.shape[1] == 0:
        raise ValueError(f"{name} must hold at least one row and one column, got shape {tuple(z.shape)}")
    if like is None:
        return z
    if z.shape != like.shape:
        raise ValueError(
            f"{name} must have the shape of {like_name}, {tuple(like.shape)}, got {tuple(z.shape)}"
        )
    if z.dtype != like.dtype:
        raise TypeError(f"{name} must have the dtype of {like_name}, {like.dtype}, got {z.dtype}")
    if z.device != like.device:
        raise ValueError(f"{name} must be on the device of {like_name}, {like.device}, got {z.device}")
    return z


def stack_views(
    z_i: Tensor | Sequence[Tensor], z_j: Tensor | None = None, views_dim: int | None = None
) -> tuple[Tensor, int]:
    """All views as one tensor, checked.

    Args:
        z_i: one of two views (N, D); or, with z_j None, all V ≥ 2 views, as a (V, N, D) tensor or a sequence of
            (N, D) tensors.
        z_j: the other view (N, D), or None.
        views_dim: 1 where a tensor of all views is (N, V, D). None is 0, with a warning where V ≥ N.

    Returns:
        (V·N, D), view-major, and V.

    Raises:
        ValueError, TypeError: what cannot be taken as views.
    """
    if views_dim not in (None, 0, 1):
        raise ValueError(f"views_dim must be 0, 1 or None, got {views_dim!r}")
    if is_number(z_j):
        raise TypeError(
            f"z_j must be a tensor, got {type(z_j).__name__}: the temperature is the third argument, or "
            f"temperature={z_j}"
        )
    if z_j is not None:
        first = _check_view(z_i, "z_i", None, "")
        return torch.cat((first, _check_view(z_j, "z_j", first, "z_i"))), 2
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
                "views_dim=1 takes it as (images, views, D), views_dim=0 silences this warning",
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
    """z, checked to be rows (M, D)."""
    return _check_view(z, name, None, "")


def repeat_labels(labels: Tensor, views: int, images: int) -> Tensor:
    """The labels (N,) of images repeated for their V·N rows, view-major."""
    if isinstance(labels, Tensor) and labels.shape != (images,):
        other = (
            f"; if the rows are (images, views, D), {views} images of {images} views, pass views_dim=1"
            if labels.shape == (views,)
            else ""
        )
        raise ValueError(
            f"labels must hold one entry per image, ({images},), got shape {tuple(labels.shape)}{other}"
        )
    return labels.repeat(views) if isinstance(labels, Tensor) else labels


def is_number(value: object) -> bool:
    """Whether it is a real number, of Python, NumPy (0-d arrays included) or any type registered as one; no bool."""
    if isinstance(value, (bool, np.bool_)):
        return False
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "iuf"
    return isinstance(value, numbers.Real)


def check_temperature(temperature: float | Tensor, device: torch.device | None = None) -> None:
    """Checks for a positive, finite number, or a floating-point tensor of one element on `device`.

    The value of a tensor on a GPU is not checked: reading it would wait for the device.

    Raises:
        TypeError, ValueError: it is something else.
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


def check_labels(labels: Tensor, x: Tensor) -> None:
    """Checks for integers (M,) on the device of the rows x (M, D); raises TypeError or ValueError."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"labels must hold one entry per row, ({len(x)},), got shape {tuple(labels.shape)}")
    if labels.device != x.device:
        raise ValueError(f"labels must be on the device of the rows, {x.device}, got {labels.device}")


def resolve(temperature: float | Tensor, x: Tensor, backend: str) -> tuple[Tensor | None, float]:
    """Checks temperature and backend for rows x; (temperature where it is a tensor, else None; τ where it is not)."""
    check_temperature(temperature, x.device)
    if backend != "auto":
        NTXENT.check(backend, x.device)
    return (temperature, 1.0) if isinstance(temperature, Tensor) else (None, float(temperature))


def ntxent_loss(
    x: Tensor,
    *,
    temperature: float | Tensor,
    normalize: bool,
    views: int = 1,
    labels: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The loss of all rows, as in `scatsimclr.reference.ntxent`.

    Differentiable in x and in a tensor temperature, any number of times: derivatives of the gradient are the
    reference's, which stores all similarities.

    Args:
        x: all rows (M, D).
        temperature: τ > 0, a number or a tensor of one element.
        normalize: cosine similarities, else dot products.
        views: how many views of an image there are, where positives are the other views (`stack_views` gives the
            layout).
        labels: integers (M,): positives are the other rows of the same label.
        backend: "auto" or the name of one implementation.

    Returns:
        0-d, float32 (float64 for float64 rows), as products and sums are; gradients have x's dtype.

    Raises:
        ValueError, TypeError: an argument that cannot be used.
    """
    tensor, tau = resolve(temperature, x, backend)
    if labels is not None:
        check_labels(labels, x)
        labels = labels.to(torch.int64)
    args = (x, labels, tensor, tau, bool(normalize), views, 0, x.shape[0])
    if forward_mode(x, tensor):
        return reference.ntxent_by_autograd(*args[:6])
    if backend == "auto":
        return called(NTXENT.overload, args, (x, tensor))[0]
    return _NAMED[backend](*args)[0]
