"""Updates as CUDA graphs: recorded once, then replayed with one launch instead of a thousand.

Source: PyTorch's notes on CUDA graphs, "Whole-network capture".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from scatsimclr.data.loader import Batch

WARM_UP = (
    3  # updates before the recording: kernels are compiled, libraries choose algorithms, Adam makes its state
)


@dataclass
class _Recording:
    """A batch in the memory that the recorded kernels read, how often it ran, and the replay with its result."""

    batch: Batch
    runs: int = 0
    replay: Callable[[], object] | None = None
    result: Any = None


class GraphedUpdate:
    """Calls `update(batch)`, as it is at first and then as a recording, one for each form of batch.

    update : works on the batch's tensors without waiting for the device, and returns tensors on it. Its effects
        (weights, statistics, random numbers of dropout) are those of a call.
    record : from a call, makes its replay and the result that every replay renews; it does not run the call.

    The result of a replay is overwritten by the next one.
    """

    def __init__(
        self,
        update: Callable[[Batch], Any],
        record: Callable[[Callable[[], Any]], tuple[Callable[[], object], Any]] | None = None,
    ):
        self.update, self.record = update, record or record_cuda
        self.recordings: dict[tuple, _Recording] = {}

    def __call__(self, batch: Batch) -> Any:
        form = tuple((tensor.shape, tensor.dtype) for tensor in _tensors(batch))
        recording = self.recordings.get(form)
        if recording is None:
            recording = self.recordings[form] = _Recording(_map(torch.clone, batch))
        for own, new in zip(_tensors(recording.batch), _tensors(batch), strict=True):
            own.copy_(new, non_blocking=True)
        recording.runs += 1
        if recording.runs <= WARM_UP:
            return _on_side_stream(lambda: self.update(recording.batch))
        if recording.replay is None:
            recording.replay, recording.result = self.record(lambda: self.update(recording.batch))
        recording.replay()
        return recording.result


def record_cuda(call: Callable[[], Any]) -> tuple[Callable[[], object], Any]:
    """Records a call as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    # Of this thread alone: another one makes the next batches meanwhile.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = call()
    return graph.replay, result


def _on_side_stream(call: Callable[[], Any]) -> Any:
    """Where a recording follows, the calls before it have to be off the default stream."""
    if not torch.cuda.is_available():
        return call()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        result = call()
    torch.cuda.current_stream().wait_stream(side)
    return result


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The batch with `function` of each of its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Batch):
        return Batch(*(_map(function, getattr(value, field.name)) for field in fields(value)))
    return None if value is None else tuple(_map(function, part) for part in value)


def _tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    _map(lambda tensor: found.append(tensor) or tensor, batch)
    return found
