"""What is installed beside the package: compiled libraries and Triton, and whether they can run on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
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


def reference(device: torch.device | None = None) -> Availability:
    """Plain PyTorch: always available."""
    return AVAILABLE


def compiled(device: torch.device | None = None) -> Availability:
    """Whether the compiled CPU kernels can be used."""
    if EXTENSION is None:
        return Availability(False, "the package was installed without its compiled extension")
    return AVAILABLE


def triton(device: torch.device | None = None) -> Availability:
    """Whether the Triton kernels can be used, on a GPU or on the current one."""
    if not HAS_TRITON:
        return Availability(False, "triton is not installed")
    return AVAILABLE if torch.cuda.is_available() else Availability(True, "this machine has no CUDA device")


def products(device: torch.device | None = None) -> Availability:
    """Whether the Triton kernels that multiply matrices can be used, on a GPU or on the current one."""
    found = triton()
    if not found.usable or not (obstacle := cannot_multiply(device)):
        return found
    return Availability(False, obstacle)


def cuda(device: torch.device | None = None) -> Availability:
    """Whether the CUDA C++ kernels can be used; they need Triton's beside them."""
    if not HAS_TRITON:
        return triton()
    if CUDA_EXTENSION is None:
        return Availability(
            False, "the package was installed without its CUDA extension (no nvcc, or SCATSIMCLR_CUDA=0)"
        )
    if torch.version.cuda is None:
        return Availability(False, "this PyTorch is a build without CUDA")
    return products(device)


# The first release that compiles our matrix products for tensor cores of the fifth generation. What an older one, 3.6,
# makes of them is an assertion of the compiler or a kernel that only traps (tried with its ahead-of-time compiler).
FIFTH_GENERATION, NEEDED = (10, 11), (3, 8)


def cannot_multiply(device: torch.device | None = None) -> str:
    """Why Triton's kernels that multiply matrices cannot be used on a GPU, or on the current one; "" where they can."""
    return _cannot_multiply(torch.cuda.get_device_capability(device))


@lru_cache(maxsize=8)
def _cannot_multiply(capability: tuple[int, int]) -> str:
    import triton

    release = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if capability[0] not in FIFTH_GENERATION or release >= NEEDED:
        return ""
    return (
        f"Triton {triton.__version__} does not compile it for compute capability {capability[0]}.{capability[1]}: "
        f"{'.'.join(map(str, NEEDED))} or newer does"
    )


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
