"""How every benchmark here measures, and the record that it leaves in pytest-benchmark's `extra_info`.

Competitors take turns in one process. Ours comes last in each round and is run by pytest-benchmark, whose own
statistics are of our turns. Garbage is collected between turns, not during them. A call of less than TURN seconds is
repeated until its turn takes as long, and the median is the turn's time: the first calls after another competitor's pay
for the state of the caches, which for calls of microseconds is several times their own work. A record has

- op, case: what is done and at which sizes; `items`: how many a call handles (images), where that makes sense;
- competitors: name -> median and quartiles in seconds, rounds, and `peak_mb`, peak memory beyond input and output;
- over_ours: name -> its median time over ours (above 1: ours is faster), with the quartiles of that ratio over the
  rounds in which both were timed;
- phases: the same two for the parts of a call (forward, backward), where it has any;
- peers: the competitors by others, the first of which is the reference; the rest are variants of ours;
- missing: name -> why a peer does not take part;
- work: the operations and bytes that the case cannot do without, and `share`, name -> share of the machine's measured
  rates; `precision` is that of our products.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import inspect
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch

from benchmarks.records import OURS, described

ROOT = Path(__file__).parents[1]
THREADS = min(2, os.cpu_count() or 1)
# For each competitor of a group: seconds, and bounds for the number of rounds; the second of each is for --quick.
SECONDS, LEAST, MOST = (2.0, 0.4), (7, 3), (200, 40)
SLOW, SLOWEST = 1.0, 8.0  # seconds beyond which a call is timed three times, and once
TURN = 5e-3
PRODUCT = 0.05
quick = False  # set by conftest.py


def synchronize(device: torch.device | str) -> None:
    """Waits for the kernels of a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def laps(call: Callable, arguments: tuple, device) -> dict[str, float]:
    """Seconds of a whole call, under "", and of the parts that a generator ends by yielding their names."""
    synchronize(device)
    last = start = time.perf_counter()
    found, result = {}, call(*arguments)
    if inspect.isgenerator(result):
        for name in result:
            synchronize(device)
            now = time.perf_counter()
            found[name], last = now - last, now
    synchronize(device)
    return {"": time.perf_counter() - start, **found}


