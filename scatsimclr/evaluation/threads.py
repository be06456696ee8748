"""How many threads small problems get."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread(only: bool = True) -> Iterator[None]:
    """One thread, where `only`. Matrices this small lose to their own thread starts: a linear layer's epochs take 2.5 s
    on two threads, 1.3 s on one; a logistic regression of 100 examples 0.1 s on one, and on two, where other programs
    are busy, 2.7 s (Zen 4, 2026-11).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if only else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
