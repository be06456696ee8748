"""What the processes of a run tell each other outside their steps: that one was asked to stop, that one has failed, and
that all are still there.

A collective of torch.distributed that waits for a process which is gone hears of it only if its connection breaks: a
machine that is cut off breaks none. So every process gives a sign of life through the store that torchrun's processes
share, and ends where others give none.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time

from torch.distributed.distributed_c10d import Store

from scatsimclr.training.interruption import Interruption

POLL = 0.25  # seconds between two looks for news
BEAT = 5.0  # seconds between two signs of life
SILENT = 6  # signs of life that may be missed
GRACE = 2.0  # seconds that the main thread has to end by itself, before the process is ended


class Watch:
    """Two threads: one talks to the store, the other ends the process where the store no longer answers.

    Args:
        store: Of this attempt of the run alone; used by this object alone.
        rank: This process.
        stop: Gets what others were asked, and tells them what this process was.
        people: (host, pid) of every process.
        hosts: Whether the store ends with this process, which then leaves last.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        stop: Interruption,
        people: list[tuple[str, int]],
        *,
        hosts: bool,
    ) -> None:
        self.store, self.rank, self.hosts = store, rank, hosts
        self.stop, self.people, self.size = stop, people, len(people)
        self._closed = threading.Event()
        self._told = False  # whether the others know that this process was asked to stop
        self._lost = False  # whether the store is gone; each further question would be a page of warnings
        self._answered = 0  # rounds in which the store has answered
        self._beats: dict[int, tuple[bytes, int]] = {}  # last sign of life, and how often it was seen
        store.set(f"alive/{rank}", "0")
        self._threads = [
            threading.Thread(target=work, name=f"scatsimclr-{name}", daemon=True)
            for name, work in (("watch", self._talk), ("guard", self._guard))
        ]

    def start(self) -> None:
        """Begins to watch; every process must have made its watch."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends watching, and tells the others that this process leaves as it should."""
        with contextlib.suppress(RuntimeError):  # the process with the store may have left first
            if not self._lost:
                self._tell()
                self._leave()
        self._closed.set()  # only now: a store that is cut off answers nothing, and `_guard` sees it

    def _leave(self) -> None:
        """Tells the others that this process leaves; one that hosts the store gives them the time to."""
        self.store.set(f"left/{self.rank}", "1")
        end = time.monotonic() + GRACE
        others = [f"left/{rank}" for rank in range(self.size) if rank != self.rank]
        while self.hosts and time.monotonic() < end and not self.store.check(others):
            time.sleep(POLL / 5)

    def claim(self, status: int) -> bool:
        """Says that this process has failed; False where another one has said so before, which is to be heard first."""
        own = json.dumps([self.rank, status])
        try:
            if not self._lost:
                first = self.store.compare_set("failure", "", own) == own.encode()
                self._leave()
                return bool(first)
        except RuntimeError:
            self._lost = True
        finally:
            self._closed.set()
        return self._first_here()

    def reason(self, seconds: float) -> str | None:
        """Why a collective did not work, waiting so long for the news.

        Returns:
            "failed", another process has said that it failed; "stopped", one was asked to stop; the names of processes
            that are gone without a word; or None, for none of these.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                if news := self._news():
                    return news
            except RuntimeError:
                self._lost = True
                continue
            if time.monotonic() > end:
                return None
            time.sleep(POLL / 5)

    def _news(self) -> str | None:
        if not self._lost and self.store.check(["failure"]):
            return "failed"
        if gone := self._gone():
            return gone
        if self._lost:
            return "the process that holds the run's store"
        return "stopped" if self.store.check(["stop"]) else None

    def _gone(self) -> str:
        """The processes of this machine that ended without a word."""
        host, found = socket.gethostname(), []
        for rank, (place, pid) in enumerate(self.people):
            if place == host and not _runs(pid) and (self._lost or not self.store.check([f"left/{rank}"])):
                found.append(f"rank {rank} (process {pid})")
        return ", ".join(found)

    def _first_here(self) -> bool:
        """Whether this is the first process of its machine that is still there."""
        host = socket.gethostname()
        return not any(place == host and _runs(pid) for place, pid in self.people[: self.rank])

    def _talk(self) -> None:
        beats, last = 0, 0.0
        while not self._closed.wait(POLL):
            try:
                self._pass_on()
                if time.monotonic() - last >= BEAT:
                    last, beats = time.monotonic(), beats + 1
                    self.store.set(f"alive/{self.rank}", str(beats))
                    self._listen()
                self._answered += 1
            except RuntimeError:
                # Either the run is at its end, or a collective will say so, or `_guard`.
                self._lost = True
                return

    def _pass_on(self) -> None:
        """Passes on that this process was asked to stop, and takes what others say."""
        self._tell()
        if self.store.check(["failure"]):
            origin, status = json.loads(self.store.get("failure"))
            if origin != self.rank:
                self._end(int(status))
        elif self.store.check(["stop"]):
            self.stop.hear(int(self.store.get("stop")))

    def _tell(self) -> None:
        if self.stop.received is not None and not self._told:
            self._told = True
            self.store.set("stop", str(self.stop.number))

    def _listen(self) -> None:
        """Looks for processes that give no sign of life: the first process at all, the others at the first."""
        others = [rank for rank in (range(1, self.size) if self.rank == 0 else (0,))]
        for rank, sign in zip(others, self.store.multi_get([f"alive/{r}" for r in others]), strict=True):
            before, seen = self._beats.get(rank, (b"", 0))
            seen = seen + 1 if sign == before else 0
            self._beats[rank] = sign, seen
            if seen >= SILENT and not self.store.check([f"left/{rank}"]):
                host, pid = self.people[rank]
                why = f"no sign of life from rank {rank} (process {pid} on {host}) for {SILENT * BEAT:.0f} s"
                self._give_up(why, first=self.claim(1))

    def _guard(self) -> None:
        """Counts its own rounds rather than seconds: a process that stood still has not missed anything."""
        before, missed = -1, 0
        while not self._closed.wait(1.0):
            missed = missed + 1 if self._answered == before else 0
            before = self._answered
            if missed >= SILENT * BEAT:
                why = (
                    f"the run's store has not answered for {missed} s: this machine or the store's is cut off"
                )
                self._give_up(why, first=self._first_here(), launcher=True)

    def _give_up(self, why: str, *, first: bool, launcher: bool = False) -> None:
        """Ends the process, with a line if it is the first to say so, and perhaps torchrun."""
        if first:
            print(f"scatsimclr: error: {why}; the run ends", file=sys.stderr, flush=True)
        self._end(1, launcher=launcher)

    def _end(self, status: int, *, launcher: bool = False) -> None:
        """Ends the process: by its main thread where that can, at once where it waits for others in a collective."""
        self._closed.set()
        if launcher:
            _end_launcher()
        self.stop.fail(status)
        time.sleep(GRACE)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end_launcher() -> None:
    """Ends torchrun, whose store does not answer: it asks without a timeout (`TCPStore.compare_set`), in C++, where it
    neither sees its processes end nor hears SIGTERM.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with contextlib.suppress(OSError):
            os.kill(os.getppid(), signal.SIGKILL)


def _runs(pid: int) -> bool:
    """Whether a process of this machine is there; one that has ended and was not waited for is not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        pass
    if os.path.isdir("/proc/self"):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
