"""Steps: times with other constants than the shipped ones, each beside the shipped ones; and of both engines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.device import Call, Cases, Data, Device, Turns, named
from benchmarks.gpu.scattering2d import filters
from scatsimclr.ops.ntxent import NTXENT, NTXENT_BACKWARD


def engines(device: Device) -> Cases:
    """One node, 96 planes of J=1 and L=16, by the length of the padded sides: for PREFERRED."""
    device.require("scattering2d", "triton")
    sizes = device.pick((20, 32, 40, 52, 64, 72, 104, 128, 144), (12,))
    dtypes = device.pick((torch.float32, torch.bfloat16), (torch.float32,))
    return {f"{n}x{n}, {named(d)}": partial(by_engine, device, n, d) for n in sizes for d in dtypes}


def by_engine(device: Device, size: int, dtype: torch.dtype) -> Data:
    """Triton and C++ on one size."""
    from scatsimclr.kernels import scattering2d as kernels

    planes, L = device.pick((96, 16), (1, 1))
    x = device.rand(planes, 1, size - 4, size - 4)
    args = (x, *filters(device, x.shape[2:], 1, L, 1), dtype != torch.float32, dtype)
    turns = Turns(device)
    turns.add("triton", lambda: partial(kernels.scattering2d, *args), ours=True)
    if not device.dry and device.runs("scattering2d", "cuda"):
        turns.add("c++", lambda: partial(kernels.scattering2d, *args, engine="c++"), ours=True)
    return {"op": "scattering2d", "size": size, "dtype": named(dtype), **turns.times(5)}


def scattering2d(device: Device) -> Cases:
    """Programs of a launch, warps of the largest tile, bytes of a chunk."""
    device.require("scattering2d", "triton")
    changes: dict[str, dict[str, Any]] = {
        "512 programs": {"PROGRAMS": 512},
        "8192 programs": {"PROGRAMS": 8192},
        "8 warps": {"WARPS": {4096: 8}},
        **{f"{n} MiB": {"CHUNK_BYTES": n << 20} for n in (24, 64, 256)},
    }
    dtypes = device.pick((torch.bfloat16, torch.float32), (torch.float32,))
    chosen = device.pick(list(changes), ["8 warps"])
    return {
        f"{name}, {named(d)}": partial(_scattering, device, changes[name], d)
        for d in dtypes
        for name in chosen
    }


def _scattering(device: Device, change: dict[str, Any], dtype: torch.dtype) -> Data:
    from scatsimclr.kernels import scattering2d as kernels

    shape, L = device.pick(((64, 3, 96, 96), 16), ((1, 1, 8, 8), 1))
    x = device.rand(*shape)
    args = (x, *filters(device, shape[2:], 2, L, 2), dtype != torch.float32, dtype)
    call = partial(kernels.scattering2d, *args)
    return _beside_shipped(device, "scattering2d", call, [_patched(kernels, *c) for c in change.items()])


def ntxent(device: Device) -> Cases:
    """Sides of tiles and warps, at 8,192 rows, and the rows up to which one launch does everything."""
    device.require("ntxent", "triton")
    changes: dict[str, dict[str, Any]] = {
        "triangle 64": {"triangle": 64},
        "4 warps": {"warps": 4},
        "64 rows": {"rows": 64},
        "128 columns": {"columns": 128},
        "32 columns": {"columns": 32},
    }
    chosen = device.pick(list(changes), [])
    found: Cases = {name: partial(_tiles, device, changes[name]) for name in chosen}
    for groups in device.pick((16, 64), ()):
        found[f"{groups} groups"] = partial(_ntxent, device, 8192, {"GROUPS": groups})
    for M in device.pick((512, 1024, 2048), (18,)):
        found[f"M={M}, tiled"] = partial(_ntxent, device, M, {"SMALL_ROWS": 0})
    return found


def _tiles(device: Device, change: dict[str, int]) -> Data:
    from scatsimclr.kernels import ntxent as kernels

    name = device.pick("bf16", "fp32")
    return _ntxent(device, 8192, {"CONFIGS": {name: replace(kernels.CONFIGS[name], **change)}})


def _ntxent(device: Device, M: int, change: dict[str, Any]) -> Data:
    from scatsimclr.kernels import ntxent as kernels

    M = device.pick(M, 18)
    x = device.randn(M, device.pick(128, 5)).to(device.pick(torch.bfloat16, torch.float32))
    settings, one = (None, None, 0.5, True, 2, 0, M), torch.ones((), device=device.type)

    def call() -> Tensor:
        stats = NTXENT.by("triton")(x, *settings)[1]
        return NTXENT_BACKWARD.by("triton")(one, x, stats, *settings)[0]

    return _beside_shipped(device, "ntxent", call, [_patched(kernels, *c) for c in change.items()])


def _patched(kernels: Any, constant: str, value: Any) -> Any:
    """A context in which a constant of the launchers has another value; of a table, only the given entries."""
    if isinstance(value, dict):
        return mock.patch.dict(getattr(kernels, constant), value)
    return mock.patch.object(kernels, constant, value)


def _beside_shipped(device: Device, op: str, call: Callable[[], Tensor], change: list[Any]) -> Data:
    """Times with the shipped constants and with others, both as CUDA graphs, and how far the results are apart."""
    expected, difference = call(), {}

    def changed() -> Call:
        with ExitStack() as stack:
            for context in change:
                stack.enter_context(context)
            error = (call().double() - expected.double()).norm() / expected.double().norm()
            difference["relative"] = float(error)
            return device.graphed(call)[0]

    turns = Turns(device)
    turns.add("shipped", lambda: device.graphed(call)[0], ours=True)
    turns.add("changed", changed)
    return {"op": op, "difference": difference, **turns.times(5)}
