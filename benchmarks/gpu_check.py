"""Claim: the GPU implementations agree with the reference, and how far they are from the machine's floors and from
kymatio. One command for a machine with a GPU and without network, in under 8 minutes:

    python benchmarks/gpu_check.py [--no-build] [--results FILE]

builds and installs the package in place, runs every GPU test, compares, measures (`gpu_measure.py`), and writes
`scatsimclr/ops/records/gpu-<device>.json`. These records are shipped with the package: `python -m scatsimclr.info`
reads from them which implementations have run on hardware. Every step has its own share of the time; one that fails or
runs out of it is recorded as such, and the others still run. Exit status 0 where everything agreed. Without a GPU:
what can be checked without one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GPU_TESTS = ["tests/ops/test_scattering2d_cuda.py", "tests/ops/test_ntxent_cuda.py"]
# Seconds, of 480: the build of the C++ kernels, the tests, the measurements, torch.compile of the reference.
BUILD, TESTS, MEASURE, COMPILE = 140, 130, 150, 50


def run(name: str, command: list[str], seconds: float, **environment: str) -> dict[str, Any]:
    """Runs a step.

    Args:
        name: what it is called in the output.
        command: its command line.
        seconds: the time it may take.
        **environment: variables to set for it.

    Returns:
        "status" (0, an exit status, or that it ran out of time), "seconds", and "tail", the end of its output.
    """
    start = time.monotonic()
    print(f"{name}: {' '.join(map(str, command[1:]))}", flush=True)
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )
        status: int | str = done.returncode
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        status = f"out of time after {seconds:.0f} s"
        output = (late.stdout or b"").decode(errors="replace")
    took = round(time.monotonic() - start, 1)
    print(f"{name}: {'ok' if status == 0 else status} in {took} s", flush=True)
    if status != 0:
        print(output[-6000:], flush=True)
    return {"status": status, "seconds": took, "tail": output[-2000:]}


def build() -> dict[str, Any]:
    """An editable install from what is on the machine; without the compiled kernels if they do not compile."""
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
    ]
    first = run("build", [*install, "-e", "."], BUILD)
    if first["status"] == 0:
        return first
    plain = run("build without extensions", [*install, "-e", "."], 60, SCATSIMCLR_NO_EXTENSION="1")
    return {**plain, "without_extensions": first["status"]}


def passed(output: str) -> dict[str, int]:
    """The counts in pytest's last line."""
    return {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", output)}


def pytest(name: str, tests: list[str], seconds: float, *options: str) -> dict[str, Any]:
    """Runs tests as a step, whose "counts" says how many passed."""
    # Most of a first run is compilation, which is spread over the cores.
    spread = ["-n", str(min(8, (os.cpu_count() or 2) // 2))] if (os.cpu_count() or 1) >= 4 else []
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", *spread, *options, *tests]
    step = run(name, command, seconds)
    return {**step, "counts": passed(step["tail"])}


def without_gpu() -> int:
    """Runs the interpreter, the compilers' budgets and the host build of the CUDA kernels; prints one line."""
    step = pytest("checks without a GPU", ["tests/kernels"], 420)
    counts = ", ".join(f"{n} {what}" for what, n in step["counts"].items()) or step["status"]
    compiler = "nvcc's" if shutil.which("nvcc") else "(no nvcc here)"
    print(
        "gpu_check: no GPU here; checked instead: the Triton kernels in the interpreter against float64, Triton's "
        f"budgets for cc 80, 90 and 100, {compiler} budgets and the CUDA kernels' phases on the host ({counts})"
    )
    return int(step["status"] != 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--no-build", action="store_true", help="use the package as it is installed")
    parser.add_argument(
        "--results", type=Path, help="where to write, instead of scatsimclr/ops/records/gpu-<device>.json"
    )
    options = parser.parse_args()
    import torch  # the package itself is imported by the steps, after the build

    if not torch.cuda.is_available():
        return without_gpu()
    start = time.monotonic()
    report: dict[str, Any] = {"build": None if options.no_build else build()}
    report["tests"] = pytest("GPU tests", GPU_TESTS, TESTS)
    (ROOT / "build").mkdir(exist_ok=True)
    for name, argument, seconds in (
        ("measure", str(MEASURE), MEASURE + 10),
        ("compile", "compiled", COMPILE),
    ):
        output = ROOT / "build" / f"gpu_{name}.json"
        output.unlink(missing_ok=True)
        report[name] = run(
            name, [sys.executable, "-m", "benchmarks.gpu_measure", str(output), argument], seconds
        )
        if output.exists():
            report = {**json.loads(output.read_text()), **report}
    good = report["tests"]["status"] == 0 and report["measure"]["status"] == 0
    # What agreed in the comparison counts as run on hardware only where its tests passed too.
    report["verified"] = report.get("agreed", {}) if good else {}
    report["seconds"] = round(time.monotonic() - start, 1)
    device = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
    results = options.results or ROOT / "scatsimclr" / "ops" / "records" / f"gpu-{device}.json"
    table = report["measure"]["tail"]
    for step in ("build", "tests", "measure", "compile"):
        if report[step]:
            report[step].pop("tail")  # names this machine's folders
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(report, indent=1) + "\n")
    print(table)
    print(f"gpu_check: {'agreed' if good else 'NOT ALL AGREED'}; {results}, {report['seconds']} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