@contextmanager
def automatic_collection_off():
    """Only `gc.collect()` collects garbage in the block, and only objects created there."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def turn(call: Callable, arguments: tuple, device, calls: int) -> dict[str, float]:
    """Median laps of several calls in a row."""
    found = [laps(call, arguments, device) for _ in range(calls)]
    return {part: statistics.median(lap[part] for lap in found) for part in found[0]}


def rounds_for(seconds: float) -> int:
    """The number of rounds for a competitor whose call takes so long."""
    if seconds > SLOW:
        return 1 if seconds > SLOWEST else 3
    return max(LEAST[quick], min(MOST[quick], int(SECONDS[quick] / seconds)))


def interleaved(
    benchmark, calls: dict[str, Callable], device="cpu", prepare: dict[str, Callable] | None = None
):
    """Times calls in turns.

    Args:
        benchmark: The fixture of pytest-benchmark.
        calls: The calls by name. Slow ones only take part in the first rounds, ours in all.
        device: The device to wait for.
        prepare: By name, makes the arguments of a call, untimed; such a call is not repeated within its turn.

    Returns:
        The laps of each round by name; {} with --benchmark-disable, where every call only runs once.
    """
    prepare = prepare or {}

    def one(name):
        return laps(calls[name], prepare.get(name, tuple)(), device)

    first = {} if benchmark.disabled else {name: one(name)[""] for name in calls}  # compiles and warms up
    seconds = {
        n: t if t > SLOWEST else min(one(n)[""] for _ in range(5 if t < SLOW else 1))
        for n, t in first.items()
    }
    rounds = {n: rounds_for(t) for n, t in seconds.items()}
    repeats = {n: 1 if n in prepare else max(1, math.ceil(TURN / t)) for n, t in seconds.items()}
    # Rounds of ours alone would flatter it, as nobody else would have used the caches in between.
    count = max((n for name, n in rounds.items() if name != OURS), default=rounds.get(OURS, 1))
    times: dict[str, list] = {name: [] for name in calls}

    def ready(name):
        gc.collect()  # before the arguments are made, so that threads that they wake do not fall asleep again
        return prepare.get(name, tuple)()

    def timed(name, *arguments):
        times[name].append(turn(calls[name], arguments, device, repeats.get(name, 1)))

    def others():
        done = len(times[OURS])
        for name in calls:
            if name != OURS and (benchmark.disabled or done < rounds[name]):
                timed(name, *ready(name))
        return (OURS, *ready(OURS)), {}

    with automatic_collection_off():
        benchmark.pedantic(timed, setup=others, rounds=count, iterations=1)
    return {} if benchmark.disabled else times


def compare(
    benchmark, calls: dict[str, Callable], *, device="cpu", prepare: dict[str, Callable] | None = None,
    memory: tuple = (), without_memory: Sequence[str] = (), **entry,
) -> dict[str, float]:  # fmt: skip
    """Times calls in turns and leaves their record.

    Args:
        benchmark, calls, device, prepare: As for `interleaved`.
        memory: Module and arguments for `peaks`, where peak memory is measured too.
        without_memory: The calls of which it is not.
        entry: The rest of `record`.

    Returns:
        Peak memory by name, in MB, where it was measured.
    """
    times = interleaved(benchmark, calls, device, prepare)
    if memory:
        measured = {name: laps for name, laps in times.items() if name not in without_memory}
        entry["peak_mb"] = peaks(measured, *memory)
    record(benchmark, times, device=device, **entry)
    return entry.get("peak_mb", {})


def compare_threads(
    benchmark, results: Callable[[], Sequence[torch.Tensor]], timed: Callable, **entry
) -> None:
    """Times a call on one thread and on two.

    Args:
        benchmark: The fixture of pytest-benchmark.
        results: Gives the call's results, which must have the same bits on one thread and on two.
        timed: The call.
        entry: The rest of `record`.
    """

    def on(threads: int) -> Sequence[torch.Tensor]:
        torch.set_num_threads(threads)
        return results()

    def awake(threads: int) -> tuple:
        on(threads)
        return ()

    assert all(torch.equal(one, two) for one, two in zip(on(1), on(2), strict=True))
    compare(
        benchmark,
        {"ours, one thread": timed, OURS: timed},
        prepare={"ours, one thread": lambda: awake(1), OURS: lambda: awake(2)},
        **entry,
    )
    torch.set_num_threads(THREADS)


def quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median and upper quartile, by the inclusive method, which stays within the measured range."""
    values = list(values)
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def figures(times: dict[str, list[float]]) -> dict:
    """competitors and over_ours of a record, from the seconds of each round."""
    competitors, over = {}, {}
    for name, values in times.items():
        low, median, high = quartiles(values)
        competitors[name] = {"median_s": median, "quartiles_s": [low, high], "rounds": len(values)}
    for name, values in times.items():
        together = times[OURS][: len(values)]
        pairs = quartiles([value / own for value, own in zip(values, together, strict=True)])
        ratio = statistics.median(values) / statistics.median(together)
        over[name] = {"ratio": ratio, "quartiles": [pairs[0], pairs[2]]}
    return {"competitors": competitors, "over_ours": over}


def record(
    benchmark,
    times: dict[str, list[dict[str, float]]],
    *,
    op: str,
    case: dict,
    peers: Sequence[str] = (),
    missing: dict[str, str] | None = None,
    items: int | None = None,
    work: dict[str, float] | None = None,
    peak_mb: dict[str, float] | None = None,
    precision: str = "float32",
    device: torch.device | str = "cpu",
    **more,
) -> None:
    """Leaves the record of a group; only its name with --benchmark-disable.

    `work` holds a call's "flop" and "bytes", or one of them; `peak_mb` is by name, in MB of 10^6 bytes.
    """
    benchmark.group = f"{op}: {described(case)}"
    if not times:
        return
    found = figures({name: [lap[""] for lap in rounds] for name, rounds in times.items()})
    parts = [name for name in times[OURS][0] if name]
    phases = {part: figures({n: [lap[part] for lap in t] for n, t in times.items()}) for part in parts}
    for name, megabytes in (peak_mb or {}).items():
        found["competitors"][name]["peak_mb"] = round(megabytes, 2)
    shares = {
        name: shares_of_limits(work or {}, entry["median_s"], str(torch.device(device).type))
        for name, entry in found["competitors"].items()
    }
    benchmark.extra_info.update(
        op=op, case=case, peers=[name for name in peers if name in times], missing=missing or {}, items=items,
        device=str(torch.device(device).type), threads=torch.get_num_threads(), work=work or {}, share=shares,
        precision=precision,
        phases=phases, **found, **more,
    )  # fmt: skip


