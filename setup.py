"""Builds `scatsimclr/_C`, and where there is nvcc `scatsimclr/_cuda`: operators behind PyTorch's stable ABI.

The compiled libraries register operators and know no Python: they are loaded with
`torch.ops.load_library`, so one binary serves every Python and every torch from 2.11 on.
Metadata and packages stand in pyproject.toml.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from setuptools import Extension, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

ROOT = Path(__file__).parent
# The oldest torch whose stable ABI the sources may use: 2.11, as 0xMMmm << 48.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]


def files(folder, *suffixes):
    """Relative, as setuptools wants the paths of what a source distribution ships."""
    found = (path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def extensions():
    # The one way to install without a compiler; the reference path then serves every operator.
    if os.environ.get("SCATSIMCLR_NO_EXTENSION") == "1":
        return []
    sources, headers = files("csrc", ".cpp"), files("csrc", ".h")
    cuda = [CUDA] if wants_cuda() else []
    return [
        *cuda,
        CppExtension(
            "scatsimclr._C",
            sources,
            include_dirs=[str(ROOT / "csrc")],
            depends=headers,
            # For gcc and clang alike: both contract a product and a sum by default, and instruction sets beyond the
            # baseline are named in the sources. errno and traps would block vectorised sqrt.
            extra_compile_args=[
                *("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math"),
                *("-Wall", "-Wno-psabi", "-fvisibility=hidden", "-g0"),
                *("-include", str(ROOT / "csrc/cpu/glibc/versions.h")),
                *STABLE_ABI,
            ],
            py_limited_api=True,
        ),
    ]


# nvcc is called directly: torch's own CUDA build refuses where torch has no CUDA, which to compile is no reason.
CUDA = Extension(
    "scatsimclr._cuda",
    [],
    depends=files("csrc/cuda", ".cu", ".h"),
    py_limited_api=True,
)
ARCHITECTURES = ("80", "90", "100")


def nvcc():
    """The CUDA compiler's path, or None."""
    home = os.environ.get("CUDA_HOME") or "/usr/local/cuda"
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))


def wants_cuda():
    """SCATSIMCLR_CUDA=1 or 0 decides; else CUDA C++ is built where nvcc is and torch has CUDA, GPU or not."""
    asked = os.environ.get("SCATSIMCLR_CUDA")
    if asked == "1" and nvcc() is None:
        raise SystemExit("scatsimclr: SCATSIMCLR_CUDA=1 asks for the CUDA kernels, but there is no nvcc")
    return asked == "1" or (asked is None and torch.version.cuda is not None and nvcc() is not None)


def nvcc_command(output):
    """Compiles and links csrc/cuda. What the library needs of CUDA's runtime is linked in statically."""
    known = subprocess.run([nvcc(), "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    targets = [a for a in ARCHITECTURES if f"compute_{a}" in known.split()]
    library = Path(torch.__file__).parent / "lib"
    linked = [n for n in ("torch", "torch_cpu", "torch_cuda", "c10") if list(library.glob(f"lib{n}.so*"))]
    return [
        *(nvcc(), "-shared", "-std=c++20", "-O3", "--expt-relaxed-constexpr", "-DUSE_CUDA", *STABLE_ABI),
        *("-Xcompiler", "-fPIC,-fvisibility=hidden", "-Xlinker", "--no-as-needed"),
        *(f"-gencode=arch=compute_{a},code=sm_{a}" for a in targets),
        f"-gencode=arch=compute_{targets[-1]},code=compute_{targets[-1]}",
        *(f"-I{path}" for path in (ROOT / "csrc", *include_paths())),
        *(str(path) for path in sorted((ROOT / "csrc/cuda").glob("*.cu"))),
        *(f"-L{library}", *(f"-l{name}" for name in linked), "-o", str(output)),
    ]


class Build(BuildExtension):
    """BuildExtension that knows nvcc, and ends a failed compile with what to install."""

    def build_extension(self, extension):
        if extension is not CUDA:
            super().build_extension(extension)
            return
        output = Path(self.get_ext_fullpath(extension.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        newest = max(os.path.getmtime(path) for path in extension.depends)
        if self.force or not output.exists() or output.stat().st_mtime < newest:
            subprocess.run(nvcc_command(output), check=True)

    def build_extensions(self):
        try:
            super().build_extensions()
        except Exception as error:  # re-raised: only the advice is added
            sys.stderr.write(
                "\nscatsimclr: compiling csrc/ failed (the compiler's own message is above).\n"
                "  It needs a C++20 compiler (g++ 11 or clang 14, or newer) and Python's headers:\n"
                "    Debian, Ubuntu:  apt-get install g++ python3-dev\n"
                "    Fedora:          dnf install gcc-c++ python3-devel\n"
                "    macOS:           xcode-select --install\n"
                "  SCATSIMCLR_NO_EXTENSION=1 installs without it: same results, plain PyTorch speed.\n"
                "  SCATSIMCLR_CUDA=0 leaves out the CUDA kernels alone; Triton's then serve GPUs.\n\n"
            )
            raise error


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": Build.with_options(use_ninja=True)},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
