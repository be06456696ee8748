"""Steps: times of the scattering transform beside kymatio, plain PyTorch and the work's floors."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import nn

from benchmarks.gpu.device import Call, Cases, Data, Device, Turns, named
from benchmarks.peers import kymatio_module
from benchmarks.work import scattering_work
from scatsimclr import Scattering2D
from scatsimclr.reference import scattering2d as reference

Shape = tuple[int, int, int, int]
# Shape of x, J, L, dtype of the result, backward too; the goals' cases first.
SHAPES = [
    ((256, 3, 96, 96), 2, 16, torch.bfloat16, False),
    ((256, 3, 96, 96), 2, 16, torch.float32, False),
    ((512, 3, 32, 32), 2, 16, torch.bfloat16, False),
    ((16, 3, 96, 96), 2, 16, torch.float32, True),
    ((512, 3, 32, 32), 2, 16, torch.float32, False),
    ((128, 3, 32, 32), 2, 8, torch.float32, True),
    ((1, 3, 96, 96), 2, 16, torch.float32, False),
    ((128, 3, 256, 256), 2, 8, torch.float32, False),
    ((20, 1, 512, 512), 3, 8, torch.float32, False),
    ((16, 3, 224, 224), 4, 8, torch.float32, False),
    ((1, 1, 300, 451), 1, 1, torch.float32, False),
]
TINY = [((1, 1, 8, 8), 2, 2, torch.float32, True)]


def times(device: Device) -> Cases:
    """Our kernels beside peers."""
    found: Cases = {}
    for shape, J, L, dtype, backward in device.pick(SHAPES, TINY):
        name = f"{'x'.join(map(str, shape))}, J={J}, L={L}, {named(dtype)}"
        found[name] = partial(timed, device, shape, J, L, dtype, False)
        if backward:
            found[f"{name}, backward"] = partial(timed, device, shape, J, L, dtype, True)
    return found


def timed(device: Device, shape: Shape, J: int, L: int, dtype: torch.dtype, backward: bool) -> Data:
    """The transform, or its gradient alone, of all on one shape."""
    x, turns, extra = device.rand(*shape), Turns(device), {}
    leaf = x.clone().requires_grad_()
    ours = device.backends("scattering2d")
    for name in (*ours, "kymatio", "reference"):
        make = cache(partial(_module, device, name, J, L, shape[2:]))
        if backward:
            turns.add(name, lambda make=make: _gradient(make(), leaf), ours=name in ours)
            continue
        run = partial(_coefficients, make, x, dtype, name == "kymatio")
        if turns.add(name, lambda run=run: run, ours=name in ours) and name in ours:
            extra[name] = device.peak_bytes(run) - run().nbytes
        # Of few images the launches take longer than their work.
        if x.numel() < 3e6 and name in turns.calls:
            turns.add(f"{name}, CUDA graph", lambda run=run: device.graphed(run)[0], ours=name in ours)
    kind = {"phase": "backward"} if backward else {"phase": "forward", "extra_bytes": extra}
    return {
        "op": "scattering2d", "shape": shape, "J": J, "L": L, "dtype": named(dtype), **kind,
        "work": {} if backward else scattering_work(shape, J, L, dtype.itemsize), **turns.times(5),
    }  # fmt: skip


def _module(device: Device, name: str, J: int, L: int, size: tuple[int, int]) -> nn.Module:
    """kymatio's module, or ours by a backend."""
    module = kymatio_module(J, size, L) if name == "kymatio" else Scattering2D(J, size, L, backend=name)
    return module.to(device.type)


def _coefficients(
    make: Callable[[], nn.Module], x: torch.Tensor, dtype: torch.dtype, plainly: bool
) -> torch.Tensor:
    """The coefficients of a module, by our `features` unless `plainly`."""
    module = make()
    return module(x) if plainly else module.features(x, channels_last=dtype != torch.float32, dtype=dtype)


def _gradient(module: nn.Module, leaf: torch.Tensor) -> Call:
    """The gradient alone; the forward pass's graph is kept."""
    out = module(leaf)
    grad = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, leaf, grad, retain_graph=True)


def compiled(device: Device) -> Cases:
    """torch.compile of the reference's operations."""
    shape, L = device.pick((64, 3, 32, 32), (1, 1, 8, 8)), device.pick(8, 2)
    return {f"{'x'.join(map(str, shape))}, J=2, L={L}": partial(of_reference, device, shape, L)}


def of_reference(device: Device, shape: Shape, L: int) -> Data:
    """The reference compiled, in eager mode, and ours."""
    x, turns = device.rand(*shape), Turns(device)
    module = Scattering2D(2, shape[2:], L).to(device.type)
    filters = module._filters()

    def plain(x: torch.Tensor) -> torch.Tensor:
        return reference.scattering2d(x, filters, 2, L, 2, False)

    start = time.monotonic()
    turns.add("reference, compiled", lambda: partial(device.compiled(plain), x))
    seconds = time.monotonic() - start
    turns.add("reference", lambda: partial(plain, x))
    turns.add("ours", lambda: partial(module, x), ours=True)
    return {"op": "scattering2d", "shape": shape, "compile_s": round(seconds, 1), **turns.times(5)}
