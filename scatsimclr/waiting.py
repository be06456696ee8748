"""How a process's threads wait for each other."""

from __future__ import annotations

import os

# OpenMP's own settings: whoever has set one has decided.
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SPINS = "2000"


def block_soon() -> None:
    """Makes threads that wait for each other give up their cores soon; before PyTorch is imported.

    PyTorch's threads are OpenMP's. In GNU's implementation, which PyTorch brings on Linux, a thread waits in a loop for
    several milliseconds before it blocks, and that is what the others need while another program has one of the cores.

    On two cores beside one program that never waits, training makes 73 images/s instead of 57, beside three 48
    instead of 32, and alone 124 instead of 134 (benchmarks/results/shared-cpu.json).

    This is a setting of the whole process, hence for command lines and not for libraries.
    """
    if not any(name in os.environ for name in CHOSEN):
        os.environ["GOMP_SPINCOUNT"] = SPINS
