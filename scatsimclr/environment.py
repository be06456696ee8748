"""What a run uses: versions, machine, implementations."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import torch

import scatsimclr
from scatsimclr.ops.availability import EXTENSION
from scatsimclr.ops.gpu_records import recorded_run
from scatsimclr.ops.library import OPERATORS, listed

PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "scipy",
    "kymatio",
    "scikit-learn",
    "nvidia-dali-cuda130",
    "pytest-benchmark",
)


def version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def cpu_kernels() -> str:
    """The instruction set that the compiled operators use."""
    return str(torch.ops.scatsimclr.cpu_isa()) if EXTENSION else "no compiled extension"


def gpus() -> list[str]:
    """Name, memory and compute capability of each CUDA device."""
    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        found.append(
            f"{device.name}, {device.total_memory / 2**30:.0f} GiB, cc {device.major}.{device.minor}"
        )
    return found


def implementation(op: str, device: str) -> str:
    """The default implementation of an operator on a device type, and whether a GPU has run it."""
    entry = OPERATORS[op].default(device)
    if entry.device != "cuda":
        return entry.name
    return f"{entry.name} ({recorded_run(op, entry.name) or 'not yet run on hardware'})"


def environment() -> dict[str, str]:
    """Versions, machine and default implementations, by name, as text to read."""
    found = {
        "scatsimclr": scatsimclr.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        **{package: version(package) for package in PACKAGES},
        "CPU": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads; kernels: {cpu_kernels()}",
        "CUDA": "; ".join(gpus()) or "none",
    }
    for operator in listed():
        op = operator.name
        found[op] = ", ".join(f"on {device}: {implementation(op, device)}" for device in ("cpu", "cuda"))
    return found
