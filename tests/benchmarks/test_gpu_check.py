"""`benchmarks/gpu_check.py` without a GPU: every step in a dry run, whatever goes wrong in the others."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.plan import ROOT, STEPS

COMMAND = [sys.executable, "benchmarks/gpu_check.py", "--dry-run"]
# A machine of which only the checkout, PyTorch and Triton are there: the package is not installed either.
ABSENT = ("kymatio", "pydantic", "pydantic_core", "pooch", "filelock", "nvidia.dali", "inf_cl")
BARE = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if any(name == absent or name.startswith(absent + ".") for absent in {ABSENT!r}):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path[:] = [Absent(), *(finder for finder in sys.meta_path if "editable" not in repr(finder).lower())]
"""
DRILLS = {
    "photometric agrees": "fail",
    "ntxent times": "hang",
    "scattering2d times": "sticky",
    "photometric times": "crash",
}
EXPECTED = {
    "photometric agrees": ("failed", "drill: fail"),
    "ntxent times": ("timed out", "ended after"),
    "scattering2d times": ("failed", "drill: sticky"),
    "photometric times": ("crashed", "SIGSEGV"),
}
# Not without nvcc and a PyTorch with CUDA.
WITH_CUDA = {"build CUDA C++"}


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "TRITON_CACHE_DIR": str(folder / "triton"), **more}


def check(path: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--results", str(path), *arguments],
        cwd=ROOT, env=environment(path.parent, **more), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def done_cases(found: dict) -> dict:
    return {
        (step, case): data
        for step, entry in found["steps"].items()
        for case, data in entry["cases"].items()
        if data["status"] == "done"
    }


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The results of a call on a bare machine with something wrong in four steps, and what it printed."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(BARE)
    drills = [text for step, kind in DRILLS.items() for text in ("--drill", f"{step}={kind}")]
    done = check(folder / "results.json", *drills, PYTHONPATH=str(folder))
    assert done.returncode == 1, done.stdout + done.stderr
    return folder / "results.json", done.stdout


def test_every_step_runs_on_a_bare_machine_whatever_goes_wrong_in_others(bare):
    path, printed = bare
    found = read(path)
    assert found["dry_run"]
    assert found["verified"] == {}
    assert list(found["steps"]) == [step.name for step in STEPS]
    for name, entry in found["steps"].items():
        if name in WITH_CUDA:
            assert entry["why"] or all(case["why"] for case in entry["cases"].values()), name
        elif name == "views":
            assert "pydantic is absent" in entry["why"]
        elif name in DRILLS:
            status, error = EXPECTED[name]
            first, *others = entry["cases"].values()
            assert first["status"] == status, entry
            assert error in first["error"]
            assert all(case["status"] == "done" for case in others)
        else:
            assert entry["status"] == "done", (name, entry)
            assert set(entry["absent"]) >= {"kymatio", "pydantic", "pooch", "filelock", "nvidia.dali"}
        assert f"\n{name} (" in f"\n{printed}"
    assert found["steps"]["scattering2d times"]["processes"] == 2, "no new process after a lost device"
    case = next(iter(found["steps"]["training step"]["cases"].values()))
    assert case["plain scattering"] == "reference"
    assert "4 FAILED OR DISAGREE" in printed


def test_a_second_call_runs_what_is_missing_and_nothing_else(bare):
    path, _ = bare
    before = read(path)
    done = check(path, "--retry")
    found = read(path)
    assert done.returncode == 0, done.stdout + done.stderr
    again = {*DRILLS, "views", *WITH_CUDA}
    started = {step.name for step in STEPS if f"\n{step.name} (" in f"\n{done.stdout}"}
    assert started <= again
    assert started >= {*DRILLS, "views"}
    for name, entry in found["steps"].items():
        assert entry["status"] == "done" or name in WITH_CUDA, (name, entry)
        if name not in again:
            assert entry == before["steps"][name]
    kept = done_cases(before)
    assert kept.items() <= done_cases(found).items()
    assert found["steps"]["views"]["absent"] != before["steps"]["limits"]["absent"]


def running(marker: str) -> list[int]:
    """Processes whose environment holds the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux alone")
def test_killed_at_any_moment_it_leaves_all_finished_cases_and_no_process(tmp_path):
    path, steps = tmp_path / "results.json", ("limits", "photometric*", "ntxent times")
    command = [*COMMAND, "--results", str(path), "--only", *steps]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    ) as process:
        printed = []
        for _ in range(random.randint(1, 5)):
            printed.append(process.stdout.readline())
        time.sleep(random.random() / 4)
        process.kill()
        printed += process.stdout.readlines()
    found = read(path)
    assert list(found["steps"]) == [step.name for step in STEPS]
    ended = sum(line.startswith("  ") for line in printed)
    kept = done_cases(found)
    assert len(kept) >= ended
    deadline = time.monotonic() + 10
    while left := running(str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    done = check(path, "--only", *steps)
    assert done.returncode == 0, done.stdout + done.stderr
    final = read(path)
    assert kept.items() <= done_cases(final).items()
    for name in ("limits", "photometric agrees", "photometric times", "ntxent times"):
        assert final["steps"][name]["status"] == "done"
    assert final["steps"]["views"]["why"] == "not asked for"
    assert not list(tmp_path.glob(".*.partial"))


def test_the_supervisor_imports_neither_torch_nor_the_package():
    code = "import sys, benchmarks.gpu.command; print({'torch', 'scatsimclr', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--drill", "limits=explode"], "must be STEP=fail|hang|sticky|crash, got 'limits=explode'"),
        (["--only", "nothing"], "--only must name steps"),
    ],
)
def test_mistakes_are_named(arguments, message):
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_drill_is_for_a_dry_run():
    command = [sys.executable, "benchmarks/gpu_check.py", "--drill", "limits=fail"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "--drill is for --dry-run" in done.stderr
