"""The measurements of `gpu_check.py`, on a GPU: agreement with float64, floors, and times beside peers.

    python -m benchmarks.gpu_measure OUTPUT.json SECONDS      or      … OUTPUT.json compiled

Competitors take turns in one process on fresh random inputs, timed by events around enough calls to fill 20 ms; figures
are medians with quartiles. Where kymatio is not installed, the reference (the same operations, one by one) takes its
place. OUTPUT is rewritten after every case, so that a run that is stopped leaves the results it has.
"""

from __future__ import annotations

import datetime
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import kymatio_module, plain_ntxent
from benchmarks.work import ntxent_work, scattering_work
from scatsimclr import Scattering2D
from scatsimclr.loss import nt_xent_loss
from scatsimclr.ops.library import OPERATORS
from scatsimclr.reference import scattering2d as reference

Call = Callable[[], object]
Times = dict[str, list[float]]
Shape = tuple[int, int, int, int]

ROUNDS = 9
# Shape of x, J, L, dtype of the result, backward too; the goals' cases first.
SCATTERING = [
    ((256, 3, 96, 96), 2, 16, torch.float32, False),
    ((256, 3, 96, 96), 2, 16, torch.bfloat16, False),
    ((512, 3, 32, 32), 2, 16, torch.float32, False),
    ((512, 3, 32, 32), 2, 16, torch.bfloat16, False),
    ((16, 3, 96, 96), 2, 16, torch.float32, True),
    ((128, 3, 32, 32), 2, 8, torch.float32, True),
    ((1, 3, 96, 96), 2, 16, torch.float32, False),
    ((128, 3, 256, 256), 2, 8, torch.float32, False),
    ((20, 1, 512, 512), 3, 8, torch.float32, False),
    ((16, 3, 224, 224), 4, 8, torch.float32, False),
    ((1, 1, 300, 451), 1, 1, torch.float32, False),
]
NTXENT = [(512, torch.float32), (512, torch.bfloat16), (8192, torch.bfloat16), (65536, torch.bfloat16)]
DEPTH, TAU = 128, 0.5


def on_gpu(op: str) -> list[str]:
    """The GPU implementations of an operator that can run here."""
    entries = OPERATORS[op].implementations.values()
    return [entry.name for entry in entries if entry.device == "cuda" and entry.availability().usable]


def milliseconds(call: Call, repeats: int = 1) -> float:
    """The mean time of a call."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def interleaved(calls: dict[str, Call], rounds: int = ROUNDS) -> Times:
    """name -> [lower quartile, median, upper quartile] in ms."""
    repeats: dict[str, int] = {}
    times: Times = {name: [] for name in calls}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, min(200, int(20 / max(milliseconds(call), 1e-3))))
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(milliseconds(call, repeats[name]))
    return {name: [round(q, 5) for q in statistics.quantiles(t, n=4)] for name, t in times.items()}


@cache
def floors() -> dict[str, float]:
    """Bytes per second of a copy (read and written), operations per second of large matrix products."""
    a = torch.randn(1 << 29, device="cuda")
    b = torch.empty_like(a)
    copy = interleaved({"": lambda: b.copy_(a)})[""][1]
    found = {"copy_bytes_per_s": 2 * a.nbytes / copy * 1e3}
    a = b = None
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        n = 8192
        x, y = (torch.randn(n, n, device="cuda").to(dtype) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = False
        found[f"{name}_flop_per_s"] = 2 * n**3 / interleaved({"": lambda x=x, y=y: x @ y}, 5)[""][1] * 1e3
    return found


def graphed(call: Call) -> Call:
    """Replays the call as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def peers(J: int, size: tuple[int, int], L: int) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """name -> module, and name -> why it is missing."""
    found: dict[str, nn.Module] = {"reference": Scattering2D(J, size, L, backend="reference").cuda()}
    missing: dict[str, str] = {}
    try:
        found["kymatio"] = kymatio_module(J, size, L).cuda()
    except ImportError as error:
        missing["kymatio"] = str(error)
    return found, missing


