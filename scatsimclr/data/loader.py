"""Batches of augmented view pairs from resident images: which samples a step sees, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scatsimclr.data.mapped import AnyImages
from scatsimclr.data.prefetch import ahead
from scatsimclr.data.randomness import uniforms
from scatsimclr.errors import UserError

if (
    TYPE_CHECKING
):  # a training step needs batches, not the settings that make them, nor the packages that check those
    from scatsimclr.data.augment import Augment
    from scatsimclr.data.pretext import Task

VIEWS = 2
PARTNERS = 0.5  # the share of second views that are a neighbour's, where there are neighbours
_PARTNER = 2**31  # the use of a sample's random numbers for its partner, beside those for its views


@dataclass(frozen=True)
class Share:
    """The images first … first + count − 1 of a step's `total`: those of one process."""

    first: int
    count: int
    total: int

    @classmethod
    def of(cls, total: int, rank: int, world_size: int) -> Share:
        """One of `world_size` shares whose sizes differ by one at most."""
        first, end = (r * total // world_size for r in (rank, rank + 1))
        return cls(first, end - first, total)


@dataclass(frozen=True)
class Batch:
    """The data of one step.

    Attributes:
        views: (V, B, C, H, W), normalised; each view is channels-last, and so are all of them as
            `views.flatten(0, 1)`, which copies nothing.
        indices: int64 (B,), the images' positions in the data set.
        pretext: The pretext task's pictures and labels (see `scatsimclr.data.pretext`); None where it is not active.
        share: Which images of the step's these are; None for all of them.
    """

    views: Tensor
    indices: Tensor
    pretext: tuple[Tensor, Tensor] | None = None
    share: Share | None = None


class PairLoader:
    """Two augmented views of every image, in an order that depends on (seed, epoch) alone.

    Every batch has `batch_size` images. The remainder of an epoch is left out (NT-Xent's value depends on the batch
    size), and it is a different remainder in each epoch. The loader has no state: the batches of an epoch from step k
    on are `epoch(..., start=k)`.

    Args:
        images: uint8 (n, H, W, C), already on the device that trains; or on the disk, of which a step reads its own.
        augment: Makes the views.
        batch_size: Images of a step, in all processes.
        seed: Of the order.
        pretext: Makes the pretext task's pictures.
        neighbours: int64 (n, k), images similar to each image; with probability `PARTNERS` the second view is
            one of theirs.
        prefetch: Batches made ahead, in up to that many threads at once.
        threads: Shared by all threads that make batches; None for as many as torch has in the caller. On two cores,
            two batches by one thread each take less time than one after the other by both threads.
        rank: Which of `world_size` processes this is.
        world_size: Processes that share every batch, in consecutive parts of equal size, give or take one image.

    Raises:
        UserError: There are fewer images than one batch needs, or fewer in a batch than processes.
        ValueError: `rank` is out of range.
    """

    def __init__(
        self,
        images: AnyImages,
        augment: Augment,
        batch_size: int,
        seed: int,
        pretext: Task | None = None,
        *,
        neighbours: Tensor | None = None,
        prefetch: int = 0,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size > len(images):
            raise UserError(
                f"batch_size={batch_size} is larger than the {len(images)} images to train on; "
                f"batch_size={len(images)} or less works"
            )
        if batch_size < world_size:
            raise UserError(
                f"batch_size must be at least the number of processes, {world_size}, got {batch_size}"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
        self.images = augment.resident(images) if isinstance(images, Tensor) else images
        self.augment, self.batch_size, self.seed, self.pretext = augment, batch_size, seed, pretext
        self.neighbours = neighbours
        self.prefetch, self.threads, self.rank, self.world_size = prefetch, threads, rank, world_size

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def order(self, epoch: int) -> Tensor:
        """The epoch's permutation of the images, int64 (n,)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.images), generator=generator)

    def epoch(self, epoch: int, *, pretext: bool = False, start: int = 0) -> Iterator[Batch]:
        """Makes the batches of an epoch.

        Args:
            epoch: Which epoch.
            pretext: Whether batches include the pretext task's pictures.
            start: The step to start from.

        Yields:
            One batch per step.
        """
        order, share = self.order(epoch), Share.of(self.batch_size, self.rank, self.world_size)

        def made(step: int) -> Batch:
            first = step * self.batch_size + share.first
            batch = self.batch(order[first : first + share.count], epoch, pretext=pretext)
            return batch if self.world_size == 1 else replace(batch, share=share)

        steps = range(start, len(self))
        if self.images.is_cuda and self.prefetch:
            yield from self._on_a_stream(made, steps)
            return
        threads = self.threads or torch.get_num_threads()
        # One more than `threads` where there are several: a worker waiting for DALI's thread leaves no core idle.
        workers = max(1, min(self.prefetch, threads + (threads > 1)))
        batches = ahead(
            (partial(made, step) for step in steps),
            self.prefetch,
            workers,
            partial(torch.set_num_threads, max(1, threads // workers)),
        )
        with closing(batches):
            yield from batches

    def _on_a_stream(self, made: Callable[[int], Batch], steps: range) -> Generator[Batch, None, None]:
        """Batches made on a CUDA stream of their own, so that they do not queue behind the training step's kernels.

        Not yet run on hardware.
        """
        device = self.images.device
        stream = torch.cuda.Stream(device)

        def on_stream(step: int) -> tuple[Batch, torch.cuda.Event]:
            with torch.cuda.stream(stream):
                return made(step), stream.record_event()

        with closing(ahead((partial(on_stream, step) for step in steps), self.prefetch)) as batches:
            for batch, event in batches:
                current = torch.cuda.current_stream(device)
                current.wait_event(event)
                for tensor in (batch.views, *(batch.pretext or ())):
                    tensor.record_stream(current)
                yield batch

    def batch(self, indices: Tensor, epoch: int, *, pretext: bool = False) -> Batch:
        """The views of the images at `indices`, int64 (B,), in an epoch; `pretext` adds that task's pictures."""
        # One call for all views: half the overhead. Its result is the batch's views as they lie in memory.
        repeated = torch.cat((indices, self.partners(indices, epoch)))
        view = torch.arange(VIEWS).repeat_interleave(len(indices))
        images = self._gathered(repeated)
        views = torch.unflatten(self.augment(images, repeated, epoch, view), 0, (VIEWS, len(indices)))
        extra = None
        if pretext:
            if self.pretext is None:
                raise ValueError("pretext must be False for a loader without a pretext task, got True")
            extra = self.pretext(images[: len(indices)], indices, epoch)
        return Batch(views, indices, extra)

    def _gathered(self, rows: Tensor) -> Tensor:
        """The images at `rows`, in the memory layout from which batches are made fastest."""
        if isinstance(self.images, Tensor):
            return _gather(self.images, rows.to(self.images.device))
        return self.augment.resident(self.images[rows])

    def partners(self, indices: Tensor, epoch: int) -> Tensor:
        """Which image each second view shows, int64 (B,): a function of (seed, epoch, image) alone."""
        if self.neighbours is None:
            return indices
        drawn = torch.from_numpy(uniforms(self.seed, indices.numpy(), epoch, _PARTNER, 2))
        known = self.neighbours[indices]
        pick = (drawn[:, 1] * known.shape[1]).long()[:, None]
        return torch.where(drawn[:, 0] < PARTNERS, known.gather(1, pick)[:, 0], indices)


def _gather(images: Tensor, rows: Tensor) -> Tensor:
    """`images[rows]` in the memory layout of `images`, copied image by image: indexing would copy byte by byte."""
    inner = sorted((1, 2, 3), key=images.stride, reverse=True)
    packed = images.permute(0, *inner)
    back = [1 + inner.index(axis) for axis in (1, 2, 3)]
    return packed.index_select(0, rows).permute(0, *back)
