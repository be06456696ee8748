"""Triton's interpreter with programs in a shuffled order, every address they touch watched, and launches recorded.

Imported, with TRITON_INTERPRET=1, before the kernels. What is found in any launch from then on:

- an address outside of all tensors that the launch was given;
- an address that one program writes and another one writes or reads, or adds to: the result depends on their order;
- a float that two programs add to by atomics: its rounding depends on their order;
- one store that writes an address twice.

A load past the first-level cache (".cg") is not a race: the one place that uses it, `_arrive`, orders it by a counter.
"""

from __future__ import annotations

import inspect
import json
import os
from bisect import bisect_right
from collections import Counter

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter
from ahead_of_time import description

NOBODY, SEVERAL = -1, -2
found: Counter[tuple[str, str]] = Counter()
launches: set[str] = set()
_builder = interpreter.interpreter_builder
_random = np.random.RandomState(int(os.environ.get("SEED", "1")))


class _Memory:
    """The storage of some of a launch's tensors: by byte, which program wrote, read and added to it."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.begin, self.size = storage.data_ptr(), storage.nbytes()
        self.writer, self.reader, self.adder = (np.full(self.size, NOBODY, np.int32) for _ in range(3))


class _Watch:
    """One launch."""

    def __init__(self, kernel: str, tensors: list[torch.Tensor]) -> None:
        self.kernel = kernel
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
        self.memories = [_Memory(storages[begin]) for begin in sorted(storages)]
        self.begins = [memory.begin for memory in self.memories]
        self.order = np.zeros(0, np.int64)
        self.program = 0

    def report(self, what: str) -> None:
        found[self.kernel, what] += 1

    def places(self, pointers: np.ndarray, mask: np.ndarray) -> tuple[_Memory, np.ndarray] | None:
        """Where a block of pointers is, unless nothing of it is used."""
        used = np.broadcast_to(pointers, np.broadcast_shapes(pointers.shape, mask.shape))[
            np.broadcast_to(mask, np.broadcast_shapes(pointers.shape, mask.shape)).astype(bool)
        ].astype(np.int64)
        if not used.size:
            return None
        memory = self.memories[max(0, bisect_right(self.begins, int(used.min())) - 1)]
        at = used - memory.begin
        if at.min() < 0 or at.max() >= memory.size:
            self.report("an address outside of its tensors")
            return None
        return memory, at

    def others(self, marks: np.ndarray) -> bool:
        return bool(((marks != NOBODY) & (marks != self.program)).any())

    def mark(self, marks: np.ndarray, at: np.ndarray) -> None:
        before = marks[at]
        marks[at] = np.where((before == NOBODY) | (before == self.program), self.program, SEVERAL)

    def load(self, pointers: np.ndarray, mask: np.ndarray) -> None:
        if place := self.places(pointers, mask):
            memory, at = place
            if self.others(memory.writer[at]) or self.others(memory.adder[at]):
                self.report("a read of what another program writes")
            self.mark(memory.reader, at)

    def store(self, pointers: np.ndarray, mask: np.ndarray) -> None:
        if place := self.places(pointers, mask):
            memory, at = place
            if self.others(memory.writer[at]) or self.others(memory.adder[at]):
                self.report("writes of two programs to one address")
            if self.others(memory.reader[at]):
                self.report("a read of what another program writes")
            if len(np.unique(at)) != len(at):
                self.report("one store that writes an address twice")
            self.mark(memory.writer, at)

    def add(self, pointers: np.ndarray, mask: np.ndarray, exact: bool) -> None:
        if place := self.places(pointers, mask):
            memory, at = place
            if self.others(memory.writer[at]) or (self.others(memory.reader[at]) and not exact):
                self.report("an addition to what another program reads or writes")
            if self.others(memory.adder[at]) and not exact:
                self.report("floats that two programs add to")
            self.mark(memory.adder, at)


_watch: _Watch | None = None
_dim, _index = _builder.set_grid_dim, _builder.set_grid_idx
_load, _store, _add = _builder.create_masked_load, _builder.create_masked_store, _builder.create_atomic_rmw
_execute = interpreter.GridExecutor.__call__


def _set_grid_dim(*grid: int) -> None:
    _watch.order = _random.permutation(int(np.prod(grid)))
    _dim(*grid)


def _set_grid_idx(x: int, y: int, z: int) -> None:
    assert y == z == 0, "grids have one dimension"
    _watch.program = int(_watch.order[x])
    _index(_watch.program, 0, 0)


def _masked_load(pointers, mask, other, cache, *rest):
    if "CG" not in str(cache):
        _watch.load(pointers.data, mask.data)
    return _load(pointers, mask, other, cache, *rest)


def _masked_store(pointers, value, mask, *rest):
    _watch.store(pointers.data, mask.data)
    return _store(pointers, value, mask, *rest)


def _atomic(operation, pointers, value, mask, *rest):
    _watch.add(pointers.data, mask.data, not value.dtype.scalar.is_floating())
    return _add(operation, pointers, value, mask, *rest)


def _call(self, *args, **options):
    global _watch
    tensors = [value for value in (*args, *options.values()) if isinstance(value, torch.Tensor)]
    _watch = _Watch(self.fn.__name__, tensors)
    return _execute(self, *args, **options)


_builder.set_grid_dim, _builder.set_grid_idx = _set_grid_dim, _set_grid_idx
_builder.create_masked_load, _builder.create_masked_store = _masked_load, _masked_store
_builder.create_atomic_rmw = _atomic
interpreter.GridExecutor.__call__ = _call


def watch() -> None:
    """Records all that the launchers launch from now on."""
    from scatsimclr.kernels import launching

    launch = launching.launch

    def recorded(kernel, programs, *args, warps=4, **options):
        launches.add(json.dumps(description(kernel, args, {**options, "num_warps": warps}), sort_keys=True))
        launch(kernel, programs, *args, warps=warps, **options)

    launching.launch = recorded


def tensor_cores_truncate() -> None:
    """From now on products of TF32 cut the last 13 bits of their operands off, as tensor cores do.

    Products of "tf32x3" are three of these, of numbers as sums of two that the compiler rounds.
    """
    dot = _builder.create_dot

    def cut(t, half=0):
        return interpreter.TensorHandle(((t.data.view(np.int32) + half) & -8192).view(np.float32), t.dtype)

    def parts(t):
        large = cut(t, 0x1000)
        return large, cut(interpreter.TensorHandle(t.data - large.data, t.dtype), 0x1000)

    def of_tensor_cores(a, b, d, precision, *more):
        kind = str(precision).rpartition(".")[2]
        if a.dtype == tl.float32 and kind == "TF32x3":
            (a, a_rest), (b, b_rest) = parts(a), parts(b)
            d = dot(a_rest, b, d, precision, *more)
            d = dot(a, b_rest, d, precision, *more)
        elif a.dtype == tl.float32 and kind == "TF32":
            a, b = cut(a), cut(b)
        return dot(a, b, d, precision, *more)

    _builder.create_dot = of_tensor_cores


def results(cases: int) -> str:
    """What a process prints at its end."""
    races = [[*what, count] for what, count in sorted(found.items())]
    return json.dumps(
        {"cases": cases, "races": races, "launches": [json.loads(one) for one in sorted(launches)]}
    )


assert "mask" in inspect.signature(_load).parameters
