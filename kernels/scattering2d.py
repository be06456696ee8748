"""Scattering2D on the GPU: the order of launches, in chunks of planes that share a workspace.

A chunk's images are padded and transformed once (cuFFT, real input). Each `Node` of the tree (the wavelets of one
scale at one resolution, all angles) is then one launch that keeps its paths on chip (`scattering2d_paths`, or CUDA
C++ in csrc/cuda) or, where a folded spectrum is too large for that, filtered products, cuFFT, modulus and low-pass in
slices of a workspace (`scattering2d_planes`). The first order's moduli are transformed for the second. Nothing waits
for the device. Under CUDA graphs call once before capturing, so that Triton has compiled.

Float32 results come from split products, within kymatio's tolerance; float16 and bfloat16 results come from
half-precision products, with an error of at most 2e-3 of a channel's largest value, rounding to float16 included.

Not yet run on hardware: checked by Triton's interpreter and its ahead-of-time compiler.
"""

from __future__ import annotations

from math import floor, log2, prod
from typing import Any

import torch
import triton
from torch import Tensor

from scatsimclr.reference.scattering2d import channels

from . import launching
from . import scattering2d_engine as engines
from . import scattering2d_paths as paths
from . import scattering2d_planes as planes
from . import scattering2d_tables as tables
from .scattering2d_tables import BLOCK, Node, pack, tile

__all__ = ["pack", "scattering2d", "scattering2d_backward"]

# Bytes of the moduli and spectra of a chunk of planes, and of the products of a slice of fields. cuFFT may need as much
# again as the spectra: below 256 MB in all.
CHUNK_BYTES = 128 << 20
SLICE_BYTES = 32 << 20
# Programs of a launch on chip: about four waves of an H100's 132 multiprocessors. Beyond that, programs take several
# fields each, for which they read the matrices once.
PROGRAMS = 2048
# Tile area -> warps. 64 rows feed the instructions of one warp group (on Hopper a second one would repeat its work); of
# smaller tiles, many run on a multiprocessor at once.
WARPS = {256: 1, 512: 1, 1024: 2, 2048: 4, 4096: 4}
# On Blackwell, and for the float32 gradient before Hopper, a second four warps take over half of the registers.
MORE_WARPS = {**WARPS, 4096: 8}
HALF = (torch.float16, torch.bfloat16)


def _launch(kernel: Any, programs: int, *args: Any, **options: Any) -> None:
    launching.launch(kernel, programs, *args, num_stages=1, **options)


# Channel of (θ1 = 0, θ = 0), channels from one θ1 to the next, first field, fields of a plane, colours, K.
Place = tuple[int, int, int, int, int, int]


