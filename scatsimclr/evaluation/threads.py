"""The number of threads for small problems."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread(only: bool = True) -> Iterator[None]:
    """Runs the block on one thread, or on as many as before where not `only`.

    Small matrices lose more by starting threads than they gain: a linear layer's epochs take 2.5 s on two threads and
    1.3 s on one; a logistic regression of 100 examples takes 0.1 s on one, and 2.7 s on two beside other busy programs
    (Zen 4, 2026-11).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if only else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
