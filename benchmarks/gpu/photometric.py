"""Steps: whether the operator `photometric` gives the reference's bits, and its times."""

from __future__ import annotations

import itertools
from functools import partial

import torch

from benchmarks.gpu.device import Cases, Data, Device, Turns, named, poisoned, verdict
from scatsimclr.ops.photometric import PHOTOMETRIC, photometric
from scatsimclr.reference import photometric as reference
from scatsimclr.reference.blur import gaussian_weights

# Samples, height, width, half of the blur's taps, dtype, channels.
SHAPES = [
    (12, 96, 96, 4, torch.float32, 3),
    (12, 96, 96, 4, torch.bfloat16, 3),
    (64, 32, 32, 1, torch.float32, 3),
    (5, 1, 1, 4, torch.float32, 3),
    (9, 1, 13, 2, torch.float32, 3),
    (3, 50, 1, 4, torch.float32, 3),
    (24, 7, 5, 0, torch.float16, 3),
    (6, 45, 67, 9, torch.float32, 3),
    (24, 28, 28, 1, torch.float32, 1),
]
TINY = [(4, 5, 7, 1, torch.float32, 3)]


def arguments(
    batch: int, height: int, width: int, half: int, dtype: torch.dtype, channels: int
) -> list[torch.Tensor]:
    """The operator's arguments on the CPU: random images and steps, some images of few colours and some grey."""
    images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8)
    images[::3] = (images[::3].float() * 0.2 + 100).to(torch.uint8)
    images[::7] = images[::7, ..., :1]
    orders = torch.tensor(list(itertools.permutations(range(4))))
    order = orders[torch.randint(0, len(orders), (batch,))].clone()
    order[torch.rand(batch, 4) < 0.2] = -1
    factors = torch.rand(batch, 4) * 2
    factors[:, 3] = ((torch.rand(batch) - 0.5) * 511).trunc()
    weights = torch.from_numpy(gaussian_weights((torch.rand(batch) * 2 + 0.1).numpy(), 2 * half + 1)).int()
    weights[torch.rand(batch) < 0.5] = torch.tensor([0] * half + [256], dtype=torch.int32)
    table = (torch.arange(256) / 255 - torch.tensor([0.4, 0.5, 0.6][:channels])[:, None]).to(dtype)
    mirror, grey = torch.rand(batch) < 0.5, torch.rand(batch) < 0.2
    return [images[..., :channels].contiguous(), mirror, order, factors, grey, weights, table]


def agreement(device: Device) -> Cases:
    """Triton's bits against the reference's, which the CPU computes."""
    device.require("photometric", "triton")
    cases: Cases = {}
    for sizes in device.pick(SHAPES, TINY):
        batch, height, width, half, dtype, channels = sizes
        name = f"{batch}x{height}x{width}x{channels}, {2 * half + 1} taps, {named(dtype)}"
        cases[name] = partial(agree, device, *sizes)
    return cases


def agree(device: Device, *sizes: int | torch.dtype) -> Data:
    """How many levels are off in one case."""
    given = arguments(*sizes)
    expected = reference.photometric(*given)
    with poisoned():
        found = PHOTOMETRIC.by("triton")(*(t.to(device.type) for t in given)).cpu()
    wrong = int((found != expected).sum())  # NaN differs from everything
    return {**verdict({"wrong values": (wrong, 0)}), "values": expected.numel()}


def times(device: Device) -> Cases:
    """Views of a batch of 256 images."""
    sizes = device.pick([(512, 96, 96, 4), (512, 32, 32, 1)], [(2, 4, 4, 1)])
    return {f"{b}x{h}x{w}x3": partial(timed, device, b, h, w, half) for b, h, w, half in sizes}


def timed(device: Device, batch: int, height: int, width: int, half: int) -> Data:
    """The operator beside the reference on the same device."""
    given = [t.to(device.type) for t in arguments(batch, height, width, half, torch.bfloat16, 3)]
    turns = Turns(device)
    for name in (*device.backends("photometric"), "reference"):
        turns.add(
            name, lambda name=name: partial(photometric, *given, backend=name), ours=name != "reference"
        )
    moved = given[0].numel() * (1 + torch.bfloat16.itemsize)
    return {"op": "photometric", "shape": list(given[0].shape), "work": {"bytes": moved}, **turns.times()}
