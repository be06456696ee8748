"""The operators `scattering2d`, `scattering2d_backward` and `scattering2d_pack`: schema, shapes, derivatives,
implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from scatsimclr.ops import availability
from scatsimclr.ops.autograd import Context, called, derive, differentiable, forward_mode, gradients_again
from scatsimclr.ops.library import LIBRARY, late, register
from scatsimclr.reference import scattering2d as reference

Filters = list[Tensor]


def out_shape(x: Tensor, filters: Filters, J: int, L: int, max_order: int) -> tuple[int, int, int, int]:
    """Shape of the output for x (N, C, M, N'); ValueError for a J whose 2^J is no size of an image."""
    if not 0 <= J < 32:
        raise ValueError(f"J must be less than 32 and not negative, got {J}")
    channels = reference.channels(J, L, max_order)
    height, width = (size // 2**J - 2 for size in filters[0].shape[:2])
    return x.shape[0], x.shape[1] * channels, height, width


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _reference_forward(
    x: Tensor,
    filters: Filters,
    packed: Tensor,
    J: int,
    L: int,
    max_order: int,
    pre_pad: bool,
    channels_last: bool,
    out_dtype: torch.dtype,
) -> Tensor:
    if not x.numel():  # for which some libraries have no Fourier transform
        shape = out_shape(x, filters, J, L, max_order)
        return x.new_empty(shape, dtype=out_dtype).contiguous(memory_format=_layout(channels_last))
    out = reference.scattering2d(x, filters, J, L, max_order, pre_pad)
    return out.flatten(1, 2).to(out_dtype).contiguous(memory_format=_layout(channels_last))


def _reference_backward(
    grad: Tensor,
    x: Tensor,
    filters: Filters,
    packed: Tensor,
    J: int,
    L: int,
    max_order: int,
    pre_pad: bool,
) -> Tensor:
    if not x.numel():
        return torch.zeros_like(x)
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        out = reference.scattering2d(leaf, filters, J, L, max_order, pre_pad).flatten(1, 2)
        (dx,) = torch.autograd.grad(out, leaf, grad.to(out.dtype))
    return dx


def _reference_pack(filters: Filters, J: int, L: int, max_order: int) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=filters[0].device)


def _fake_forward(
    x: Tensor, filters: Filters, packed: Tensor, J: int, L: int, max_order: int, *settings: Any, **named: Any
) -> Tensor:
    _, channels_last, out_dtype = settings
    shape = out_shape(x, filters, J, L, max_order)
    return torch.empty(shape, dtype=out_dtype, device=x.device, memory_format=_layout(channels_last))


def _fake_backward(grad: Tensor, x: Tensor, *others: Any, **named: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _fake_pack(filters: Filters, J: int, L: int, max_order: int) -> Tensor:
    # How many bins of a filter count depends on its values.
    size = torch.library.get_ctx().new_dynamic_size()
    return torch.empty(size, dtype=torch.uint8, device=filters[0].device)


def _triton() -> Any:
    from scatsimclr.kernels import scattering2d as kernels

    return kernels


_triton_forward = late(lambda: _triton().scattering2d)
_triton_backward = late(lambda: _triton().scattering2d_backward)
_triton_pack = late(lambda: _triton().pack)


def _cpp_forward(*args: Any, **named: Any) -> Tensor:
    out: Tensor = _triton().scattering2d(*args, engine="preferred")
    return out


def _forward_on_gpu(
    x: Tensor, filters: Filters, packed: Tensor, J: int, L: int, max_order: int, *settings: Any, **named: Any
) -> Tensor:
    packed, served = _packed_on_gpu(x, filters, packed, J, L, max_order)
    kernel = _triton_forward if availability.CUDA_EXTENSION is None else _cpp_forward
    return (kernel if served else _reference_forward)(x, filters, packed, J, L, max_order, *settings)


def _backward_on_gpu(
    grad: Tensor, x: Tensor, filters: Filters, packed: Tensor, J: int, L: int, max_order: int, pre_pad: bool
) -> Tensor:
    packed, served = _packed_on_gpu(x, filters, packed, J, L, max_order)
    return (_triton_backward if served else _reference_backward)(
        grad, x, filters, packed, J, L, max_order, pre_pad
    )


def _packed_on_gpu(
    x: Tensor, filters: Filters, packed: Tensor, J: int, L: int, max_order: int
) -> tuple[Tensor, bool]:
    """The pack, made if there is none, and whether the kernels can serve its filters on the images' device.

    A pack of one byte says that they cannot: the filters are float64, or their low-pass is not an outer product.
    """
    if availability.cannot_multiply(x.device):
        return packed, False
    if not packed.numel():
        packed = _triton_pack(filters, J, L, max_order)
    return packed, packed.numel() != 1


# x (N, C, M, N') -> (N, C*K, H, W). `filters` are kymatio's buffers in kymatio's order; `packed` holds the same numbers
# as the device's kernel wants them, from scattering2d_pack (empty for the reference, and where the kernel is to make
# it). The CPU's kernel compares it with samples of the filters, and makes it again where they have changed.
SCATTERING2D = register(
    "scattering2d",
    "(Tensor x, Tensor[] filters, Tensor packed, int J, int L, int max_order, bool pre_pad, bool channels_last, "
    "ScalarType out_dtype) -> Tensor",
    fake=_fake_forward,
    reference=_reference_forward,
    cpu=True,
    # CUDA C++ for the nodes where it is expected to be faster, Triton for the others and for the gradient.
    cuda=_cpp_forward,
    triton=_triton_forward,
    on_gpu=_forward_on_gpu,
    products=True,
)
SCATTERING2D_BACKWARD = register(
    "scattering2d_backward",
    "(Tensor grad, Tensor x, Tensor[] filters, Tensor packed, int J, int L, int max_order, bool pre_pad) -> Tensor",
    fake=_fake_backward,
    reference=_reference_backward,
    cpu=True,
    cuda=_triton_backward,
    triton=_triton_backward,
    on_gpu=_backward_on_gpu,
    products=True,
    part_of="scattering2d",
)
SCATTERING2D_PACK = register(
    "scattering2d_pack",
    "(Tensor[] filters, int J, int L, int max_order) -> Tensor",
    fake=_fake_pack,
    reference=_reference_pack,
    cpu=True,
    triton=_triton_pack,
    products=True,  # what it is for
    part_of="scattering2d",
)
# One node of the tree in CUDA C++ (csrc/cuda): for `scatsimclr.kernels.scattering2d` alone.
LIBRARY.define(
    "scattering2d_paths_cuda(Tensor spectra, Tensor psi, Tensor low_y, Tensor low_x, Tensor fine_y, "
    "Tensor fine_x, Tensor(a!) u, Tensor(b!) out, int first, int stride, int field0, int P, int colours, int K) -> ()"
)


class _Context(Context, Protocol):
    settings: list[Any]
    n_filters: int


def _setup_context(ctx: _Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, filters, packed, *ctx.settings = inputs
    ctx.n_filters = len(filters)
    ctx.save_for_backward(x, packed, *filters)


def _setup_backward_context(ctx: _Context, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, filters, _, *ctx.settings = inputs
    ctx.n_filters = len(filters)
    ctx.save_for_backward(grad, x, *filters)


def _second_derivative(ctx: _Context, cotangent: Tensor) -> tuple[Any, ...]:
    """Of the gradient in x, by the reference."""
    grad, x, *filters = ctx.saved_tensors
    J, L, max_order, pre_pad = ctx.settings

    def gradient(grad: Tensor, x: Tensor) -> Sequence[Tensor]:
        out = reference.scattering2d(x, filters, J, L, max_order, pre_pad).flatten(1, 2)
        return torch.autograd.grad(out, x, grad.to(out.dtype), create_graph=True)

    found = gradients_again(gradient, (grad, x), (cotangent,))
    return *found, [None] * ctx.n_filters, *[None] * 5


def _make_backward(backward: Callable[..., Tensor]) -> Callable[..., tuple[Any, ...]]:
    again = differentiable(backward, _setup_backward_context, _second_derivative)

    def run(ctx: _Context, grad: Tensor) -> tuple[Any, ...]:
        x, packed, *filters = ctx.saved_tensors
        gradient = again if torch.is_grad_enabled() else backward
        dx = gradient(grad, x, filters, packed, *ctx.settings[:4])
        return dx, [None] * ctx.n_filters, None, *[None] * 6

    return run


_NAMED: dict[str, Callable[..., Tensor]] = derive(
    SCATTERING2D, SCATTERING2D_BACKWARD, _setup_context, _make_backward
)


def _batched(
    op: Callable[..., Tensor], count: int, batch: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Tensor, int]:
    """`op` of its first `count` tensors (N, …) with one more dimension, by putting it beside N."""
    if any(
        dim is not None for dims in in_dims[count:] for dim in (dims if isinstance(dims, list) else [dims])
    ):
        raise ValueError("in_dims must be None for all but images, got a dimension of filters")
    tensors = [
        x.expand(batch, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(args[:count], in_dims[:count], strict=True)
    ]
    out = op(*(x.flatten(0, 1) for x in tensors), *args[count:])
    return out.unflatten(0, (batch, -1)), 0


@torch.library.register_vmap("scatsimclr::scattering2d", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    return _batched(SCATTERING2D.overload, 1, info.batch_size, in_dims, args)


@torch.library.register_vmap("scatsimclr::scattering2d_backward", lib=LIBRARY)  # type: ignore[untyped-decorator]
def _(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensor, int]:
    return _batched(SCATTERING2D_BACKWARD.overload, 2, info.batch_size, in_dims, args)


def scattering2d(
    x: Tensor,
    filters: Filters,
    packed: Tensor,
    J: int,
    L: int,
    max_order: int,
    pre_pad: bool,
    *,
    channels_last: bool = False,
    out_dtype: torch.dtype | None = None,
    backend: str = "auto",
) -> Tensor:
    """Scattering coefficients of colour images.

    Differentiable in x, any number of times; derivatives of the gradient are the reference's. Where filters ask for
    a gradient, and in forward mode, the reference computes everything.

    Args:
        x: images (N, C, M, N'), float32 or float64, the dtype of the arithmetic.
        filters: kymatio's buffers `tensor0…` in order, each (M', N', 1), of x's dtype.
        packed: the same from `torch.ops.scatsimclr.scattering2d_pack`.
        J, L, max_order, pre_pad: as in `Scattering2D`.
        channels_last: the result's memory layout.
        out_dtype: the result's dtype, x's by default. It only rounds the result, but on a GPU float16 and bfloat16
            results are made from half-precision products, with an error below 2e-3 of a channel's largest value.
        backend: "auto" or the name of one implementation.

    Returns:
        (N, C·K, H, W), colour-major as in ScatSimCLR.

    Raises:
        ValueError: a backend that cannot serve x.
    """
    out_dtype = out_dtype or x.dtype
    args = (x, filters, packed, J, L, max_order, pre_pad, channels_last, out_dtype)
    learnt = torch.is_grad_enabled() and any([f.requires_grad for f in filters])
    if learnt or forward_mode(x, *filters):
        return _reference_forward(*args)
    if backend == "auto":
        return called(SCATTERING2D.overload, args, (x,))
    SCATTERING2D.check(backend, x.device)
    return _NAMED[backend](*args)
