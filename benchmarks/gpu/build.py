"""Steps: compiling the extensions in place, as an install does."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.device import Cases, Device, NotRun
from benchmarks.gpu.plan import ROOT

SOURCES = {"_cuda": ("csrc/cuda/*", "setup.py"), "_C": ("csrc/**/*", "setup.py")}


def cuda(device: Device) -> Cases:
    """The CUDA C++ kernels."""
    return {"scatsimclr._cuda": lambda: _build(device, "_cuda")}


def cpu(device: Device) -> Cases:
    """The CPU kernels, and that they load."""
    return {"scatsimclr._C": lambda: _build(device, "_C")}


def _build(device: Device, name: str) -> dict[str, Any]:
    """Compiles one extension, unless what is there was compiled from the same files for the same PyTorch."""
    importlib.import_module("setuptools")  # brings distutils where Python has none
    setup = importlib.import_module("distutils.core")
    distribution = setup.run_setup(str(ROOT / "setup.py"), stop_after="init")
    chosen = [e for e in distribution.ext_modules if e.name == f"scatsimclr.{name}"]
    if not chosen:
        raise NotRun(f"setup.py does not build {name} here: no nvcc, or a PyTorch without CUDA")
    if device.dry:
        return {"cached": False, "extension": chosen[0].name}
    digest, stamp = _digest(name), ROOT / "build" / "gpu" / f"{name}.digest"
    library = ROOT / "scatsimclr" / f"{name}.abi3.so"
    if library.exists() and stamp.exists() and stamp.read_text() == digest:
        return {"cached": True, "bytes": library.stat().st_size}
    start = time.monotonic()
    distribution.ext_modules = chosen
    command = distribution.get_command_obj("build_ext")
    command.inplace, command.force = 1, 1
    distribution.run_command("build_ext")
    # In a process of its own, as this one may have loaded another build.
    check = [sys.executable, "-c", "import scatsimclr; print(scatsimclr.backends()['scattering2d'])"]
    loaded = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)
    return {"cached": False, "build_s": round(time.monotonic() - start, 1), "bytes": library.stat().st_size,
            "compiler": _version(name), "scattering2d": loaded.stdout.strip()}  # fmt: skip


def _digest(name: str) -> str:
    found = hashlib.sha256(f"{torch.__version__} {torch.version.cuda} {_version(name)}".encode())
    for path in sorted({path for pattern in SOURCES[name] for path in ROOT.glob(pattern) if path.is_file()}):
        found.update(path.read_bytes())
    return found.hexdigest()


def _version(name: str) -> str:
    """The compiler's own words."""
    compiler = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc" if name == "_cuda" else shutil.which("c++")
    if compiler is None or not Path(compiler).exists():
        return "unknown"
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=20)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return (lines[-1 if name == "_cuda" else 0] if lines else "unknown").strip()
