"""Signals that ask a run to stop, answered between two steps, where a checkpoint is the same as without them.

Schedulers announce preemption by SIGTERM, SIGUSR1 (Slurm's `--signal`) or SIGHUP (a terminal that closes), people by
SIGINT (Ctrl-C). Of several processes that train together, one is enough to stop all: the others hear of it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)
# What a thread wakes the main thread with; nobody else uses it.
WAKE = getattr(signal, "SIGRTMAX", None)
# A launcher passes on a signal that its processes may have had already: for so many seconds it is the same one.
RELAYED = 5.0


class Interrupted(BaseException):
    """A signal came in a part of a run that may be stopped anywhere. No handler of errors takes it: BaseException."""


class FailedElsewhere(BaseException):
    """Another process of the run has failed, and said why: this one ends without a word.

    Attributes:
        status: The exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Interruption:
    """Notes the first signal; the second ends the process at once.

    Attributes:
        number: The signal that came, here or in another process; None before.
        received: When it came to this process itself, by `time.monotonic`; None where it did not.
        where: How far the run had come, in words, and how it is continued.
        relayed: Whether a launcher passes signals on, see RELAYED.
        reports: Whether this process, of those of the run, says that it was stopped.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.received: float | None = None
        self.where = "before the first checkpoint: the same command starts again"
        self.relayed, self.reports = False, True
        self._anywhere = False
        self._failure: int | None = None
        self._ending = False

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
        if WAKE is not None:
            before[WAKE] = signal.signal(WAKE, self._woken)
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
        with self._stoppable(True):
            yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """A part of a block of `anywhere` that is not stopped until its end."""
        allowed = self._anywhere
        with self._stoppable(False):
            yield
        if allowed and self.number is not None:
            raise Interrupted

    @contextmanager
    def _stoppable(self, anywhere: bool) -> Iterator[None]:
        before, self._anywhere = self._anywhere, anywhere
        try:
            if anywhere and self.number is not None:
                raise Interrupted
            yield
        finally:
            self._anywhere = before

    def hear(self, number: int) -> None:
        """Called by another thread: another process of the run was asked to stop."""
        if self.number is None:
            self.number = number
            self._wake()

    def fail(self, status: int) -> None:
        """Called by another thread: another process of the run has failed, and this one is to end."""
        self._failure = status
        self._wake()

    def end(self) -> None:
        """From now on no other process interrupts this one: it is on its way out, and has something to say first."""
        self._ending = True

    def _wake(self) -> None:
        thread = threading.main_thread().ident
        if WAKE is not None and thread is not None:
            signal.pthread_kill(thread, WAKE)

    def _woken(self, number: int, frame: FrameType | None) -> None:
        if self._ending:
            return
        if self._failure is not None:
            raise FailedElsewhere(self._failure)
        if self._anywhere and self.number is not None:
            raise Interrupted

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.received is not None:
            if self.relayed and now - self.received < RELAYED:
                return
            # Python's own way out waits for threads and data loaders; whoever asks twice does not want to.
            os.write(2, b"\nstopped at once\n")
            os._exit(128 + number)
        self.received = now
        if self.number is None:
            self.number = number
        if self._anywhere:
            raise Interrupted
