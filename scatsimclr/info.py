"""`python -m scatsimclr.info`: versions, devices, and which implementation serves which operator."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("info")

import os
import platform

import torch

import scatsimclr
from scatsimclr.commandline import command_parser
from scatsimclr.environment import PACKAGES, cpu_kernels, gpus, implementation, version
from scatsimclr.ops.library import listed


def command(argv: list[str]) -> int:
    """Prints versions, devices and a table of the operators."""
    command_parser("info", "Versions, devices, and which implementation serves which operator.").parse_args(
        argv
    )
    print(f"scatsimclr {scatsimclr.__version__}, Python {platform.python_version()}, {platform.platform()}")
    print("  " + ", ".join(f"{package} {version(package)}" for package in PACKAGES))
    threads = torch.get_num_threads()
    print(f"CPU        {os.cpu_count()} cores, torch uses {threads} threads; kernels: {cpu_kernels()}")
    for index, text in enumerate(gpus()):
        print(f"CUDA {index}     {text}")
    if not gpus():
        print("CUDA       none")
    print(f"{'operator':16}{'on a CPU':16}{'on a GPU':40}available here")
    for operator in listed():
        op, entries = operator.name, operator.implementations.values()
        here = ", ".join(entry.name for entry in entries if entry.availability().usable)
        print(f"{op:16}{implementation(op, 'cpu'):16}{implementation(op, 'cuda'):40}{here}")
    return 0
