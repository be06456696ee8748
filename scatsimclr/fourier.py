"""SciPy's float32 Fourier transform `fft2`, to the last bit: the same operations in the same order, in NumPy.

kymatio's filters come from it. A transform that rounds otherwise changes their last bits, beyond which no scattering,
not even in float64, could agree with kymatio's. SciPy's own is four times as fast, but is not always installed and
takes up to 0.4 s to import: it is used where that has been paid, or is worth it. On processors whose compilers contract
a·b + c into one operation (not on x86-64) SciPy's own bits are others.

Source: pocketfft, https://gitlab.mpcdf.mpg.de/mtr/pocketfft, Copyright (C) 2010-2022 Max-Planck-Society, Peter Bell,
BSD 3-Clause; see LICENSE.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Real: TypeAlias = NDArray[np.float32]
Complex: TypeAlias = tuple[Real, Real]  # real and imaginary part; complex products in NumPy may contract

_HALF = np.float32(math.sqrt(0.5))
_WORTH = 1 << 21  # numbers, from which on SciPy's import is made up for
_CHUNK = 1 << 15  # numbers that are transformed at a time, so that they stay in cache
_HARDCODED = (3, 5, 7, 11)


def fft2(x: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The transforms of x (B, M, N), first along columns, then along rows."""
    if "scipy.fft" in sys.modules or (x.size >= _WORTH and importlib.util.find_spec("scipy")):
        from scipy.fft import fft2 as faster

        made: NDArray[np.complex64] = faster(x)
        return made
    return fft2_in_numpy(x)


