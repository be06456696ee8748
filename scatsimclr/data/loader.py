"""Batches of augmented view pairs from resident images: which samples a step sees, and in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scatsimclr.data.augment import Augment
from scatsimclr.data.prefetch import ahead
from scatsimclr.data.randomness import uniforms
from scatsimclr.errors import UserError

PARTNERS = 0.5  # of the second views are a neighbour's, where there are neighbours
_PARTNER = 2**31  # use of a sample's random numbers, beside those of its views


@dataclass(frozen=True)
class Batch:
    """One step's data.

    views: two (B, C, H, W), channels-last, normalised. indices: int64 (B,).
    pretext: the pretext task's pictures and labels (see scatsimclr.data.pretext), None where it is not active.
    """

    views: tuple[Tensor, Tensor]
    indices: Tensor
    pretext: tuple[Tensor, Tensor] | None = None


class PairLoader:
    """Two augmented views of every image, in an order that depends on (seed, epoch) alone.

    images: uint8 (n, H, W, C), already on the device that trains. Every batch has `batch_size` images; the
    remainder of an epoch is left out (NT-Xent's value depends on the batch's size), another one each epoch.
    pretext: makes the pretext task's pictures of (images, indices, epoch).
    prefetch: batches made ahead, in up to that many threads at once, which share `threads` (None: as many as torch's
    in the caller) among them: on two cores two batches by one thread each take less than one after the other by both.
    rank, world_size: of several processes with `batch_size` images each; together they see what one process with
    `world_size * batch_size` would.

    neighbours: int64 (n, k), images that are like each; with probability PARTNERS the second view is one of theirs.

    Nothing here has a state: the batches from step k of an epoch on are `epoch(..., start=k)`.
    """

    def __init__(
        self,
        images: Tensor,
        augment: Augment,
        batch_size: int,
        seed: int,
        pretext: Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]] | None = None,
        *,
        neighbours: Tensor | None = None,
        prefetch: int = 0,
        threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ):
        if batch_size * world_size > len(images):
            each = f", {world_size} processes with that many each" if world_size > 1 else ""
            raise UserError(
                f"batch_size={batch_size} is larger than the {len(images)} images to train on{each}; "
                f"batch_size={len(images) // world_size} or less works"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 <= rank < {world_size}, got {rank}")
        self.images = augment.resident(images)
        self.augment, self.batch_size, self.seed, self.pretext = augment, batch_size, seed, pretext
        self.neighbours = neighbours
        self.prefetch, self.threads, self.rank, self.world_size = prefetch, threads, rank, world_size

    def __len__(self) -> int:
        return len(self.images) // (self.batch_size * self.world_size)

    def order(self, epoch: int) -> Tensor:
        """The epoch's permutation of the images, int64 (n,)."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.images), generator=generator)

    def epoch(self, epoch: int, *, pretext: bool = False, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on, with `pretext` also the pictures of that task."""
        order = self.order(epoch)

        def made(step: int) -> Batch:
            first = (step * self.world_size + self.rank) * self.batch_size
            return self.batch(order[first : first + self.batch_size], epoch, pretext=pretext)

        steps = range(start, len(self))
        if self.images.is_cuda and self.prefetch:
            yield from self._on_a_stream(made, steps)
            return
        threads = self.threads or torch.get_num_threads()
        # One more than threads, where there are several: a worker that waits for DALI's thread leaves no core idle.
        workers = max(1, min(self.prefetch, threads + (threads > 1)))
        batches = ahead(
            (partial(made, step) for step in steps),
            self.prefetch,
            workers,
            partial(torch.set_num_threads, max(1, threads // workers)),
        )
        with closing(batches):
            yield from batches

    def _on_a_stream(self, made: Callable[[int], Batch], steps: range) -> Iterator[Batch]:
        """Made on a CUDA stream of their own, so that they do not queue behind the training step's kernels.

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
                for tensor in (*batch.views, *(batch.pretext or ())):
                    tensor.record_stream(current)
                yield batch

    def batch(self, indices: Tensor, epoch: int, *, pretext: bool = False) -> Batch:
        """The views of the images at `indices`."""
        # One call for both: half the overhead.
        twice = torch.cat((indices, self.partners(indices, epoch)))
        view = torch.arange(2).repeat_interleave(len(indices))
        images = _gather(self.images, twice.to(self.images.device))
        pair = self.augment(images, twice, epoch, view).chunk(2)
        extra = self.pretext(images[: len(indices)], indices, epoch) if pretext else None
        return Batch(pair, indices, extra)

    def partners(self, indices: Tensor, epoch: int) -> Tensor:
        """Whose the second views are, int64 (B,): a function of (seed, epoch, image) alone."""
        if self.neighbours is None:
            return indices
        drawn = torch.from_numpy(uniforms(self.seed, indices.numpy(), epoch, _PARTNER, 2))
        known = self.neighbours[indices]
        pick = (drawn[:, 1] * known.shape[1]).long()[:, None]
        return torch.where(drawn[:, 0] < PARTNERS, known.gather(1, pick)[:, 0], indices)


def _gather(images: Tensor, rows: Tensor) -> Tensor:
    """`images[rows]` in the memory layout that `images` have, as whole images: indexing copies byte by byte."""
    inner = sorted((1, 2, 3), key=images.stride, reverse=True)
    packed = images.permute(0, *inner)
    back = [1 + inner.index(axis) for axis in (1, 2, 3)]
    return packed.index_select(0, rows).permute(0, *back)
