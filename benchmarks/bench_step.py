"""Claim: a training step several times as fast as the original's, at more than 60 % of the machine's matrix rate.

Competitors have the same weights and views and take turns in one process:

- original: kymatio's scattering, the two views one after the other through a contiguous float32 network, cosine
  similarities of broadcast rows, Adam;
- plain: kymatio's scattering, and the network with plain PyTorch's good practice: views together, channels-last,
  fused Adam, a masked cross-entropy;
- ours in float32, and ours as `--fused` chooses (bfloat16 where the device has it, CUDA graphs on a GPU).

Their losses are compared before they are timed. The rate of a step counts the network's operations alone, forward
and backward, over the measured rate of float32 (and bfloat16) matrix products. Memory is how far the process's
resident memory rises beyond what it has before the first step (on a GPU: the allocator's peak), in a process of its
own.
"""

from __future__ import annotations

import copy
import os
import statistics
import subprocess
import sys
import time
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import kymatio_module, original_ntxent, plain_ntxent
from scatsimclr.config import load_config
from scatsimclr.data.loader import Batch
from scatsimclr.evaluation.features import batch_features
from scatsimclr.models.folding import folded
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.training.update import Update

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
THREADS = min(2, os.cpu_count() or 1)
J, L, LR, DECAY = 2, 16, 3e-4, 1e-5
# (blocks, size, batch) of the step against its peers.
STEPS = [(8, 32, 64), (8, 96, 16)] if DEVICE.type == "cpu" else [(8, 32, 256), (30, 96, 256)]
# ours alone: how throughput and memory grow.
GROWTH = [(8, 32, batch) for batch in (16, 32, 64, 128, 256)] + [(8, size, 32) for size in (48, 64, 96)]
ROUNDS = 5


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


class KymatioEncoder(nn.Module):
    """The layers and weights of an encoder behind kymatio's scattering, called as the original does."""

    def __init__(self, encoder, size):
        super().__init__()
        self.scattering = kymatio_module(J, (size, size), L).to(DEVICE)
        self.adapter, self.l1, self.l2 = encoder._adapter_network, encoder.l1, encoder.l2

    def encode(self, x):
        coefficients = self.scattering(x.contiguous()).flatten(1, 2)
        return self.adapter(coefficients).flatten(1)

    def forward(self, x):
        h = self.encode(x)
        return h, self.l2(F.relu(self.l1(h)))


class OriginalStep:
    """loss of (x_i, x_j), then `update` of the weights."""

    def __init__(self, encoder, size):
        self.model = KymatioEncoder(encoder.to(memory_format=torch.contiguous_format), size).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), LR, weight_decay=DECAY)

    def loss(self, x_i, x_j):
        z_i, z_j = self.model(x_i)[1], self.model(x_j)[1]
        return original_ntxent(F.normalize(z_i, dim=1), F.normalize(z_j, dim=1))

    def __call__(self, x_i, x_j):
        self.optimizer.zero_grad()
        loss = self.loss(x_i, x_j)
        loss.backward()
        self.optimizer.step()
        return loss


class PlainStep(OriginalStep):
    def __init__(self, encoder, size):
        super().__init__(encoder, size)
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), LR, weight_decay=DECAY, fused=True)

    def loss(self, x_i, x_j):
        return plain_ntxent(*self.model(torch.cat((x_i, x_j)))[1].chunk(2))


class OurStep:
    def __init__(self, encoder, size, amp):
        encoder = encoder.to(memory_format=torch.channels_last).train()
        settings = ["fused=true", f"amp={amp}", f"lr={LR}", f"weight_decay={DECAY}"]
        self.model, self.update = encoder, Update(load_config(None, settings), encoder, None, DEVICE)

    def loss(self, x_i, x_j):
        return self.update.losses(Batch((x_i, x_j), torch.arange(len(x_i)))).total

    def __call__(self, x_i, x_j):
        return self.update(Batch((x_i, x_j), torch.arange(len(x_i)))).total


def encoder(blocks, size):
    torch.manual_seed(0)
    return ScatSimCLR(J, L, (size, size, 3), blocks, 128).to(DEVICE)


def views(size, batch):
    generator = torch.Generator().manual_seed(size)
    drawn = torch.rand(2, batch, 3, size, size, generator=generator)
    return [x.to(DEVICE, memory_format=torch.channels_last) for x in drawn]


def seconds(call):
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def quartiles(times):
    return statistics.quantiles(times, n=4) if len(times) > 1 else times * 3


@cache
def matrix_rate(dtype):
    """Operations per second of a product of 2048² matrices (8192² on a GPU), the best of some."""
    n = 2048 if DEVICE.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    a @ b
    return 2 * n**3 / min(seconds(lambda: a @ b) for _ in range(9))


def network_operations(model, x_i, x_j):
    """Operations of the network's forward and backward pass; the scattering's are not counted."""
    coefficients = model.scatter(torch.cat((x_i, x_j))).float()
    with FlopCounterMode(display=False) as counter:
        model.project(model.adapt(coefficients)).sum().backward()
    model.zero_grad()
    return counter.get_total_flops()


MEMORY = """
import sys
sys.path.insert(0, ".")
from benchmarks.bench_step import *

kind, blocks, size, batch = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(THREADS)
step, (x_i, x_j) = STEP_KINDS[kind](encoder(blocks, size), size), views(size, batch)

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024

if DEVICE.type == "cuda":
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step(x_i, x_j)
    print((torch.cuda.max_memory_allocated() - before) / 2**20)
else:
    before = status("VmRSS")
    for _ in range(3):
        step(x_i, x_j)
    print(status("VmHWM") - before)
"""

