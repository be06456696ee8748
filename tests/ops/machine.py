"""Instruction sets, threads and memory that the compiled operators are tested with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from scatsimclr.ops import availability


def available(names: Sequence[str]) -> list[str]:
    """The `names`, given worst first, that this CPU supports; every CPU supports the first."""
    if not availability.compiled().usable:
        return list(names[:1])
    found = []
    for name in names:
        try:
            torch.ops.scatsimclr.cpu_isa_force(name)
        except RuntimeError as error:
            if "this CPU only has" not in str(error):
                raise
        else:
            found.append(name)
    torch.ops.scatsimclr.cpu_isa_force("")
    return found


ISAS = available(["baseline", "avx2", "avx512"])  # that most kernels have


@contextmanager
def forced(name: str) -> Iterator[str]:
    """Makes the operators run on that instruction set."""
    torch.ops.scatsimclr.cpu_isa_force(name)
    assert torch.ops.scatsimclr.cpu_isa() == name
    try:
        yield name
    finally:
        torch.ops.scatsimclr.cpu_isa_force("")


@contextmanager
def threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def poisoned() -> Iterator[None]:
    """Fills uninitialised memory with NaN, so that whatever an operator forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(8).isnan().all()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
