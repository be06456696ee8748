"""Step: pairs of augmented views per second, by DALI and in plain PyTorch, from images that are on the device."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.gpu.device import Cases, Data, Device, NotRun, Turns, verdict

BATCH, IMAGES = 256, 2048


def times(device: Device) -> Cases:
    """Both sizes of the data sets."""
    try:
        import pydantic  # noqa: F401  # checks the recipe of the augmentation
    except ImportError:
        raise NotRun("pydantic is absent, which checks the recipe of the augmentation") from None
    return {f"{size}x{size}": partial(timed, device, size) for size in device.pick((96, 32), (8,))}


def pictures(count: int, size: int) -> torch.Tensor:
    """Smooth colours with noise, uint8 (count, size, size, 3): of noise alone, two resamplers would differ by more."""
    speed, phase = torch.rand(2, count, 1, 1, 3) * 0.3 + 0.02, torch.rand(count, 1, 1, 3) * 6
    y, x = torch.arange(size).view(1, size, 1, 1), torch.arange(size).view(1, 1, size, 1)
    levels = (
        128 + 100 * torch.sin(speed[0] * x + speed[1] * y + phase) + 10 * torch.randn(count, size, size, 3)
    )
    return levels.clamp(0, 255).to(torch.uint8)


def timed(device: Device, size: int) -> Data:
    """Whole epochs of pairs; DALI's views compared with the twin's, of the same draws, first."""
    from scatsimclr.data.augment import Augment, AugmentSpec
    from scatsimclr.data.dali import DaliAugment, dali_missing
    from scatsimclr.data.loader import PairLoader

    count, batch = device.pick((IMAGES, BATCH), (4, 2))
    images = pictures(count, size).to(device.type)
    spec = AugmentSpec((size, size))
    twin, turns, compared = Augment(spec, 0), Turns(device), {}
    augments: dict[str, Any] = {"torch": twin}
    if why := dali_missing():
        turns.missing["DALI"] = why
    else:
        augments["DALI"] = DaliAugment(spec, 0)

    def make(augment: Augment) -> Any:
        if augment is not twin:
            some = images[: min(count, 64)]
            drawn = twin.draw(range(len(some)), 0, 0)
            error = (augment.apply(some, drawn) - twin.apply(some, drawn)).abs().mean()
            compared["mean level"] = float(error) * 255 * min(spec.std), 0.5
        loader = PairLoader(images, augment, batch, 0, prefetch=4)

        def epoch() -> None:
            for _ in loader.epoch(0):
                pass

        return epoch

    for name, augment in augments.items():
        turns.add(name, partial(make, augment), ours=True)
    found = turns.times(5)
    rates = {name: 2 * count / ms[1] * 1e3 for name, ms in found["ms"].items()}
    return {"op": "views", "size": size, "batch": batch, **verdict(compared), "views_per_s": rates, **found}
