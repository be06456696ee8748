"""Builds `scatsimclr/_C`: the C++ operators behind PyTorch's stable ABI.

The compiled library registers operators and knows no Python: it is loaded with
`torch.ops.load_library`, so one binary serves every Python and every torch from 2.11 on.
Metadata and packages stand in pyproject.toml.
"""

import os
import sys
from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).parent
# The oldest torch whose stable ABI the sources may use: 2.11, as 0xMMmm << 48.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DPy_LIMITED_API=0x030a0000"]


def extensions():
    # The one way to install without a compiler; the reference path then serves every operator.
    if os.environ.get("SCATSIMCLR_NO_EXTENSION") == "1":
        return []
    sources = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").glob("**/*.cpp"))
    headers = sorted(str(path) for path in (ROOT / "csrc").glob("**/*") if path.suffix in {".h", ".inl"})
    return [
        CppExtension(
            "scatsimclr._C",
            sources,
            include_dirs=[str(ROOT / "csrc")],
            depends=headers,
            # -ffp-contract=fast is gcc's default; errno and traps would block vectorised sqrt.
            extra_compile_args=[
                *("-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math"),
                *("-Wall", "-Wno-psabi", "-fvisibility=hidden", "-g0"),
                *STABLE_ABI,
            ],
            py_limited_api=True,
        )
    ]


class Build(BuildExtension):
    """BuildExtension that ends a failed compile with what to install."""

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
                "  SCATSIMCLR_NO_EXTENSION=1 installs without it: same results, plain PyTorch speed.\n\n"
            )
            raise error


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": Build.with_options(use_ninja=True)},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
