"""Claim: the filter bank equals kymatio's bit for bit, and takes milliseconds instead of seconds."""

import numpy as np
import pytest
from kymatio.scattering2d.filter_bank import filter_bank as kymatio_filter_bank

from benchmarks.measure import compare
from scatsimclr.filters import filter_bank, padded_shape

SHAPES = [((32, 32), 2, 16), pytest.param((96, 96), 2, 16, marks=pytest.mark.full)]


def ours(M, N, J, L):
    filter_bank.cache_clear()
    return filter_bank(M, N, J, L).tensors()


def kymatio(M, N, J, L):
    bank = kymatio_filter_bank(M, N, J, L)
    return [level for entry in (bank["phi"], *bank["psi"]) for level in entry["levels"]]


@pytest.mark.parametrize(("shape", "J", "L"), SHAPES)
def bench_construction(benchmark, shape, J, L):
    arguments = (*padded_shape(shape, J), J, L)
    for own, other in zip(ours(*arguments), kymatio(*arguments), strict=True):
        np.testing.assert_array_equal(own, other)
    calls = {"kymatio": lambda: kymatio(*arguments), "ours": lambda: ours(*arguments)}
    case = {"shape": shape, "J": J, "L": L}
    compare(benchmark, calls, op="filter bank", case=case, peers=["kymatio"])
