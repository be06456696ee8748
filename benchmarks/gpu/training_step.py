"""Steps: times of a training step of ScatSimCLR30 at 96×96, ours beside plain PyTorch, with and without compilation.

Ours is `scatsimclr.training.update.Update`, as `train --fused` runs it. Plain is `benchmarks.steps.PlainStep`, behind
kymatio's scattering or, where that is absent, the reference's. All start from the same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.device import Call, Cases, Data, Device, Turns, verdict
from benchmarks.peers import kymatio_module, plain_ntxent
from benchmarks.steps import DECAY, LR, TAU, J, L, OurStep, PlainStep, views
from scatsimclr.loss import nt_xent_loss
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.scattering import Scattering2D


def settings(amp: torch.dtype | None, graphs: bool) -> Any:
    """What an update reads of a run's settings, without the package that checks them."""
    return SimpleNamespace(
        fused=True, lr=LR, weight_decay=DECAY, views="concatenated", pretext=None,
        loss=SimpleNamespace(temperature=TAU, use_cosine_similarity=True, gather="all"),
        model=SimpleNamespace(sync_bn=True),
        resolved_amp=lambda device: amp, resolved_graphs=lambda device, distributed=False: graphs,
    )  # fmt: skip


class Subject:
    """The encoder, a pair of views, and the steps that can be made of them."""

    def __init__(self, device: Device):
        self.device = device
        self.blocks, self.size, self.batch = device.pick((30, 96, 256), (4, 8, 2))
        self.amp = device.pick(torch.bfloat16, None)
        self.angles = device.pick(L, 2)
        torch.manual_seed(0)
        size = (self.size, self.size, 3)
        self.encoder = ScatSimCLR(J, self.angles, size, self.blocks, 128).to(device.type)
        self.pair = views(self.size, self.batch, device.type)

    def scattering(self) -> tuple[str, torch.nn.Module]:
        """What plain PyTorch users have: kymatio's, or the reference's."""
        size = (self.size, self.size)
        try:
            return "kymatio", kymatio_module(J, size, self.angles).to(self.device.type)
        except ImportError:
            made = Scattering2D(J, size, self.angles, backend="reference")
            return "reference", made.to(self.device.type)

    def ours(self, amp: torch.dtype | None, graphs: bool) -> OurStep:
        """Our step of a copy of the encoder."""
        return OurStep(copy.deepcopy(self.encoder), settings(amp, graphs and not self.device.dry))

    def plain(self, amp: torch.dtype | None) -> PlainStep:
        """The plain step of a copy of the encoder."""
        return PlainStep(copy.deepcopy(self.encoder), self.scattering()[1], amp)

    def data(self) -> Data:
        """The case."""
        return {"op": "training step", "blocks": self.blocks, "size": self.size, "batch": self.batch,
                "plain scattering": self.scattering()[0]}  # fmt: skip


def times(device: Device) -> Cases:
    """Whether losses agree, and times without compilation."""
    return {"losses": lambda: losses(Subject(device)), "steps": lambda: steps(Subject(device))}


@torch.no_grad()
def losses(subject: Subject) -> Data:
    """Losses and features h of the same weights with running statistics, against plain float32.

    Untrained weights give all images similar h, so that losses alone would say little.
    """
    amp = subject.amp
    kinds: dict[str, tuple[Callable[[], Any], float]] = {
        "plain, float32": (lambda: subject.plain(None), 0.0),
        "ours, float32": (lambda: subject.ours(None, False), 1e-4),
        "ours": (lambda: subject.ours(amp, False), 2e-2),
        "plain": (lambda: subject.plain(amp), 2e-2),
    }
    found, features, amps = {}, {}, {"ours": amp, "plain": amp}
    for name, (make, _) in kinds.items():
        step = make()
        step.model.eval()
        found[name] = float(step.loss(subject.pair))
        dtype = amps.get(name)
        with torch.autocast(subject.device.type, dtype, enabled=dtype is not None):
            features[name] = step.model.encode(subject.pair[0]).float()
    loss, h = found["plain, float32"], features["plain, float32"]
    errors = {f"loss, {name}": (abs(found[name] - loss) / loss, bound) for name, (_, bound) in kinds.items()}
    errors |= {
        f"h, {name}": (float((features[name] - h).norm() / h.norm()), bound)
        for name, (_, bound) in kinds.items()
    }
    errors = {name: error for name, error in errors.items() if not name.endswith("plain")}
    return {**subject.data(), **verdict(errors), "loss": found}


def steps(subject: Subject) -> Data:
    """Times of whole updates."""
    amp, turns, peak = subject.amp, Turns(subject.device), {}
    kinds: dict[str, Callable[[], Any]] = {
        "ours": lambda: subject.ours(amp, True),
        "plain": lambda: subject.plain(amp),
        "ours, no graphs": lambda: subject.ours(amp, False),
        "ours, float32": lambda: subject.ours(None, True),
        "plain, float32": lambda: subject.plain(None),
    }
    for name, make in kinds.items():

        def made(name: str = name, make: Callable[[], Any] = make) -> Call:
            step: list[Call] = []
            # A replay allocates nothing: what counts is what model, optimizer and first updates take.
            peak[name] = subject.device.peak_bytes(lambda: step.append(_warm(make(), subject)))
            return step[0]

        turns.add(name, made, ours=name.startswith("ours"))
    return {**subject.data(), "peak_bytes": peak, **turns.times(5)}


def _warm(step: Any, subject: Subject) -> Call:
    """A step after the calls that make optimizer states and record graphs."""
    for _ in range(subject.device.pick(5, 1)):
        step(subject.pair)
    return partial(step, subject.pair)


def compiled(device: Device) -> Cases:
    """torch.compile of what a user would compile, each beside our step."""
    return {
        "plain": lambda: beside(Subject(device), "plain, compiled", plain_compiled),
        "ours": lambda: beside(Subject(device), "ours, compiled", ours_compiled),
    }


def beside(subject: Subject, name: str, make: Callable[[Subject], Callable[[Tensor], Tensor]]) -> Data:
    """A compiled step beside ours."""
    turns = Turns(subject.device)
    turns.add("ours", lambda: _warm(subject.ours(subject.amp, True), subject), ours=True)
    turns.add(name, lambda: _warm(make(subject), subject), ours=name.startswith("ours"))
    return {**subject.data(), **turns.times(5)}


def plain_compiled(subject: Subject) -> Callable[[Tensor], Tensor]:
    """The plain step with network and loss compiled; its scattering, of complex numbers, stays eager."""
    step = subject.plain(subject.amp)
    step.model.adapter = subject.device.compiled(step.model.adapter)
    loss = subject.device.compiled(plain_ntxent)

    def run(pair: Tensor) -> Tensor:
        with torch.autocast(pair.device.type, subject.amp, enabled=subject.amp is not None):
            return loss(*step.model(pair.flatten(0, 1))[1].chunk(2), TAU)

    step.loss = run
    return step


def ours_compiled(subject: Subject) -> Callable[[Tensor], Tensor]:
    """Our encoder and loss compiled as one graph, with an update of the weights."""
    step = subject.ours(subject.amp, False)
    model, optimizer = step.model, step.update.optimizer

    def loss(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, subject.amp, enabled=subject.amp is not None):
            z = model(x)[1]
        return nt_xent_loss(*z.float().chunk(2), TAU)

    fused = subject.device.compiled(loss)

    def run(pair: Tensor) -> Tensor:
        optimizer.zero_grad()
        value = fused(pair.flatten(0, 1))
        value.backward()
        optimizer.step()
        return value

    return run