def fft2_in_numpy(x: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """`fft2` without SciPy."""
    step = max(1, _CHUNK // (x.shape[1] * x.shape[2]))
    return np.concatenate([_fft2(x[start : start + step]) for start in range(0, len(x), step)])


def _fft2(x: NDArray[np.complex64]) -> NDArray[np.complex64]:
    count, height, width = x.shape
    across = x.transpose(1, 0, 2).reshape(height, count * width)
    columns = _transform((np.ascontiguousarray(across.real), np.ascontiguousarray(across.imag)))
    turned = [part.reshape(height * count, width).T for part in columns]
    rows = _transform((np.ascontiguousarray(turned[0]), np.ascontiguousarray(turned[1])))
    result = np.empty((height, count, width), np.complex64)
    result.real, result.imag = (part.T.reshape(height, count, width) for part in rows)
    turned_back: NDArray[np.complex64] = result.transpose(1, 0, 2)
    return turned_back


def _transform(x: Complex) -> Complex:
    """Along the first axis of x (n, rows)."""
    n = x[0].shape[0]
    largest = max(_primes(n), default=1) if n >= 50 else 0
    if largest**2 > n and 3 * _cost(_good_size(2 * n - 1)) < _cost(n):
        return _bluestein(x)
    return _factors_in_turn(x)


def _factors_in_turn(x: Complex) -> Complex:
    n, rows = x[0].shape
    done = 1
    for factor in _factors(n):
        left = n // (done * factor)
        parts = [(x[0].reshape(done, factor, left, rows)[:, i], x[1].reshape(done, factor, left, rows)[:, i])
                 for i in range(factor)]  # fmt: skip
        parts = _butterfly(parts, n)
        re, im = (
            np.empty((factor, done, left, rows), np.float32),
            np.empty((factor, done, left, rows), np.float32),
        )
        for i, part in enumerate(parts):
            re[i], im[i] = _times_conjugate(part, _twiddles(n, i * done, left)) if i and left > 1 else part
        x, done = (re.reshape(n, rows), im.reshape(n, rows)), done * factor
    return x


def _times_conjugate(v: Complex, w: Complex) -> Complex:
    return v[0] * w[0] + v[1] * w[1], v[1] * w[0] - v[0] * w[1]


def _times(v: Complex, w: Complex) -> Complex:
    return v[0] * w[0] - v[1] * w[1], v[0] * w[1] + v[1] * w[0]


def _plus(a: Complex, b: Complex) -> Complex:
    return a[0] + b[0], a[1] + b[1]


def _minus(a: Complex, b: Complex) -> Complex:
    return a[0] - b[0], a[1] - b[1]


def _turned(a: Complex) -> Complex:
    """a · (−i)."""
    return a[1], -a[0]


def _roots(index: NDArray[np.int_], n: int) -> Complex:
    """cos and sin of 2π index/n: products of two table entries in float64, rounded to float32."""
    low, high, shift = _tables(n)
    index = index % n
    folded = np.where(2 * index <= n, index, n - index)
    a, b = low[:, folded & (1 << shift) - 1], high[:, folded >> shift]
    sin = a[0] * b[1] + a[1] * b[0]
    return (a[0] * b[0] - a[1] * b[1]).astype(np.float32), np.where(folded == index, sin, -sin).astype(
        np.float32
    )


@lru_cache(maxsize=64)
def _tables(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """(cos, sin) of 2π k/n for k < 2^shift, and of every 2^shift-th k up to n/2; and the shift."""
    count, shift = (n + 2) // 2, 1
    while 4**shift < count:
        shift += 1
    step = 1 << shift
    low = np.array([_root(k, n) for k in range(step)]).T
    return low, np.array([_root(k * step, n) for k in range((count + step - 1) // step)]).T, shift


def _root(k: int, n: int) -> tuple[float, float]:
    """cos and sin of 2π k/n, float64, by those of an angle up to π/4."""
    unit, octants = float(np.longdouble("0.785398163397448309615660845819875721") / n), 8 * k
    octant, rest = divmod(octants, n)
    angle = (n - rest if octant % 2 else rest) * unit
    cos, sin = math.cos(angle), math.sin(angle)
    if octant in (1, 2, 5, 6):
        cos, sin = sin, cos
    return (-cos if octant in (2, 3, 4, 5) else cos), (-sin if octant > 3 else sin)


@lru_cache(maxsize=256)
def _twiddles(n: int, step: int, count: int) -> Complex:
    """exp(2πi · step · k/n) for k < count, (count, 1)."""
    cos, sin = _roots(step * np.arange(count), n)
    return cos[:, None], sin[:, None]


def _butterfly(t: list[Complex], n: int) -> list[Complex]:
    """The transform of as many numbers, each an array, within one of size n."""
    count = len(t)
    if count == 2:
        return [_plus(*t), _minus(*t)]
    if count == 4:
        return _of_four(t)
    if count == 8:
        return _of_eight(t)
    return _of_odd(t, n)


def _of_four(t: list[Complex]) -> list[Complex]:
    t2, t1 = _plus(t[0], t[2]), _minus(t[0], t[2])
    t3, t4 = _plus(t[1], t[3]), _turned(_minus(t[1], t[3]))
    return [_plus(t2, t3), _plus(t1, t4), _minus(t2, t3), _minus(t1, t4)]


def _of_eight(t: list[Complex]) -> list[Complex]:
    a1, a5 = _plus(t[1], t[5]), _minus(t[1], t[5])
    a3, a7 = _plus(t[3], t[7]), _turned(_minus(t[3], t[7]))
    a1, a3 = _plus(a1, a3), _turned(_minus(a1, a3))
    a5, a7 = _plus(a5, a7), _minus(a5, a7)
    a5 = _HALF * (a5[0] + a5[1]), _HALF * (a5[1] - a5[0])
    a7 = _HALF * (a7[1] - a7[0]), _HALF * (-a7[0] - a7[1])
    a0, a4 = _plus(t[0], t[4]), _minus(t[0], t[4])
    a2, a6 = _plus(t[2], t[6]), _turned(_minus(t[2], t[6]))
    a0, a2, a4, a6 = _plus(a0, a2), _minus(a0, a2), _plus(a4, a6), _minus(a4, a6)
    pairs = ((a0, a1), (a4, a5), (a2, a3), (a6, a7))
    return [_plus(*pair) for pair in pairs] + [_minus(*pair) for pair in pairs]


def _of_odd(t: list[Complex], n: int) -> list[Complex]:
    count = len(t)
    half = (count + 1) // 2
    sums = [t[0], *(_plus(t[j], t[count - j]) for j in range(1, half))]
    differences = [t[0], *(_minus(t[j], t[count - j]) for j in range(1, half))]
    first = sums[0]
    for term in sums[1:]:
        first = _plus(first, term)
    result = [first] * count
    for line in range(1, half):
        cos, sin = _roots(line * np.arange(half) * (n // count), n)
        add = _in_turn if count in _HARDCODED else _in_pairs
        even = add(sums[0][0], cos, [s[0] for s in sums]), add(sums[0][1], cos, [s[1] for s in sums])
        odd = add(None, sin, [d[1] for d in differences]), add(None, -sin, [d[0] for d in differences])
        result[line], result[count - line] = _plus(even, odd), _minus(even, odd)
    return result


def _in_turn(start: Real | None, weights: Real, terms: list[Real]) -> Real:
    """start + Σ weight · term, one after the other."""
    total = start
    for weight, term in zip(weights[1:], terms[1:], strict=True):
        total = weight * term if total is None else total + weight * term
    assert total is not None
    return total


def _in_pairs(start: Real | None, weights: Real, terms: list[Real]) -> Real:
    """The same: the first two in turn, then two at a time."""
    total, count = _in_turn(start, weights[:3], terms[:3]), len(terms)
    for j in range(3, count - 1, 2):
        total = total + (terms[j] * weights[j] + terms[j + 1] * weights[j + 1])
    return total + terms[-1] * weights[-1] if count % 2 == 0 else total


def _bluestein(x: Complex) -> Complex:
    """As a convolution of a size with small factors."""
    n, rows = x[0].shape
    size = _good_size(2 * n - 1)
    chirp = _roots(np.arange(n) ** 2, 2 * n)
    chirp = chirp[0][:, None], chirp[1][:, None]
    scale = np.float32(1) / np.float32(size)
    kernel = np.zeros((size, 1), np.float32), np.zeros((size, 1), np.float32)
    padded = np.zeros((size, rows), np.float32), np.zeros((size, rows), np.float32)
    for part, values in zip(kernel, chirp, strict=True):
        part[:n] = values * scale
        part[size - n + 1 :] = part[1:n][::-1]
    for part, values in zip(padded, _times_conjugate(x, chirp), strict=True):
        part[:n] = values
    spectrum = _factors_in_turn(kernel)
    middle = size // 2 + 1
    for part in spectrum:
        part[middle:] = part[1 : size - middle + 1][::-1]
    product = _times(_factors_in_turn(padded), (spectrum[0], spectrum[1]))
    back = _factors_in_turn((product[0], -product[1]))  # the inverse transform, of conjugates
    return _times_conjugate((back[0][:n], -back[1][:n]), chirp)


@lru_cache(maxsize=64)
def _factors(n: int) -> tuple[int, ...]:
    """The order in which pocketfft takes the factors of a size."""
    found = []
    while n % 8 == 0:
        found.append(8)
        n //= 8
    while n % 4 == 0:
        found.append(4)
        n //= 4
    if n % 2 == 0:
        found.append(2)
        found[0], found[-1] = found[-1], found[0]
        n //= 2
    return (*found, *_primes(n))


@lru_cache(maxsize=64)
def _primes(n: int) -> tuple[int, ...]:
    """The prime factors, ascending."""
    found, prime = [], 2
    while prime * prime <= n:
        while n % prime == 0:
            found.append(prime)
            n //= prime
        prime += 1
    return (*found, n) if n > 1 else tuple(found)


def _cost(n: int) -> float:
    return n * sum(prime if prime <= 5 else 1.1 * prime for prime in _primes(n))


@lru_cache(maxsize=64)
def _good_size(n: int) -> int:
    """The least number from n on whose prime factors are at most 11."""
    while max(_primes(n), default=1) > 11:
        n += 1
    return n
