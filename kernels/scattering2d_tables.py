"""The filters of a scattering transform as the GPU kernels want them: one flat blob of bytes on the device.

Where its parts lie depends only on sizes, never on values, so that nothing has to be read back from the device.

    psi     ψ̂/(k²·m'n'), pruned: the decimation's mean and the inverse transform's norm are in it
    code, weight, layers    for transforms on chip: per bin of the folded spectrum its sources in the half spectrum,
            the largest first. code ≥ 0 is an index into it, code < 0 means the conjugate at ~code; sizes: m', n', the
            outputs' size, 1
    dft     cos and sin of the transform, each as the sum of two float16 (hi, lo): 22 bits
    low     A of the low-pass S = A_y U A_xᵀ, float32; half: the same times `low_gain`, as hi and lo
    band, fine    [start, end) of the inputs with non-zero weights for each BLOCK, and each GROUP, of outputs
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from scatsimclr.reference.scattering2d import psi_levels

# The CPU kernel's constants, for the reasons given in csrc/cpu/scattering2d/pack_build.cpp.
PRUNE = 3e-7
TAPS = 1e-8
SEPARABLE = 5e-7
# A folded spectrum up to this size is transformed on chip: its tiles, split into two float16, and the matrices fit
# an A100's 163 KB of shared memory.
ON_CHIP = 64
BLOCK = 32  # outputs of a low-pass that one program computes
GROUP = 4  # and one thread of the C++ kernel: kGroup of csrc/cuda/scattering2d_phases.h
ALIGN = 128


# name -> (offset in bytes, dtype, shape)
Layout = dict[str, tuple[int, torch.dtype, tuple[int, ...]]]


def tile(size: int) -> int:
    """The power of two, at least 16, that a matrix instruction's operand of this size is padded to."""
    return max(16, 1 << (size - 1).bit_length())


@dataclass(frozen=True)
class Node:
    """The wavelets of scale j applied to signals at resolution `level`, decimated by k: one launch for all θ.

    Attributes:
        index: number of the node; names its parts of the blob.
        level: resolution of the input, 2^level times coarser than the padded images.
        j: scale of the wavelets.
        size: (m, n) of the input's grid.
        out: (m', n') = (m/k, n/k).
        first: channel of (θ1 = 0, θ = 0).
        stride: channels from one θ1 to the next, 0 in the first order.
    """

    index: int
    level: int
    j: int
    size: tuple[int, int]
    out: tuple[int, int]
    first: int
    stride: int

    @property
    def fold(self) -> int:
        return 1 << (self.j - self.level)

    @property
    def on_chip(self) -> bool:
        return max(self.out) <= ON_CHIP


@lru_cache(maxsize=32)
def tree(J: int, L: int, max_order: int, M: int, N: int) -> tuple[list[Node], list[list[Node]]]:
    """Nodes of the first order by j, and of the second order by j1, for the padded size (M, N)."""

    def node(index: int, level: int, j: int, first: int, stride: int) -> Node:
        return Node(index, level, j, (M >> level, N >> level), (M >> j, N >> j), first, stride)

    one = [node(j, 0, j, 1 + j * L, 0) for j in range(J)]
    two, first, index = [], 1 + J * L, J
    for j1 in range(J - 1 if max_order >= 2 else 0):
        stride = L * (J - 1 - j1)
        two.append([node(index + i, j1, j1 + 1 + i, first + i * L, stride) for i in range(J - 1 - j1)])
        index += J - 1 - j1
        first += L * stride
    return one, two


def all_nodes(J: int, L: int, max_order: int, M: int, N: int) -> list[Node]:
    """All nodes of `tree`, by index."""
    one, two = tree(J, L, max_order, M, N)
    return one + [node for nodes in two for node in nodes]


