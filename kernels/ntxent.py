"""NT-Xent on the GPU: launches the Triton kernels of `ntxent_tiles` and `ntxent_gradient`.

Up to SMALL_ROWS rows of one process without labels take one launch forward and one backward, straight from x. Beyond
that, rows are normalised once into the products' dtype; the forward goes over the triangle of pairs of row groups,
each with its own slot of partial sums, which are added in order; the backward goes over rows alone. Memory: z (M, D) in
the products' dtype, at most GROUPS partial sums per row, and one float32 (M, D) with labels or D beyond one block.
Nothing waits for the device. Under CUDA graphs call once before capturing, so that Triton has compiled.

Not yet run on hardware: checked by Triton's interpreter and its ahead-of-time compiler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from . import ntxent_gradient as gradient
from . import ntxent_tiles as tiles

# |c s| ≤ c: 2^(c2 s) and its sums over 2^30 rows stay within float32.
FIXED_LIMIT = 60.0
SMALL_ROWS = 2048
# Enough pairs of groups, 32 · 33/2, for four waves of one program per multiprocessor of an H200.
GROUPS = 32


@dataclass(frozen=True)
class Config:
    """Tile sizes of one dtype of products. Not tuned on hardware: they fit the ahead-of-time budgets.

    Attributes:
        dtype: of the products' operands.
        precision: of tl.dot.
        depth: the longest block of D.
        triangle: rows and columns of the triangular forward's tiles.
        rows, columns: of the tiles of the backward and the rectangular forward.
        warps: of a program.
        gain: what the backward multiplies weights by, to keep them in the dtype's range.
    """

    dtype: torch.dtype
    precision: str
    depth: int
    triangle: int
    rows: int
    columns: int
    warps: int
    gain: float = 1.0


CONFIGS = {
    "bf16": Config(torch.bfloat16, "ieee", 128, 128, 128, 64, 8),
    "fp16": Config(torch.float16, "ieee", 128, 128, 128, 32, 8, 4096.0),
    "tf32": Config(torch.float32, "tf32", 128, 64, 64, 32, 8),
    "ieee": Config(torch.float32, "ieee", 64, 64, 32, 32, 4),
}
SMALL_DEPTH = 128
SMALL_BLOCKS = {"bf16": (16, 32), "fp16": (16, 32), "ieee": (16, 16)}  # rows and columns


def mode(x: Tensor) -> str:
    """The products' arithmetic: the rows' own dtype; for float32, what torch allows matrix products to use."""
    if x.dtype == torch.float32:
        return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    modes = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    if x.dtype not in modes:
        raise ValueError(f"backend 'triton' of ntxent serves float32, float16 and bfloat16, got {x.dtype}")
    return modes[x.dtype]


_counters: dict[tuple[torch.device, int], Tensor] = {}


def _counter(device: torch.device) -> Tensor:
    """The counter, zero, that programs increment on arrival and the last one resets; one per stream."""
    if device.type != "cuda":
        return torch.zeros(1, dtype=torch.int32, device=device)
    if torch.cuda.is_current_stream_capturing():
        # Within a capture its memory belongs to the graph, which zeroes it on every replay.
        return torch.zeros(1, dtype=torch.int32, device=device)
    key = device, torch.cuda.current_stream(device).cuda_stream
    if key not in _counters:
        _counters[key] = torch.zeros(1, dtype=torch.int32, device=device)
    return _counters[key]


class _Problem:
    """What forward and backward share: blocks, options, and for large problems rows and positives."""

    def __init__(
        self,
        x: Tensor,
        labels: Tensor | None,
        temperature: Tensor | None,
        tau: float,
        normalize: bool,
        views: int,
        first: int,
        rows: int,
    ) -> None:
        self.name = name = mode(x)
        self.config = config = CONFIGS[name]
        self.x = x = x.contiguous()
        self.M, self.D = x.shape
        self.first, self.rows, self.views, self.images = first, rows, views, rows // views
        self.labels = labels is not None
        self.temperature = temperature if temperature is not None else x
        self.tau = float(tau)
        fixed = temperature is None and normalize and 1 / tau <= FIXED_LIMIT
        self.options = {"FIXED": fixed, "TENSOR": temperature is not None}
        self.normalize = bool(normalize)
        # TF32 rows are rounded by `normalise_kernel`, hence never taken straight from x.
        small = labels is None and rows == self.M <= SMALL_ROWS and self.D <= SMALL_DEPTH
        self.small = small and name != "tf32"
        self.depth = max(16, min(triton.next_power_of_2(self.D), config.depth))
        if self.small:
            self.depth = max(16, triton.next_power_of_2(self.D))
        # Without matrix instructions a program's operands take more registers.
        self.small_warps = 8 if name == "ieee" else 4
        self.single = self.depth >= self.D
        self.z = self.divisor = self.share = self.sums = self.place = x
        self.anchors: float | Tensor = x
        if not self.small:
            self._prepare(labels, name)

    def launch(
        self, kernel: Any, grid: tuple[int, ...], *args: Any, warps: int | None = None, **options: Any
    ) -> None:
        """Launches a kernel; the ahead-of-time compiler's tests record what it gets instead."""
        with torch.cuda.device(self.x.device) if self.x.is_cuda else torch.no_grad():
            kernel[grid](*args, **options, num_warps=warps or self.config.warps)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uninitialised memory on the rows' device."""
        return self.x.new_empty(shape, dtype=dtype)

    def _prepare(self, labels: Tensor | None, name: str) -> None:
        """Normalises the rows and finds what the positives need."""
        M, D, x = self.M, self.D, self.x
        self.divisor = self.empty(M)
        self.z = x
        if self.normalize or name == "tf32":
            self.z = self.empty(M, D, dtype=self.config.dtype)
            self.launch(
                tiles.normalise_kernel, (triton.cdiv(M, 32),), x, self.z, self.divisor, M, D, BM=32,
                BD=min(self.depth, 64), NORMALIZE=self.normalize, TF32=name == "tf32", warps=4,
            )  # fmt: skip
        if labels is None:
            self.anchors = float(M)
            self.share = x.new_full(
                (M,), 1 / (self.views - 1) if self.views > 1 else 0.0, dtype=torch.float32
            )
            return
        ordered, order = labels.sort(stable=True)
        self.place = torch.searchsorted(ordered, labels)
        count = torch.searchsorted(ordered, labels, right=True) - self.place
        self.share = torch.where(count > 1, 1 / (count - 1).clamp(min=1), 0).float()
        self.anchors = (count > 1).sum(dtype=torch.float32).clamp(min=1)
        self.sums = self.empty(M, D)
        begin, depth = torch.searchsorted(ordered, ordered), min(self.depth, 64)
        self.launch(
            tiles.class_sums_kernel, (M, triton.cdiv(D, depth)), self.z, order, begin, self.sums, M, D,
            BD=depth, warps=1,
        )  # fmt: skip

    def rows_of_loss(self, stats: Tensor) -> Tensor:
        """Row losses (rows,) of a problem that is not small; writes the statistics."""
        M, D, c = self.M, self.D, self.config
        pull, loss = self.empty(M), self.empty(self.rows)
        self.launch(
            tiles.pull_kernel, (triton.cdiv(M, 32),), self.z, self.sums, self.place, self.share, pull, M,
            D, self.rows, self.images, self.views, BM=32, BD=min(self.depth, 64), LABELS=self.labels,
            warps=4,
        )  # fmt: skip
        if self.rows < M:
            self.launch(
                tiles.forward_rows_kernel, (triton.cdiv(self.rows, c.rows),), self.x, self.z, pull,
                self.share, self.temperature, self.tau, stats, loss, loss, loss, loss, M, D, self.first,
                self.rows, self.images, self.views, BI=c.rows, BJ=c.columns, BD=self.depth,
                NORMALIZE=self.normalize, SMALL=False, PRECISION=c.precision, **self.options,
            )  # fmt: skip
            return loss
        group = triton.cdiv(triton.cdiv(M, c.triangle), GROUPS)
        slots = triton.cdiv(triton.cdiv(M, c.triangle), group)
        total = self.x.new_zeros((slots, M), dtype=torch.float32)
        shift = total
        if not self.options["FIXED"]:
            shift = self.x.new_full((slots, M), -3.0e38, dtype=torch.float32)
        self.launch(
            tiles.forward_triangle_kernel, (slots * (slots + 1) // 2,), self.z, self.temperature,
            self.tau, shift, total, M, D, group, B=c.triangle, BD=self.depth, SINGLE=self.single,
            PRECISION=c.precision, **self.options,
        )  # fmt: skip
        self.launch(
            tiles.finish_forward_kernel, (triton.cdiv(M, 128),), shift, total, pull, self.share,
            self.temperature, self.tau, stats, loss, M, slots, BM=128, warps=4, **self.options,
        )  # fmt: skip
        return loss


def ntxent(
    x: Tensor,
    labels: Tensor | None,
    temperature: Tensor | None,
    tau: float,
    normalize: bool,
    views: int,
    first: int,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """`scatsimclr.reference.ntxent.ntxent` for float32, float16 and bfloat16 rows, with sums in float32."""
    p = _Problem(x, labels, temperature, tau, normalize, views, first, rows)
    stats = p.empty(2, rows)
    if not p.small:
        loss = p.rows_of_loss(stats).sum() / p.anchors
        return loss.reshape(()), stats
    (BI, BJ), loss = SMALL_BLOCKS[p.name], p.empty()
    programs = triton.cdiv(p.M, BI)
    typed = p.empty(1, dtype=p.config.dtype)
    p.launch(
        tiles.forward_rows_kernel, (programs,), p.x, typed, stats, stats, p.temperature, p.tau, stats,
        stats, p.empty(programs), _counter(x.device), loss, p.M, p.D, 0, rows, p.images, views, BI=BI,
        BJ=BJ, BD=p.depth, NORMALIZE=p.normalize, SMALL=True, PRECISION=p.config.precision,
        warps=p.small_warps, **p.options,
    )  # fmt: skip
    return loss, stats


def ntxent_backward(
    grad: Tensor,
    x: Tensor,
    stats: Tensor,
    labels: Tensor | None,
    temperature: Tensor | None,
    tau: float,
    normalize: bool,
    views: int,
    first: int,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """`scatsimclr.reference.ntxent.ntxent_backward` for the same rows; dx has x's dtype."""
    p = _Problem(x, labels, temperature, tau, normalize, views, first, rows)
    c, D = p.config, p.D
    # With class sums the last step needs more registers.
    BI, BJ = SMALL_BLOCKS[p.name] if p.small else (min(c.rows, 64) if p.labels else c.rows, c.columns)
    programs = triton.cdiv(rows, BI)
    dx, dtau, count = p.empty(rows, D, dtype=x.dtype), p.empty(), _counter(x.device)
    dz = dx if p.single else p.empty(rows, D)
    z = p.empty(1, dtype=c.dtype) if p.small else p.z
    partial = p.empty(programs if p.single else triton.cdiv(rows, 16))
    p.launch(
        gradient.backward_kernel, (programs, triton.cdiv(D, p.depth)), p.x, z, p.divisor, p.sums, p.place,
        p.share, stats.contiguous(), p.temperature, p.tau, grad, p.anchors if p.labels else grad, dx, dz,
        partial, count, dtau, p.M, D, first, rows, p.images, views, BI=BI, BJ=BJ, BD=p.depth,
        NORMALIZE=p.normalize, SMALL=p.small, LABELS=p.labels, SINGLE=p.single, PRECISION=c.precision,
        GAIN=c.gain, warps=p.small_warps if p.small else c.warps, **p.options,
    )  # fmt: skip
    if not p.single:
        p.launch(
            gradient.jacobian_kernel, (triton.cdiv(rows, 16),), p.z, p.divisor, dz, p.temperature, p.tau,
            dx, partial, count, dtau, D, first, rows, BM=16, BD=min(p.depth, 64),
            TENSOR=p.options["TENSOR"], NORMALIZE=p.normalize, warps=4,
        )  # fmt: skip
    return dx, dtau
