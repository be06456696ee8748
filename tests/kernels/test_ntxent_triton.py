"""The Triton kernels of NT-Xent without a GPU: Triton's interpreter, and its compiler's budgets.

Both run in processes of their own: TRITON_INTERPRET must be set, or unset, before the kernels are imported.
Kernel times and races need hardware: none of this is a run on a GPU.
"""

from __future__ import annotations

import json

import pytest

from tests.kernels.ahead_of_time import LIMITS, run

pytest.importorskip("triton", reason="triton is not installed")

INTERPRET = """
import warnings, torch
from scatsimclr.kernels import ntxent as kernels
from scatsimclr.reference import ntxent as reference

warnings.simplefilter("ignore", RuntimeWarning)
torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True)  # uninitialised memory is NaN
kernels.SMALL_ROWS = 64  # so that few rows reach the tiled path
torch.manual_seed(0)
F32, F16 = torch.float32, torch.float16
count = 0
for M, D, tau, normalize, dtype, kind in [
    # One launch.
    (2, 1, 0.5, True, F32, "pairs"), (6, 5, 0.5, True, F32, "pairs"), (62, 33, 0.01, True, F32, "pairs"),
    (62, 33, 0.5, False, F16, "pairs"), (64, 128, 0.07, True, F16, "pairs"),
    (48, 16, 0.5, True, F32, "triples"),
    (34, 17, 0.3, True, F32, "temperature"), (40, 9, 0.001, True, F32, "hostile"),
    # Tiles.
    (66, 31, 0.5, True, F32, "pairs"), (66, 130, 0.01, True, F32, "pairs"),
    (258, 40, 0.2, False, F16, "pairs"),
    (130, 129, 0.5, True, F16, "pairs"), (132, 20, 0.3, True, F32, "triples"),
    (130, 20, 0.3, True, F32, "labels"), (66, 20, 0.3, True, F32, "temperature"),
    (132, 20, 0.3, True, F32, "share"), (132, 20, 0.003, True, F32, "share"),
    (128, 64, 10.0, True, F32, "hostile"), (130, 33, 0.001, True, F32, "hostile"),
]:
    x = torch.randn(M, D).to(dtype)
    if kind == "hostile":
        x[0] = 0
        x[1] = x[2] = x[M // 2]
        x[3] = -x[4]
        x[5] *= 1e30
    labels = torch.randint(0, 9, (M,)) if kind == "labels" else None
    views = 3 if kind == "triples" else 2
    first, rows = (44, 44) if kind == "share" else (0, M)
    tensor = torch.tensor(tau) if kind == "temperature" else None
    settings = (labels, tensor, tau, normalize, views, first, rows)
    whole = (labels, tensor, tau, normalize, 1 if kind == "share" else views, 0, M)
    true = reference.ntxent(x.double(), *settings)
    stats = reference.ntxent(x.double(), *whole)[1]
    one = torch.ones((), dtype=torch.float64)
    dx_true, dtau_true = reference.ntxent_backward(one, x.double(), stats, *settings)
    for run in range(2 if M == 66 else 1):
        loss, own = kernels.ntxent(x, *settings)
        everyone = own if rows == M else kernels.ntxent(x, *whole)[1]
        dx, dtau = kernels.ntxent_backward(torch.ones(()), x, everyone, *settings)
        if run:
            assert all(torch.equal(a, b) for a, b in zip((loss, own, dx, dtau), before))
        before = loss, own, dx, dtau
    where = (M, D, tau, normalize, dtype, kind)
    rounding = 2e-6 if dtype == F32 else 2e-3
    size = max(1, 1 / (16 * tau))
    unit = x.double().norm(dim=1, keepdim=True).clamp(min=1e-12)[first : first + rows] if normalize else 1
    assert dx.dtype == dtype and dx.isfinite().all(), where
    assert (loss - true[0]).abs() <= rounding * size * max(1, true[0]), where
    error = ((dx.double() - dx_true) * unit).abs().max()
    assert error <= rounding * size * max((dx_true * unit).abs().max(), 0.5 / tau / M), (where, error)
    assert (dtau - dtau_true).abs() <= 5 * rounding * size * max(dtau_true.abs(), 1 / tau), where
    count += 1
print(count)
"""

BUDGETS = """
import torch, ahead_of_time
from scatsimclr.kernels import ntxent as kernels

launches = ahead_of_time.record(kernels._Problem)

def problem(name, M, D, tau, views=2, labels=None, rows=None):
    dtype = kernels.CONFIGS[name].dtype
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    settings = (labels, None, tau, True, views, 0, rows or M)
    x = torch.empty(M, D, dtype=dtype)
    kernels.ntxent(x, *settings)
    kernels.ntxent_backward(torch.ones(()), x, torch.empty(2, M), *settings)

# Every shipped configuration on the device the goals are for, the main ones elsewhere: compiling is slow.
problem("bf16", 4096, 128, 0.5)
problem("bf16", 512, 128, 0.5)
problem("tf32", 4096, 128, 0.5)
if CC == 90:
    problem("bf16", 4096, 128, 0.001)
    problem("fp16", 4096, 128, 0.5)
    problem("ieee", 512, 128, 0.5)
    problem("bf16", 4096, 512, 0.5)
    problem("bf16", 4096, 128, 0.5, labels=torch.zeros(4096, dtype=torch.int64))
ahead_of_time.report(launches, CC)
"""


def test_the_interpreter_agrees_with_float64():
    assert int(run(INTERPRET, TRITON_INTERPRET="1")) == 19


@pytest.mark.parametrize("cc", LIMITS)
def test_the_compilers_budgets(cc):
    launches = json.loads(run(f"CC = {cc}\n" + BUDGETS))
    names = {launch["kernel"] for launch in launches}
    assert names >= {"forward_triangle_kernel", "forward_rows_kernel", "backward_kernel"}
    for launch in launches:
        assert launch["shared"] <= LIMITS[cc], launch
        assert launch["spills"] == 0, launch
        products = launch["kernel"].startswith("forward_") or launch["kernel"] == "backward_kernel"
        if products and launch["mode"] != "ieee":
            # Blocks of 16 rows are too short for the instructions of a whole warp group.
            short = launch["options"].get("SMALL") or cc == 80
            wanted = "mma.sync" if short else {90: "wgmma.mma_async", 100: "tcgen05.mma"}[cc]
            assert wanted in launch["matrix"], launch
        if launch["mode"] == "ieee":
            assert not launch["matrix"], launch
