"""How the processes that torchrun has started meet each other, and none that it had started before.

torchrun keeps one store for all its restarts, and PyTorch no longer keeps the attempts apart in it ("We create a new
TCPStore for every retry", `torch/distributed/rendezvous.py`, which is not so): a process that is faster than another
finds the address of that one's dead predecessor, is refused, and the restart fails. Neither does torchrun number the
attempts: machines count their own restarts. So the first process chooses a name, and the others answer under it.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from datetime import timedelta

from torch.distributed.distributed_c10d import Store

POLL = 0.05  # seconds between two looks


def meet(store: Store, rank: int, size: int, patience: timedelta) -> str:
    """A name that all processes of this attempt return, and no others.

    The first process writes a new name, waits for a new word of each of the others under it, and repeats their words.
    One that finds its word repeated has met living processes; else the name is a dead one's, and a newer one will come.

    Args:
        store: Shared by all attempts.
        rank: Of this process.
        size: Number of processes.
        patience: How long to wait for all.

    Raises:
        RuntimeError: They are not all there in time.
    """
    end, word = time.monotonic() + patience.total_seconds(), secrets.token_hex(8)
    if rank == 0:
        store.set("name", word)
        answers = [f"{word}/{other}" for other in range(1, size)]
        _wait(lambda: store.check(answers), end, "not all processes are there")
        words = [store.get(answer).decode() for answer in answers]
        store.set(f"{word}/all", json.dumps(["", *words]))
        return word
    name = ""

    def met() -> bool:
        nonlocal name
        if not store.check(["name"]):
            return False
        if (newest := store.get("name").decode()) != name:
            name = newest
            store.set(f"{name}/{rank}", word)
        return store.check([f"{name}/all"]) and json.loads(store.get(f"{name}/all"))[rank : rank + 1] == [
            word
        ]

    _wait(met, end, "the first process is not there")
    return name


def _wait(true: Callable[[], bool], end: float, why: str) -> None:
    while not true():
        if time.monotonic() > end:
            raise RuntimeError(why)
        time.sleep(POLL)
