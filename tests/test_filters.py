import time

import numpy as np
import pytest
from kymatio.scattering2d.filter_bank import filter_bank as kymatio_filter_bank

from scatsimclr.filters import filter_bank, padded_shape


def kymatio_tensors(M, N, J, L):
    bank = kymatio_filter_bank(M, N, J, L)
    return [level for entry in (bank["phi"], *bank["psi"]) for level in entry["levels"]]


@pytest.mark.parametrize(
    ("shape", "J", "L"),
    [((32, 32), 2, 16), ((20, 33), 4, 5), ((7, 64), 1, 1), ((16, 16), 3, 8), ((31, 17), 2, 3)],
)
def test_filters_are_kymatios_to_the_last_bit(shape, J, L):
    M, N = padded_shape(shape, J)
    ours = filter_bank(M, N, J, L).tensors()
    theirs = kymatio_tensors(M, N, J, L)
    assert len(ours) == len(theirs)
    for own, other in zip(ours, theirs, strict=True):
        assert own.dtype == other.dtype == np.float32
        np.testing.assert_array_equal(own, other)


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
