"""What the first process of a run does alone, evaluating above all, while the others help it to features."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from scatsimclr.config import Config
from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.mapped import AnyImages, part
from scatsimclr.evaluation.features import extract
from scatsimclr.models.encoder import Encoder
from scatsimclr.scattering import Scattering2D
from scatsimclr.training.distributed import NOTHING, World
from scatsimclr.training.setup import front_end

T = TypeVar("T")


class Lead:
    """Runs work in the first process; the others make features of the parts of images that it sends them.

    Args:
        world: The processes.
        config: The settings of the run.
        model: The encoder, the same in all processes but for the running statistics, where each has its own.
    """

    def __init__(self, world: World, config: Config, model: Encoder):
        self.world, self.config, self.model = world, config, model

    def __call__(self, work: Callable[[], T], elsewhere: T) -> T:
        """What `work` returns in the first process, `elsewhere` in the others. A signal may stop it anywhere.

        Raises:
            Interrupted: In every process, if one was asked to stop.
            FailedElsewhere: In the others, if `work` has failed.
        """
        if not self.world.shared:
            with self.world.stop.anywhere():
                return work()
        if not self.config.model.sync_bn:
            self.world.copy_buffers_from_main(self.model)
        if not self.world.main:
            self._help()
            return elsewhere
        try:
            with self.world.stop.anywhere():
                result = work()
        except BaseException as error:
            self.world.broadcast(self.world.ended(error))
            raise
        # Work may have drawn random numbers.
        self.world.broadcast(("done", torch.get_rng_state()))
        return result

    def extract(
        self,
        model: Encoder,
        images: AnyImages,
        spec: AugmentSpec,
        *,
        batch_size: int = 256,
        features: str = "h",
        amp: torch.dtype | None = None,
        scattering: Scattering2D | None = None,
    ) -> Tensor:
        """`scatsimclr.evaluation.features.extract`, inside of work: every process takes a part of the images.

        Batches are those of one process, so that features have the same bits. Images on the disk are read by each
        process itself, others are sent to it.
        """
        world, ends = self.world, _ends(len(images), batch_size, self.world.size)
        if not world.shared or model is not self.model:
            return extract(
                model, images, spec,
                batch_size=batch_size, features=features, amp=amp, scattering=scattering,
            )  # fmt: skip
        request = {"spec": spec, "batch_size": batch_size, "features": features, "amp": amp}
        with world.stop.held():  # the others would wait for what is not sent
            parts = [part(images, start, end) for start, end in zip((0, *ends), ends, strict=False)]
            on_disk = None if isinstance(images, Tensor) else images
            shape = tuple(images.shape[1:])
            world.broadcast(("features", {**request, "ends": ends, "shape": shape, "images": on_disk}))
            sent = [
                world.send(p.cpu().contiguous(), rank)
                for rank, p in enumerate(parts)
                if rank and len(p) and isinstance(p, Tensor)
            ]
            own = extract(model, parts[0], spec, scattering=scattering, **_options(request))
            for work in sent:
                if work is not None:
                    work.wait()
            found = [own] + [
                world.receive(torch.empty(len(p), own.shape[1]), rank).to(own.device)
                for rank, p in enumerate(parts)
                if rank and len(p)
            ]
        return torch.cat(found)

    def _help(self) -> None:
        """Answers the first process until its work is done."""
        while True:
            kind, value = self.world.broadcast(NOTHING)
            if kind == "done":
                torch.set_rng_state(value)
                return
            self.world.answer(kind, value)  # raises where the work has ended otherwise
            self._make(value)

    def _make(self, request: dict[str, Any]) -> None:
        """Makes this process's part of some features."""
        ends, rank = request["ends"], self.world.rank
        count, images = ends[rank] - ends[rank - 1], request["images"]
        if count:
            if images is None:
                images = self.world.receive(torch.empty(count, *request["shape"], dtype=torch.uint8), 0)
            else:
                images = part(images, ends[rank - 1], ends[rank])
            made = extract(self.model, images, request["spec"], scattering=self._front, **_options(request))
            work = self.world.send(made.cpu(), 0)
            if work is not None:
                work.wait()

    @cached_property
    def _front(self) -> Scattering2D:
        return front_end(self.config, self.model)


def _options(request: dict[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in ("batch_size", "features", "amp")}


def _ends(count: int, batch_size: int, size: int) -> tuple[int, ...]:
    """Where each process's part of `count` images ends: parts are whole batches. The first one has at least one."""
    batches = math.ceil(count / batch_size)
    return tuple(min(count, batch_size * math.ceil(batches * (rank + 1) / size)) for rank in range(size))
