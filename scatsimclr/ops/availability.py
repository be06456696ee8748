"""What is installed beside the package: compiled libraries and Triton, and whether they can run on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch


@dataclass(frozen=True)
class Availability:
    """Whether an implementation can be used on this machine.

    Attributes:
        installed: whether its code is there. If so, it is what serves its device type, even on a machine that
            has no such device.
        obstacle: why it cannot be used on this machine; empty where it can.
    """

    installed: bool = True
    obstacle: str = ""

    @property
    def usable(self) -> bool:
        """Whether it can be used on this machine."""
        return not self.obstacle


AVAILABLE = Availability()


def _beside_the_package(pattern: str) -> Path | None:
    found = sorted(Path(__file__).parents[1].glob(pattern))
    return found[0] if found else None


# Looked up once: what is installed later is loaded by the next process.
EXTENSION = _beside_the_package("_C*.so")
CUDA_EXTENSION = _beside_the_package("_cuda*.so")
HAS_TRITON = find_spec("triton") is not None


def reference() -> Availability:
    """Plain PyTorch: always available."""
    return AVAILABLE


def compiled() -> Availability:
    """Whether the compiled CPU kernels can be used."""
    if EXTENSION is None:
        return Availability(False, "the package was installed without its compiled extension")
    return AVAILABLE


def triton() -> Availability:
    """Whether the Triton kernels can be used."""
    if not HAS_TRITON:
        return Availability(False, "triton is not installed")
    return _on_a_gpu()


def cuda() -> Availability:
    """Whether the CUDA C++ kernels can be used; they need Triton's beside them."""
    if not HAS_TRITON:
        return triton()
    if CUDA_EXTENSION is None:
        return Availability(
            False, "the package was installed without its CUDA extension (no nvcc, or SCATSIMCLR_CUDA=0)"
        )
    if torch.version.cuda is None:
        return Availability(False, "this PyTorch is a build without CUDA")
    return _on_a_gpu()


def _on_a_gpu() -> Availability:
    return AVAILABLE if torch.cuda.is_available() else Availability(True, "this machine has no CUDA device")


def load_extensions() -> None:
    """Registers the compiled operators.

    The CUDA library is loaded only where PyTorch has CUDA, whose symbols it needs.

    Raises:
        ImportError: a library is there but does not load.
    """
    for path in (EXTENSION, CUDA_EXTENSION if torch.version.cuda else None):
        if path is None:
            continue
        try:
            torch.ops.load_library(str(path))
        except OSError as error:
            raise ImportError(
                f"the compiled extension {path.name} is there but does not load with torch {torch.__version__}: "
                f"{error}. Rebuild it (`make setup`, or `pip install --no-build-isolation .`), or remove it to use "
                "the reference path."
            ) from error