STEP_KINDS = {
    "original": OriginalStep,
    "plain": PlainStep,
    "ours, float32": lambda encoder, size: OurStep(encoder, size, "off"),
    "ours": lambda encoder, size: OurStep(encoder, size, "auto"),
}


def peak_mb(kind, blocks, size, batch):
    """Memory of the first steps beyond model and views, in MB."""
    argv = [sys.executable, "-W", "ignore", "-c", MEMORY, kind, *map(str, (blocks, size, batch))]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return float(done.stdout)


def interleaved(benchmark, calls, ours):
    """Times the callables taking turns, `ours` last and by pytest-benchmark. Returns name -> seconds of each round."""
    times = {name: [] for name in calls}

    def setup():
        for name, call in calls.items():
            if name != ours:
                times[name].append(seconds(call))

    def timed():
        times[ours].append(seconds(calls[ours]))

    benchmark.pedantic(timed, setup=setup, rounds=ROUNDS, warmup_rounds=0 if benchmark.disabled else 1)
    return {name: values[0 if benchmark.disabled else 1 :] for name, values in times.items()}


def record(benchmark, times, images):
    middle = statistics.median(times["ours"])
    for name, values in times.items():
        low, median, high = quartiles(values)
        benchmark.extra_info.update(
            {
                f"{name} median s": median,
                f"{name} quartiles s": [low, high],
                f"{name} images/s": images / median,
                f"{name} / ours": median / middle,
            }
        )


@torch.no_grad()
def assert_close(steps, x_i, x_j):
    """The losses are the same, with running statistics: those of a batch are not those of two batches together."""
    losses = {}
    for name, step in steps.items():
        step.model.eval()
        losses[name] = step.loss(x_i, x_j).item()
        step.model.train()
    for name, value in losses.items():
        rounding = 2e-2 if name == "ours" else 1e-4
        assert value == pytest.approx(losses["original"], rel=rounding), name


@pytest.mark.parametrize(("blocks", "size", "batch"), STEPS)
def bench_step(benchmark, blocks, size, batch):
    batch = 2 if benchmark.disabled else batch
    start, (x_i, x_j) = encoder(blocks, size), views(size, batch)
    steps = {name: make(copy.deepcopy(start), size) for name, make in STEP_KINDS.items()}
    assert_close(steps, x_i, x_j)
    calls = {name: lambda step=step: step(x_i, x_j) for name, step in steps.items()}
    times = interleaved(benchmark, calls, "ours")
    benchmark.group = f"training step, {blocks} blocks, {size}×{size}, batch {batch}"
    if benchmark.disabled:
        return
    record(benchmark, times, batch)
    operations = network_operations(start.to(memory_format=torch.channels_last).train(), x_i, x_j)
    benchmark.extra_info.update(
        threads=THREADS,
        amp=str(steps["ours"].update.amp),
        network_gflop=operations / 1e9,
        **{f"{name} product GFLOP/s": matrix_rate(dtype) / 1e9 for name, dtype in
           (("float32", torch.float32), ("bfloat16", torch.bfloat16))},
    )  # fmt: skip
    for name in ("ours", "ours, float32", "plain", "original"):
        rate = operations / statistics.median(times[name])
        benchmark.extra_info[f"{name} / float32 products"] = rate / matrix_rate(torch.float32)
        benchmark.extra_info[f"{name} peak MB"] = round(peak_mb(name, blocks, size, batch), 1)


@pytest.mark.parametrize(("size", "batch"), [(32, 64), (96, 64)])
def bench_features(benchmark, size, batch):
    """Evaluation and embedding, in the batches of `embed`: h of normalised images, in float32 and as `--fused` chooses.

    The original computes it in float32, with autograd on.
    """
    batch = 2 if benchmark.disabled else batch
    start, x = encoder(8, size).eval(), views(size, batch)[0]
    ours, theirs = (
        folded(start.to(memory_format=torch.channels_last)),
        KymatioEncoder(copy.deepcopy(start), size),
    )
    theirs.eval().to(memory_format=torch.contiguous_format)

    amp = load_config(None, ["fused=true"]).resolved_amp(DEVICE.type)
    features = {
        "ours, float32": torch.inference_mode()(lambda: batch_features(ours, x, "h")),
        "ours": torch.inference_mode()(lambda: batch_features(ours, x, "h", amp)),
    }
    expected = theirs.encode(x).detach()
    for name, rounding in (("ours, float32", 1e-5), ("ours", 1e-2)):
        assert (features[name]() - expected).norm() <= rounding * expected.norm()
    times = interleaved(benchmark, {"original": lambda: theirs.encode(x), **features}, "ours")
    benchmark.group = f"features, 8 blocks, {size}×{size}, batch {batch}"
    if not benchmark.disabled:
        record(benchmark, times, batch)
        benchmark.extra_info.update(threads=THREADS, amp=str(amp))


@pytest.mark.parametrize(("blocks", "size", "batch"), GROWTH)
def bench_growth(benchmark, blocks, size, batch):
    """Throughput and memory by batch and by size of the images."""
    batch = 2 if benchmark.disabled else batch
    step, (x_i, x_j) = STEP_KINDS["ours"](encoder(blocks, size), size), views(size, batch)
    assert torch.isfinite(step(x_i, x_j))
    benchmark.group = f"training step of ours, {size}×{size}"
    benchmark.pedantic(
        lambda: seconds(lambda: step(x_i, x_j)), rounds=3, warmup_rounds=0 if benchmark.disabled else 1
    )
    if benchmark.stats is not None:
        benchmark.extra_info.update(
            threads=THREADS,
            batch=batch,
            size=size,
            images_per_second=batch / benchmark.stats.stats.median,
            peak_mb=round(peak_mb("ours", blocks, size, batch), 1),
        )
