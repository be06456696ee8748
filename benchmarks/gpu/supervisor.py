"""Runs steps of `gpu_check.py` in processes of their own, and records what comes of every case.

The supervisor imports neither PyTorch nor CUDA, so that nothing that goes wrong in a case can reach it. Workers are
forked from a server that has imported what takes seconds and has not touched the GPU; should an import have touched it,
after which no forked process can, they are started anew each time.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from benchmarks.gpu import worker
from benchmarks.gpu.plan import Step
from benchmarks.gpu.results import Results
from benchmarks.gpu.worker import Assignment

# Imported once, in the server. Not torch._inductor, whose import starts processes.
PRELOADED = ["torch", "numpy", "scipy.fft", "triton", "torch._dynamo"]
GONE = 10.0  # seconds that a killed process may take to be gone
Report = Callable[[str], None]


# Ways to start a worker, the faster first.
METHODS = ("forkserver", "spawn")


def context(method: str) -> Any:
    """The multiprocessing context of all workers."""
    found = multiprocessing.get_context(method)
    found.set_forkserver_preload(PRELOADED)
    return found


@dataclass
class _Worker:
    """A process, and since when it does what.

    Attributes:
        case: what it runs; None while it starts.
    """

    process: Any
    connection: Connection
    since: float
    case: str | None = None

    def kill(self) -> None:
        """Ends it and what it has started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except OSError:
            self.process.kill()
        self.process.join(GONE)
        self.connection.close()

    def end(self) -> None:
        """Waits for one that ends by itself."""
        self.process.join(GONE)
        if self.process.is_alive():
            self.kill()
        else:
            self.connection.close()


@dataclass
class StepRun:
    """One step, run.

    Attributes:
        step: which.
        results: where everything is recorded.
        context: how processes are started.
        until: time.monotonic() at which everything ends.
        dry: whether there is no GPU.
        side_by_side: how many processes a parallel step may have.
        report: prints a line.
        drill: see `Assignment`.
    """

    step: Step
    results: Results
    context: Any
    until: float
    dry: bool
    side_by_side: int
    report: Report
    drill: str = ""
    workers: list[_Worker] = field(default_factory=list)
    queue: deque[str] | None = None  # None until a worker has listed the cases
    processes: int = 0
    over: str = ""  # why no further case is started; those that run may end

    def run(self) -> None:
        """Runs all cases that are not settled."""
        start = time.monotonic()
        end = start + self.step.limit
        self._hire()
        while self.workers:
            due = [min(w.since + self.step.case_limit, end, self.until) for w in self.workers]
            ready = wait([w.connection for w in self.workers], max(0.0, min(due) - time.monotonic()))
            for one in [w for w in self.workers if w.connection in ready]:
                self._heard(one)
            now = time.monotonic()
            if now >= self.until:
                self.over = "out of time"
            elif now >= end:
                self.over = f"the step's {self.step.limit:.0f} s are over"
            last = now >= min(self.until, end)
            for one in [w for w in self.workers if last or now >= w.since + self.step.case_limit]:
                self._late(one, now)
            self._hire_more()
        if self.queue is None or self.queue:
            self.results.skipped(self.step, self.over or "no process could run it")
        self.results.ended(self.step, time.monotonic() - start, self.processes)

    def _hire(self) -> None:
        ours, theirs = multiprocessing.Pipe()
        assignment = Assignment(self.step.cases, self.dry, self.drill)
        process = self.context.Process(target=worker.main, args=(theirs, assignment), daemon=True)
        try:
            process.start()
        except (OSError, EOFError) as error:  # the server has ended: an import has taken it down
            self._cannot_start({"kind": "process", "error": f"no process could be started: {error!r}"})
            return
        finally:
            theirs.close()
        self.workers.append(_Worker(process, ours, time.monotonic()))
        self.processes += 1

    def _hire_more(self) -> None:
        if self.queue is None or self.over:
            return
        most = self.side_by_side if self.step.parallel else 1
        waiting = sum(w.case is None for w in self.workers)
        for _ in range(min(most - len(self.workers), len(self.queue) - waiting)):
            self._hire()

    def _heard(self, one: _Worker) -> None:
        """Takes in what a worker says, or that it is gone."""
        try:
            message = one.connection.recv()
        except (EOFError, OSError):
            self._gone(one)
            return
        if one.case is None:
            self._started(one, *message)
            return
        status, data, usable = message
        self._record(one, status, data)
        if usable:
            self._give(one)
        else:
            self.workers.remove(one)
            one.end()

    def _started(self, one: _Worker, kind: str, content: Any) -> None:
        if kind == "cases":
            if self.queue is None:
                self.queue = deque(self.results.planned(self.step, content))
            self._give(one)
            return
        self.workers.remove(one)
        one.end()
        if kind == "not run":
            self.over = content
        else:
            self._cannot_start(content)

    def _cannot_start(self, data: dict[str, Any]) -> None:
        """The step cannot list its cases."""
        self.over = str(data["error"])
        self.results.step(self.step).update(failed=data)

    def _give(self, one: _Worker) -> None:
        """Gives a worker the next case, or lets it go."""
        if self.queue and not self.over:
            one.case, one.since = self.queue.popleft(), time.monotonic()
            with suppress(OSError):  # it has just died: that will be heard
                one.connection.send(one.case)
            return
        self.workers.remove(one)
        with suppress(OSError):
            one.connection.send(None)
        one.end()

    def _gone(self, one: _Worker) -> None:
        """A worker has ended without a word."""
        self.workers.remove(one)
        one.end()
        code = one.process.exitcode
        how = signal.Signals(-code).name if code and code < 0 else f"exit status {code}"
        data = {"kind": "process", "error": f"the process ended: {how}"}
        if one.case is None:
            self._cannot_start(data)
        else:
            self._record(one, "crashed", data)

    def _late(self, one: _Worker, now: float) -> None:
        """A worker has not answered in time."""
        self.workers.remove(one)
        one.kill()
        data = {"kind": "time", "error": f"ended after {now - one.since:.0f} s"}
        if one.case is None:
            self._cannot_start(data)
        elif now >= one.since + self.step.case_limit:
            self._record(one, "timed out", data)
        else:  # not the case's fault
            self._record(one, "not run", {"why": self.over, **data})

    def _record(self, one: _Worker, status: str, data: dict[str, Any]) -> None:
        seconds = time.monotonic() - one.since
        self.results.case(self.step, str(one.case), status, seconds, data)
        how = {True: "agrees", False: "DISAGREES", None: status}[
            data.get("agreed") if status == "done" else None
        ]
        detail = data.get("error") or data.get("why") or summary(data)
        self.report(f"  {one.case}: {how} in {seconds:.1f} s{'; ' if detail else ''}{str(detail)[:200]}")


def summary(data: dict[str, Any]) -> str:
    """The medians of a case's times."""
    return ", ".join(f"{name} {ms[1]:.4g} ms" for name, ms in data.get("ms", {}).items())
