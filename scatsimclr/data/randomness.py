"""Counter-based random numbers: what a sample draws depends on who it is, never on when it is drawn.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a 128-bit
counter and a 64-bit key to 128 random bits by a bijection. The key is the seed, the counter (sample index, epoch, view,
block). No two samples can share numbers, there is no state to save, and neither the batch nor the process nor the
order in which samples are drawn can matter.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

# One integer, or several: numbers, an array or a tensor on any device.
Integers = npt.ArrayLike | torch.Tensor

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


def as_array(values: Integers) -> npt.ArrayLike:
    """What NumPy can read of integers that may be a tensor."""
    return values.cpu().numpy() if isinstance(values, torch.Tensor) else values


def philox4x32(counter: npt.ArrayLike, key: int) -> npt.NDArray[np.uint32]:
    """Philox4x32-10 of each counter.

    Args:
        counter: Integers in [0, 2**32), shape (..., 4), least significant word first.
        key: Integer in [0, 2**64).

    Returns:
        An array of the counter's shape.
    """
    shape = np.shape(counter)
    c0, c1, c2, c3 = np.ascontiguousarray(np.asarray(counter, np.uint64).reshape(-1, 4).T)
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(_ROUNDS):
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (second >> _HALF) ^ c1 ^ np.uint64(k0),
            second & _LOW,
            (first >> _HALF) ^ c3 ^ np.uint64(k1),
            first & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    bits: npt.NDArray[np.uint32] = np.stack((c0, c1, c2, c3), -1).astype(np.uint32).reshape(shape)
    return bits


def uniforms(
    seed: int, indices: npt.ArrayLike, epoch: int, view: npt.ArrayLike, count: int
) -> npt.NDArray[np.float64]:
    """Draws `count` independent uniform numbers for each sample.

    Number k of a sample is the same whatever `count` is, so that a later need for more numbers does not disturb the
    earlier ones.

    Args:
        seed: Integer in [0, 2**64).
        indices: (B,) integers in [0, 2**32): which samples.
        epoch: Integer in [0, 2**32).
        view: Integer in [0, 2**32): which view of the sample, or another use of it; or (B,) of them.
        count: How many numbers per sample.

    Returns:
        (B, count), multiples of 2**-32 plus 2**-33: never 0 and never 1.

    Raises:
        TypeError: An argument is not an integer.
        ValueError: An argument is out of range or of the wrong shape.
    """
    _check_integer("seed", seed, 64)
    _check_integer("epoch", epoch, 32)
    rows = _checked("indices", indices)
    if np.ndim(view):
        view = _checked("view", view)[:, None]
    else:
        _check_integer("view", view, 32)
    blocks = -(-count // 4)
    counter = np.empty((rows.size, blocks, 4), np.uint64)
    counter[..., 0] = rows[:, None]
    counter[..., 1] = int(epoch)
    counter[..., 2] = view
    counter[..., 3] = np.arange(blocks)
    bits = philox4x32(counter, int(seed)).reshape(rows.size, 4 * blocks)[:, :count]
    return (bits.astype(np.float64) + 0.5) * 2.0**-32


def _check_integer(name: str, value: object, bits: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if not 0 <= int(value) < 2**bits:
        raise ValueError(f"{name} must be in [0, 2**{bits}), got {value}")


def _checked(name: str, values: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    rows = np.asarray(values)
    if rows.ndim != 1:
        raise ValueError(f"{name} must have one dimension, (B,), got shape {rows.shape}")
    if rows.size == 0:
        return rows.astype(np.uint64)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got {rows.dtype}")
    if rows.min() < 0 or rows.max() >= 2**32:
        raise ValueError(f"{name} must be in [0, 2**32), got {rows.min()} to {rows.max()}")
    return rows.astype(np.uint64)
