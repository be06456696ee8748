"""Claim: NT-Xent is several times faster than plain PyTorch on the CPU, in memory linear in the batch.

Competitors take turns in one process; their quartiles and the ratios of medians to ours go to `extra_info`, ours
is also timed by pytest-benchmark. float32, D = 128, τ = 0.5; rows are redrawn for every shape.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import subprocess
import sys
import time
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from scatsimclr.loss import nt_xent_loss

TAU, DEPTH = 0.5, 128


def ours(z_i, z_j):
    return nt_xent_loss(z_i, z_j, TAU)


def plain(z_i, z_j):
    """Normalise, product, masked cross-entropy."""
    z = F.normalize(torch.cat((z_i, z_j)), dim=1)
    s = (z @ z.T / TAU).fill_diagonal_(-torch.inf)
    return F.cross_entropy(s, torch.arange(len(z), device=z.device).roll(len(z_i)))


@cache
def compiled_plain():
    return torch.compile(plain)


def original(z_i, z_j):
    """The original's: cosine_similarity of broadcast rows, an (M, M, D) temporary."""
    n = len(z_i)
    z = torch.cat((z_j, z_i))
    s = F.cosine_similarity(z[:, None], z[None], dim=-1)
    positives = torch.cat((s.diagonal(n), s.diagonal(-n))).view(2 * n, 1)
    diagonals = torch.eye(2 * n) + torch.eye(2 * n).roll(n, 0)
    logits = torch.cat((positives, s[diagonals == 0].view(2 * n, -1)), 1) / TAU
    return F.cross_entropy(logits, torch.zeros(2 * n, dtype=torch.long), reduction="sum") / (2 * n)


def lightly():
    loss = importlib.import_module("lightly.loss").NTXentLoss(temperature=TAU)
    return lambda z_i, z_j: loss(z_i, z_j)


def pytorch_metric_learning():
    loss = importlib.import_module("pytorch_metric_learning.losses").NTXentLoss(temperature=TAU)

    # Its denominator is one positive and the negatives: the same sum only where an image has two views.
    def run(z_i, z_j):
        labels = torch.arange(len(z_i)).repeat(2)
        return loss(torch.cat((z_i, z_j)), labels)

    return run


def inf_cl():
    importlib.import_module("inf_cl")
    raise ImportError("inf_cl needs a GPU")


def competitors(M):
    """name -> loss, and name -> why it is missing."""
    found, missing = {"ours": ours, "plain": plain, "plain, compiled": compiled_plain()}, {}
    if M <= 512:
        found["original"] = original
    else:
        missing["original"] = f"its temporary would take {M * M * DEPTH * 4 / 2**30:.0f} GiB"
    for peer in (lightly, pytorch_metric_learning, inf_cl):
        if peer is pytorch_metric_learning and M > 512:
            missing[peer.__name__] = (
                f"its memory grows with M³: 2 GiB at M=512, {2 * (M // 512) ** 3} GiB here"
            )
            continue
        try:
            found[peer.__name__] = peer()
        except (ImportError, RuntimeError, OSError) as error:  # torchvision fails at import with RuntimeError
            missing[peer.__name__] = f"{type(error).__name__}: {error}"
    return found, missing


def rows(M):
    generator = torch.Generator().manual_seed(M)
    return [torch.randn(M // 2, DEPTH, generator=generator, requires_grad=True) for _ in range(2)]


def gradients(loss, z_i, z_j):
    value = loss(z_i, z_j)
    return [value.detach(), *torch.autograd.grad(value, (z_i, z_j))]


def once(loss, z_i, z_j):
    """Seconds of one forward and of one backward."""
    start = time.perf_counter()
    value = loss(z_i, z_j)
    middle = time.perf_counter()
    torch.autograd.grad(value, (z_i, z_j))
    return middle - start, time.perf_counter() - middle


def interleaved(losses, z, seconds):
    """Times of all losses, taking turns; each has about `seconds` in all, and three rounds at least."""
    rounds = {name: max(3, min(300, int(seconds / sum(once(loss, *z))))) for name, loss in losses.items()}
    times = {name: [] for name in losses}
    for round_ in range(max(rounds.values())):
        for name, loss in losses.items():
            if round_ < rounds[name]:
                times[name].append(once(loss, *z))
    return times


def extra_bytes(name, M):
    """How far a process grows beyond input and gradients in one forward and backward (Linux)."""

    def status(key):
        with open("/proc/self/status") as file:
            return int(next(line for line in file if line.startswith(key)).split()[1]) * 1024

    loss = {"ours": ours, "plain": plain, "original": original}[name]
    gradients(loss, *rows(16))  # starts the threads
    z = rows(M)
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    gradients(loss, *z)
    return status("VmHWM") - before - M * DEPTH * 4


def extra_bytes_of_a_process(name, M):
    """The same in a process of its own: here, memory of earlier calls would be used again."""
    code = (
        "import runpy, sys; print(runpy.run_path(sys.argv[1])['extra_bytes'](sys.argv[2], int(sys.argv[3])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, __file__, name, str(M)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize("M", [64, 512, 2048, 8192])
def bench_cpu(benchmark, M):
    M = M if benchmark.enabled else 64
    losses, missing = competitors(M)
    z = rows(M)
    # In float64 and beyond 2,048 rows plain PyTorch itself would need gigabytes.
    truth = gradients(plain if M <= 2048 else ours, *(t.detach().double().requires_grad_() for t in z))
    for name, loss in losses.items():
        for got, want in zip(gradients(loss, *z), truth, strict=True):
            error = (got.double() - want).abs().max() / want.abs().max()
            assert error < 1e-5, name
    benchmark.group = f"NT-Xent CPU float32 M={M} D={DEPTH} forward + backward"
    benchmark.pedantic(gradients, (ours, *z), rounds=10 if benchmark.enabled else 1, iterations=1)
    if not benchmark.enabled:
        return
    times = interleaved(losses, z, seconds=3)
    phases = {
        "forward": lambda t: t[0],
        "backward": lambda t: t[1],
        "both": sum,
    }
    for phase, of in phases.items():
        median = {name: statistics.median(map(of, t)) for name, t in times.items()}
        benchmark.extra_info[phase] = {
            "seconds, quartiles": {name: statistics.quantiles(map(of, t), n=4) for name, t in times.items()},
            "times ours": {name: round(t / median["ours"], 2) for name, t in median.items()},
        }
    benchmark.extra_info.update(
        isa=torch.ops.scatsimclr.cpu_isa(),
        missing=missing,
        extra_bytes={
            name: extra_bytes_of_a_process(name, M)
            for name in ("ours", "plain", "original")
            if name in losses
        },
    )


def bench_cpu_65536_rows(benchmark):
    """Where the similarities alone would be 17 GB."""
    benchmark.group = f"NT-Xent CPU float32 M=65536 D={DEPTH} both"
    M = 65536 if benchmark.enabled else 512
    z = rows(M)
    benchmark.extra_info["extra_bytes"] = {"ours": extra_bytes_of_a_process("ours", M)}
    value, *_ = benchmark.pedantic(gradients, (ours, *z), rounds=1, iterations=1)
    assert value.isfinite()
