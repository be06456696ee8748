"""The Triton kernels of scattering without a GPU: Triton's interpreter, and its compiler's budgets.

Both run in processes of their own: TRITON_INTERPRET must be set, or unset, before the kernels are imported.
Kernel times and races need hardware: none of this is a run on a GPU.
"""

from __future__ import annotations

import json

import pytest

from tests.kernels.ahead_of_time import LIMITS, capabilities, compile_all, interpret, run, served

pytest.importorskip("triton", reason="triton is not installed")

INTERPRET = """
import sys, warnings, torch
from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.kernels import launching, scattering2d as kernels, scattering2d_tables as tables
from scatsimclr.reference import scattering2d as reference

warnings.simplefilter("ignore")
race.tensor_cores_truncate()
torch.set_num_threads(1)
torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True, warn_only=True)  # uninitialised memory is NaN
F32, F16 = torch.float32, torch.float16
count = 0
# Shape of x, J, L, order, dtype of the result, largest size on chip (64 as shipped), kind.
for shape, J, L, order, dtype, chip, kind in CASES:
    torch.manual_seed(0)  # of each case alone: the gradient of a modulus near 0 is off by chance
    tables.ON_CHIP = chip
    tables.layout.cache_clear()
    kernels.CHUNK_BYTES = 1 if kind == "chunks" else 128 << 20
    kernels.SLICE_BYTES = 1 if kind == "chunks" else 32 << 20
    kernels.PROGRAMS = 5 if kind == "chunks" else 2048
    launching.capability = lambda device: 8 if kind == "ampere" else 9
    pre_pad = kind == "pre_pad"
    size = shape[2:]
    padded = padded_shape(size, J)
    filters = [torch.tensor(level).unsqueeze(-1) for level in filter_bank(*padded, J, L).tensors()]
    x = torch.randn(*shape[:2], *(padded if pre_pad else size))
    if kind == "strided":
        x = torch.randn(*shape[:2], size[1], 2 * size[0])[..., ::2].mT
    if kind == "scales":  # far from 1, and nothing at all
        x *= torch.tensor([1e-18, 1e15, 0.0]).view(3, 1, 1, 1)
    packed = kernels.pack(filters, J, L, order)
    nodes = tables.all_nodes(J, L, order, *padded)
    assert {node.on_chip for node in nodes} >= ({True} if chip == 64 else {False}), "took another path"
    settings = filters, packed, J, L, order, pre_pad
    out = kernels.scattering2d(x, *settings, kind == "channels_last", dtype)
    count += 1
    if not x.numel():
        assert out.shape == (0, shape[1] * reference.channels(J, L, order), *(s // 2**J for s in size))
        assert kernels.scattering2d_backward(out, x, *settings).shape == x.shape
        continue
    truth = reference.scattering2d(x.double(), [f.double() for f in filters], J, L, order, pre_pad)
    plain = reference.scattering2d(x, filters, J, L, order, pre_pad).flatten(1, 2)
    truth, where = truth.flatten(1, 2), (shape, J, L, order, dtype, chip, kind)
    layout = torch.channels_last if kind == "channels_last" else torch.contiguous_format
    assert out.shape == truth.shape and out.dtype == dtype and out.is_contiguous(memory_format=layout), where
    error = (out.double() - truth).abs()
    if dtype == F32:
        for measure in (lambda e: e.amax((1, 2, 3)), lambda e: e.square().mean((1, 2, 3)).sqrt()):
            allowed = 2 * measure((plain - truth).abs()) + 2.0**-24 * measure(truth.abs())
            assert (measure(error) <= allowed).all(), (where, measure(error), allowed)
    else:
        assert (error.amax((2, 3)) <= 2e-3 * truth.abs().amax((2, 3)) + 1e-7).all(), where
        moduli = truth.unflatten(1, (shape[1], -1))[:, :, 1:]
        bias = (out.double() - truth).unflatten(1, (shape[1], -1))[:, :, 1:].sum() / moduli.sum()
        assert bias.abs() <= 3e-4, (where, bias)
    if kind == "forward":
        continue
    grad = torch.randn(out.shape).to(dtype)
    if kind == "channels_last":
        grad = grad.to(memory_format=torch.channels_last)
    if kind == "scales":
        grad *= torch.tensor([1e-12, 1e12, 1.0]).view(3, 1, 1, 1)
    dx = kernels.scattering2d_backward(grad, x, *settings)

    def gradient(x, filters):
        leaf = x.clone().requires_grad_()
        value = reference.scattering2d(leaf, filters, J, L, order, pre_pad).flatten(1, 2)
        return torch.autograd.grad(value, leaf, grad.to(x.dtype))[0]

    truth, plain = gradient(x.double(), [f.double() for f in filters]), gradient(x, filters)
    assert dx.shape == x.shape and dx.dtype == F32, where
    # z/|z| magnifies the error of z where |z| is near 0: there both are off by chance.
    error, theirs, largest = (t.abs().amax((1, 2, 3)) for t in (dx - truth, plain - truth, truth))
    bound = 20 * theirs + 2.0**-22 * largest if dtype == F32 else 5e-3 * largest
    assert (error <= bound).all(), (where, error, bound)
"""

