import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.fft
from kymatio.scattering2d.filter_bank import filter_bank as kymatio_filter_bank

from scatsimclr import filters
from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.fourier import fft2, fft2_in_numpy


def kymatio_tensors(M, N, J, L):
    bank = kymatio_filter_bank(M, N, J, L)
    return [level for entry in (bank["phi"], *bank["psi"]) for level in entry["levels"]]


@pytest.mark.parametrize(
    ("shape", "J", "L"),
    [((32, 32), 2, 16), ((20, 33), 4, 5), ((7, 64), 1, 1), ((16, 16), 3, 8), ((31, 17), 2, 3)],
)
@pytest.mark.parametrize("transform", [fft2, fft2_in_numpy])
def test_filters_are_kymatios_to_the_last_bit(monkeypatch, transform, shape, J, L):
    monkeypatch.setattr(filters, "fft2", transform)
    M, N = padded_shape(shape, J)
    ours = filter_bank.__wrapped__(M, N, J, L).tensors()
    theirs = kymatio_tensors(M, N, J, L)
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == other.dtype == np.float32
        np.testing.assert_array_equal(own, other)


# Every pass of the transform, alone and in company, and sizes that are convolved: 1009 is prime.
@pytest.mark.parametrize(
    "n", [*range(1, 61), 77, 104, 106, 121, 128, 169, 202, 226, 264, 528, 1009, 1024, 2018]
)
def test_the_fourier_transform_is_scipys_to_the_last_bit(n):
    rng = np.random.default_rng(n)
    shape = (2, n, 5) if n % 2 else (2, 6, n)
    x = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)
    x[1] = 0
    x[1, -1, n // 3 % shape[2]] = 1  # shows the roots of unity themselves
    for found in (fft2(x), fft2_in_numpy(x)):
        assert found.dtype == np.complex64
        np.testing.assert_array_equal(found, scipy.fft.fft2(x))


def test_making_filters_needs_no_scipy():
    code = "import sys; sys.modules['scipy'] = None; from scatsimclr import Scattering2D; Scattering2D(2, (16, 16))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("side", "first", "used"), [(16, "", False), (16, "import scipy.fft; ", True), (520, "", True)]
)
def test_scipy_is_used_where_it_is_loaded_or_worth_it(side, first, used):
    code = (
        f"{first}import numpy, sys; from scatsimclr import fourier; fourier.fft2_in_numpy = lambda x: sys.exit(3); "
        f"fourier.fft2(numpy.zeros((8, {side}, {side}), numpy.complex64))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == (0 if used else 3)


def test_filters_are_cached_and_read_only():
    bank = filter_bank(16, 16, 2, 4)
    assert filter_bank(16, 16, 2, 4) is bank
    with pytest.raises(ValueError, match="read-only"):
        bank.phi["levels"][0][0, 0] = 1


def test_construction_is_an_order_of_magnitude_faster_than_kymatio():
    filter_bank.cache_clear()
    start = time.perf_counter()
    filter_bank(104, 104, 2, 8)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    kymatio_filter_bank(104, 104, 2, 8)
    assert ours * 8 < time.perf_counter() - start
