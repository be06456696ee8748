"""The CUDA C++ kernel of scattering without a GPU: its phases on the host against float64, and nvcc's report.

None of this is a run on a GPU.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.reference import scattering2d as reference
from tests.kernels.ahead_of_time import capabilities, run

pytest.importorskip("triton", reason="triton is not installed, and with it the kernels' tables")
from scatsimclr.kernels import scattering2d_engine as engines
from scatsimclr.kernels import scattering2d_tables as tables

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """scattering2d_host.cpp, compiled."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    output = tmp_path_factory.mktemp("host") / "phases.so"
    source = Path(__file__).with_name("scattering2d_host.cpp")
    command = [compiler, "-std=c++20", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, str(source), "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="module")
def run_paths(library):
    function = ctypes.CDLL(str(library)).run_paths
    function.restype = ctypes.c_int64
    function.argtypes = [ctypes.c_void_p] * 9 + [ctypes.c_int] * 2
    return function


def host(run_paths, node, table, spectra, out, K, J, threads, seed):
    """Runs a node's paths; its moduli (fields, L, m', n')."""
    fields, L = len(spectra), table[f"psi{node.index}"].shape[0]
    u = torch.full((fields, L, *node.out), float("nan"))
    low_y, low_x = table[f"low_y{node.j}"], table[f"low_x{node.j}"]
    P = L if node.stride else 1
    sizes = [fields, L, *node.size, *node.out, len(low_y), len(low_x), node.first, node.stride, 0, P, 2, K]
    packed = (ctypes.c_int64 * len(sizes))(*sizes)
    spectra = torch.view_as_real(spectra).contiguous()
    bands = table[f"fine_y{node.j}"], table[f"fine_x{node.j}"]
    pointers = [t.data_ptr() for t in (spectra, table[f"psi{node.index}"], low_y, low_x, *bands, u, out)]
    found = run_paths(*pointers, packed, threads, seed)
    assert found == engines.shared_bytes(node, len(low_y), len(low_x))
    assert all(map(engines.only_small_factors, node.out))
    return u


# Image, J, L: padded sizes of every radix (2 … 13), odd and even numbers of passes, rectangles.
CASES = [
    ((96, 96), 2, 2),
    ((8, 12), 2, 3),
    ((16, 20), 2, 3),
    ((20, 33), 2, 2),
    ((36, 47), 1, 2),
    ((33, 19), 3, 2),
    ((61, 80), 3, 1),
    ((30, 17), 4, 1),
]


@pytest.mark.parametrize(("size", "J", "L"), CASES)
def test_the_phases_agree_with_float64(run_paths, size, J, L):
    padded = padded_shape(size, J)
    filters = [torch.tensor(level).unsqueeze(-1) for level in filter_bank(*padded, J, L).tensors()]
    table = tables.tables(tables.pack(filters, J, L, 2), J, L, 2, *padded)
    one, two = tables.tree(J, L, 2, *padded)
    x, K = torch.randn(1, 2, *size), reference.channels(J, L, 2)
    truth = reference.scattering2d(x.double(), [f.double() for f in filters], J, L, 2, False)
    plain = reference.scattering2d(x, filters, J, L, 2, False)
    spectra = torch.fft.rfft2(reference.pad(x, padded)).flatten(0, 1)
    results = []
    # Threads as the kernel has, fewer than there are lines, forwards, backwards and shuffled.
    for threads, seed in ((256, 0), (256, 1), (256, 7), (5, 3)):
        out = torch.full((1, 2 * K, *truth.shape[-2:]), float("nan"))
        for node in one:
            u = host(run_paths, node, table, spectra, out, K, J, threads, seed)
            following = two[node.j] if node.j < len(two) else []
            for second in following:
                host(run_paths, second, table, torch.fft.rfft2(u).flatten(0, 1), out, K, J, threads, seed)
        results.append(out.view(truth.shape)[:, :, 1:])  # S0 is no node's
    assert all(torch.equal(results[0], other) for other in results[1:]), "a phase has a race"
    errors = [(y - truth[:, :, 1:]).abs() for y in (results[0], plain[:, :, 1:])]
    floor = 2.0**-24 * truth[:, :, 1:].abs()
    assert errors[0].max() <= 2 * errors[1].max() + floor.max()
    assert errors[0].square().mean().sqrt() <= 2 * errors[1].square().mean().sqrt() + floor.mean()


LAUNCHED = """
import contextlib, ctypes, torch
from scatsimclr.filters import filter_bank, padded_shape
from scatsimclr.kernels import scattering2d as kernels, scattering2d_engine as engines
from scatsimclr.ops.library import LIBRARY
from scatsimclr.reference import scattering2d as reference

run_paths = ctypes.CDLL(HOST).run_paths
run_paths.restype, run_paths.argtypes = ctypes.c_int64, [ctypes.c_void_p] * 9 + [ctypes.c_int] * 2
calls = []

def operator(spectra, psi, low_y, low_x, fine_y, fine_x, u, out, *place):
    sizes = [len(spectra), *psi.shape, low_y.shape[1], low_x.shape[1], len(low_y), len(low_x), *place]
    tensors = (spectra, psi, low_y, low_x, fine_y, fine_x, u, out)
    assert all(t.is_contiguous() for t in tensors)
    pointers = [t.data_ptr() if t.numel() else None for t in tensors]
    assert run_paths(*pointers, (ctypes.c_int64 * len(sizes))(*sizes), 256, 0) > 0
    calls.append(sizes)

LIBRARY.impl("scattering2d_paths_cuda", operator, "CPU")
engines.shared_limit = lambda device: 163 << 10
torch.cuda.device = lambda device: contextlib.nullcontext()
torch.set_num_threads(1)
kernels.CHUNK_BYTES = 1  # a plane at a time
for size, J, L, engine, expected in [((16, 20), 2, 2, "c++", 12), ((8, 64), 2, 1, "preferred", 4)]:
    filters = [torch.tensor(f).unsqueeze(-1) for f in filter_bank(*padded_shape(size, J), J, L).tensors()]
    x = torch.randn(2, 2, *size)
    packed = kernels.pack(filters, J, L, 2)
    out = kernels.scattering2d(x, filters, packed, J, L, 2, False, False, torch.float32, engine=engine)
    truth = reference.scattering2d(x.double(), [f.double() for f in filters], J, L, 2, False).flatten(1, 2)
    assert (out - truth).abs().max() <= 1e-6 * truth.abs().max()
    assert len(calls) == expected, calls
    calls.clear()
"""


def test_the_launcher_hands_the_operator_what_it_needs(library):
    """In the interpreter, with the host's phases in the operator's place."""
    run(f"HOST = {str(library)!r}\n{LAUNCHED}", TRITON_INTERPRET="1")


# Registers of a thread by threads of a block: three blocks of 256 to a multiprocessor, or one of 512.
REGISTERS = {256: 80, 512: 128}


@pytest.mark.parametrize("arch", capabilities(["80", "90a", "100a"], "90a"))
def test_nvccs_budgets(arch, tmp_path):
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc")
    include = Path(torch.__file__).parent / "include"
    flags = "-std=c++20 -O3 -cubin -Xptxas -v --expt-relaxed-constexpr -Werror cross-execution-space-call -DUSE_CUDA"
    done = subprocess.run(
        [
            *("nvcc", *flags.split(), "-DTORCH_TARGET_VERSION=0x020b000000000000"),
            f"-gencode=arch=compute_{arch},code=sm_{arch}",
            *(f"-I{path}" for path in (ROOT / "csrc", include, include / "torch/csrc/api/include")),
            *(str(ROOT / "csrc/cuda/scattering2d.cu"), "-o", str(tmp_path / "kernel.cubin")),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = done.stdout + done.stderr
    kernels = re.findall(r"Compiling entry function '\w*path_kernel\w*Li(256|512)E\w*'", report)
    assert sorted(kernels) == ["256"] * 3 + ["512"] * 3, report  # float32, bfloat16, float16
    registers = list(map(int, re.findall(r"Used (\d+) registers", report)))
    assert len(registers) == len(kernels)
    assert all(n <= REGISTERS[int(threads)] for threads, n in zip(kernels, registers, strict=True)), report
    for what in ("bytes spill stores", "bytes spill loads", "bytes stack frame"):
        assert set(re.findall(rf"(\d+) {what}", report)) == {"0"}, report
