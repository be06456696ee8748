"""`Scattering2D`: kymatio's torch front end, on fused kernels."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.ops.scattering2d import SCATTERING2D, scattering2d
from scatsimclr.reference.scattering2d import channels

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

_HALF = (torch.float16, torch.bfloat16)


def _versions(filters: list[Tensor]) -> list[int] | None:
    """How often each has been changed in place; None for inference tensors, which do not count."""
    try:
        return [f._version for f in filters]
    except RuntimeError:
        return None


@dataclass(frozen=True, eq=False)
class _Pack:
    """The kernel's own copy of the filters, and what it was made from."""

    packed: Tensor
    filters: list[Tensor]
    versions: list[int] | None
    settings: tuple[int, int, int]

    def made_from(self, filters: list[Tensor], settings: tuple[int, int, int]) -> bool:
        return (
            self.settings == settings
            and all(map(operator.is_, self.filters, filters))
            and self.versions == _versions(filters)
        )


class Scattering2D(nn.Module):
    """2D wavelet scattering transform with Morlet wavelets; a drop-in for `kymatio.torch.Scattering2D`.

    Calling it on images `(*batch, M, N)`, with any number of batch dimensions, gives `(*batch, K, M // 2^J, N // 2^J)`
    with K = 1 + JL + L²J(J−1)/2 (81 for J=2, L=8; 289 for J=2, L=16), in kymatio's order and dtype: float32 and,
    after `.double()`, float64. float16 and bfloat16 images are transformed in float32 and the result is rounded to
    their dtype (on a GPU by half-precision products, see `features`). Differentiable with respect to the images any
    number of times (the kernels have the first derivative, plain PyTorch the others), with |z|' = 0 at z = 0.

    The filters are persistent buffers `tensor0…` as in kymatio, so that its checkpoints load. They may be changed in
    place, replaced, averaged, or swapped by `torch.func.functional_call`; filters that ask for a gradient get one, from
    plain PyTorch. A change of a few frequencies that bypasses PyTorch's version counters (`.data`, NumPy) may go
    unnoticed; on a GPU, any such change will.

    Errors are kymatio's: RuntimeError for sizes, TypeError for what is not a tensor or differs from the filters in
    dtype or device. Non-contiguous images, which kymatio refuses, are accepted.

    Source: Bruna and Mallat, "Invariant scattering convolution networks", 2013; Andreux et al., "Kymatio", 2020.

    Args:
        J: log2 of the scale; 2^J must not exceed the image.
        shape: (M, N), the size of the images in pixels.
        L: number of angles.
        max_order: 2, or anything smaller for orders 0 and 1 only.
        pre_pad: True when the images come already padded, to (M_padded, N_padded).
        backend: "auto", or the name of one implementation ("reference", "cpu", …; `scatsimclr.backends()`).
            kymatio's "torch" means "auto".
        out_type: "array" for one tensor, "list" for a list of dicts with "coef", "j", "n" and "theta".

    Attributes:
        phi: the filter bank's low-pass, as in kymatio.
        psi: its wavelets, as in kymatio.
        M_padded: the height of the padded images.
        N_padded: their width.
        operator_name: the operator that it runs.
    """

    operator_name = SCATTERING2D.name

    def __init__(
        self,
        J: int,
        shape: tuple[int, int],
        L: int = 8,
        max_order: int = 2,
        pre_pad: bool = False,
        backend: str = "auto",
        out_type: str = "array",
    ) -> None:
        super().__init__()
        self.J, self.L, self.max_order = int(J), int(L), int(max_order)
        height, width = (int(size) for size in shape)
        self.shape = height, width
        self.pre_pad = bool(pre_pad)
        self.backend = "auto" if backend == "torch" else backend
        self.out_type = out_type
        SCATTERING2D.check_name(self.backend)
        if self.J < 1:
            raise ValueError(f"J must be at least 1, got {J}")
        if self.L < 1:
            raise ValueError(f"L must be at least 1, got {L}")
        if min(self.shape) < 2**self.J:
            raise RuntimeError("The smallest dimension should be larger than 2^J.")
        self.M_padded, self.N_padded = padded_shape(self.shape, self.J)

        bank = filter_bank(self.M_padded, self.N_padded, self.J, self.L)
        self.phi, self.psi = bank.phi, bank.psi
        self._filter_names = [f"tensor{n}" for n in range(len(bank.tensors()))]
        with torch.inference_mode(False):
            for name, level in zip(self._filter_names, bank.tensors(), strict=True):
                self.register_buffer(name, torch.tensor(level).unsqueeze(-1))
        self._pack: _Pack | None = None
        self._packed(self._filters())

    @property
    def _M_padded(self) -> int:
        """kymatio's name, which its users read."""
        return self.M_padded

    @property
    def _N_padded(self) -> int:
        return self.N_padded

    @property
    def channels(self) -> int:
        """K, the number of coefficients per output pixel."""
        return channels(self.J, self.L, self.max_order)

    def _filters(self) -> list[Tensor]:
        # Through the dict: fifty attribute look-ups of an nn.Module take longer than a small transform.
        buffers: dict[str, Any] = self._buffers
        return [buffers[name] for name in self._filter_names]

    def _packed(self, filters: list[Tensor]) -> Tensor:
        """The filters as the kernel wants them, made again when anything they were made from has changed.

        They are derived, and so no buffer: code that averages, casts or swaps buffers finds only kymatio's filters.
        Changes that bypass PyTorch's version counters (`.data`, NumPy) are noticed by the CPU's kernel itself, see
        `scatsimclr.ops.scattering2d`.
        """
        pack, settings = self._pack, (self.J, self.L, self.max_order)
        if torch.compiler.is_compiling():
            # The kernel compares the filters itself, and packs them where no pack is given.
            if pack is not None and pack.settings == settings:
                return pack.packed
            return filters[0].new_empty(0, dtype=torch.uint8)
        if pack is not None and pack.made_from(filters, settings):
            return pack.packed
        # Outside inference mode: a tensor made in it could not be saved for a gradient later.
        with torch.inference_mode(False), torch.no_grad():
            packed: Tensor = (
                filters[0].new_empty(0, dtype=torch.uint8)
                if filters[0].is_meta
                else torch.ops.scatsimclr.scattering2d_pack([f.detach() for f in filters], *settings)
            )
        self._pack = _Pack(packed, filters, _versions(filters), settings)
        return packed

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `.half()` and `.bfloat16()` move the module but leave the filters exact: only the output has half
        # precision.
        def keep_precision(tensor: Tensor) -> Tensor:
            with torch.inference_mode(False):
                moved = fn(tensor)
                return tensor.to(moved.device) if moved.dtype in _HALF else moved

        super()._apply(keep_precision, recurse)  # type: ignore[no-untyped-call]  # torch has no types there
        self._packed(self._filters())
        return self

    def __getstate__(self) -> dict[str, Any]:
        # The packed layout belongs to the build that made it: pickles carry the filters only.
        return {**self.__dict__, "_pack": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch has no types there
        self._pack = None
        self._buffers.pop("_packed", None)  # from modules pickled when it was a buffer
        self._packed(self._filters())

    def forward(self, x: Tensor) -> Tensor | list[dict[str, Any]]:
        """Scattering coefficients of x `(*batch, M, N)`: see the class."""
        if x is None:
            raise TypeError("The input should be not empty.")
        return self.scattering(x)

    def scattering(self, x: Tensor) -> Tensor | list[dict[str, Any]]:
        """The same as calling the module."""
        self._check(x)
        if self.out_type not in ("array", "list"):
            raise RuntimeError("The out_type must be one of 'array' or 'list'.")
        self._check_filters_match(x)
        planes = x.reshape(-1, 1, *x.shape[-2:])
        coefficients = self._transform(planes, False, x.dtype)
        coefficients = coefficients.reshape(*x.shape[:-2], *coefficients.shape[1:])
        if self.out_type == "array":
            return coefficients
        return [
            {"coef": coefficients[..., k, :, :], "j": j, "n": n, "theta": theta}
            for k, (j, n, theta) in enumerate(self._paths())
        ]

    def features(self, x: Tensor, *, channels_last: bool = False, dtype: torch.dtype | None = None) -> Tensor:
        """Coefficients of colour images as the next convolution wants them.

        The arithmetic stays in the filters' dtype, but on a GPU float16 and bfloat16 results may come from
        half-precision products: then, apart from their own rounding, they are off by at most 2e-3 of a channel's
        largest value.

        Args:
            x: images (N, C, M, N').
            channels_last: whether the result has that memory layout.
            dtype: the result's dtype, x's by default.

        Returns:
            (N, C·K, H, W), colour-major: colour 0's K coefficients, then colour 1's.

        Raises:
            ValueError: x has not four dimensions.
            RuntimeError: as for the class.
            TypeError: as for the class.
        """
        self._check(x)
        if x.ndim != 4:
            raise ValueError(f"x must have 4 dimensions (N, C, M, N'), got shape {tuple(x.shape)}")
        self._check_filters_match(x)
        return self._transform(x, channels_last, dtype or x.dtype)

    def _transform(self, planes: Tensor, channels_last: bool, out_dtype: torch.dtype) -> Tensor:
        filters = self._filters()
        return scattering2d(
            planes.to(filters[0].dtype),
            filters,
            self._packed(filters),
            self.J,
            self.L,
            self.max_order,
            self.pre_pad,
            channels_last=channels_last,
            out_dtype=out_dtype,
            backend=self.backend,
        )

    def _paths(self) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
        """(j, n, theta) of each output channel, each a tuple with one entry per order."""
        first = [(n, psi["j"], psi["theta"]) for n, psi in enumerate(self.psi)]
        paths: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = [((), (), ())]
        paths += [((j,), (n,), (theta,)) for n, j, theta in first]
        if self.max_order >= 2:
            paths += [
                ((j1, j2), (n1, n2), (theta1, theta2))
                for n1, j1, theta1 in first
                for n2, j2, theta2 in first
                if j2 > j1
            ]
        return paths

    def _check(self, x: Tensor) -> None:
        """kymatio's checks of type and size, in kymatio's order and with its messages."""
        if not torch.is_tensor(x):
            raise TypeError("The input should be a PyTorch Tensor.")
        if x.ndim < 2:
            raise RuntimeError("Input tensor must have at least two dimensions.")
        padded = (self.M_padded, self.N_padded)
        if not self.pre_pad and tuple(x.shape[-2:]) != self.shape:
            raise RuntimeError("Tensor must be of spatial size ({},{}).".format(*self.shape))
        if self.pre_pad and tuple(x.shape[-2:]) != padded:
            raise RuntimeError("Padded tensor must be of spatial size ({},{}).".format(*padded))

    def _check_filters_match(self, x: Tensor) -> None:
        filters: Any = self.tensor0
        if x.dtype != filters.dtype and not (x.dtype in _HALF and filters.dtype == torch.float32):
            raise TypeError("Input and filter must be of the same dtype.")
        if filters.is_cuda and not x.is_cuda:
            raise TypeError("Input must be on GPU.")
        if filters.device.type == "cpu" and x.is_cuda:
            raise TypeError("Input must be on CPU.")
        if filters.device != x.device:
            raise TypeError("Input and filter must be on the same GPU.")

    def extra_repr(self) -> str:
        return (
            f"J={self.J}, shape={self.shape}, L={self.L}, max_order={self.max_order}, pre_pad={self.pre_pad}, "
            f"backend={self.backend!r}, out_type={self.out_type!r}"
        )
