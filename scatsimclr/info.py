"""`python -m scatsimclr.info`: versions, devices, and which implementation serves which operator."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from importlib import metadata

import torch

import scatsimclr
from scatsimclr.cli import run
from scatsimclr.ops.library import IMPLEMENTATIONS, backends, extension_path

PACKAGES = ("torch", "triton", "numpy", "scipy", "kymatio", "scikit-learn", "pytest-benchmark")


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def status(op: str, device: str) -> str:
    """The default implementation of an operator on a device, and whether a GPU has run it."""
    implementation = IMPLEMENTATIONS[op][backends()[op][device]]
    if implementation.device != "cuda":
        return implementation.name
    return f"{implementation.name} ({implementation.recorded_run or 'not yet run on hardware'})"


def command(argv: list[str]) -> int:
    argparse.ArgumentParser(
        prog="python -m scatsimclr.info", description=__doc__.split(": ", 1)[1]
    ).parse_args(argv)
    print(f"scatsimclr {scatsimclr.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print("  " + ", ".join(f"{package} {version(package)}" for package in PACKAGES))
    isa = torch.ops.scatsimclr.cpu_isa() if extension_path() else "no compiled extension"
    print(f"CPU        {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads; kernels: {isa}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            capability = f"cc {properties.major}.{properties.minor}"
            print(
                f"CUDA {index}     {properties.name}, {properties.total_memory / 2**30:.0f} GiB, {capability}"
            )
    else:
        print("CUDA       none")
    print(f"{'operator':16}{'on a CPU':16}{'on a GPU':40}available here")
    for op, table in IMPLEMENTATIONS.items():
        here = ", ".join(name for name, entry in table.items() if entry.missing() is None)
        print(f"{op:16}{status(op, 'cpu'):16}{status(op, 'cuda'):40}{here}")
    return 0


if __name__ == "__main__":
    sys.exit(run(command))
