"""Step: whether NT-Xent agrees with the reference in float64."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import Cases, Data, Device, named, poisoned, verdict
from scatsimclr.ops.ntxent import NTXENT, NTXENT_BACKWARD
from scatsimclr.reference import ntxent as reference

TAU = 0.5
# Rows, depth, temperature, normalised, views, labels: the headline first, then tiles, one launch, block ± 1, depth
# beyond one block.
CASES = [
    (4096, 128, 0.5, True, 2, False),
    (512, 128, 0.5, True, 2, False),
    (4098, 128, 0.001, True, 2, False),
    (2, 1, 0.5, True, 2, False),
    (62, 33, 0.01, True, 2, False),
    (510, 64, 0.07, True, 3, False),
    (258, 40, 0.2, False, 2, False),
    (2050, 300, 0.05, True, 2, False),
    (3000, 96, 0.3, True, 1, True),
]
TINY = [(34, 9, 0.5, True, 2, False), (30, 5, 0.3, True, 1, True)]
DTYPES = (torch.bfloat16, torch.float32, torch.float16)
# One rounding of the rows, and of the weights of the second product.
ROUNDING = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def agreement(device: Device) -> Cases:
    """Every case in every dtype, and many rows against chunks in float64."""
    device.require("ntxent", "triton")
    cases: Cases = {}
    for sizes in device.pick(CASES, TINY):
        for dtype in device.pick(DTYPES, (torch.float32,)):
            M, D, tau, normalize, views, labelled = sizes
            kind = "labels" if labelled else f"{views} views"
            rows = "" if normalize else ", not normalised"
            name = f"M={M}, D={D}, tau={tau}, {kind}{rows}, {named(dtype)}"
            cases[name] = partial(agree, device, *sizes, dtype)
    M = device.pick(65536, 66)
    dtype = device.dtype(torch.bfloat16)
    cases[f"M={M}, D=128, tau={TAU}, {named(dtype)}, in chunks"] = partial(agree_in_chunks, device, M, dtype)
    return cases


def agree(
    device: Device,
    M: int,
    D: int,
    tau: float,
    normalize: bool,
    views: int,
    labelled: bool,
    dtype: torch.dtype,
) -> Data:
    """Loss, gradient and temperature's gradient of one case."""
    x = device.randn(M, D)
    x = (x if normalize else F.normalize(x)).to(dtype)
    labels = torch.randint(0, 9, (M,), device=device.type) if labelled else None
    settings = labels, None, tau, normalize, views, 0, M
    one = torch.ones((), device=device.type)
    loss, stats = reference.ntxent(x.double(), *settings)
    dx, dtau = reference.ntxent_backward(one.double(), x.double(), stats, *settings)
    with poisoned():
        found, own = NTXENT.by("triton")(x, *settings)
        gradient, slope = NTXENT_BACKWARD.by("triton")(one, x, own, *settings)
        again = NTXENT_BACKWARD.by("triton")(one, x, own, *settings)
    rounding = ROUNDING[dtype] * max(1, 1 / (16 * tau))
    plain = reference.ntxent(x, *settings)[0]
    return {
        **verdict(
            {
                "loss": (abs(float(found - loss)), rounding * max(1, float(loss))),
                "gradient": relative(gradient, dx, 1e-3 / tau, 2 * rounding),
                "temperature": (float((slope - dtau).abs()), 5 * rounding * max(float(dtau.abs()), 1 / tau)),
            },
            {"same again": torch.equal(again[0], gradient) and torch.equal(again[1], slope)},
        ),
        "plain": {"loss": abs(float(plain - loss))},
    }


def relative(found: Tensor, truth: Tensor, least: float, bound: float) -> tuple[float, float]:
    """The error of a tensor's norm and its bound, as shares of the true norm, which counts as at least `least`."""
    return float((found.double() - truth).norm()) / max(float(truth.norm()), least), bound


def agree_in_chunks(device: Device, M: int, dtype: torch.dtype) -> Data:
    """Loss and gradient of many rows, whose similarities in float64 fit no memory at once."""
    x = device.randn(M, 128).to(dtype)
    loss, dx = in_chunks(x, TAU, device.pick(2048, 16))
    settings = None, None, TAU, True, 2, 0, M
    one = torch.ones((), device=device.type)
    with poisoned():
        found, own = NTXENT.by("triton")(x, *settings)
        gradient, _ = NTXENT_BACKWARD.by("triton")(one, x, own, *settings)
    return verdict({
        "loss": (abs(float(found - loss)), ROUNDING[dtype] * float(loss)),
        "gradient": relative(gradient, dx, 0, 2 * ROUNDING[dtype]),
    })  # fmt: skip


def in_chunks(x: Tensor, tau: float, rows: int) -> tuple[Tensor, Tensor]:
    """NT-Xent of pairs and its gradient in x in float64, from the similarities of some rows at a time.

    Args:
        x: (M, D), both views stacked; any dtype.
        tau: temperature.
        rows: of a chunk, which takes rows · M · 8 bytes a few times.

    Returns:
        The loss (0-d) and the gradient (M, D), float64.
    """
    M, c = len(x), 1 / tau
    norm = x.double().norm(dim=1, keepdim=True)
    z = x.double() / norm
    index = torch.arange(M, device=x.device)
    partner = z[index.roll(M // 2)]

    def exponentials(part: Tensor) -> Tensor:
        found = torch.exp(c * (z[part] @ z.T - 1))  # cosines are at most 1
        found[torch.arange(len(part), device=x.device), part] = 0
        return found

    total = torch.cat([exponentials(part).sum(1) for part in index.split(rows)])
    loss = (total.log() + c - c * (z * partner).sum(1)).mean()
    pulled = [
        ((found := exponentials(part)) / total[part, None] + found / total) @ z for part in index.split(rows)
    ]
    dz = c / M * (torch.cat(pulled) - 2 * partner)
    return loss, (dz - z * (z * dz).sum(1, keepdim=True)) / norm
