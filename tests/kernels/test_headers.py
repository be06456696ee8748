"""Every -inl.h file of csrc/cpu compiles alone, as an editor opens it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import include_paths

CSRC = Path(__file__).parents[2] / "csrc"
HEADERS = sorted((CSRC / "cpu").glob("**/*-inl.h"))
COMPILERS = [c for c in ("g++", "clang++") if shutil.which(c)]


def errors(compiler: str, header: Path) -> str:
    """What the compiler says of the header when it stands alone."""
    command = [
        *(compiler, "-std=c++20", "-fsyntax-only", "-x", "c++", "-Wall", "-Wno-psabi", "-Werror"),
        "-Wno-unused-const-variable",
        *(f"-I{path}" for path in (CSRC, *include_paths())),
        *("-include", str(header), os.devnull),
    ]
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, env=environment).stderr


@pytest.mark.skipif(not COMPILERS, reason="no C++ compiler")
@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.relative_to(CSRC / "cpu").as_posix())
def test_opens_alone(header):
    for compiler in COMPILERS:
        assert errors(compiler, header) == ""


@pytest.mark.skipif(not COMPILERS, reason="no C++ compiler")
def test_what_is_not_included_is_missed(tmp_path):
    """The compilers do see a header that takes another one for granted."""
    text = (CSRC / "cpu/simd/exp-inl.h").read_text()
    header = tmp_path / "exp-inl.h"
    header.write_text(text.replace('#include "cpu/simd/vector-inl.h"\n', ""))
    for compiler in COMPILERS:
        assert "Vec" in errors(compiler, header)


def test_guards_toggle():
    """A guard names its file, so that no two files share one, and is turned over in each pass."""
    for header in HEADERS:
        text = header.read_text()
        place = header.relative_to(CSRC / "cpu").as_posix()
        guard = "SCATSIMCLR_" + "".join(c if c.isalnum() else "_" for c in place).upper() + "_"
        if "#if defined" not in text:  # nothing but other files
            assert all(line.startswith(("//", "#include")) for line in text.splitlines() if line)
            continue
        toggle = f"#if defined({guard}) == defined(SCATSIMCLR_TARGET_TOGGLE)\n"
        assert f"{toggle}#ifdef {guard}\n#undef {guard}\n#else\n#define {guard}\n#endif\n" in text, place
