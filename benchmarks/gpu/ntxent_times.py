"""Steps: times of NT-Xent, forward and backward, beside plain PyTorch and others, in every way of running it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import Call, Cases, Data, Device, NotRun, Turns, named, verdict
from benchmarks.peers import plain_ntxent
from benchmarks.work import ntxent_work
from scatsimclr.loss import nt_xent_loss

DEPTH, TAU = 128, 0.5
SIZES = [
    (8192, torch.bfloat16),
    (65536, torch.bfloat16),
    (512, torch.bfloat16),
    (512, torch.float32),
    (8192, torch.float32),
]
Loss = Callable[[Tensor, Tensor], Tensor]


def rows(device: Device, M: int, dtype: torch.dtype) -> list[Tensor]:
    """Both views, which ask for gradients."""
    return [device.randn(M // 2, DEPTH).to(dtype).requires_grad_() for _ in range(2)]


def gradients(loss: Loss, z: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The loss and its gradients."""
    value = loss(*z)
    return value.detach(), *torch.autograd.grad(value, z)


def ours(backend: str) -> Loss:
    """Our loss by a named backend."""
    return lambda z_i, z_j: nt_xent_loss(z_i, z_j, TAU, backend=backend)


def inf_cl(device: Device) -> Loss:
    """Inf-CL's kernel for the same work, M queries against M keys. It cannot exclude a row from its own sum."""
    if device.dry:
        raise NotRun("inf_cl needs a GPU")
    loss = importlib.import_module("inf_cl").cal_flash_loss

    def run(z_i: Tensor, z_j: Tensor) -> Tensor:
        z = F.normalize(torch.cat((z_i, z_j)).float(), dim=1)
        partner = torch.arange(len(z), device=z.device).roll(len(z_i))
        return loss(z, z, partner, 1 / TAU, z.shape[1]).mean()

    return run


def times(device: Device) -> Cases:
    """Ours beside plain PyTorch and Inf-CL."""
    sizes = device.pick(SIZES, [(16, torch.float32)])
    return {f"M={M}, {named(dtype)}": partial(timed, device, M, dtype) for M, dtype in sizes}


def timed(device: Device, M: int, dtype: torch.dtype) -> Data:
    """Forward and backward of all, with the memory that each takes."""
    z, turns, peak = rows(device, M, dtype), Turns(device), {}

    def add(name: str, loss: Callable[[], Loss], mine: bool = False) -> None:
        def make() -> Call:
            found = loss()
            return lambda: gradients(found, z)

        if turns.add(name, make, ours=mine):
            peak[name] = device.peak_bytes(turns.calls[name])

    for name in device.backends("ntxent"):
        add(name, lambda name=name: ours(name), mine=True)
    add("plain", lambda: plain_ntxent)
    add("inf_cl", lambda: inf_cl(device))
    return {
        "op": "ntxent", "M": M, "D": DEPTH, "dtype": named(dtype), "work": ntxent_work(M, DEPTH, dtype.itemsize),
        "peak_bytes": peak, **turns.times(),
    }  # fmt: skip


def million(device: Device) -> Cases:
    """1,048,576 rows, whose similarities alone would take 2 TB."""
    M, dtype = device.pick(1 << 20, 64), device.dtype(torch.bfloat16)
    return {f"M={M}, {named(dtype)}": partial(many, device, M, dtype)}


def many(device: Device, M: int, dtype: torch.dtype) -> Data:
    """Ours alone; memory beyond rows and gradients is to be at most 3·M·D·4 bytes."""
    z, turns, peak = rows(device, M, dtype), Turns(device), {}
    for name in device.backends("ntxent"):
        loss = ours(name)
        if turns.add(name, lambda loss=loss: lambda: gradients(loss, z), ours=True):
            peak[name] = device.peak_bytes(turns.calls[name]) - sum(t.nbytes for t in z)
    return {
        "op": "ntxent", "M": M, "D": DEPTH, "dtype": named(dtype), "work": ntxent_work(M, DEPTH, dtype.itemsize),
        "peak_bytes": peak, "agreed": all(size <= 12 * M * DEPTH for size in peak.values()), **turns.times(3),
        "errors": {name: size / (12 * M * DEPTH) for name, size in peak.items()},
    }  # fmt: skip


def modes(device: Device) -> Cases:
    """Under torch.compile and in CUDA graphs, where small batches spend their time."""
    sizes = device.pick(
        [(M, dtype) for dtype in (torch.bfloat16, torch.float32) for M in (512, 2048, 64)],
        [(16, torch.float32)],
    )
    return {f"M={M}, {named(dtype)}": partial(in_modes, device, M, dtype) for M, dtype in sizes}


def in_modes(device: Device, M: int, dtype: torch.dtype) -> Data:
    """The same bits in every mode, after new rows have come, and times."""
    z, turns, exact = rows(device, M, dtype), Turns(device), {}
    found: dict[str, tuple[Tensor, ...]] = {}
    replays: dict[str, Call] = {}

    def graph(name: str, call: Callable[[], tuple[Tensor, ...]]) -> Call:
        replays[name], found[name] = device.graphed(call)
        return replays[name]

    def compile(loss: Loss) -> Call:
        return partial(gradients, device.compiled(loss), z)

    def add(name: str, loss: Loss, mine: bool) -> None:
        call = partial(gradients, loss, z)
        turns.add(name, lambda: call, ours=mine)
        turns.add(f"{name}, CUDA graph", lambda: graph(name, call), ours=mine)

    for name in device.backends("ntxent"):
        add(name, ours(name), True)
        turns.add(f"{name}, compiled", lambda name=name: compile(ours(name)), ours=True)
    add("plain", plain_ntxent, False)
    turns.add("plain, compiled", lambda: compile(plain_ntxent))
    with torch.no_grad():
        for t in z:
            t.copy_(device.randn(*t.shape))
    for name in turns.ours:
        base, _, mode = name.partition(", ")
        if not mode or name not in turns.calls:
            continue
        own = turns.calls[name]()
        own = found[base] if mode == "CUDA graph" and not device.dry else own
        same = map(torch.equal, own, turns.calls[base]())
        exact[f"{name}, same bits"] = all(same)
    return {"op": "ntxent", "M": M, "D": DEPTH, "dtype": named(dtype), **verdict({}, exact), **turns.times()}
