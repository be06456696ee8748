"""Claim: kymatio's numbers at 20 to 50 times its speed, and faster than pytorch_wavelets' cheaper transform.

Each round times kymatio (and, with L=6 and 8, pytorch_wavelets' `ScatLayerj2` where it is installed) right before
ours, in one process with the same threads; `extra_info` holds the medians, their ratio and the memory that a call
needs beyond its input and output.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import pytest
import torch

from benchmarks.peers import kymatio_module
from scatsimclr import Scattering2D

THREADS = min(2, os.cpu_count() or 1)
ROUNDS = 7
MEMORY_LIMIT_MB = 64

# Shape of x, J, L.
FORWARD = [
    ((16, 3, 96, 96), 2, 16),
    ((1, 3, 96, 96), 2, 16),
    ((64, 3, 32, 32), 2, 16),
    ((64, 3, 32, 32), 2, 8),
    ((64, 3, 32, 32), 2, 6),
    ((16, 3, 96, 96), 2, 8),
    ((16, 3, 96, 96), 2, 6),
    ((8, 3, 128, 128), 3, 8),
    ((2, 3, 224, 224), 4, 8),
    ((1, 1, 512, 512), 3, 8),
    ((8, 1, 61, 83), 2, 6),
    # Where there is least to do: one path, and the padded width 454 = 2·227.
    ((1, 1, 300, 451), 1, 1),
    ((1, 1, 1021, 1021), 1, 1),
]
BACKWARD = FORWARD[:4]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def wavelets_layer(shape, J, L):
    """pytorch_wavelets' layer where it can stand in for ours, or None; and why it is missing."""
    if J != 2 or L not in (6, 8) or shape[2] % 4:
        return None, ""
    try:
        from pytorch_wavelets import ScatLayerj2
    except ImportError as error:
        return None, f"{type(error).__name__}: {error}"
    return ScatLayerj2(), ""


def batch(benchmark, shape):
    """Random images; only one where the benchmark is not timed but merely kept from rotting."""
    return torch.rand(1 if benchmark.disabled else shape[0], *shape[1:])


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


FIRST_CALL = """
import gc, sys, torch
from scatsimclr import Scattering2D

shape, (J, L, threads) = tuple(map(int, sys.argv[1].split(","))), map(int, sys.argv[2:])
torch.set_num_threads(threads)
module, x = Scattering2D(J, shape[2:], L), torch.rand(shape)
module(torch.rand(1, *shape[1:]))  # starts the threads

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

gc.collect()
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")
before = status("VmRSS")
out = module(x)
print(status("VmHWM") - before - out.numel() * out.element_size() / 2**20)
"""


def extra_memory_mb(shape, J, L) -> float:
    """How far a process's resident memory rises beyond the output (Linux) in the first call with a batch.

    In a process of its own: later calls use workspaces that are already there.
    """
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALL, ",".join(map(str, shape)), *map(str, (J, L, THREADS))],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


def interleaved(benchmark, calls, ours):
    """Times the callables of `calls` one after the other before each timed round of `ours`."""
    times = {name: [] for name in calls}

    def setup():
        for name, call in calls.items():
            times[name].append(timed(call))

    benchmark.pedantic(ours, setup=setup, rounds=ROUNDS, warmup_rounds=0 if benchmark.disabled else 1)
    if benchmark.stats is None:  # --benchmark-disable: one round, untimed
        return
    median = benchmark.stats.stats.median
    for name, values in times.items():
        benchmark.extra_info[f"{name} median s"] = statistics.median(values[1:])
        benchmark.extra_info[f"{name} / ours"] = statistics.median(values[1:]) / median


@pytest.mark.parametrize(("shape", "J", "L"), FORWARD)
def bench_forward(benchmark, shape, J, L):
    x = batch(benchmark, shape)
    theirs, ours = kymatio_module(J, shape[2:], L), Scattering2D(J, shape[2:], L)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-8)
    extra = extra_memory_mb(tuple(x.shape), J, L)
    assert extra <= MEMORY_LIMIT_MB or shape[2] > 96
    calls = {"kymatio": lambda: theirs(x)}
    layer, missing = wavelets_layer(shape, J, L)
    if layer:
        calls["pytorch_wavelets"] = lambda: layer(x)
    elif missing:
        benchmark.extra_info["pytorch_wavelets missing"] = missing
    benchmark.group = f"scattering2d forward {shape} J={J} L={L}"
    benchmark.extra_info.update(threads=THREADS, isa=torch.ops.scatsimclr.cpu_isa(), extra_mb=round(extra, 1))
    interleaved(benchmark, calls, lambda: ours(x))


@pytest.mark.parametrize(("shape", "J", "L"), BACKWARD)
def bench_backward(benchmark, shape, J, L):
    modules = {"kymatio": kymatio_module(J, shape[2:], L), "ours": Scattering2D(J, shape[2:], L)}
    x = batch(benchmark, shape)
    grad = torch.randn_like(modules["ours"](x))

    def prepared(name):
        """Input and output of a forward pass, which stays out of the figure."""
        leaf = x.clone().requires_grad_()
        return leaf, modules[name](leaf)

    def gradient(leaf, out):
        return torch.autograd.grad(out, leaf, grad)[0]

    expected, found = gradient(*prepared("kymatio")), gradient(*prepared("ours"))
    # A modulus near 0 makes both gradients uncertain: their distance is compared, not every pixel.
    assert (found - expected).norm() <= 1e-4 * expected.norm()
    times = []

    def setup():
        graph = prepared("kymatio")
        times.append(timed(lambda: gradient(*graph)))
        return prepared("ours"), {}

    benchmark.group = f"scattering2d backward {shape} J={J} L={L}"
    benchmark.extra_info.update(threads=THREADS, isa=torch.ops.scatsimclr.cpu_isa())
    benchmark.pedantic(gradient, setup=setup, rounds=ROUNDS, warmup_rounds=0 if benchmark.disabled else 1)
    if benchmark.stats is not None:
        benchmark.extra_info["kymatio median s"] = statistics.median(times[1:])
        benchmark.extra_info["kymatio / ours"] = statistics.median(times[1:]) / benchmark.stats.stats.median


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
@pytest.mark.parametrize("images", [1, 16])
def bench_threads(benchmark, images):
    """Two threads against one at 96 × 96, RGB, J=2, L=16."""
    x, ours = torch.rand(images, 3, 96, 96), Scattering2D(2, (96, 96), 16)

    def with_threads(n):
        torch.set_num_threads(n)
        return ours(x)

    assert torch.equal(with_threads(1), with_threads(2))
    times = {1: [], 2: []}

    def setup():
        for n in times:
            with_threads(n)  # wakes the threads up
            times[n].append(timed(lambda n=n: ours(x)))

    benchmark.group = f"scattering2d threads ({images}, 3, 96, 96) J=2 L=16"
    benchmark.pedantic(
        ours, (x,), setup=setup, rounds=448 // images, warmup_rounds=0 if benchmark.disabled else 1
    )
    if benchmark.stats is not None:
        one, two = (statistics.median(t[1:]) for t in times.values())
        benchmark.extra_info.update(
            {"one thread median s": one, "two threads median s": two, "one / two": one / two}
        )
