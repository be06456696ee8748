"""What a case of `gpu_check.py` runs on and how it measures: the GPU, or in a dry run the CPU in its place.

A dry run goes through the same code with tiny sizes: Triton's kernels in its interpreter (float16 stands for bfloat16,
which the interpreter gets wrong), wall clock for events, calls for CUDA graphs, and eager execution for compilation.
Its figures mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from benchmarks.gpu.errors import absent, explained
from benchmarks.measure import quartiles
from scatsimclr.ops.availability import HAS_TRITON
from scatsimclr.ops.library import OPERATORS

T = TypeVar("T")
Call = Callable[[], object]
Data = dict[str, Any]
# What each case of a step runs, by name.
Cases = dict[str, Callable[[], Data]]

ROUNDS = 7
TURN_MS = 20.0


class NotRun(Exception):
    """Raised by a step or a case that cannot run here: it says why, and is no failure."""


@dataclass(frozen=True)
class Device:
    """The GPU, or the CPU in a dry run."""

    dry: bool

    @property
    def type(self) -> str:
        """Where tensors go."""
        return "cpu" if self.dry else "cuda"

    def pick(self, real: T, tiny: T) -> T:
        """The first on a GPU, the second in a dry run."""
        return tiny if self.dry else real

    def dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype that stands for it."""
        return torch.float16 if self.dry and dtype == torch.bfloat16 else dtype

    def rand(self, *shape: int) -> torch.Tensor:
        """Uniform float32 numbers in [0, 1)."""
        return torch.rand(*shape, device=self.type)

    def randn(self, *shape: int) -> torch.Tensor:
        """Normal float32 numbers."""
        return torch.randn(*shape, device=self.type)

    def runs(self, op: str, name: str) -> bool:
        """Whether the operator's implementation can run; in a dry run in the interpreter, where tiny sizes go through
        Triton's kernels alone."""
        if self.dry:
            return name in ("triton", "cuda") and HAS_TRITON
        return OPERATORS[op].implementations[name].availability().usable

    def require(self, op: str, name: str) -> None:
        """Raises NotRun where `runs` says no."""
        if not self.runs(op, name):
            obstacle = OPERATORS[op].implementations[name].availability().obstacle
            raise NotRun(f"{name} of {op}: {obstacle}")

    def backends(self, op: str) -> list[str]:
        """What to time as ours: the backends for GPUs. A dry run times the CPU's default."""
        if self.dry:
            return ["auto"]
        entries = OPERATORS[op].implementations.values()
        return [entry.name for entry in entries if entry.device == "cuda" and entry.availability().usable]

    def synchronize(self) -> None:
        """Waits until all work is done; raises what went wrong in it."""
        if not self.dry:
            torch.cuda.synchronize()

    def usable(self) -> bool:
        """Whether the device still computes: after some errors it does not until the process ends."""
        try:
            one = torch.ones(1, device=self.type) + 1
            self.synchronize()
            return one.item() == 2
        except (RuntimeError, AssertionError):  # the latter of a PyTorch without CUDA
            return False

    def free(self) -> None:
        """Gives cached memory back."""
        if not self.dry:
            torch.cuda.empty_cache()

    def milliseconds(self, call: Call, repeats: int = 1) -> float:
        """The mean time of a call."""
        if self.dry:
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            return (time.perf_counter() - start) * 1e3 / repeats
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / repeats

    def peak_bytes(self, call: Call) -> int:
        """The most memory that a call takes beyond what is there before; 0 in a dry run."""
        if self.dry:
            call()
            return 0
        self.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def graphed(self, call: Callable[[], T]) -> tuple[Call, T]:
        """A CUDA graph of a call: its replay, and the result that every replay writes."""
        if self.dry:
            return call, call()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()
        return graph.replay, result

    def compiled(self, function: Callable[..., T]) -> Callable[..., T]:
        """torch.compile of a function, for each shape anew."""
        return torch.compile(function, dynamic=False, backend=self.pick("inductor", "eager"))


@contextmanager
def poisoned() -> Iterator[None]:
    """Fills uninitialised memory with NaN, so that whatever a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


class Turns:
    """Competitors of one case: those that run, and why the others do not."""

    def __init__(self, device: Device):
        self.device = device
        self.calls: dict[str, Call] = {}
        self.missing: dict[str, str] = {}
        self.ours: list[str] = []

    def add(self, name: str, make: Callable[[], Call], *, ours: bool = False) -> bool:
        """Makes a call and runs it once; whether it takes part.

        What goes wrong becomes the reason why it does not, unless it took the device with it. One of `ours` that does
        not take part is a failure all the same, unless it needs a package that is absent.
        """
        try:
            call = make()
            call()
            self.device.synchronize()
        except Exception as error:  # whatever a peer, a compiler or a driver raises
            if not self.device.usable():
                raise
            self.missing[name] = explained(error)
            self.ours += [name] if ours and not absent(error) else []
            self.device.free()
            return False
        self.calls[name] = call
        self.ours += [name] if ours else []
        return True

    def times(self, rounds: int = ROUNDS) -> Data:
        """Times of turns: "ms", name -> [lower quartile, median, upper quartile]; "missing", name -> why; "ours".

        A turn is as many calls as fill 20 ms, at most 200. Inputs that fit a cache stay in it.
        """
        rounds = self.device.pick(rounds, 1)
        repeats = {}
        for name, call in self.calls.items():
            once = min(self.device.milliseconds(call) for _ in range(self.device.pick(2, 1)))
            repeats[name] = self.device.pick(max(1, min(200, int(TURN_MS / max(once, 1e-3)))), 1)
        measured: dict[str, list[float]] = {name: [] for name in self.calls}
        for _ in range(rounds):
            for name, call in self.calls.items():
                measured[name].append(self.device.milliseconds(call, repeats[name]))
        ms = {name: [round(q, 5) for q in quartiles(values)] for name, values in measured.items()}
        return {"ms": ms, "missing": self.missing, "ours": self.ours, "rounds": rounds}


def verdict(errors: dict[str, tuple[float, float]], exact: dict[str, bool] | None = None) -> Data:
    """Whether a case agrees.

    Args:
        errors: by name an error and its bound.
        exact: by name whether something that must hold to the last bit does.
    """
    return {
        "agreed": all(error <= bound for error, bound in errors.values()) and all((exact or {}).values()),
        "errors": {name: error for name, (error, _) in errors.items()},
        "bounds": {name: bound for name, (_, bound) in errors.items()},
        "exact": exact or {},
    }


def named(dtype: torch.dtype) -> str:
    """float32 for torch.float32."""
    return str(dtype).removeprefix("torch.")
