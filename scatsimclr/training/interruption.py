"""Signals that ask a run to stop, answered between two steps, where a checkpoint is the same as without them.

Schedulers announce preemption by SIGTERM, SIGUSR1 (Slurm's `--signal`) or SIGHUP (a terminal that closes), people by
SIGINT (Ctrl-C).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)


class Interrupted(BaseException):
    """A signal came in a part of a run that may be stopped anywhere. No handler of errors takes it: BaseException."""


class Interruption:
    """Notes the first signal; the second ends the process at once.

    Attributes:
        number: The signal that came, None before.
        where: How far the run had come, in words, and how it is continued.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.where = "before the first checkpoint: the same command starts again"
        self._anywhere = False

    @property
    def status(self) -> int:
        """Exit status of a run that saved its state: 130 after SIGINT, 0 after the others: they announce preemption."""
        return 130 if self.number == signal.SIGINT else 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Handles the signals for the duration of the block; only in the main thread, elsewhere they are left alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # What was ignored stays ignored: nohup.
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
        for number in before:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def anywhere(self) -> Iterator[None]:
        """A block that a signal may stop anywhere, as it changes nothing that is saved.

        Raises:
            Interrupted: A signal came, before or in the block.
        """
        self._anywhere = True
        try:
            if self.number is not None:
                raise Interrupted
            yield
        finally:
            self._anywhere = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            # Python's own way out waits for threads and data loaders; whoever asks twice does not want to.
            os.write(2, b"\nstopped at once\n")
            os._exit(128 + number)
        self.number = number
        if self._anywhere:
            raise Interrupted