def agreement(shape: Shape, J: int, L: int, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Each implementation's error over kymatio's tolerance, and the relative error of the norm, against float64."""
    x = torch.rand(2, *shape[1:], device="cuda")
    module = Scattering2D(J, shape[2:], L).cuda()
    filters = module._filters()
    truth = reference.scattering2d(x.double(), [f.double() for f in filters], J, L, 2, False).flatten(1, 2)
    found = {}
    for name in on_gpu("scattering2d"):
        out = OPERATORS["scattering2d"].by(name)(
            x, filters, module._packed(module._filters()), J, L, 2, False, dtype != torch.float32, dtype
        )
        error = (out.double() - truth).abs()
        tolerance = (
            (1e-8 + 1e-5 * truth.abs()) if dtype == torch.float32 else 1e-2 * truth.abs().amax((2, 3), True)
        )
        found[name] = {
            "error_over_tolerance": (error / (tolerance + 1e-12)).max().item(),
            "relative_norm": (error.norm() / truth.norm()).item(),
        }
        assert found[name]["error_over_tolerance"] <= 1, (name, shape, dtype, found[name])
    return found


def engine_case(size: int, dtype: torch.dtype) -> dict[str, Any]:
    """Times of the engines on one node, 96 planes of J=1, L=16 with padded sides of `size`: for PREFERRED."""
    from scatsimclr.kernels import scattering2d as kernels

    x = torch.rand(96, 1, size - 4, size - 4, device="cuda")
    module = Scattering2D(1, (size - 4, size - 4), 16).cuda()
    args = (
        x,
        module._filters(),
        module._packed(module._filters()),
        1,
        16,
        1,
        False,
        dtype != torch.float32,
        dtype,
    )
    calls: dict[str, Call] = {}
    missing: dict[str, str] = {}
    engines = ["triton"] + (["c++"] if "cuda" in on_gpu("scattering2d") else [])
    for engine in engines:
        attempt(calls, missing, engine, lambda e=engine: lambda: kernels.scattering2d(*args, engine=e))
    return {"size": size, "dtype": str(dtype), "ms": interleaved(calls, 5), "missing": missing}


def tuning(dtype: torch.dtype) -> Times:
    """Times of (64, 3, 96, 96), J=2, L=16 on Triton with the shipped constants, which come first, and others."""
    from scatsimclr.kernels import scattering2d as kernels

    x, module = (
        torch.rand(64, 3, 96, 96, device="cuda"),
        Scattering2D(2, (96, 96), 16, backend="triton").cuda(),
    )
    shipped, found = (kernels.PROGRAMS, kernels.WARPS[4096], kernels.CHUNK_BYTES), {}
    settings = [shipped, *((n, *shipped[1:]) for n in (512, 8192)), (shipped[0], 8, shipped[2])]
    settings += [(*shipped[:2], size << 20) for size in (24, 64, 256)]
    try:
        for programs, warps, chunk in settings:
            kernels.PROGRAMS, kernels.WARPS[4096], kernels.CHUNK_BYTES = programs, warps, chunk
            times = interleaved({"": lambda: module.features(x, channels_last=True, dtype=dtype)}, 5)
            found[f"{programs} programs, {warps} warps, {chunk >> 20} MiB"] = times[""]
    finally:
        kernels.PROGRAMS, kernels.WARPS[4096], kernels.CHUNK_BYTES = shipped
    return found


def attempt(calls: dict[str, Call], missing: dict[str, str], name: str, make: Callable[[], Call]) -> None:
    """Runs a competitor once and adds it to `calls`; one that does not fit or refuses goes to `missing`."""
    try:
        call = make()
        call()
        torch.cuda.synchronize()
        calls[name] = call
    except (RuntimeError, torch.OutOfMemoryError) as error:
        missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        torch.cuda.empty_cache()


def scattering_case(shape: Shape, J: int, L: int, dtype: torch.dtype, backward: bool) -> dict[str, Any]:
    """Times of all implementations and peers on one shape, and ratios to floors."""
    agreed = agreement(shape, J, L, dtype)
    x = torch.rand(shape, device="cuda")
    modules, missing = peers(J, shape[2:], L)
    modules.update({n: Scattering2D(J, shape[2:], L, backend=n).cuda() for n in on_gpu("scattering2d")})
    half = dtype != torch.float32
    calls: dict[str, Call] = {}
    extra: dict[str, int] = {}
    for name, module in modules.items():

        def run(module: nn.Module = module, name: str = name) -> Tensor:
            if name == "kymatio":
                return module(x)
            return module.features(x, channels_last=half, dtype=dtype)

        attempt(calls, missing, name, lambda run=run: run)
        if name in calls and name not in ("kymatio", "reference"):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            out = run()
            extra[name] = torch.cuda.max_memory_allocated() - before - out.nbytes
            del out
        if name in calls and torch.Size(shape).numel() < 3e6:
            attempt(calls, missing, f"{name}, CUDA graph", lambda run=run: graphed(run))
    times = interleaved(calls, 5)
    ours = min((n for n in times if n.split(",")[0] in on_gpu("scattering2d")), key=lambda n: times[n][1])
    work, limits = scattering_work(shape, J, L, dtype.itemsize), floors()
    floor_ms = {
        "bytes": work["bytes"] / limits["copy_bytes_per_s"] * 1e3,
        "flop": work["flop"] / limits["float32_flop_per_s"] * 1e3,
    }
    result = {
        "shape": shape, "J": J, "L": L, "dtype": str(dtype), "agreement": agreed, "ms": times, "fastest": ours,
        "floor_ms": floor_ms, "over_larger_floor": times[ours][1] / max(floor_ms.values()), "extra_bytes": extra,
        "over_ours": {n: t[1] / times[ours][1] for n, t in times.items()}, "missing": missing,
    }  # fmt: skip
    if backward:
        result["backward"] = backward_times(modules, x, missing)
    return result


def backward_times(modules: dict[str, nn.Module], x: Tensor, missing: dict[str, str]) -> dict[str, Any]:
    """Times of the gradient alone; the forward pass's graph is kept."""
    calls: dict[str, Call] = {}
    leaf = x.clone().requires_grad_()
    for name, module in modules.items():

        def make(module: nn.Module = module) -> Call:
            out = module(leaf)
            grad = torch.randn_like(out)
            return lambda: torch.autograd.grad(out, leaf, grad, retain_graph=True)

        attempt(calls, missing, f"{name}, backward", make)
    times = interleaved(calls, 5)
    ours = min((n for n in times if n.split(",")[0] in on_gpu("scattering2d")), key=lambda n: times[n][1])
    return {"ms": times, "fastest": ours, "over_ours": {n: t[1] / times[ours][1] for n, t in times.items()}}


def compiled_peer() -> dict[str, Any]:
    """torch.compile of the reference's operations at (64, 3, 32, 32), J=2, L=8."""
    x, module = torch.rand(64, 3, 32, 32, device="cuda"), Scattering2D(2, (32, 32), 8).cuda()
    filters = module._filters()

    def plain(x: Tensor) -> Tensor:
        return reference.scattering2d(x, filters, 2, 8, 2, False)

    start = time.monotonic()
    compiled = torch.compile(plain)
    try:
        compiled(x)
    except Exception as error:  # whatever the compiler raises is recorded as this peer's result
        return {"missing": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    times = interleaved(
        {"torch.compile": lambda: compiled(x), "eager": lambda: plain(x), "ours": lambda: module(x)}, 5
    )
    return {"compile_s": round(time.monotonic() - start, 1), "ms": times}


def ntxent_case(M: int, dtype: torch.dtype) -> dict[str, Any]:
    """Forward and backward of NT-Xent beside the plain formula, and the share of the matrix product's rate."""
    z = [torch.randn(M // 2, DEPTH, device="cuda").to(dtype).requires_grad_() for _ in range(2)]

    def gradients(loss: Callable[..., Tensor], rows: list[Tensor]) -> tuple[Tensor, ...]:
        value = loss(*rows)
        return value.detach(), *torch.autograd.grad(value, rows)

    names = on_gpu("ntxent")
    losses = {n: lambda a, b, n=n: nt_xent_loss(a, b, TAU, backend=n) for n in names}
    wide = [t.detach().double().requires_grad_() for t in z]
    errors = {}
    if M <= 8192:
        truth = gradients(plain_ntxent, wide)
        for name, loss in losses.items():
            pairs = zip(gradients(loss, z), truth, strict=True)
            errors[name] = max(((a - b).norm() / b.norm()).item() for a, b in pairs)
            assert errors[name] <= {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype], (name, M, errors[name])
    calls: dict[str, Call] = {}
    missing: dict[str, str] = {}
    for name, loss in {**losses, "plain": plain_ntxent}.items():
        attempt(calls, missing, name, lambda loss=loss: lambda: gradients(loss, z))
    times = interleaved(calls, 5)
    rate = floors()["float32_flop_per_s" if dtype == torch.float32 else "bfloat16_flop_per_s"]
    floor_ms = ntxent_work(M, DEPTH)["flop"] / rate * 1e3
    return {
        "M": M, "dtype": str(dtype), "relative_error": errors, "ms": times, "missing": missing,
        "share_of_product_rate": {n: floor_ms / times[n][1] for n in names},
        "plain_over_ours": {n: times["plain"][1] / times[n][1] for n in names} if "plain" in times else {},
    }  # fmt: skip


def main(output: Path, seconds: float) -> int:
    """Writes everything to `output`; returns 1 if something did not agree or did not run."""
    deadline, properties = time.monotonic() + seconds, torch.cuda.get_device_properties(0)
    report = {
        "device": properties.name, "capability": [properties.major, properties.minor],
        "multiprocessors": properties.multi_processor_count, "memory": properties.total_memory,
        "date": datetime.date.today().isoformat(), "torch": torch.__version__, "cuda": torch.version.cuda,
        "triton": __import__("triton").__version__, "python": sys.version.split()[0], "floors": floors(),
        "scattering2d": [], "ntxent": [], "left_out": [], "failures": [], "agreed": {},
    }  # fmt: skip
    for key, case, cases in (("scattering2d", scattering_case, SCATTERING), ("ntxent", ntxent_case, NTXENT)):
        # The loss and the engines are quick: most of a minute is reserved for them.
        until = deadline - (50 if key == "scattering2d" else 0)
        for settings in cases:
            if time.monotonic() > until:
                report["left_out"].append(f"{key} {settings}: out of time")
                continue
            try:
                report[key].append(case(*settings))
            except (AssertionError, RuntimeError, ValueError) as error:
                report["failures"].append(f"{key} {settings}: {type(error).__name__}: {error}"[:2000])
                print(report["failures"][-1], flush=True)
                continue
            finally:
                torch.cuda.empty_cache()
            output.write_text(json.dumps(report))
            print(summary(key, report[key][-1]), flush=True)
        if not any(failure.startswith(key) for failure in report["failures"]):
            report["agreed"][key] = on_gpu(key)
    report["engines"] = []
    for size in (20, 32, 40, 52, 64, 72, 104, 128, 144):
        for dtype in (torch.float32, torch.bfloat16):
            if time.monotonic() < deadline - 20:
                report["engines"].append(engine_case(size, dtype))
                print("engines", report["engines"][-1])
    for dtype in (torch.float32, torch.bfloat16):
        if time.monotonic() < deadline - 10:
            report[f"tuning {dtype}"] = tuning(dtype)
            print("tuning", dtype, report[f"tuning {dtype}"], flush=True)
    output.write_text(json.dumps(report))
    return 1 if report["failures"] else 0


def summary(key: str, result: dict[str, Any]) -> str:
    """One case as a line of the printed table."""
    medians = ", ".join(f"{n} {t[1]:.3f}" for n, t in result["ms"].items())
    if key == "ntxent":
        share = result["share_of_product_rate"]
        return f"ntxent M={result['M']} {result['dtype']}: ms {medians}; share of the product rate {share}"
    shape = "x".join(map(str, result["shape"]))
    line = f"{shape} J{result['J']} L{result['L']} {result['dtype']}: ms {medians}"
    extra = {name: f"{size / 1e6:.0f} MB" for name, size in result["extra_bytes"].items()}
    line += f"; {result['over_larger_floor']:.1f} x the larger floor; extra memory {extra}"
    if "backward" in result:
        line += "; backward ms " + ", ".join(f"{n} {t[1]:.3f}" for n, t in result["backward"]["ms"].items())
    return line


if __name__ == "__main__":
    if sys.argv[2] == "compiled":
        Path(sys.argv[1]).write_text(json.dumps({"torch.compile of the reference": compiled_peer()}))
    else:
        sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
