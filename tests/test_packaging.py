"""What a release consists of agrees with itself."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import scatsimclr
from scatsimclr.ops import availability

ROOT = Path(__file__).parents[1]
OLDEST_GLIBC = (2, 28)  # of PyTorch's own wheels


@pytest.mark.skipif(availability.EXTENSION is None, reason="installed without the compiled extension")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="binutils are not installed")
def test_the_extension_needs_no_glibc_newer_than_pytorch_does():
    command = ["objdump", "-T", availability.EXTENSION]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\*UND\*.*\(?GLIBC_([\d.]+)\)? +(\w+)$", symbols, re.M)
    assert needed
    newer = {name: version for version, name in needed if tuple(map(int, version.split("."))) > OLDEST_GLIBC}
    assert newer == {}


def test_the_changelog_ends_with_this_version():
    released = re.findall(
        r"^## \[(\d[\w.]*)\] – \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
    assert released[0] == scatsimclr.__version__


def test_the_version_stands_in_one_place():
    for name in ("pyproject.toml", "setup.py", "CITATION.cff", "mkdocs.yml", "README.md", "Makefile"):
        assert scatsimclr.__version__ not in (ROOT / name).read_text(), name


def test_a_commit_is_checked_as_make_lint_does():
    recipe = re.search(r"^lint: setup\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)[1]
    lint = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe.splitlines()]
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"] for hook in repository["hooks"]] == lint


def test_the_workflow_tests_every_python_that_the_package_names():
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert {"run": ".ci/run"} in workflow["jobs"]["test"]["steps"]
