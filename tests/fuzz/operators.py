"""`python -m tests.fuzz.operators --count 20000`: the compiled operators with arguments that nobody means.

Each call starts from arguments that fit together and spoils some: shapes, dtypes, layouts, contents (packs byte by
byte), numbers out of range. An operator may refuse them with an error; it may not crash, read or write where it should
not (`make fuzz` runs this in the sanitized build), or raise anything but RuntimeError, ValueError, TypeError,
IndexError or NotImplementedError. Prints how many calls each operator answered and refused.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from functools import cache

import torch
from torch import Tensor

import scatsimclr.ops  # noqa: F401  (registers the operators)
from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.reference.scattering2d import psi_levels

OPS = torch.ops.scatsimclr
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError)
SPECIAL = (0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-45, 3e38, -1.0)
ODD_NUMBERS = (-(2**63), -(2**31), -7, -1, 0, 1, 2, 3, 5, 15, 16, 4096, 2**31, 2**62, 2**63 - 1)
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def spoiled_shape(rng: random.Random, t: Tensor) -> Tensor:
    """The tensor with a side too many or too few, or of another size."""
    choice = rng.randrange(6)
    if choice == 0:
        return t[None]
    if choice == 1 and t.ndim:
        return t.select(0, 0) if t.shape[0] else t.flatten()
    if choice == 2 and t.ndim:
        dim = rng.randrange(t.ndim)
        return t.narrow(dim, 0, rng.randint(0, t.shape[dim]))
    if choice == 3 and t.ndim:
        return torch.cat((t, t), rng.randrange(t.ndim))
    if choice == 4 and t.ndim > 1:
        return t.transpose(0, rng.randrange(1, t.ndim))
    return t.new_empty([rng.randint(0, 4) for _ in range(rng.randint(0, 5))]).zero_()


def spoiled_layout(rng: random.Random, t: Tensor) -> Tensor:
    """The same shape: strided, expanded, or off its alignment."""
    choice = rng.randrange(4)
    if choice == 0 and t.ndim:
        return torch.stack((t, t), -1)[..., 0]
    if choice == 1 and t.ndim and t.numel():
        dim = rng.randrange(t.ndim)
        return t.narrow(dim, 0, 1).expand(t.shape)
    if choice == 2:
        shifted = t.new_empty(t.numel() + 1)[1:].view(t.shape)
        return shifted.copy_(t)
    return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t.clone()


def spoiled_content(rng: random.Random, t: Tensor) -> Tensor:
    """A few elements, or all, of other values."""
    t = t.clone()
    flat = t.view(-1) if t.is_contiguous() else t.flatten()
    for _ in range(rng.choice((1, 1, 3, 20))):
        if not flat.numel():
            break
        where = rng.randrange(flat.numel())
        if t.is_floating_point():
            flat[where] = rng.choice(SPECIAL)
        elif t.dtype != torch.bool:
            info = torch.iinfo(t.dtype)
            flat[where] = rng.choice((info.min, info.max, rng.randint(info.min, info.max), 0, 1))
    return flat.view(t.shape)


def spoiled(rng: random.Random, argument: object) -> object:
    if isinstance(argument, Tensor):
        run = rng.choice(
            (spoiled_shape, spoiled_layout, spoiled_layout, spoiled_content, spoiled_content, None)
        )
        return run(rng, argument) if run else argument.to(rng.choice(DTYPES))
    if isinstance(argument, list):
        argument = list(argument)
        where = rng.randrange(len(argument))
        if rng.random() < 0.2:
            del argument[where]
        else:
            argument[where] = spoiled(rng, argument[where])
        return argument
    if isinstance(argument, bool):
        return not argument
    if isinstance(argument, int):
        return rng.choice((argument - 1, argument + 1, *ODD_NUMBERS))
    if isinstance(argument, float):
        return rng.choice(SPECIAL)
    if isinstance(argument, torch.dtype):
        return rng.choice(DTYPES)
    return argument


@cache
def bank(J: int, L: int, size: tuple[int, int], dtype: torch.dtype, foreign: bool) -> tuple[Tensor, ...]:
    padded = padded_shape(size, J)
    if not foreign:
        levels = filter_bank(*padded, J, L).tensors()
        return tuple(torch.tensor(level).unsqueeze(-1).to(dtype) for level in levels)
    sizes = [j for j in range(J)] + [n for j in range(J) for _ in range(L) for n in range(psi_levels(j, J))]
    return tuple(torch.randn(padded[0] >> n, padded[1] >> n, 1, dtype=dtype) for n in sizes)


@cache
def pack(J: int, L: int, size: tuple[int, int], dtype: torch.dtype, foreign: bool, order: int) -> Tensor:
    return OPS.scattering2d_pack(list(bank(J, L, size, dtype, foreign)), J, L, order)


def spoiled_pack(rng: random.Random, packed: Tensor) -> Tensor:
    """Bytes of the pack changed: anywhere, or where its header and its records stand."""
    packed = packed.clone()
    words = packed[: packed.numel() // 8 * 8].view(torch.int64)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        choice = rng.randrange(5)
        if choice == 0:
            packed[rng.randrange(packed.numel())] = rng.randrange(256)
        elif choice == 1:
            words[rng.randrange(12)] = rng.choice(ODD_NUMBERS)
        elif choice == 2:  # records and low-passes stand last
            words[-rng.randint(1, min(200, len(words)))] = rng.choice(ODD_NUMBERS)
        elif choice == 3:
            words[rng.randrange(len(words))] += rng.choice((-64, -1, 1, 64, 1 << 32, 1 << 40))
        else:
            begin = rng.randrange(packed.numel())
            packed[begin : begin + rng.randint(1, 400)] = rng.randrange(256)
    return packed


def scattering(rng: random.Random, backward: bool) -> list:
    J, L = rng.choice((1, 1, 2, 2, 3)), rng.randint(1, 5)
    size = rng.randint(2**J, 20), rng.randint(2**J, 20)
    dtype = rng.choice((torch.float32, torch.float32, torch.float64))
    foreign, order = rng.random() < 0.3, rng.choice((1, 2, 2))
    filters = list(bank(J, L, size, dtype, foreign))
    packed = pack(J, L, size, dtype, foreign, order)
    choice = rng.randrange(6)
    if choice == 0:
        packed = packed.new_empty(0)
    elif choice == 1:
        packed = pack(J, L, size, dtype, not foreign, order)
    elif choice >= 4:
        packed = spoiled_pack(rng, packed)
    padded = rng.random() < 0.2
    x = torch.randn(
        rng.randint(0, 3), rng.randint(1, 3), *(padded_shape(size, J) if padded else size), dtype=dtype
    )
    if not backward:
        return [x, filters, packed, J, L, order, padded, rng.random() < 0.5, rng.choice(DTYPES[:4])]
    height, width = (side // 2**J - 2 for side in filters[0].shape[:2])
    paths = 1 + J * L + (L * L * J * (J - 1) // 2 if order == 2 else 0)
    grad = torch.randn(x.shape[0], x.shape[1] * paths, height, width).to(rng.choice(DTYPES[:4]))
    return [grad, x, filters, packed, J, L, order, padded]


def scattering2d_pack(rng: random.Random) -> list:
    _, filters, _, J, L, order, *_ = scattering(rng, False)
    return [filters, J, L, order]


def ntxent(rng: random.Random, backward: bool) -> list:
    views, images = rng.randint(1, 3), rng.randint(1, 9)
    rows = views * images
    total = rows * rng.choice((1, 1, 2))
    dtype = rng.choice(DTYPES[:4])
    x = torch.randn(total, rng.randint(1, 20)).to(dtype)
    labels = torch.randint(-3, 4, (total,)) if rng.random() < 0.4 else None
    temperature = torch.tensor(rng.uniform(0.01, 2)) if rng.random() < 0.4 else None
    settings = [labels, temperature, rng.uniform(0.01, 2), rng.random() < 0.7, views, total - rows, rows]
    if not backward:
        return [x, *settings]
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    return [torch.tensor(rng.gauss(0, 1), dtype=exact), x, torch.rand(2, total, dtype=exact), *settings]


def channels_last(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape).to(dtype).contiguous(memory_format=torch.channels_last)


def conv3x3(rng: random.Random) -> list:
    n, h, w, a, b = (
        rng.randint(0, 3),
        rng.randint(1, 11),
        rng.randint(1, 11),
        rng.randint(1, 40),
        rng.randint(1, 40),
    )
    adjoint = rng.random() < 0.5
    x = channels_last(n, b if adjoint else a, h, w, dtype=rng.choice((torch.float32, torch.bfloat16)))
    bias = torch.randn(a if adjoint else b) if rng.random() < 0.5 else None
    return [x, channels_last(b, a, 3, 3), bias, adjoint]


def conv3x3_weight(rng: random.Random) -> list:
    n, h, w = rng.randint(0, 3), rng.randint(1, 11), rng.randint(1, 11)
    dtype = rng.choice((torch.float32, torch.bfloat16))
    return [channels_last(n, rng.randint(1, 40), h, w, dtype=dtype) for _ in range(2)]


def photometric(rng: random.Random) -> list:
    batch, channels = rng.randint(0, 4), rng.choice((1, 3))
    images = torch.randint(
        0, 256, (batch, rng.randint(1, 24), rng.randint(1, 24), channels), dtype=torch.uint8
    )
    order = (
        torch.stack([torch.randperm(4) for _ in range(batch)])
        if batch
        else torch.empty(0, 4, dtype=torch.int64)
    )
    half = rng.randint(0, 6)
    weights = torch.zeros(batch, half + 1, dtype=torch.int32)
    weights[:, 0] = 1 << rng.randint(0, 16)
    return [
        images, torch.rand(batch) < 0.5, order, torch.rand(batch, 4) * 2, torch.rand(batch) < 0.5, weights,
        torch.randn(channels, 256).to(rng.choice(DTYPES[:4])),
    ]  # fmt: skip


CALLS = {
    "scattering2d": lambda rng: scattering(rng, False),
    "scattering2d_backward": lambda rng: scattering(rng, True),
    "scattering2d_pack": scattering2d_pack,
    "ntxent": lambda rng: ntxent(rng, False),
    "ntxent_backward": lambda rng: ntxent(rng, True),
    "conv3x3": conv3x3,
    "conv3x3_weight": conv3x3_weight,
    "photometric": photometric,
}


def call(number: int, seed: int) -> tuple[str, bool]:
    """The operator of one call, and whether it answered; it raises what is no refusal."""
    rng = random.Random(seed * 1_000_003 + number)
    torch.manual_seed(rng.getrandbits(32))
    name = rng.choice(list(CALLS))
    arguments = CALLS[name](rng)
    for _ in range(rng.choice((0, 1, 1, 2))):
        where = rng.randrange(len(arguments))
        try:
            arguments[where] = spoiled(rng, arguments[where])
        except (RuntimeError, OverflowError):
            continue  # not every spoiling suits every tensor
    try:
        getattr(OPS, name)(*arguments)
    except REFUSALS:
        return name, False
    return name, True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first call, to repeat one that crashed"
    )
    options = parser.parse_args()
    answered, refused = Counter(), Counter()
    for number in range(options.first, options.first + options.count):
        if number % 500 == 0:
            print(f"call {number}", flush=True)
        name, answer = call(number, options.seed)
        (answered if answer else refused)[name] += 1
    for name in CALLS:
        print(f"{name}: {answered[name]} answered, {refused[name]} refused")


if __name__ == "__main__":
    main()
