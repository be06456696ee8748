"""Makes the next items in threads while the present one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(
    calls: Iterable[Callable[[], T]],
    depth: int,
    workers: int = 1,
    initializer: Callable[[], None] | None = None,
) -> Iterator[T]:
    """What the calls return, in their order, with `depth` of them made ahead by `workers` threads; 0: none.

    initializer: what each thread does first. An exception of a call is raised where its item would have come. The
    threads end with the iterator, also where that is left before its end.
    """
    if depth == 0:
        for call in calls:
            yield call()
        return
    calls = iter(calls)
    pending: deque[Future] = deque()
    threads = ThreadPoolExecutor(workers, thread_name_prefix="scatsimclr-data", initializer=initializer)

    def submit_next() -> None:
        if (call := next(calls, None)) is not None:
            pending.append(threads.submit(call))

    try:
        for _ in range(depth):
            submit_next()
        while pending:
            item = pending.popleft().result()
            submit_next()
            yield item
    finally:
        threads.shutdown(cancel_futures=True)