@lru_cache(maxsize=32)
def layout(J: int, L: int, max_order: int, M: int, N: int) -> tuple[Layout, int]:
    """Where the parts lie, and the blob's size in bytes."""
    parts: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for node in all_nodes(J, L, max_order, M, N):
        parts[f"psi{node.index}"] = torch.float32, (L, *node.size)
        if node.on_chip:
            sources = (L, node.fold**2, tile(node.out[0]), tile(node.out[1]))
            parts[f"code{node.index}"] = torch.int32, sources
            parts[f"weight{node.index}"] = torch.float32, sources
            parts[f"layers{node.index}"] = torch.int32, (L,)
            parts[f"sizes{node.index}"] = torch.int32, (5,)
            for size in node.out:
                parts[f"dft{size}"] = torch.float16, (4, tile(size), tile(size))
    for j in range(J):
        for axis, size in (("y", M), ("x", N)):
            inputs, outputs = size >> j, (size >> J) - 2
            parts[f"low_{axis}{j}"] = torch.float32, (outputs, inputs)
            parts[f"band_{axis}{j}"] = torch.int32, (-(-outputs // BLOCK), 2)
            parts[f"fine_{axis}{j}"] = torch.int32, (-(-outputs // GROUP), 2)
            if inputs <= ON_CHIP:
                parts[f"half_{axis}{j}"] = torch.float16, (2, tile(outputs), tile(inputs))
    placed: Layout = {}
    offset = 0
    for name, (dtype, shape) in parts.items():
        placed[name] = offset, dtype, shape
        offset += -(-prod(shape) * dtype.itemsize // ALIGN) * ALIGN
    return placed, offset


def low_gain(j: int, J: int) -> float:
    """Brings the largest tap of A, 0.5/2^(J−1−j), to about a half: far from float16's small numbers."""
    return float(2 ** (J - 1 - j))


def pack(filters: list[Tensor], J: int, L: int, max_order: int) -> Tensor:
    """The blob for kymatio's buffers `filters`; a single byte where the kernels cannot serve them.

    They serve float32 filters whose φ is separable, as a Gaussian is.

    Args:
        filters: kymatio's buffers in order, each (M', N', 1).
        J, L, max_order: as in `Scattering2D`.

    Returns:
        uint8 (bytes,), on the filters' device.
    """
    device = filters[0].device
    spectra = [f.detach().squeeze(-1).cpu() for f in filters]
    axes = _all_axes(spectra[:J])
    if axes is None:
        return torch.zeros(1, dtype=torch.uint8, device=device)
    M, N = spectra[0].shape
    places, size = layout(J, L, max_order, M, N)
    blob = torch.zeros(size, dtype=torch.uint8)
    views = _views(blob, places)
    starts = [J + L * sum(psi_levels(i, J) for i in range(j)) for j in range(J)]
    for node in all_nodes(J, L, max_order, M, N):
        for theta in range(L):
            psi = spectra[starts[node.j] + theta * psi_levels(node.j, J) + node.level].double()
            psi = torch.where(psi.abs() > PRUNE * psi.abs().max(), psi, 0)
            views[f"psi{node.index}"][theta] = psi / (node.fold**2 * prod(node.out))
        if node.on_chip:
            _write_sources(node, views)
            views[f"sizes{node.index}"][:] = torch.tensor([*node.out, (M >> J) - 2, (N >> J) - 2, 1])
    for name, view in views.items():
        if name.startswith("dft"):
            _write_dft(int(name.removeprefix("dft")), view)
    for j, (y, x) in enumerate(axes):
        _write_low_pass("y", j, J, y, views)
        _write_low_pass("x", j, J, x, views)
    return blob.to(device)


def _all_axes(levels: list[Tensor]) -> list[tuple[Tensor, Tensor]] | None:
    """`_axes` of φ at each resolution; None where the kernels cannot serve it."""
    if levels[0].dtype != torch.float32:
        return None
    found = []
    for phi in levels:
        axes = _axes(phi.double())
        if axes is None:
            return None
        found.append(axes)
    return found


def _axes(phi: Tensor) -> tuple[Tensor, Tensor] | None:
    """Even f and g with φ̂ = f gᵀ to the rounding of what kymatio stores, or None."""
    x = phi[0]
    for _ in range(2):
        y = _even(phi @ x / x.square().sum())
        x = _even(phi.T @ y / y.square().sum())
    close = (phi - y[:, None] * x).abs().max() <= SEPARABLE * phi[0, 0].abs()
    return (y, x) if close else None


def _even(v: Tensor) -> Tensor:
    return (v + v.flip(0).roll(1)) / 2


def _split(values: Tensor) -> tuple[Tensor, Tensor]:
    hi = values.to(torch.float16)
    return hi, (values - hi.double()).to(torch.float16)


def _write_sources(node: Node, views: dict[str, Tensor]) -> None:
    (m, n), (rows, columns), k = node.size, node.out, node.fold
    ky, kx = torch.meshgrid(torch.arange(m), torch.arange(n), indexing="ij")
    pitch = n // 2 + 1
    code = torch.where(kx <= n // 2, ky * pitch + kx, ~((m - ky) % m * pitch + (n - kx)))

    def blocks(t: Tensor) -> Tensor:
        return t.reshape(k, rows, k, columns).transpose(1, 2).reshape(k * k, rows, columns)

    for theta, psi in enumerate(views[f"psi{node.index}"]):
        order = blocks(psi).abs().argsort(dim=0, descending=True, stable=True)
        weight = blocks(psi).gather(0, order)
        views[f"weight{node.index}"][theta, :, :rows, :columns] = weight
        views[f"code{node.index}"][theta, :, :rows, :columns] = torch.where(
            weight != 0, blocks(code).gather(0, order), 0
        )
        views[f"layers{node.index}"][theta] = (blocks(psi) != 0).sum(0).max()


def _write_dft(size: int, view: Tensor) -> None:
    k = torch.arange(size)
    angle = 2 * torch.pi * (k[:, None] * k % size).double() / size
    for i, part in enumerate((*_split(angle.cos()), *_split(angle.sin()))):
        view[i, :size, :size] = part


def _write_low_pass(axis: str, j: int, J: int, spectrum: Tensor, views: dict[str, Tensor]) -> None:
    """A[o, i] = a(k(o+1) − i), a the inverse transform of one axis of φ̂; the crop is in the o + 1."""
    inputs, outputs = len(spectrum), views[f"low_{axis}{j}"].shape[0]
    k = torch.arange(inputs)
    taps = ((2 * torch.pi / inputs * (k[:, None] * k % inputs).double()).cos() * spectrum).sum(1) / inputs
    step = 2 ** (J - j)
    a = taps[(step * (torch.arange(outputs)[:, None] + 1) - k) % inputs]
    a = torch.where(a.abs() > TAPS * a.abs().max(), a, 0)
    views[f"low_{axis}{j}"][:] = a
    for name, size in (("band", BLOCK), ("fine", GROUP)):
        for block, rows in enumerate(a.split(size)):
            used = rows.any(0).nonzero()
            views[f"{name}_{axis}{j}"][block] = torch.tensor([int(used.min()), int(used.max()) + 1])
    if f"half_{axis}{j}" in views:
        for i, part in enumerate(_split(a * low_gain(j, J))):
            views[f"half_{axis}{j}"][i, :outputs, :inputs] = part


def _views(blob: Tensor, places: Layout) -> dict[str, Tensor]:
    return {
        name: blob[offset : offset + prod(shape) * dtype.itemsize].view(dtype).view(shape)
        for name, (offset, dtype, shape) in places.items()
    }


_known: dict[int, tuple[weakref.ref[Tensor], dict[str, Tensor]]] = {}


def tables(packed: Tensor, J: int, L: int, max_order: int, M: int, N: int) -> dict[str, Tensor]:
    """The blob's parts as tensors, cached while the blob lives: fifty views cost more than a small launch.

    Raises:
        RuntimeError: packed is not the blob for these settings.
    """
    places, size = layout(J, L, max_order, M, N)
    if packed.numel() != size or packed.dtype != torch.uint8:
        raise RuntimeError(
            f"packed is not the result of scattering2d_pack for J={J}, L={L}, max_order={max_order} and padded "
            f"size ({M}, {N}): expected {size} bytes, got {packed.numel()} of {packed.dtype}"
        )
    key = id(packed)
    known = _known.get(key)
    if known is None or known[0]() is not packed:
        reference = weakref.ref(packed, lambda _: _known.pop(key, None))
        # Through the storage: a view would keep `packed` itself alive.
        blob = packed.new_empty(0).set_(
            packed.untyped_storage(), packed.storage_offset(), packed.shape, packed.stride()
        )
        known = _known[key] = reference, _views(blob, places)
    return known[1]
