"""NT-Xent on a GPU: every implementation for CUDA against the reference in float64."""

from __future__ import annotations

import pytest
import torch

from scatsimclr.ops.ntxent import NTXENT, NTXENT_BACKWARD
from scatsimclr.reference import ntxent as reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

# Rows, depth, temperature, normalised, views, labels: one launch and tiles, block ± 1, depth beyond one block.
CASES = [
    (2, 1, 0.5, True, 2, False),
    (62, 33, 0.01, True, 2, False),
    (512, 128, 0.5, True, 2, False),
    (510, 64, 0.07, True, 3, False),
    (258, 40, 0.2, False, 2, False),
    (4098, 128, 0.5, True, 2, False),
    (2050, 300, 0.001, True, 2, False),
    (3000, 96, 0.3, True, 1, True),
]


@pytest.fixture(params=[name for name, entry in NTXENT.implementations.items() if entry.device == "cuda"])
def implementation(request):
    if obstacle := NTXENT.implementations[request.param].availability().obstacle:
        pytest.skip(obstacle)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("M", "D", "tau", "normalize", "views", "labelled"), CASES)
def test_as_float64(implementation, M, D, tau, normalize, views, labelled, dtype):
    x = torch.randn(M, D, device="cuda")
    x = (x if normalize else torch.nn.functional.normalize(x)).to(dtype)
    labels = torch.randint(0, 9, (M,), device="cuda") if labelled else None
    settings = labels, None, tau, normalize, views, 0, M
    loss, stats = reference.ntxent(x.double(), *settings)
    one = torch.ones((), device="cuda")
    dx, dtau = reference.ntxent_backward(one.double(), x.double(), stats, *settings)
    forward, backward = NTXENT.by(implementation), NTXENT_BACKWARD.by(implementation)
    found, own = forward(x, *settings)
    gradient, slope = backward(one, x, own, *settings)
    rounding = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    size = max(1, 1 / (16 * tau))
    assert (found - loss).abs() <= rounding * size * max(1, loss)
    assert (gradient - dx).norm() <= 2 * rounding * size * max(dx.norm(), 1e-3 / tau)
    assert (slope - dtau).abs() <= 5 * rounding * size * max(dtau.abs(), 1 / tau)
    again = backward(one, x, own, *settings)
    assert torch.equal(again[0], gradient)
    assert torch.equal(again[1], slope)
