"""Claim: NT-Xent is several times faster than plain PyTorch, in memory linear in the batch.

Competitors take turns in one process; their quartiles and the ratios of medians to ours go to `extra_info`, ours
is also timed by pytest-benchmark. D = 128, τ = 0.5; rows are redrawn for every shape. On a CPU float32; on a GPU
also bfloat16, with the share of the measured rate of matrix products (2·M²·D operations forward and 4·M²·D
backward, whatever a scheme saves), and small batches under CUDA graphs.
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

from benchmarks.peers import original_ntxent, plain_ntxent
from scatsimclr.loss import nt_xent_loss

TAU, DEPTH = 0.5, 128


def ours(z_i, z_j):
    return nt_xent_loss(z_i, z_j, TAU)


@cache
def compiled_plain():
    return torch.compile(plain_ntxent)


def lightly():
    loss = importlib.import_module("lightly.loss").NTXentLoss(temperature=TAU)
    return lambda z_i, z_j: loss(z_i, z_j)


def pytorch_metric_learning():
    loss = importlib.import_module("pytorch_metric_learning.losses").NTXentLoss(temperature=TAU)

    # Its denominator is one positive and the negatives: the same sum only where an image has two views.
    def run(z_i, z_j):
        labels = torch.arange(len(z_i), device=z_i.device).repeat(2)
        return loss(torch.cat((z_i, z_j)), labels)

    return run


def inf_cl():
    """Inf-CL's kernel at the same work: M queries against M keys. It cannot leave a row itself out of its sum."""
    if not torch.cuda.is_available():
        raise ImportError("inf_cl needs a GPU")
    loss = importlib.import_module("inf_cl").cal_flash_loss

    def run(z_i, z_j):
        z = F.normalize(torch.cat((z_i, z_j)).float(), dim=1)
        partner = torch.arange(len(z), device=z.device).roll(len(z_i))
        return loss(z, z, partner, 1 / TAU, DEPTH).mean()

    return run


OTHER_LOSSES = {"inf_cl"}


def competitors(M):
    """name -> loss, and name -> why it is missing."""
    found, missing = {"ours": ours, "plain": plain_ntxent, "plain, compiled": compiled_plain()}, {}
    if M <= 512:
        found["original"] = original_ntxent
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