class _Transform:
    """A call: its tensors, sizes, tables and launches.

    Args:
        x: images (images, colours, height, width).
        filters, packed, J, L, max_order, pre_pad: as for `scattering2d`.
        coefficients: the result, which the forward pass writes, or its gradient, which the backward pass reads.
        engine: as for `scattering2d`.
    """

    def __init__(
        self,
        x: Tensor,
        filters: list[Tensor],
        packed: Tensor,
        J: int,
        L: int,
        max_order: int,
        pre_pad: bool,
        coefficients: Tensor,
        engine: str = "triton",
    ) -> None:
        name = "triton" if engine == "triton" else "cuda"
        if x.dtype != torch.float32:
            raise ValueError(f"backend '{name}' of scattering2d serves float32 images, got {x.dtype}")
        if packed.numel() == 0:
            packed = pack(filters, J, L, max_order)
        if packed.numel() == 1:
            raise ValueError(
                f"backend '{name}' of scattering2d serves float32 filters with a separable low-pass, like kymatio's, "
                "got others"
            )
        self.x, self.J, self.L, self.engine = x, J, L, engine
        self.M, self.N = filters[0].shape[:2]
        self.images, self.colours, self.height, self.width = x.shape
        expected = (self.M, self.N) if pre_pad else (self.height, self.width)
        if (self.height, self.width) != expected or self.height > self.M or self.width > self.N:
            raise ValueError(
                f"x must hold images that fit filters of ({self.M}, {self.N}), with pre_pad exactly, got "
                f"{tuple(x.shape)}"
            )
        self.planes = self.images * self.colours
        self.table = tables.tables(packed, J, L, max_order, self.M, self.N)
        self.one, self.two = tables.tree(J, L, max_order, self.M, self.N)
        self.K = channels(J, L, max_order)
        self.coefficients = coefficients
        self.split = coefficients.dtype not in HALF
        self.h, self.w = (self.M >> J) - 2, (self.N >> J) - 2

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Uninitialised memory on the images' device."""
        return self.x.new_empty(shape, dtype=dtype)

    def chunks(self, backward: bool) -> list[tuple[int, int]]:
        """(first plane, planes) of each chunk."""
        bytes_per_plane = 12 * self.M * self.N
        for nodes in self.two:
            bytes_per_plane += 8 * self.L * prod(nodes[0].size) if nodes else 0
        # The backward pass also holds the gradients of all that.
        step = max(1, CHUNK_BYTES // (bytes_per_plane * (2 if backward else 1)))
        return [(start, min(step, self.planes - start)) for start in range(0, self.planes, step)]

    def padded(self, plane: int, count: int) -> Tensor:
        """The chunk's images on the padded grid, (count, M, N)."""
        out = self.empty(count, self.M, self.N)
        _launch(
            planes.pad_kernel, count * triton.cdiv(self.M * self.N, 1024), self.x, out, plane, self.colours,
            self.height, self.width, self.M, self.N, *self.x.stride(), BLOCK=1024,
        )  # fmt: skip
        return out

    def place(self, node: Node | None, plane: int, field: int = 0) -> Place:
        """How a kernel finds the coefficients of a node (None: S0), starting at a field of the chunk's first plane."""
        first, stride = (node.first, node.stride) if node else (0, 0)
        per_plane = self.L if stride else 1
        return first, stride, plane * per_plane + field, per_plane, self.colours, self.K

    def low_pass(self, u: Tensor, j: int, angles: int, place: Place) -> None:
        """Stores the coefficients of signals u (fields, angles, m, n) at resolution j."""
        m, n = u.shape[-2:]
        first, stride, *rest = place
        programs = u.numel() // (m * n) * triton.cdiv(self.h, BLOCK) * triton.cdiv(self.w, BLOCK)
        t = self.table
        _launch(
            planes.low_pass_kernel, programs, u, t[f"low_y{j}"], t[f"low_x{j}"], t[f"band_y{j}"], t[f"band_x{j}"],
            self.coefficients, m, n, self.h, self.w, first, stride, angles, *rest, *self.coefficients.stride(), B=BLOCK,
            BK=32, PRECISION="tf32x3" if self.split else "tf32",
        )  # fmt: skip

    def low_pass_adjoint(
        self,
        u_like: Tensor,
        j: int,
        angles: int,
        place: Place,
        z: Tensor | None = None,
        du: Tensor | None = None,
    ) -> None:
        """Overwrites z by ∂/∂z, from the coefficients' gradient and du; without z, adds ∂/∂u to `u_like`."""
        m, n = u_like.shape[-2:]
        first, stride, *rest = place
        programs = u_like.numel() // (m * n) * triton.cdiv(m, 32) * triton.cdiv(n, 32)
        t = self.table
        _launch(
            planes.low_pass_adjoint_kernel, programs, self.coefficients, t[f"low_y{j}"], t[f"low_x{j}"],
            u_like if z is None else z.view(torch.int64), u_like if du is None else du, u_like, m, n, self.h, self.w,
            first, stride, angles, *rest, *self.coefficients.stride(), HAVE_DU=du is not None, MODULUS=z is not None,
            B=32, BK=32, PRECISION="tf32x3" if self.split else "tf32",
        )  # fmt: skip

    def on_chip(
        self, kernel: Any, node: Node, spectra: Tensor, place: Place, *tensors: Tensor, **flags: bool
    ) -> None:
        """Launches one of the two kernels of `scattering2d_paths` on spectra (fields, m, n/2 + 1)."""
        first, stride, *rest = place
        fields, (m, n), t, i = len(spectra), node.out, self.table, node.index
        PM, PN = tile(m), tile(n)
        capability = launching.capability(self.x.device)
        gradient = kernel is paths.path_backward_kernel
        warps = MORE_WARPS if capability >= 10 or (capability < 9 and gradient and self.split) else WARPS
        gain = tables.low_gain(node.j, self.J)
        # Room for the sums of |A|, a little over 1.
        shrink = 2.0 ** floor(log2(2.0**15 / (2**8.5 * PM * PN * gain)))
        gains = (gain**-2,) if gradient else (gain**-2 / shrink, shrink)
        per_program = max(1, min(16, fields * self.L // PROGRAMS))
        _launch(
            kernel, self.L * triton.cdiv(fields, per_program), spectra.view(torch.int64), t[f"code{i}"],
            t[f"weight{i}"], t[f"layers{i}"], t[f"sizes{i}"], t[f"dft{m}"], t[f"dft{n}"], t[f"half_y{node.j}"],
            t[f"half_x{node.j}"], *tensors, fields, self.L, node.fold**2, spectra[0].numel(),
            *gains, per_program, first, stride, *rest, *self.coefficients.stride(),
            PM=PM, PN=PN, PH=tile(self.h), PW=tile(self.w), SQUARE=m == n, SPLIT=self.split,
            RELOAD=capability < 9, warps=warps[PM * PN], **flags,
        )  # fmt: skip

    def products(self, node: Node, spectra: Tensor) -> Tensor:
        """z (fields, L, m', n') of spectra (fields, m, n/2 + 1), through the workspace."""
        (m, n), (rows, columns) = node.size, node.out
        y = self.empty(len(spectra), self.L, rows, columns, dtype=torch.complex64)
        _launch(
            planes.product_kernel, len(spectra) * self.L * triton.cdiv(rows * columns, 512), spectra.view(torch.int64),
            self.table[f"psi{node.index}"], y.view(torch.int64), self.L, m, n, rows, columns, node.fold, BLOCK=512,
        )  # fmt: skip
        z: Tensor = torch.fft.ifft2(y, norm="forward")
        return z

    def slices(self, node: Node, fields: int) -> list[slice]:
        """Slices of the fields whose products fit the workspace."""
        step = max(1, SLICE_BYTES // (8 * self.L * prod(node.out)))
        return [slice(start, min(start + step, fields)) for start in range(0, fields, step)]

    def forward(
        self, node: Node, spectra: Tensor, plane: int, coefficients: bool = True, u: Tensor | None = None
    ) -> None:
        """Computes a node.

        Args:
            node: the node.
            spectra: of its inputs (fields, m, n/2 + 1).
            plane: the chunk's first plane.
            coefficients: whether to store the node's coefficients.
            u: where to store its moduli (fields, L, m', n'), or None.
        """
        if coefficients and engines.in_cpp(node, (self.h, self.w), self.engine, self.x.device):
            names = "psi{1}", "low_y{0}", "low_x{0}", "fine_y{0}", "fine_x{0}"
            parts = [self.table[name.format(node.j, node.index)] for name in names]
            target = self.empty(0) if u is None else u
            with torch.cuda.device(self.x.device):
                torch.ops.scatsimclr.scattering2d_paths_cuda(
                    torch.view_as_real(spectra), *parts, target, self.coefficients, *self.place(node, plane)
                )
        elif node.on_chip:
            self.on_chip(
                paths.path_kernel, node, spectra, self.place(node, plane), self.x if u is None else u,
                self.coefficients, STORE_U=u is not None, STORE_S=coefficients,
            )  # fmt: skip
        else:
            for part in self.slices(node, len(spectra)):
                some = torch.abs(self.products(node, spectra[part]), out=None if u is None else u[part])
                if coefficients:
                    self.low_pass(some, node.j, self.L, self.place(node, plane, part.start))

    def spectra_of_moduli(self, node: Node, spectra: Tensor, plane: int, coefficients: bool = True) -> Tensor:
        """Computes a node of the first order and transforms its moduli: (fields · L, m', n'/2 + 1)."""
        u = self.empty(len(spectra), self.L, *node.out)
        self.forward(node, spectra, plane, coefficients, u)
        transformed: Tensor = torch.fft.rfft2(u.flatten(0, 1))
        return transformed

    def backward(
        self, node: Node, spectra: Tensor, plane: int, du: Tensor | None, total: Tensor, add: bool
    ) -> None:
        """The gradient in a node's input spectra.

        Args:
            node: the node.
            spectra: of its inputs (fields, m, n/2 + 1).
            plane: the chunk's first plane.
            du: the gradient in its moduli (fields · L, m', n') from the second order, or None.
            total: where to write the gradient, of the shape of spectra.
            add: whether to add it to what is there.
        """
        for part in self.slices(node, len(spectra)):
            place = self.place(node, plane, part.start)
            some = None if du is None else du.view(len(spectra), self.L, *node.out)[part]
            if node.on_chip:
                dy = self.empty(len(spectra[part]), self.L, *node.out, dtype=torch.complex64)
                self.on_chip(
                    paths.path_backward_kernel, node, spectra[part], place, self.x if some is None else some,
                    self.coefficients, dy.view(torch.int64), HAVE_DU=some is not None,
                )  # fmt: skip
            else:
                z = self.products(node, spectra[part])
                self.low_pass_adjoint(z.real, node.j, self.L, place, z, some)
                dy = torch.fft.fft2(z)
            (m, n), (rows, columns) = node.size, node.out
            _launch(
                planes.product_adjoint_kernel, len(dy) * triton.cdiv(m * (n // 2 + 1), 256), dy.view(torch.int64),
                self.table[f"psi{node.index}"], total[part].view(torch.int64), self.L, m, n, rows, columns, ADD=add,
                BLOCK=256,
            )  # fmt: skip


def scattering2d(
    x: Tensor,
    filters: list[Tensor],
    packed: Tensor,
    J: int,
    L: int,
    max_order: int,
    pre_pad: bool,
    channels_last: bool,
    out_dtype: torch.dtype,
    *,
    engine: str = "triton",
) -> Tensor:
    """The operator `scattering2d` for float32 x.

    Args:
        x, filters, packed, J, L, max_order, pre_pad, channels_last, out_dtype: as for
            `scatsimclr.ops.scattering2d.scattering2d`.
        engine: "triton"; "preferred", with the CUDA C++ kernel for the nodes that PREFERRED gives it; or "c++", with
            that kernel wherever it fits. The latter two need the extension `_cuda`.

    Returns:
        (N, C·K, H, W).

    Raises:
        ValueError: the kernels cannot serve the input.
    """
    M, N = filters[0].shape[:2]
    out = x.new_empty(
        (x.shape[0], x.shape[1] * channels(J, L, max_order), (M >> J) - 2, (N >> J) - 2), dtype=out_dtype
    )
    if channels_last:
        out = torch.empty_like(out, memory_format=torch.channels_last)
    t = _Transform(x, filters, packed, J, L, max_order, pre_pad, out, engine)
    if out.numel() == 0:
        return out
    for plane, count in t.chunks(False):
        padded = t.padded(plane, count)
        t.low_pass(padded, 0, 1, t.place(None, plane))
        spectra = torch.fft.rfft2(padded)
        del padded
        for node in t.one:
            second = t.two[node.j] if node.j < len(t.two) else []
            if not second:
                t.forward(node, spectra, plane)
                continue
            of_u = t.spectra_of_moduli(node, spectra, plane)
            for following in second:
                t.forward(following, of_u, plane)
    return out


def scattering2d_backward(
    grad: Tensor,
    x: Tensor,
    filters: list[Tensor],
    packed: Tensor,
    J: int,
    L: int,
    max_order: int,
    pre_pad: bool,
) -> Tensor:
    """∂/∂x for `grad`, the coefficients' gradient, of any strides; moduli and spectra are computed again."""
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    t = _Transform(x, filters, packed, J, L, max_order, pre_pad, grad)
    if grad.numel() == 0:
        return dx.zero_()
    for plane, count in t.chunks(True):
        spectra = torch.fft.rfft2(t.padded(plane, count))
        total = torch.empty_like(spectra)
        for i, node in enumerate(t.one):
            second = t.two[node.j] if node.j < len(t.two) else []
            du: Tensor | None = None
            if second:
                of_u = t.spectra_of_moduli(node, spectra, plane, coefficients=False)
                gradient = torch.empty_like(of_u)
                for k, following in enumerate(second):
                    t.backward(following, of_u, plane, None, gradient, k > 0)
                # Σ_k g_k exp(2πi k·x): the adjoint of the transform, of a Hermitian g.
                du = torch.fft.irfft2(gradient, s=node.out, norm="forward")
            t.backward(node, spectra, plane, du, total, i > 0)
        d = torch.fft.irfft2(total, s=(t.M, t.N), norm="forward")
        t.low_pass_adjoint(d, 0, 1, t.place(None, plane))
        _launch(
            planes.pad_adjoint_kernel, count * triton.cdiv(t.height * t.width, 256), d, dx, plane, t.height, t.width,
            t.M, t.N, BLOCK=256,
        )  # fmt: skip
    return dx
