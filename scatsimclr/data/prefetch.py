"""Makes the next items of an iterator in a thread while the present one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, up to `depth` of them made ahead; with 0 no thread is used.

    An exception of `items` is raised where its item would have come. The thread ends with the iterator, also where
    that is left before its end.
    """
    if depth == 0:
        yield from items
        return
    ready: queue.Queue = queue.Queue(depth)
    left = threading.Event()

    def put(entry: tuple) -> None:
        while not left.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((item, None))
                if left.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    worker = threading.Thread(target=work, name="scatsimclr-data", daemon=True)
    worker.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        left.set()
        worker.join()