def rows(M, device="cpu", dtype=torch.float32):
    generator = torch.Generator(device).manual_seed(M)
    drawn = [torch.randn(M // 2, DEPTH, generator=generator, device=device) for _ in range(2)]
    return [z.to(dtype).requires_grad_() for z in drawn]


def gradients(loss, z_i, z_j):
    value = loss(z_i, z_j)
    return [value.detach(), *torch.autograd.grad(value, (z_i, z_j))]


def now(z):
    """The clock, after everything that was asked of z's device."""
    if z.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def once(loss, z_i, z_j):
    """Seconds of one forward and of one backward."""
    start = now(z_i)
    value = loss(z_i, z_j)
    middle = now(z_i)
    torch.autograd.grad(value, (z_i, z_j))
    return middle - start, now(z_i) - middle


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

    loss = {"ours": ours, "plain": plain_ntxent, "original": original_ntxent}[name]
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


def assert_close(losses, z, tolerance):
    """Every loss and its gradients against the same loss in float64."""
    # In float64 and beyond 2,048 rows plain PyTorch itself would need gigabytes.
    reference = plain_ntxent if len(z[0]) <= 1024 else ours
    truth = gradients(reference, *(t.detach().cpu().double().requires_grad_() for t in z))
    for name, loss in losses.items():
        if name in OTHER_LOSSES:
            continue
        for got, want in zip(gradients(loss, *z), truth, strict=True):
            error = (got.cpu().double() - want).abs().max() / want.abs().max()
            assert error < tolerance, name


def report(benchmark, times):
    """Quartiles of forward, backward and both, and the ratios of their medians to ours."""
    phases = {"forward": lambda t: t[0], "backward": lambda t: t[1], "both": sum}
    for phase, of in phases.items():
        median = {name: statistics.median(map(of, t)) for name, t in times.items()}
        benchmark.extra_info[phase] = {
            "seconds, quartiles": {name: statistics.quantiles(map(of, t), n=4) for name, t in times.items()},
            "times ours": {name: round(t / median["ours"], 2) for name, t in median.items()},
        }


@pytest.mark.parametrize("M", [64, 512, 2048, 8192])
def bench_cpu(benchmark, M):
    M = M if benchmark.enabled else 64
    losses, missing = competitors(M)
    z = rows(M)
    assert_close(losses, z, 1e-5)
    benchmark.group = f"NT-Xent CPU float32 M={M} D={DEPTH} forward + backward"
    benchmark.pedantic(gradients, (ours, *z), rounds=10 if benchmark.enabled else 1, iterations=1)
    if not benchmark.enabled:
        return
    report(benchmark, interleaved(losses, z, seconds=3))
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


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DTYPES = [torch.bfloat16, torch.float32]
# Of the largest gradient: rows rounded to bfloat16 differ by 2^-9.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-5}


@cache
def product_rate(dtype):
    """Operations per second of a large matrix product."""
    a, b = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
    torch.mm(a, b)
    times = []
    for _ in range(10):
        start = now(a)
        torch.mm(a, b)
        times.append(now(a) - start)
    return 2 * 8192**3 / statistics.median(times)


def extra_device_bytes(loss, z):
    """Most memory beyond rows and gradients in one forward and backward."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients(loss, *z)
    return torch.cuda.max_memory_allocated() - before - sum(t.nbytes for t in z)


def that_fit(losses, missing, z):
    """The losses that run on z; the others go to `missing`."""
    for name, loss in list(losses.items()):
        try:
            gradients(loss, *z)
        except torch.OutOfMemoryError as error:
            missing[name] = str(error).splitlines()[0]
            del losses[name]
    torch.cuda.empty_cache()
    return losses


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", [512, 8192, 65536])
def bench_cuda(benchmark, M, dtype):
    M = M if benchmark.enabled else 512
    losses, missing = competitors(M)
    z = rows(M, "cuda", dtype)
    that_fit(losses, missing, z)
    if M <= 8192:
        assert_close(losses, z, TOLERANCE[dtype])
    else:
        # Float32 products, which were compared at M=8192, stand in for float64.
        truth = gradients(ours, *(t.detach().float().requires_grad_() for t in z))
        for got, want in zip(gradients(ours, *z), truth, strict=True):
            assert (got - want).abs().max() < TOLERANCE[dtype] * want.abs().max()
    benchmark.group = f"NT-Xent CUDA {dtype} M={M} D={DEPTH} forward + backward"

    def run():
        found = gradients(ours, *z)
        torch.cuda.synchronize()
        return found

    benchmark.pedantic(run, rounds=10 if benchmark.enabled else 1, iterations=1, warmup_rounds=1)
    if not benchmark.enabled:
        return
    times = interleaved(losses, z, seconds=2)
    report(benchmark, times)
    operations = 6 * M * M * DEPTH
    rates = {name: operations / statistics.median(map(sum, t)) for name, t in times.items()}
    benchmark.extra_info.update(
        missing=missing,
        product_rate=product_rate(dtype),
        share_of_product_rate={name: round(rate / product_rate(dtype), 3) for name, rate in rates.items()},
        extra_bytes={name: extra_device_bytes(loss, z) for name, loss in losses.items()},
    )


def graph_of(loss, z):
    """A CUDA graph of one forward and backward, after the calls that compile and warm up."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            gradients(loss, *z)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = gradients(loss, *z)
    return graph, found


def launches(call):
    """Kernels that a call launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return [
        e.name
        for e in profile.events()
        if e.device_type == torch.autograd.DeviceType.CUDA and not e.name.startswith(("Mem", "mem"))
    ]


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("M", [64, 512, 2048])
def bench_cuda_graph(benchmark, M, dtype):
    """Small batches, where launches are the cost: both views stacked, forward and backward, from a graph."""
    repeats = 100
    z = rows(M, "cuda", dtype)
    losses = {"ours": ours, "plain": plain_ntxent}
    assert_close(losses, z, TOLERANCE[dtype])
    graphs = {name: graph_of(loss, z) for name, loss in losses.items()}
    for graph, _ in graphs.values():
        graph.replay()
    for got, want in zip(graphs["ours"][1], gradients(ours, *z), strict=True):
        assert torch.equal(got, want)

    def replay(name):
        for _ in range(repeats):
            graphs[name][0].replay()
        torch.cuda.synchronize()

    benchmark.group = f"NT-Xent CUDA graph {dtype} M={M} D={DEPTH} forward + backward"
    times = {name: [] for name in graphs}
    for _ in range(20 if benchmark.enabled else 1):
        for name in graphs:
            start = now(z[0])
            replay(name)
            times[name].append((now(z[0]) - start) / repeats)
    benchmark.pedantic(replay, ("ours",), rounds=10 if benchmark.enabled else 1)
    median = {name: statistics.median(t) for name, t in times.items()}
    x = torch.cat(z).detach()
    forward = torch.ops.scatsimclr.ntxent
    loss, stats = forward(x, None, None, TAU, True, 2, 0, M)
    backward = torch.ops.scatsimclr.ntxent_backward
    benchmark.extra_info.update(
        seconds=median,
        plain_over_ours=round(median["plain"] / median["ours"], 2),
        launches_forward=launches(lambda: forward(x, None, None, TAU, True, 2, 0, M)),
        launches_backward=launches(
            lambda: backward(torch.ones_like(loss), x, stats, None, None, TAU, True, 2, 0, M)
        ),
    )


@needs_gpu
def bench_cuda_1048576_rows(benchmark):
    """Where the similarities alone would be 2 TB; memory beyond rows and gradients at most 3·M·D·4 bytes."""
    M = 1048576 if benchmark.enabled else 8192
    z = rows(M, "cuda", torch.bfloat16)
    gradients(ours, *rows(8192, "cuda", torch.bfloat16))  # compiles
    extra = extra_device_bytes(ours, z)
    benchmark.group = f"NT-Xent CUDA bfloat16 M={M} D={DEPTH} forward + backward"
    benchmark.extra_info["extra_bytes"] = {"ours": extra}
    assert extra <= 3 * M * DEPTH * 4

    def run():
        found = gradients(ours, *z)
        torch.cuda.synchronize()
        return found

    value, *_ = benchmark.pedantic(run, rounds=1, iterations=1)
    assert value.isfinite()
