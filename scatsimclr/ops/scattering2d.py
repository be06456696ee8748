"""The operators `scattering2d` and `scattering2d_backward`: schema, shapes, autograd, implementations."""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor

from scatsimclr.ops.library import (
    IMPLEMENTATIONS,
    LIBRARY,
    NO_GPU,
    Implementation,
    called,
    cuda_extension_missing,
    cuda_extension_path,
    differentiable,
    extension_missing,
    forward_mode,
    gradients_again,
    key_call,
    select,
)
from scatsimclr.reference import scattering2d as reference

# x (N, C, M, N') -> (N, C*K, H, W). `filters` are kymatio's buffers in kymatio's order; `packed` holds the
# same numbers as the device's kernel wants them, from scattering2d_pack (empty for the reference, and where the kernel
# is to make it). The CPU's kernel compares it with samples of the filters, and makes it anew where they have changed.
LIBRARY.define(
    "scattering2d(Tensor x, Tensor[] filters, Tensor packed, int J, int L, int max_order, bool pre_pad, "
    "bool channels_last, ScalarType out_dtype) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.define(
    "scattering2d_backward(Tensor grad, Tensor x, Tensor[] filters, Tensor packed, int J, int L, "
    "int max_order, bool pre_pad) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.define(
    "scattering2d_pack(Tensor[] filters, int J, int L, int max_order) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
# One node of the tree in CUDA C++ (csrc/cuda): for `scatsimclr.kernels.scattering2d` alone.
LIBRARY.define(
    "scattering2d_paths_cuda(Tensor spectra, Tensor psi, Tensor low_y, Tensor low_x, Tensor fine_y, "
    "Tensor fine_x, Tensor(a!) u, Tensor(b!) out, int first, int stride, int field0, int P, int colours, int K) -> ()"
)


def out_shape(x: Tensor, filters: list[Tensor], J: int, L: int, max_order: int) -> tuple[int, int, int, int]:
    """Shape of the output for x (N, C, M, N')."""
    channels = reference.channels(J, L, max_order)
    height, width = (size // 2**J - 2 for size in filters[0].shape[:2])
    return x.shape[0], x.shape[1] * channels, height, width


def _reference_forward(x, filters, packed, J, L, max_order, pre_pad, channels_last, out_dtype):
    out = reference.scattering2d(x, filters, J, L, max_order, pre_pad)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return out.flatten(1, 2).to(out_dtype).contiguous(memory_format=memory_format)


def _reference_backward(grad, x, filters, packed, J, L, max_order, pre_pad):
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        out = reference.scattering2d(leaf, filters, J, L, max_order, pre_pad).flatten(1, 2)
        (dx,) = torch.autograd.grad(out, leaf, grad.to(out.dtype))
    return dx


def _reference_pack(filters, J, L, max_order):
    return torch.empty(0, dtype=torch.uint8, device=filters[0].device)


LIBRARY.impl("scattering2d", _reference_forward, "CompositeExplicitAutograd")
LIBRARY.impl("scattering2d_backward", _reference_backward, "CompositeExplicitAutograd")
LIBRARY.impl("scattering2d_pack", _reference_pack, "CompositeExplicitAutograd")

_forward = torch.ops.scatsimclr.scattering2d.default
_backward = torch.ops.scatsimclr.scattering2d_backward.default


@torch.library.register_fake("scatsimclr::scattering2d", lib=LIBRARY)
def _(x, filters, packed, J, L, max_order, pre_pad, channels_last, out_dtype):
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    shape = out_shape(x, filters, J, L, max_order)
    return torch.empty(shape, dtype=out_dtype, device=x.device, memory_format=memory_format)


@torch.library.register_fake("scatsimclr::scattering2d_backward", lib=LIBRARY)
def _(grad, x, filters, packed, J, L, max_order, pre_pad):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@torch.library.register_fake("scatsimclr::scattering2d_pack", lib=LIBRARY)
def _(filters, J, L, max_order):
    # How many bins of a filter count depends on its values.
    size = torch.library.get_ctx().new_dynamic_size()
    return torch.empty(size, dtype=torch.uint8, device=filters[0].device)


def _setup_context(ctx, inputs, output):
    x, filters, packed, *ctx.settings = inputs
    ctx.n_filters = len(filters)
    ctx.save_for_backward(x, packed, *filters)


def _setup_backward_context(ctx, inputs, output):
    grad, x, filters, _, *ctx.settings = inputs
    ctx.n_filters = len(filters)
    ctx.save_for_backward(grad, x, *filters)


def _second_derivative(ctx, cotangent):
    """Of the gradient in x, by the reference."""
    grad, x, *filters = ctx.saved_tensors
    J, L, max_order, pre_pad = ctx.settings

    def gradient(grad, x):
        out = reference.scattering2d(x, filters, J, L, max_order, pre_pad).flatten(1, 2)
        return torch.autograd.grad(out, x, grad.to(out.dtype), create_graph=True)

    found = gradients_again(gradient, (grad, x), (cotangent,))
    return *found, [None] * ctx.n_filters, *[None] * 5


def _make_backward(backward):
    again = differentiable(backward, _setup_backward_context, _second_derivative)

    def run(ctx, grad):
        x, packed, *filters = ctx.saved_tensors
        gradient = again if torch.is_grad_enabled() else backward
        dx = gradient(grad, x, filters, packed, *ctx.settings[:4])
        return dx, [None] * ctx.n_filters, None, *[None] * 6

    return run


torch.library.register_autograd(
    "scatsimclr::scattering2d", _make_backward(_backward), setup_context=_setup_context, lib=LIBRARY
)


def _batched(op, count, info, in_dims, args):
    """`op` of its first `count` tensors (N, …) with one more dimension, by putting it beside N."""
    if any(
        dim is not None for dims in in_dims[count:] for dim in (dims if isinstance(dims, list) else [dims])
    ):
        raise ValueError("vmap over filters is not possible: over images alone")
    tensors = [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(args[:count], in_dims[:count], strict=True)
    ]
    out = op(*(x.flatten(0, 1) for x in tensors), *args[count:])
    return out.unflatten(0, (info.batch_size, -1)), 0


@torch.library.register_vmap("scatsimclr::scattering2d", lib=LIBRARY)
def _(info, in_dims, *args):
    return _batched(_forward, 1, info, in_dims, args)


@torch.library.register_vmap("scatsimclr::scattering2d_backward", lib=LIBRARY)
def _(info, in_dims, *args):
    return _batched(_backward, 2, info, in_dims, args)


def _triton_forward(*args):
    from scatsimclr.kernels import scattering2d as kernels

    return kernels.scattering2d(*args)


def _triton_backward(*args):
    from scatsimclr.kernels import scattering2d as kernels

    return kernels.scattering2d_backward(*args)


def _triton_pack(filters, J, L, max_order):
    from scatsimclr.kernels import scattering2d as kernels

    return kernels.pack(filters, J, L, max_order)


def _nvcc_forward(*args):
    from scatsimclr.kernels import scattering2d as kernels

    return kernels.scattering2d(*args, engine="preferred")


def _cuda_packed(filters, packed, J, L, max_order):
    return packed if packed.numel() else _triton_pack(filters, J, L, max_order)


# A pack of one byte is the kernels' word that they cannot serve these filters (float64, a low-pass that is no outer
# product): the default then is the reference.
def _cuda_forward(x, filters, packed, J, L, max_order, *settings):
    packed = _cuda_packed(filters, packed, J, L, max_order)
    ours = _triton_forward if cuda_extension_path() is None else _nvcc_forward
    run = _reference_forward if packed.numel() == 1 else ours
    return run(x, filters, packed, J, L, max_order, *settings)


def _cuda_backward(grad, x, filters, packed, J, L, max_order, pre_pad):
    packed = _cuda_packed(filters, packed, J, L, max_order)
    run = _reference_backward if packed.numel() == 1 else _triton_backward
    return run(grad, x, filters, packed, J, L, max_order, pre_pad)


_HAVE_TRITON = importlib.util.find_spec("triton") is not None
if _HAVE_TRITON:
    LIBRARY.impl("scattering2d", _cuda_forward, "CUDA")
    LIBRARY.impl("scattering2d_backward", _cuda_backward, "CUDA")
    LIBRARY.impl("scattering2d_pack", _triton_pack, "CUDA")


def _triton_missing() -> str | None:
    if not _HAVE_TRITON:
        return "triton is not installed"
    return None if torch.cuda.is_available() else NO_GPU


def _nvcc_missing() -> str | None:
    return _triton_missing() if not _HAVE_TRITON else cuda_extension_missing()


IMPLEMENTATIONS["scattering2d"] = {
    "cpu": Implementation(
        "cpu",
        "cpu",
        key_call(_forward, torch._C.DispatchKey.CPU),
        key_call(_backward, torch._C.DispatchKey.CPU),
        extension_missing,
    ),
    # CUDA C++ for the nodes where it is expected to be faster, Triton for the others and for the gradient.
    "cuda": Implementation("cuda", "cuda", _nvcc_forward, _triton_backward, _nvcc_missing),
    "triton": Implementation("triton", "cuda", _triton_forward, _triton_backward, _triton_missing),
    "reference": Implementation("reference", "any", _reference_forward, _reference_backward),
}


def scattering2d(
    x: Tensor,
    filters: list[Tensor],
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
    """Scattering coefficients of x (N, C, M, N') as (N, C·K, H, W), colour-major as in ScatSimCLR.

    filters: kymatio's buffers `tensor0…` in order, each (M', N', 1), dtype of x. packed: the same from
    `torch.ops.scatsimclr.scattering2d_pack`. Arithmetic is in x's dtype (float32 or float64); out_dtype
    (default x's) only rounds the result, but on a GPU float16 and bfloat16 are also made from half-precision
    products, with an error below 2e-3 of a channel's largest value. Differentiable in x, any number of times:
    derivatives of the gradient are the reference's. Where filters ask for a gradient, and in forward mode, it
    computes it all.
    """
    out_dtype = out_dtype or x.dtype
    args = (x, filters, packed, J, L, max_order, pre_pad, channels_last, out_dtype)
    learnt = torch.is_grad_enabled() and any([f.requires_grad for f in filters])
    if learnt or forward_mode(x, *filters):
        return _reference_forward(*args)
    if backend == "auto":
        return called(_forward, args, (x,))
    chosen = select("scattering2d", backend, x.device)
    return differentiable(chosen.forward, _setup_context, _make_backward(chosen.backward))(*args)
