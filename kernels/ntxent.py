"""NT-Xent on the GPU: launches the Triton kernels of the modules `ntxent_…`.

Up to SMALL_ROWS rows of one process without labels take one launch forward and one backward, straight from x. Beyond
that, rows are normalised once into the products' dtype; the forward goes over the triangle of pairs of row groups,
each with its own slot of partial sums, which are added in order; the backward goes over rows alone, and where these are
too few for all multiprocessors, over parts of the columns, which are added in order, too. Memory: z (M, D) in the
products' dtype, at most GROUPS partial sums per row, and float32 (M, D): one with labels or D beyond one block, one for
each part. Nothing waits for the device. Under CUDA graphs call once before capturing, so that Triton has compiled.

Not yet run on hardware: checked by Triton's interpreter and its ahead-of-time compiler.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import torch
import triton
from torch import Tensor

from . import launching
from . import ntxent_gradient as gradient
from . import ntxent_positives as positives
from . import ntxent_tiles as tiles
from . import ntxent_triangle as triangle

FIXED_LIMIT: float = tiles.FIXED_LIMIT.value
SMALL_ROWS = 2048
# Enough pairs of groups, 32 · 33/2, for four waves of one program per multiprocessor of an H200.
GROUPS = 32
# What the backward fills: an H100's multiprocessors, on every GPU, so that all add up in the same order. Fewer blocks
# of columns than MIN_BLOCKS leave nothing to pipeline. To write and add up a part takes as long as the products of
# PART_ROWS rows: estimated for sums that stay in the second-level cache, products at half of the tensor cores' rate.
MULTIPROCESSORS = 132
MAX_PARTS = 8
MIN_BLOCKS = 4
PART_ROWS = 256
PART_SUMS = 1 << 23  # numbers of all parts: 32 MB, which that cache holds


@dataclass(frozen=True)
class Config:
    """Tile sizes of one dtype of products. Not tuned on hardware: they fit the ahead-of-time budgets.

    Attributes:
        dtype: of the products' operands.
        precision: of tl.dot.
        depth: the longest block of D in a product of rows.
        width: the longest block of D of the gradient.
        triangle: rows and columns of the triangular forward's tiles.
        rows, columns: of the tiles of the backward and the rectangular forward.
        warps: of a program.
        gain: what the backward multiplies weights by, to keep them in the dtype's range.
    """

    dtype: torch.dtype
    precision: str
    depth: int
    width: int
    triangle: int
    rows: int
    columns: int
    warps: int
    gain: float = 1.0


CONFIGS = {
    "bf16": Config(torch.bfloat16, "ieee", 128, 128, 128, 128, 64, 8),
    "fp16": Config(torch.float16, "ieee", 128, 128, 128, 128, 32, 8, 4096.0),
    "tf32": Config(torch.float32, "tf32", 128, 128, 64, 64, 32, 8),
    "fp32": Config(torch.float32, "tf32x3", 32, 64, 64, 64, 32, 4),
}
# Where operands of tensor cores lie in registers, float32 rows as sums of two leave less room.
AMPERE = {"fp32": replace(CONFIGS["fp32"], depth=16, columns=16)}
SMALL_DEPTH = 128
SMALL_TILE = 16, 32  # rows and columns


def mode(x: Tensor) -> str:
    """The products' arithmetic: the rows' own dtype; for float32, what torch allows matrix products to use.

    Without TF32, a float32 product is three of TF32, of each number as a rounded sum of two: to about 2⁻²³.
    """
    if x.dtype == torch.float32:
        # `allow_tf32` raises where the setting was made by this name; this name can be read however it was made.
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"
    modes = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    if x.dtype not in modes:
        raise ValueError(f"backend 'triton' of ntxent serves float32, float16 and bfloat16, got {x.dtype}")
    return modes[x.dtype]


def _parts(programs: int, blocks: int, M: int, D: int) -> int:
    """Into how many parts the backward divides the columns.

    Args:
        programs: for the rows, each for all columns.
        blocks: of columns.
        M, D: columns, and their depth.
    """

    def gain(parts: int) -> float:
        waves = programs * parts / MULTIPROCESSORS
        return waves / ceil(waves) - parts * PART_ROWS / M  # the share in use, less what the parts take

    return max(range(1, max(1, min(MAX_PARTS, blocks // MIN_BLOCKS, PART_SUMS // (M * D))) + 1), key=gain)


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
        self.capability = launching.capability(x.device)
        configs = CONFIGS | AMPERE if self.capability < 9 else CONFIGS
        self.config = config = configs[name]
        self.x = x = x.contiguous()
        self.M, self.D = x.shape
        self.first, self.rows, self.views, self.images = first, rows, views, rows // views
        self.labels = labels is not None
        self.temperature = temperature if temperature is not None else x
        self.tau = float(tau)
        self.tensor = temperature is not None
        self.normalize = bool(normalize)
        # TF32 rows are rounded by `normalise_kernel`, hence never taken straight from x.
        small = labels is None and rows == self.M <= SMALL_ROWS and self.D <= SMALL_DEPTH
        self.small = small and name != "tf32"
        # Whether a fixed maximum will do; where only the device knows, launches are for either.
        either = self.tensor and self.normalize and not self.small
        fixed = not self.tensor and self.normalize and 1 / self.tau <= FIXED_LIMIT
        self.regimes = [
            {"FIXED": given, "EITHER": either, "TENSOR": self.tensor}
            for given in ((True, False) if either else (fixed,))
        ]
        self.depth = max(16, min(triton.next_power_of_2(self.D), config.depth))
        if self.small:
            self.depth = max(16, triton.next_power_of_2(self.D))
        self.width = self.depth if self.depth >= self.D else min(triton.next_power_of_2(self.D), config.width)
        # Numbers as sums of two take more registers.
        self.small_warps = 8 if name == "fp32" else 4
        self.single = self.depth >= self.D
        self.z = self.divisor = self.share = self.sums = self.place = x
        self.anchors: float | Tensor = x
        if not self.small:
            self._prepare(labels, name)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uninitialised memory on the rows' device."""
        return self.x.new_empty(shape, dtype=dtype)

    def counter(self) -> Tensor:
        """A zero that the programs of one launch increment on arrival.

        Each launch has its own, zeroed on its stream: what is kept between calls would, under torch.compile, lie in
        memory that a CUDA graph takes back.
        """
        return self.x.new_zeros(1, dtype=torch.int32)

    def _prepare(self, labels: Tensor | None, name: str) -> None:
        """Normalises the rows and finds what the positives need."""
        M, D, x = self.M, self.D, self.x
        self.divisor = self.empty(M)
        self.z = x
        if self.normalize or name == "tf32":
            self.z = self.empty(M, D, dtype=self.config.dtype)
            launching.launch(
                tiles.normalise_kernel, triton.cdiv(M, 32), x, self.z, self.divisor, M, D, BM=32,
                BD=min(self.width, 64), NORMALIZE=self.normalize, TF32=name == "tf32",
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
        begin, end = (torch.searchsorted(ordered, ordered, right=right) for right in (False, True))
        depth, segment = min(self.width, 64), positives.SEGMENT
        chunks = triton.cdiv(D, depth)
        launching.launch(
            positives.segment_sums_kernel, triton.cdiv(M, segment) * chunks, self.z, order, begin, self.sums, M, D,
            BD=depth, BM=segment, PRECISION=self.config.precision,
        )  # fmt: skip
        launching.launch(
            positives.class_sums_kernel, M * chunks, self.sums, begin, end, D, BD=depth, BM=segment, warps=1
        )

    def rows_of_loss(self, stats: Tensor) -> Tensor:
        """Row losses (rows,) of a problem that is not small; writes the statistics."""
        M, D, c = self.M, self.D, self.config
        pull, loss = self.empty(M), self.empty(self.rows)
        launching.launch(
            positives.pull_kernel, triton.cdiv(M, 32), self.z, self.sums, self.place, self.share, pull, M,
            D, self.rows, self.images, self.views, BM=32, BD=min(self.width, 64), LABELS=self.labels,
        )  # fmt: skip
        if self.rows < M:
            for regime in self.regimes:
                launching.launch(
                    tiles.forward_rows_kernel, triton.cdiv(self.rows, c.rows), self.x, self.z, pull,
                    self.share, self.temperature, self.tau, stats, loss, loss, loss, loss, M, D, self.first,
                    self.rows, self.images, self.views, BI=c.rows, BJ=c.columns, BD=self.depth,
                    NORMALIZE=self.normalize, SMALL=False, PRECISION=c.precision, warps=c.warps, **regime,
                )  # fmt: skip
            return loss
        group = triton.cdiv(triton.cdiv(M, c.triangle), GROUPS)
        slots = triton.cdiv(triton.cdiv(M, c.triangle), group)
        total = self.x.new_zeros((slots, M), dtype=torch.float32)
        shift, last = total, self.regimes[-1]
        if not last["FIXED"]:
            shift = self.x.new_full((slots, M), -3.0e38, dtype=torch.float32)
        for regime in self.regimes:
            warps, stages = c.warps, {}
            if self.capability >= 10:
                # What copies ahead does not fit the registers beside a tile's sums, nor do the maxima of large tiles.
                stages = {"num_stages": 1}
                warps = 16 if c.triangle == 128 and not regime["FIXED"] else warps
            launching.launch(
                triangle.forward_triangle_kernel, slots * (slots + 1) // 2, self.z, self.temperature,
                self.tau, shift, total, M, D, group, B=c.triangle, BD=self.depth, SINGLE=self.single,
                PRECISION=c.precision, warps=warps, **regime, **stages,
            )  # fmt: skip
        launching.launch(
            triangle.finish_forward_kernel, triton.cdiv(M, 128), shift, total, pull, self.share,
            self.temperature, self.tau, stats, loss, M, slots, BM=128, **last,
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
    (BI, BJ), loss = SMALL_TILE, p.empty()
    programs = triton.cdiv(p.M, BI)
    typed = p.empty(1, dtype=p.config.dtype)
    launching.launch(
        tiles.forward_rows_kernel, programs, p.x, typed, stats, stats, p.temperature, p.tau, stats,
        stats, p.empty(programs), p.counter(), loss, p.M, p.D, 0, rows, p.images, views, BI=BI,
        BJ=BJ, BD=p.depth, NORMALIZE=p.normalize, SMALL=True, PRECISION=p.config.precision,
        warps=p.small_warps, **p.regimes[0],
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
    BI, BJ = SMALL_TILE if p.small else (min(c.rows, 64) if p.labels else c.rows, c.columns)
    programs, chunks = triton.cdiv(rows, BI), triton.cdiv(D, p.width)
    parts = 1 if p.small else _parts(programs * chunks, triton.cdiv(p.M, BJ), p.M, D)
    span = triton.cdiv(triton.cdiv(p.M, BJ), parts) * BJ
    parts = triton.cdiv(p.M, span)  # none of them empty
    whole = p.width >= D and parts == 1
    dx, dtau, count, stats = p.empty(rows, D, dtype=x.dtype), p.empty(), p.counter(), stats.contiguous()
    dz = dx if whole else p.empty(parts, rows, D)
    z = p.empty(1, dtype=c.dtype) if p.small else p.z
    partial = p.empty(programs if whole else triton.cdiv(rows, 8))
    weights = stats
    if not p.small:
        weights = p.empty(p.M)
        launching.launch(
            gradient.weights_kernel, triton.cdiv(p.M, 128), stats, p.share, p.temperature, p.tau, weights, p.M, BM=128,
            GAIN=c.gain, **p.regimes[0],
        )  # fmt: skip
    for regime in p.regimes:
        launching.launch(
            gradient.backward_kernel, programs * chunks * parts, p.x, z, p.divisor, p.sums, p.place, p.share, stats,
            weights, p.temperature, p.tau, grad, p.anchors if p.labels else grad, dx, dz, partial, count, dtau, p.M, D,
            first, rows, p.images, views, span, BI=BI, BJ=BJ, BK=p.depth, BD=p.width, NORMALIZE=p.normalize,
            SMALL=p.small, LABELS=p.labels, SINGLE=p.single, WHOLE=whole, PRECISION=c.precision, GAIN=c.gain,
            warps=p.small_warps if p.small else c.warps, **regime,
        )  # fmt: skip
    if not whole:
        launching.launch(
            gradient.jacobian_kernel, triton.cdiv(rows, 8), p.z, p.divisor, dz, p.temperature, p.tau,
            dx, partial, count, dtau, D, first, rows, parts, BM=8, BD=min(p.width, 64), TENSOR=p.tensor,
            NORMALIZE=p.normalize,
        )  # fmt: skip
    return dx, dtau
