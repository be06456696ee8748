"""Claim: NT-Xent is several times faster than plain PyTorch, in memory linear in the batch size.

Competitors take turns in one process (`benchmarks/measure.py` says what is recorded); forward and backward are timed
separately and together. τ = 0.5; rows are drawn anew for every shape. CPUs run float32, GPUs also bfloat16 and small
batches as CUDA graphs. Work is M²·D operations forward and 4·M²·D backward, whatever an algorithm saves
(`benchmarks/work.py`).
"""

from __future__ import annotations

import importlib
import os
from functools import cache

import pytest
import torch
import torch.nn.functional as F

from benchmarks.measure import compare, compare_threads, peak_mb
from benchmarks.peers import original_ntxent, plain_ntxent
from benchmarks.work import ntxent_work
from scatsimclr.loss import nt_xent_loss

TAU = 0.5


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

    # Its denominator has one positive and the negatives, which is the same sum only for two views per image.
    def run(z_i, z_j):
        labels = torch.arange(len(z_i), device=z_i.device).repeat(2)
        return loss(torch.cat((z_i, z_j)), labels)

    return run


def inf_cl():
    """Inf-CL's kernel for the same work, M queries against M keys. It cannot exclude a row from its own sum."""
    if not torch.cuda.is_available():
        raise ImportError("inf_cl needs a GPU")
    loss = importlib.import_module("inf_cl").cal_flash_loss

    def run(z_i, z_j):
        z = F.normalize(torch.cat((z_i, z_j)).float(), dim=1)
        partner = torch.arange(len(z), device=z.device).roll(len(z_i))
        return loss(z, z, partner, 1 / TAU, z.shape[1]).mean()

    return run


OTHER_LOSSES = {"inf_cl"}


PEERS = ("plain", "plain, compiled", "original", "lightly", "pytorch_metric_learning", "inf_cl")


def competitors(M, D, compiled):
    """Losses by name, and by name why others are missing."""
    found, missing = {"ours": ours}, {}
    if M <= 8192 or torch.cuda.is_available():
        found["plain"] = plain_ntxent
        if compiled:
            found["plain, compiled"] = compiled_plain()
    else:
        missing["plain"] = (
            f"its similarities alone would take {M * M * 4 / 1e9:.0f} GB, and twice as much on top"
        )
    if M <= 512:
        found["original"] = original_ntxent
    else:
        missing["original"] = f"its temporary would take {M * M * D * 4 / 1e9:,.0f} GB"
    for peer in (lightly, pytorch_metric_learning, inf_cl):
        if peer is pytorch_metric_learning and M > 512:
            missing[peer.__name__] = f"its memory grows with M³: {2.1 * (M / 512) ** 3:,.0f} GB"
            continue
        try:
            found[peer.__name__] = peer()
        except (ImportError, RuntimeError, OSError) as error:  # torchvision fails at import with RuntimeError
            missing[peer.__name__] = f"{type(error).__name__}: {error}"
    return found, missing


