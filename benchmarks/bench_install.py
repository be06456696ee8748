"""`python -m benchmarks.bench_install`: what a package brings besides torch and NumPy, and how long it takes to import.

In an environment with torch and NumPy alone, each contender is installed on top, with what it depends on. Sizes are
those of the files that pip then adds, without compiled bytecode. Times are medians over processes that have imported
torch before, with bytecode and files in the disk's cache. Writes benchmarks/results/install-cpu.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cpuinfo import get_cpu_info

from benchmarks.measure import ROOT

OUTPUT = ROOT / "benchmarks" / "results" / "install-cpu.json"
PROCESSES = 9
# What is wanted, who offers it, the package, and the import.
CONTENDERS = [
    ("NT-Xent loss", "ours", "scatsimclr", "from scatsimclr.loss import NTXentLoss"),
    (
        "NT-Xent loss",
        "pytorch-metric-learning",
        "pytorch-metric-learning",
        "from pytorch_metric_learning.losses import NTXentLoss",
    ),
    ("2D scattering", "ours", "scatsimclr", "from scatsimclr import Scattering2D"),
    # kymatio.torch also imports its 3D transform, which fails with SciPy 1.17.
    (
        "2D scattering",
        "kymatio",
        "kymatio",
        "from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D",
    ),
]
TIMED = """\
import time, torch
wall, cpu = time.perf_counter(), time.process_time()
{statement}
print(time.perf_counter() - wall, time.process_time() - cpu)"""


def environment(folder: Path, base: Path | None = None) -> Path:
    """An empty environment that sees the packages of another one; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    if base is not None:
        packages(folder).joinpath("base.pth").write_text(f"{packages(base)}\n", encoding="utf-8")
    return folder / "bin" / "python"


def packages(folder: Path) -> Path:
    """Where an environment's packages are."""
    return next((folder / "lib").glob("python*")) / "site-packages"


def install(python: Path, *wanted: str) -> None:
    """Installs packages, in the versions of constraints.txt where it names them."""
    options = ["--quiet", "--no-compile", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", *options, *wanted], check=True
    )


def installed(folder: Path) -> dict[str, str]:
    """Versions of the packages in an environment, not those of its base."""
    found = (path.name.removesuffix(".dist-info").split("-") for path in packages(folder).glob("*.dist-info"))
    return dict(sorted((name, version) for name, version in found))


def megabytes(folder: Path) -> float:
    """10^6 bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def import_seconds(python: Path, statement: str) -> tuple[float, float]:
    """Medians of wall-clock and CPU seconds of an import after torch's; the first one, which compiles, is left out."""
    code = TIMED.format(statement=statement)
    lines = [
        subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd="/").stdout
        for _ in range(PROCESSES + 1)
    ][1:]
    wall, cpu = zip(*((float(value) for value in line.split()) for line in lines), strict=True)
    return statistics.median(wall), statistics.median(cpu)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_install", description=__doc__.split("\n")[0]
    )
    parser.add_argument("wheel", type=Path, help="ours, as `make wheel` makes it")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        install(environment(base), "torch", "numpy")
        made: dict[str, tuple[Path, float]] = {}
        rows = []
        for what, who, package, statement in CONTENDERS:
            if package not in made:
                folder = Path(name) / package
                python = environment(folder, base)
                before = megabytes(packages(folder))
                install(python, str(options.wheel) if who == "ours" else package)
                made[package] = folder, megabytes(packages(folder)) - before
            folder, size = made[package]
            wall, cpu = import_seconds(folder / "bin" / "python", statement)
            rows.append({
                "what": what, "who": who, "import": statement, "megabytes": size, "wall_s": wall, "cpu_s": cpu,
                "packages": installed(folder),
            })  # fmt: skip
        result = {
            "cpu": get_cpu_info()["brand_raw"],
            "python": platform.python_version(),
            "base": installed(base),
            "base_megabytes": megabytes(packages(base)),
            "contenders": rows,
        }
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))


def table(result: dict) -> str:
    """The results as Markdown."""
    head = (
        "| for | install | besides torch and NumPy | packages | import after torch, CPU time | wall-clock |"
    )
    rows = [
        f"| {row['what']} | {row['who']} | {row['megabytes']:.1f} MB | {len(row['packages'])} "
        f"| {row['cpu_s'] * 1e3:.0f} ms | {row['wall_s'] * 1e3:.0f} ms |"
        for row in result["contenders"]
    ]
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def origin(result: dict) -> str:
    """Where the results were measured."""
    return f"{result['cpu']}, Python {result['python']}, torch {result['base']['torch']}"


if __name__ == "__main__":
    main()
