"""Updates as CUDA graphs: recorded once, then replayed with one launch instead of a thousand.

Source: PyTorch's notes on CUDA graphs, "Whole-network capture".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from scatsimclr.data.loader import Batch

Result = TypeVar("Result")
# A call's replay, and the result that every replay renews.
Recorded = tuple[Callable[[], object], Result]

# Updates before the recording: kernels are compiled, libraries choose algorithms, Adam makes its state.
WARM_UP = 3


@dataclass
class _Recording(Generic[Result]):
    """A batch in the memory that the recorded kernels read, how often it ran, and what was recorded."""

    batch: Batch
    runs: int = 0
    recorded: Recorded[Result] | None = None


class GraphedUpdate(Generic[Result]):
    """Calls `update(batch)`, plainly at first and then as a recording, one for each form of batch.

    The result of a replay is overwritten by the next one.

    Args:
        update: Works on the batch's tensors without waiting for the device, and returns tensors on it. A replay has the
            effects of a call (on weights, statistics, the random numbers of dropout).
        record: Records a call without running it. By default as a CUDA graph.
    """

    def __init__(
        self,
        update: Callable[[Batch], Result],
        record: Callable[[Callable[[], Result]], Recorded[Result]] | None = None,
    ):
        self.update, self.record = update, record or record_cuda
        self.recordings: dict[tuple[object, ...], _Recording[Result]] = {}
        self._side: torch.cuda.Stream | None = None

    def __call__(self, batch: Batch) -> Result:
        form = tuple((tensor.shape, tensor.dtype) for tensor in _tensors(batch))
        recording = self.recordings.get(form)
        if recording is None:
            recording = self.recordings[form] = _Recording(_map(torch.clone, batch))
        for own, new in zip(_tensors(recording.batch), _tensors(batch), strict=True):
            own.copy_(new, non_blocking=True)
        recording.runs += 1
        if recording.runs <= WARM_UP:
            return self._on_side_stream(lambda: self.update(recording.batch))
        if recording.recorded is None:
            recording.recorded = self.record(lambda: self.update(recording.batch))
        replay, result = recording.recorded
        replay()
        return result

    def _on_side_stream(self, call: Callable[[], Result]) -> Result:
        """Makes a call off the default stream, as the calls before a recording must be.

        Always on the same one: freed memory is kept for the stream that it was used on.
        """
        if not torch.cuda.is_available():
            return call()
        self._side = side = self._side or torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = call()
        torch.cuda.current_stream().wait_stream(side)
        return result


def record_cuda(call: Callable[[], Result]) -> Recorded[Result]:
    """Records a call as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    # Only this thread's work: another one is making the next batches.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = call()
    return graph.replay, result


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The batch with `function` of each of its tensors."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Batch):
        views, indices, pretext = (
            _map(function, part) for part in (value.views, value.indices, value.pretext)
        )
        return replace(value, views=views, indices=indices, pretext=pretext)
    return None if value is None else tuple(_map(function, part) for part in value)


def _tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _map(collect, batch)
    return found