def rows(M, D, device="cpu", dtype=torch.float32):
    generator = torch.Generator(device).manual_seed(M)
    drawn = [torch.randn(M // 2, D, generator=generator, device=device) for _ in range(2)]
    return [z.to(dtype).requires_grad_() for z in drawn]


def gradients(loss, z_i, z_j):
    value = loss(z_i, z_j)
    return [value.detach(), *torch.autograd.grad(value, (z_i, z_j))]


def phased(loss, z):
    """A call for `interleaved`, forward and then backward."""

    def run():
        value = loss(*z)
        yield "forward"
        torch.autograd.grad(value, z)
        yield "backward"

    return run


def memory_case(name, M, D, device, dtype):
    """Forward and backward, after a small case has started the threads or compiled the code."""
    loss = competitors(M, D, compiled=True)[0][name]
    dtype = getattr(torch, dtype)
    gradients(loss, *rows(16 if device == "cpu" else M, D, device, dtype))
    z = rows(M, D, device, dtype)
    return (lambda: gradients(loss, *z)), sum(t.nbytes for t in z), device


def assert_close(losses, z, tolerance):
    """Compares every loss and its gradients with the same loss in float64."""
    # Beyond 2,048 rows, plain PyTorch in float64 would need gigabytes.
    reference = plain_ntxent if len(z[0]) <= 1024 else ours
    truth = gradients(reference, *(t.detach().cpu().double().requires_grad_() for t in z))
    for name, loss in losses.items():
        if name in OTHER_LOSSES:
            continue
        for got, want in zip(gradients(loss, *z), truth, strict=True):
            error = (got.cpu().double() - want).abs().max() / want.abs().max()
            assert error < tolerance, name


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
# As a share of the largest gradient: rows rounded to bfloat16 differ by 2^-9.
TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 1e-5}
# M, D, device, dtype.
CASES = [
    (64, 128, "cpu", torch.float32),
    pytest.param(512, 128, "cpu", torch.float32, marks=pytest.mark.full),
    (2048, 128, "cpu", torch.float32),
    *(pytest.param(M, 128, "cpu", torch.float32, marks=pytest.mark.full) for M in (8192, 65536)),
    *(pytest.param(2048, D, "cpu", torch.float32, marks=pytest.mark.full) for D in (32, 512)),
    *(
        pytest.param(M, 128, "cuda", dtype, marks=needs_gpu)
        for dtype in (torch.bfloat16, torch.float32)
        for M in (512, 8192, 65536)
    ),
]


def that_fit(losses, missing, z):
    """Moves the losses for which z needs too much memory to `missing`."""
    for name, loss in list(losses.items()):
        try:
            gradients(loss, *z)
        except torch.OutOfMemoryError as error:
            missing[name] = str(error).splitlines()[0]
            del losses[name]
    torch.cuda.empty_cache()


@pytest.mark.parametrize(("M", "D", "device", "dtype"), CASES)
def bench_ntxent(benchmark, M, D, device, dtype):
    rows_ = 64 if benchmark.disabled else M
    # In an untimed run, the compiled formula would only cost its compilation.
    losses, missing = competitors(rows_, D, compiled=not benchmark.disabled)
    z = rows(rows_, D, device, dtype)
    if device == "cuda":
        that_fit(losses, missing, z)
    if rows_ <= 8192:
        assert_close(losses, z, TOLERANCE[dtype])
    elif dtype == torch.bfloat16:
        # Float32 products, compared with float64 at M=8192, take its place.
        truth = gradients(ours, *(t.detach().float().requires_grad_() for t in z))
        for got, want in zip(gradients(ours, *z), truth, strict=True):
            assert (got - want).abs().max() < TOLERANCE[dtype] * want.abs().max()
    calls = {name: phased(loss, z) for name, loss in losses.items()}
    name = str(dtype).removeprefix("torch.")
    compare(
        benchmark,
        calls,
        op=f"NT-Xent {device} {name}",
        case={"M": M, "D": D},
        peers=PEERS,
        missing=missing,
        items=M,
        work=ntxent_work(M, D, dtype.itemsize),
        memory=(__name__, M, D, device, name),
        # Compiled in another process, it would only show the memory of the same formula.
        without_memory=["plain, compiled"],
        precision=name,
        device=device,
    )


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def bench_threads(benchmark):
    """Two threads against one."""
    z = rows(64 if benchmark.disabled else 2048, 128)
    case = {"M": 2048, "D": 128}
    compare_threads(
        benchmark, lambda: gradients(ours, *z), phased(ours, z), op="NT-Xent threads", case=case, items=2048
    )


def graph_of(loss, z):
    """A CUDA graph of one forward and backward pass, after calls that compile and warm up."""
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
    """Names of the kernels that a call launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    return [
        e.name
        for e in profile.events()
        if e.device_type == torch.autograd.DeviceType.CUDA and not e.name.startswith(("Mem", "mem"))
    ]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("M", [64, 512, 2048])
def bench_cuda_graph(benchmark, M, dtype):
    """Small batches, whose cost is their launches: both views stacked, forward and backward, from a graph."""
    repeats, D = 100, 128
    z = rows(M, D, "cuda", dtype)
    losses = {"plain": plain_ntxent, "ours": ours}
    assert_close(losses, z, TOLERANCE[dtype])
    graphs = {name: graph_of(loss, z) for name, loss in losses.items()}
    for graph, _ in graphs.values():
        graph.replay()
    for got, want in zip(graphs["ours"][1], gradients(ours, *z), strict=True):
        assert torch.equal(got, want)

    def replays(name):
        def run():
            for _ in range(repeats):
                graphs[name][0].replay()

        return run

    x = torch.cat(z).detach()
    forward = torch.ops.scatsimclr.ntxent
    loss, stats = forward(x, None, None, TAU, True, 2, 0, M)
    backward = torch.ops.scatsimclr.ntxent_backward
    compare(
        benchmark,
        {name: replays(name) for name in graphs},
        op=f"NT-Xent CUDA graph {str(dtype).removeprefix('torch.')}, {repeats} replays",
        case={"M": M, "D": D},
        peers=["plain"],
        device="cuda",
        launches_forward=launches(lambda: forward(x, None, None, TAU, True, 2, 0, M)),
        launches_backward=launches(
            lambda: backward(torch.ones_like(loss), x, stats, None, None, TAU, True, 2, 0, M)
        ),
    )


@needs_gpu
def bench_cuda_1048576_rows(benchmark):
    """The similarities alone would take 2 TB; memory beyond rows and gradients is at most 3·M·D·4 bytes."""
    M, D = 1048576 if not benchmark.disabled else 8192, 128
    z = rows(M, D, "cuda", torch.bfloat16)
    extra = peak_mb(__name__, "ours", M, D, "cuda", "bfloat16")
    assert extra <= 3 * M * D * 4 / 1e6
    compare(
        benchmark,
        {"ours": phased(ours, z)},
        op="NT-Xent cuda bfloat16",
        case={"M": M, "D": D},
        missing={"plain": f"its similarities alone would take {M * M * 2 / 1e9:.0f} GB"},
        items=M,
        work=ntxent_work(M, D, 2),
        precision="bfloat16",
        peak_mb={"ours": extra},
        device="cuda",
    )
