"""Order, sharding, resume and making batches ahead."""

import itertools
import threading
import time
from functools import partial

import pytest
import torch

from scatsimclr.data.augment import Augment, AugmentSpec
from scatsimclr.data.loader import PairLoader, Share
from scatsimclr.data.prefetch import ahead
from scatsimclr.errors import UserError

SPEC = AugmentSpec((8, 8))


def images(count):
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)


def loader(count=50, batch=8, **options):
    return PairLoader(images(count), Augment(SPEC, 3), batch, 3, **options)


def same(first, second):
    return torch.equal(first.indices, second.indices) and all(
        torch.equal(a, b) for a, b in zip(first.views, second.views, strict=True)
    )


def test_an_epoch_is_a_permutation_of_its_own():
    orders = [loader(40).order(epoch) for epoch in (0, 1)]
    assert not torch.equal(*orders)
    assert all(torch.equal(order.sort().values, torch.arange(40)) for order in orders)


def test_the_two_views_of_a_batch_are_those_of_each_view_alone():
    pairs = loader()
    for batch in pairs.epoch(1):
        for view in (0, 1):
            alone = pairs.augment(pairs.images[batch.indices], batch.indices, 1, view)
            assert torch.equal(batch.views[view], alone)
            assert batch.views[view].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batches_do_not_depend_on_prefetch_and_an_epoch_can_begin_anywhere(prefetch):
    whole = list(loader().epoch(2))
    ahead_of_use = list(loader(prefetch=prefetch, threads=1).epoch(2))
    assert len(whole) == len(ahead_of_use) == 6
    assert all(map(same, whole, ahead_of_use))
    rest = list(loader(prefetch=prefetch).epoch(2, start=4))
    assert len(rest) == 2
    assert all(map(same, whole[4:], rest))


@pytest.mark.parametrize(("size", "counts"), [(3, (4, 4, 4)), (5, (2, 2, 3, 2, 3)), (12, (1,) * 12)])
def test_processes_share_what_one_would_see(size, counts):
    whole = list(loader(50, 12).epoch(1))
    shares = [list(loader(50, 12, rank=rank, world_size=size).epoch(1)) for rank in range(size)]
    assert [len(share) for share in shares] == [4] * size
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert batch.share is None
        assert tuple(len(part.indices) for part in parts) == counts
        for rank, part in enumerate(parts):
            assert part.share == Share(sum(counts[:rank]), counts[rank], 12)
        assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
        for view in (0, 1):
            assert torch.equal(torch.cat([part.views[view] for part in parts]), batch.views[view])


def test_too_few_images_for_all_processes_are_refused():
    with pytest.raises(UserError, match="batch_size=50 or less works"):
        loader(50, 51, world_size=3)
    with pytest.raises(UserError, match="batch_size must be at least the number of processes, 3, got 2"):
        loader(50, 2, world_size=3)
    with pytest.raises(ValueError, match="rank"):
        loader(rank=1)


def data_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("scatsimclr-data")]


def value(k, seconds=0.0):
    time.sleep(seconds)
    return k


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_come_in_order_whoever_made_them(depth, workers):
    # Every third is slow: its successors are ready before it.
    calls = [partial(value, k, 0.02 * (k % 3 == 0)) for k in range(12)]
    assert list(ahead(calls, depth, workers)) == list(range(12))


def test_workers_run_side_by_side():
    both = threading.Barrier(2, timeout=20)  # one worker alone would wait for ever
    assert sorted(ahead([both.wait] * 4, 2, 2)) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("prefetch", "threads", "expected"), [(1, 3, {3}), (2, 2, {1}), (3, 2, {1}), (2, 5, {2})]
)
def test_threads_are_shared_among_the_workers(prefetch, threads, expected):
    seen = set()

    class Seen(Augment):
        def draw(self, *arguments):
            if threading.current_thread() is not threading.main_thread():
                seen.add(torch.get_num_threads())
            return super().draw(*arguments)

    before = torch.get_num_threads()
    list(PairLoader(images(50), Seen(SPEC, 0), 8, 0, prefetch=prefetch, threads=threads).epoch(0))
    assert seen == expected
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_error_is_raised_in_its_place(depth):
    calls = [partial(value, 1), partial(value, 2), lambda: 1 / 0, partial(value, 4)]
    iterator = ahead(calls, depth)
    assert [next(iterator), next(iterator)] == [1, 2]
    with pytest.raises(ZeroDivisionError):
        next(iterator)
    assert not data_threads()


def test_leaving_early_ends_the_threads():
    iterator = ahead(itertools.repeat(partial(value, 0)), 2, 2)
    assert next(iterator) == 0
    assert data_threads()
    iterator.close()
    assert not data_threads()
    for _ in loader(prefetch=2).epoch(0):
        break
    for _ in range(50):
        if not data_threads():
            break
        time.sleep(0.1)
    assert not data_threads()


def test_not_more_than_depth_items_are_made_ahead():
    made = []
    calls = (partial(made.append, k) for k in range(100))
    iterator = ahead(calls, 3, 2)
    next(iterator)
    time.sleep(0.3)
    assert len(made) == 1 + 3
    iterator.close()
