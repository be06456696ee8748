"""The Triton kernels of NT-Xent without a GPU: Triton's interpreter, and its compiler's budgets.

Both run in processes of their own: TRITON_INTERPRET must be set, or unset, before the kernels are imported.
Kernel times and races need hardware: none of this is a run on a GPU.
"""

from __future__ import annotations

import json

import pytest

from tests.kernels.ahead_of_time import LIMITS, capabilities, compile_all, interpret, run, served

pytest.importorskip("triton", reason="triton is not installed")

INTERPRET = """
import warnings, torch
from scatsimclr.kernels import launching, ntxent as kernels
from scatsimclr.reference import ntxent as reference

warnings.simplefilter("ignore", RuntimeWarning)
torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True)  # uninitialised memory is NaN
race.tensor_cores_truncate()
kernels.PART_ROWS = 1  # so that columns are divided
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
    (1, 5, 0.3, True, F32, "labels"), (1, 5, 0.01, True, F32, "labels"),
    (130, 40, 0.2, True, F32, "tf32"), (66, 130, 0.2, True, F32, "tf32"),
    # Either regime of a temperature on the device; classes of more than a segment; tiles of other rows than columns.
    (130, 20, 0.003, True, F32, "temperature"), (66, 20, 0.3, False, F16, "temperature"),
    (132, 20, 0.3, True, F32, "share, temperature"), (132, 20, 0.003, True, F32, "share, temperature"),
    (200, 70, 0.3, True, F32, "classes"), (194, 130, 0.2, True, F16, "classes"),
    (200, 20, 0.3, True, F32, "tf32, classes"),
    (258, 40, 0.2, True, F16, "blackwell"), (258, 40, 0.003, True, F16, "blackwell"),
    (130, 40, 0.2, True, F32, "ampere"),
]:
    x = torch.randn(M, D).to(dtype)
    torch.backends.cuda.matmul.fp32_precision = "tf32" if "tf32" in kind else "ieee"
    launching.capability = lambda device: {"ampere": 8, "blackwell": 10}.get(kind, 9)
    if kind == "hostile":
        x[0] = 0
        x[1] = x[2] = x[M // 2]
        x[3] = -x[4]
        x[5] *= 1e30
    labels = torch.randint(0, 2 if "classes" in kind else 9, (M,)) if "labels" in kind or "classes" in kind else None
    views = 3 if kind == "triples" else 2
    first, rows = (44, 44) if "share" in kind else (0, M)
    tensor = torch.tensor(tau) if "temperature" in kind else None
    settings = (labels, tensor, tau, normalize, views, first, rows)
    whole = (labels, tensor, tau, normalize, 1 if "share" in kind else views, 0, M)
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
    rounding = 2e-3 if dtype == F16 or "tf32" in kind else 2e-6
    size = max(1, 1 / (16 * tau))
    unit = x.double().norm(dim=1, keepdim=True).clamp(min=1e-12)[first : first + rows] if normalize else 1
    assert dx.dtype == dtype and dx.isfinite().all(), where
    assert (loss - true[0]).abs() <= rounding * size * max(1, true[0]), where
    error = ((dx.double() - dx_true) * unit).abs().max()
    assert error <= rounding * size * max((dx_true * unit).abs().max(), 0.5 / tau / M), (where, error)
    if dtype == F32 and kind == "pairs" and M > 60:  # and not much further off than plain PyTorch
        plain = reference.ntxent_backward(torch.ones(()), x, reference.ntxent(x, *whole)[1], *settings)[0]
        of_plain = ((plain.double() - dx_true) * unit).abs().max()
        assert error <= 3 * of_plain, (where, error, of_plain)
    if "tf32" in kind:
        bias = ((dx.double() - dx_true) * dx_true).sum() / dx_true.square().sum()
        assert bias.abs() <= 1e-4, (where, bias)
    assert (dtau - dtau_true).abs() <= 5 * rounding * size * max(dtau_true.abs(), 1 / tau), where
    count += 1
"""

BUDGETS = """
import torch, ahead_of_time
from scatsimclr.kernels import launching, ntxent as kernels

launches = ahead_of_time.record()
launching.capability = lambda device: CC // 10

def problem(name, M, D, tau, views=2, labels=None, rows=None, temperature=None):
    dtype = kernels.CONFIGS[name].dtype
    torch.backends.cuda.matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
    settings = (labels, temperature, tau, True, views, 0, rows or M)
    x, before = torch.empty(M, D, dtype=dtype), len(launches)
    kernels.ntxent(x, *settings)
    kernels.ntxent_backward(torch.ones(()), x, torch.empty(2, M), *settings)
    for launch in launches[before:]:
        launch["mode"] = name

# Every shipped configuration on the device the goals are for, the main ones elsewhere: compiling is slow.
problem("bf16", 65536, 128, 0.5)
problem("bf16", 4096, 128, 0.5)
problem("bf16", 512, 128, 0.5)
problem("tf32", 4096, 128, 0.5)
problem("fp32", 4096, 128, 0.5)
if CC == 90:
    problem("bf16", 65536, 128, 0.001)
    problem("bf16", 4096, 128, 0.001)
    problem("bf16", 65536, 128, 0.5, temperature=torch.tensor(0.5))
    problem("fp16", 4096, 128, 0.5)
    problem("fp32", 512, 128, 0.5)
    problem("fp32", 4096, 512, 0.5)
    problem("fp32", 4096, 128, 0.001)
    problem("bf16", 4096, 512, 0.5)
    problem("bf16", 4096, 128, 0.5, labels=torch.zeros(4096, dtype=torch.int64))
ahead_of_time.report(launches, CC)
"""


def test_the_interpreter_agrees_with_float64_without_races(front_ends):
    compile_all(interpret(INTERPRET, 33), front_ends)


@pytest.mark.parametrize("cc", capabilities(served(), 90))
def test_the_compilers_budgets(cc):
    launches = json.loads(run(f"CC = {cc}\n" + BUDGETS))
    names = {launch["kernel"] for launch in launches}
    assert names >= {"forward_triangle_kernel", "forward_rows_kernel", "backward_kernel"}
    for launch in launches:
        assert launch["shared"] <= LIMITS[cc], launch
        # Triton before 3.8 leaves a few numbers no register: of one kernel on an A100, and of the running maxima.
        some = (cc == 80 and launch["kernel"] == "backward_kernel") or launch["mode"] == "fp32"
        few = 64 if some and 100 not in served() else 0
        assert launch["spills"] <= few, launch
        products = launch["kernel"].startswith("forward_") or launch["kernel"] == "backward_kernel"
        if products:
            # Blocks of 16 rows are too short for the instructions of a whole warp group.
            short = launch["options"].get("SMALL") or cc == 80
            wanted = "mma.sync" if short else {90: "wgmma.mma_async", 100: "tcgen05.mma"}[cc]
            assert wanted in launch["matrix"], launch
