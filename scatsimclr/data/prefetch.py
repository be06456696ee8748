"""Makes the next items in threads while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(
    calls: Iterable[Callable[[], T]],
    depth: int,
    workers: int = 1,
    initializer: Callable[[], None] | None = None,
) -> Generator[T, None, None]:
    """Makes calls ahead of their use.

    The threads end with the iterator, also where it is left before its end.

    Args:
        calls: What to call, in order.
        depth: Results made ahead; 0 for none, and no threads.
        workers: Threads that make them.
        initializer: What each thread does first.

    Yields:
        The results in the order of the calls. An exception of a call is raised where its result would have come.
    """
    if depth == 0:
        for call in calls:
            yield call()
        return
    calls = iter(calls)
    pending: deque[Future[T]] = deque()
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