CASES = [
    # On chip: tiles of 16 and 32, rectangular ones; primes, images as small as 2^J, J from 1 to 3.
    ("(1, 1, 8, 8)", 3, 1, 2, "F32", 64, "plain"),
    ("(2, 1, 17, 9)", 1, 2, 2, "F32", 64, "plain"),
    ("(2, 1, 13, 11)", 2, 2, 1, "F32", 64, "plain"),
    ("(1, 2, 8, 12)", 2, 2, 2, "F32", 64, "pre_pad"),
    ("(2, 2, 9, 8)", 2, 3, 2, "F32", 64, "strided"),
    ("(3, 1, 8, 9)", 2, 2, 2, "F32", 64, "scales"),
    ("(3, 2, 8, 8)", 2, 3, 2, "F32", 64, "chunks"),
    ("(1, 3, 12, 8)", 2, 2, 2, "F16", 64, "channels_last"),
    ("(0, 3, 8, 8)", 2, 2, 2, "F32", 64, "plain"),
    ("(1, 1, 8, 10)", 2, 2, 2, "F32", 64, "ampere"),
    ("(1, 2, 8, 8)", 2, 2, 2, "F16", 64, "ampere"),
    # Through the workspace, alone and beside nodes on chip.
    ("(3, 1, 8, 9)", 2, 2, 2, "F32", 0, "scales"),
    ("(3, 2, 8, 8)", 2, 3, 2, "F32", 10, "chunks"),
    ("(2, 1, 12, 10)", 2, 2, 2, "F16", 0, "channels_last"),
]
# Tiles of 64, J of 3 and 4, a long row: minutes in the interpreter.
LARGE = [
    ("(1, 2, 16, 20)", 2, 3, 2, "F32", 64, "plain"),
    ("(1, 2, 16, 20)", 2, 3, 2, "F32", 0, "plain"),
    ("(1, 1, 37, 61)", 2, 2, 2, "F32", 64, "forward"),
    ("(1, 1, 16, 17)", 4, 2, 2, "F32", 64, "forward"),
    ("(1, 1, 36, 40)", 3, 2, 2, "F16", 64, "plain"),
    ("(2, 1, 33, 19)", 3, 2, 2, "F32", 12, "plain"),
    ("(1, 1, 9, 71)", 1, 1, 2, "F32", 0, "plain"),
]


@pytest.mark.parametrize(
    "cases",
    [CASES[::2], CASES[1::2], pytest.param(LARGE, marks=pytest.mark.every_launch)],
    ids=["even", "odd", "large"],
)
def test_the_interpreter_agrees_with_float64_without_races(cases, front_ends):
    code = (
        f"CASES = [{', '.join(f'({s}, {J}, {L}, {o}, {d!r}, {c}, {k!r})' for s, J, L, o, d, c, k in cases)}]"
    )
    code = code.replace("'F32'", "torch.float32").replace("'F16'", "torch.float16")
    compile_all(interpret(f"import torch\n{code}\n{INTERPRET}", len(cases)), front_ends)


BUDGETS = """
import torch, ahead_of_time
from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.kernels import launching, scattering2d as kernels

launches = ahead_of_time.record()
launching.capability = lambda device: CC // 10

def problem(shape, J, L, dtype, channels_last=False):
    filters = [torch.tensor(f).unsqueeze(-1) for f in filter_bank(*padded_shape(shape[2:], J), J, L).tensors()]
    settings = filters, kernels.pack(filters, J, L, 2), J, L, 2, False
    x, before = torch.zeros(shape), len(launches)
    out = kernels.scattering2d(x, *settings, channels_last, dtype)
    kernels.scattering2d_backward(out, x, *settings)
    for launch in launches[before:]:
        launch["mode"] = "float32" if dtype == torch.float32 else "half"

torch.set_num_threads(1)
problem((1, 1, 96, 96), 2, 16, torch.float32)
problem((1, 1, 96, 96), 2, 16, torch.bfloat16, True)
if CC == 90:
    problem((1, 2, 32, 32), 2, 16, torch.float32)
    problem((1, 2, 32, 32), 2, 16, torch.float16, True)
    problem((1, 1, 8, 8), 2, 1, torch.float32)  # many arguments are 1, hence constants
ahead_of_time.report(launches, CC)
"""

# Bytes that a thread may store to and load from local memory, all together: a few numbers. What exceeds the registers
# stays in the first-level cache. Before 3.8 Triton needed more.
FEW = 32
MORE = {(90, "path_kernel", "float32"): 128}
BEFORE_3_8 = {
    (90, "path_kernel", "float32"): 256,
    (90, "path_backward_kernel", "float32"): 640,
    (90, "path_backward_kernel", "half"): 256,
}


@pytest.mark.parametrize("cc", capabilities(served(), 90))
def test_the_compilers_budgets(cc):
    launches = json.loads(run(f"CC = {cc}\n" + BUDGETS))
    assert {(launch["kernel"], launch["mode"]) for launch in launches} >= {
        (kernel, mode)
        for kernel in ("path_kernel", "path_backward_kernel", "low_pass_kernel", "product_kernel")
        for mode in ("float32", "half")
    } - {("product_kernel", "half")}  # the same as float32's
    few = MORE if 100 in served() else MORE | BEFORE_3_8
    for launch in launches:
        allowed = few.get((cc, launch["kernel"], launch["mode"]), FEW)
        assert launch["spills"] <= allowed, launch
        # Two programs to a multiprocessor at least.
        assert launch["shared"] <= LIMITS[cc] // 2, launch
        if launch["kernel"].startswith("path_"):
            wide = launch["options"]["PM"] == 64
            wanted = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}[cc] if wide else "mma.sync"
            assert wanted in launch["matrix"], launch
