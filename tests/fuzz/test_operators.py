"""A few of the calls of `make fuzz`, and those that once crashed the process."""

from __future__ import annotations

import pytest
import torch

from scatsimclr.ops import availability
from tests.fuzz import operators

OPS = torch.ops.scatsimclr


@pytest.mark.skipif(not availability.compiled().usable, reason="the kernels need the compiled extension")
@pytest.mark.parametrize("seed", range(4))
def test_operators_answer_or_refuse(seed):
    answers = [operators.call(number, seed) for number in range(150)]
    assert {name for name, _ in answers} == set(operators.CALLS)
    assert 30 < sum(answered for _, answered in answers) < 120


@pytest.mark.parametrize(("first", "rows"), [(2**63 - 1, 4), (2**62, 2**62), (1, 4), (-1, 4), (0, 2**63 - 1)])
def test_local_rows_outside(first, rows):
    with pytest.raises(RuntimeError, match="local rows"):
        OPS.ntxent(torch.rand(4, 3), None, None, 0.5, True, 1, first, rows)


def test_a_gradient_of_no_elements():
    stats = OPS.ntxent(torch.rand(4, 3), None, None, 0.5, True, 2, 0, 4)[1]
    with pytest.raises(RuntimeError, match="grad must have one element"):
        OPS.ntxent_backward(torch.empty(0), torch.rand(4, 3), stats, None, None, 0.5, True, 2, 0, 4)
