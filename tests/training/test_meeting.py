"""Processes of one attempt meet each other, whatever earlier ones have left in the store."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from scatsimclr.training.meeting import meet

PATIENCE = timedelta(seconds=20)


@pytest.fixture
def store():
    return dist.HashStore()


def attempt(store, size, order=None):
    """The names that processes of an attempt return, which start in this order of ranks."""
    with ThreadPoolExecutor(size) as pool:
        running = {rank: pool.submit(meet, store, rank, size, PATIENCE) for rank in order or range(size)}
        return {running[rank].result() for rank in range(size)}


def test_each_attempt_has_a_name_of_its_own(store):
    names = [attempt(store, size, order) for size, order in ((3, None), (3, (2, 1, 0)), (1, None), (4, None))]
    assert all(len(found) == 1 for found in names)
    assert len(set.union(*names)) == len(names)


def test_a_name_that_dead_processes_have_left_is_not_met(store):
    """A first process that died while it waited, and one that died when all were there."""
    store.set("name", "dead")
    store.set("dead/1", "old word")
    for repeated in (None, ["", "old word"], ["", "old word", "of a larger attempt"], [""]):
        if repeated is not None:
            store.set("dead/all", json.dumps(repeated))
        with ThreadPoolExecutor(2) as pool:
            early = pool.submit(meet, store, 1, 2, PATIENCE)
            with pytest.raises(TimeoutError):
                early.result(timeout=0.3)
            name = pool.submit(meet, store, 0, 2, PATIENCE).result()
            assert early.result() == name != "dead"
        store.set("name", "dead")


@pytest.mark.parametrize(
    ("rank", "message"), [(0, "not all processes are there"), (1, "first process is not there")]
)
def test_who_is_alone_gives_up(store, rank, message):
    with pytest.raises(RuntimeError, match=message):
        meet(store, rank, 2, timedelta(seconds=0.2))