def best_seconds(call: Callable, device: str, times: int = 9) -> float:
    """The fastest of several calls, after one to warm up."""
    call()
    return min(laps(call, (), device)[""] for _ in range(times))


def product_rate(n: int, dtype: torch.dtype, device: str) -> float:
    """Operations per second of products of matrices of n² numbers, or of smaller ones that take PRODUCT seconds.

    Those of 2048² in bfloat16 take most of a minute on a CPU that has no instruction for them.
    """
    size = min(n, 256)
    while True:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = best_seconds(partial(torch.mm, a, b), device)
        if size == n or seconds > PRODUCT:
            return 2 * size**3 / seconds
        size = min(n, 2 * size)


@cache
def limits(device: str, n: int | None = None, count: int | None = None) -> dict[str, float]:
    """The machine's rates, measured once per session.

    Args:
        device: Whose.
        n: Rows and columns of the matrices, at most; by default 2048, or 8192 on a GPU.
        count: Numbers copied; by default 2^25, or 2^29 on a GPU: 256 MB and 4 GB are read and written.

    Returns:
        Operations per second of float32 and bfloat16 matrix products, and bytes per second, read and written, of a copy
        in memory that was used before.
    """
    n = n or (2048 if device == "cpu" else 8192)
    count = count or (1 << 25 if device == "cpu" else 1 << 29)
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        found[f"{str(dtype).removeprefix('torch.')}_flop_per_s"] = product_rate(n, dtype, device)
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    found["copy_bytes_per_s"] = 2 * source.nbytes / best_seconds(lambda: target.copy_(source), device)
    torch.set_num_threads(before)
    return found


def shares_of_limits(work: dict[str, float], seconds: float, device: str) -> dict[str, float]:
    """The share of each measured rate that `work` in `seconds` amounts to."""
    rates = limits(device) if work else {}
    return {
        rate: round(work[kind] / seconds / per_second, 4)
        for rate, per_second in rates.items()
        for kind in work
        if rate.endswith(f"{kind}_per_s")
    }


def peak_mb(module: str, *arguments) -> float:
    """Peak memory of a call, in MB, beyond what is there before and what it returns.

    It is measured in a process of its own, as later calls of this one would reuse memory. `memory_case(*arguments)` of
    the benchmark module `module` gives the call, the bytes that it returns, and the device.
    """
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.measure", module, json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.splitlines()[-1])


def peaks(times: dict, module: str, *arguments) -> dict[str, float]:
    """`peak_mb(module, name, *arguments)` of those that were timed; only of ours with --quick."""
    return {name: peak_mb(module, name, *arguments) for name in times if name == OURS or not quick}


def _status(key: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _print_peak(module: str, arguments: list) -> None:
    torch.set_num_threads(THREADS)
    call, returned, device = importlib.import_module(module).memory_case(*arguments)
    gc.collect()
    # Returns freed memory to the system (glibc); otherwise the call would reuse those pages and seem to need none.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        peak = torch.cuda.max_memory_allocated()
    else:
        with open("/proc/self/clear_refs", "w") as reset:
            reset.write("5")  # resets the high-water mark (Linux)
        before = _status("VmRSS")
        call()
        peak = _status("VmHWM")
    # Pages of the result that were there before would make it negative.
    print(max(0, peak - before - returned) / 1e6)


if __name__ == "__main__":
    _print_peak(sys.argv[1], json.loads(sys.argv[2]))
