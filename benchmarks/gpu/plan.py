"""The steps of `gpu_check.py`, in the order of their worth. Pure data: nothing here imports PyTorch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What every step depends on besides its own module and kernels.
SHARED = (
    "scatsimclr/*.py",
    "scatsimclr/ops/*.py",
    "scatsimclr/reference/*.py",
    "kernels/launching.py",
    "kernels/blocks.py",
    "kernels/rounding.py",
    "benchmarks/gpu/device.py",
    "benchmarks/measure.py",
    "benchmarks/peers.py",
)


@dataclass(frozen=True)
class Step:
    """One step: some cases, which run in a process of their own.

    Attributes:
        name: of the step.
        cases: "module:function" in `benchmarks.gpu`; the function takes a `Device` and returns what each case runs, by
            name.
        about: seconds that it may take at least; with less left, it is not started.
        limit: seconds after which it is ended.
        case_limit: seconds after which one case is ended, and the others go on in a new process.
        parallel: whether cases may run side by side: most of their time is compilation, and none of it is measured.
        op: the operator that the step says something about, or "".
        implementation: the one that cannot count as run on hardware unless all of this step's cases agreed, or "".
        sources: patterns of further files that results depend on.
    """

    name: str
    cases: str
    about: float
    limit: float
    case_limit: float = 60.0
    parallel: bool = False
    op: str = ""
    implementation: str = ""
    sources: tuple[str, ...] = ()

    def digest(self) -> str:
        """A digest of all files that its results depend on: results of other files are not continued."""
        own = f"benchmarks/gpu/{self.cases.partition(':')[0]}.py"
        paths = {path for pattern in (*SHARED, own, *self.sources) for path in ROOT.glob(pattern)}
        found = hashlib.sha256()
        for path in sorted(path for path in paths if path.is_file()):
            found.update(path.relative_to(ROOT).as_posix().encode() + content_digest(path))
        return found.hexdigest()[:16]


@cache
def content_digest(path: Path) -> bytes:
    """A digest of a file, read once."""
    return hashlib.sha256(path.read_bytes()).digest()


NTXENT = ("kernels/ntxent*.py",)
SCATTERING = ("kernels/scattering2d*.py",)
PHOTOMETRIC = ("kernels/photometric*.py",)
CPP = ("csrc/cuda/*", "setup.py")
WORK = ("benchmarks/work.py",)
STEP = ("benchmarks/steps.py", "scatsimclr/models/*.py", "scatsimclr/training/*.py")
TESTS = ("tests/conftest.py", "tests/ops/*.py")
VIEWS = ("scatsimclr/data/*.py",)

# Always made anew: it says which device and versions the results are of.
MACHINE = Step("machine", "machine:cases", about=1, limit=60)

STEPS = (
    Step("ntxent agrees", "ntxent:agreement", 20, 150, 60, True, "ntxent", "triton", NTXENT),
    Step("scattering2d agrees", "scattering2d:agreement", 30, 180, 90, True, "scattering2d", "triton", SCATTERING),
    Step("scattering2d gradient agrees", "scattering2d:gradient_agreement", 30, 180, 90, True, "scattering2d",
         "triton", SCATTERING),
    Step("photometric agrees", "photometric:agreement", 10, 90, 40, True, "photometric", "triton", PHOTOMETRIC),
    Step("build CUDA C++", "build:cuda", 20, 150, 150, sources=CPP),
    Step("scattering2d agrees, CUDA C++", "scattering2d:agreement_of_cpp", 15, 120, 60, True, "scattering2d", "cuda",
         SCATTERING + CPP),
    Step("limits", "limits:cases", 10, 40, 40),
    Step("ntxent times", "ntxent_times:times", 15, 90, 45, op="ntxent", sources=NTXENT + WORK),
    Step("scattering2d times", "scattering2d_times:times", 20, 150, 45, op="scattering2d",
         sources=SCATTERING + CPP + WORK),
    Step("training step", "training_step:times", 30, 150, 90, sources=NTXENT + SCATTERING + STEP),
    Step("ntxent of a million rows", "ntxent_times:million", 15, 60, 60, op="ntxent", sources=NTXENT + WORK),
    Step("photometric times", "photometric:times", 5, 45, 30, op="photometric", sources=PHOTOMETRIC),
    Step("views", "views:times", 15, 90, 60, sources=PHOTOMETRIC + VIEWS),
    Step("ntxent compiled and in graphs", "ntxent_times:modes", 20, 120, 60, op="ntxent", sources=NTXENT),
    Step("ntxent tests", "own_tests:ntxent", 20, 200, 120, True, "ntxent", sources=NTXENT + TESTS),
    Step("scattering2d tests", "own_tests:scattering2d", 20, 200, 120, True, "scattering2d",
         sources=SCATTERING + CPP + TESTS),
    Step("training step compiled", "training_step:compiled", 60, 240, 150, sources=NTXENT + SCATTERING + STEP),
    Step("scattering2d engines", "tuning:engines", 20, 120, 30, op="scattering2d", sources=SCATTERING + CPP),
    Step("scattering2d tuning", "tuning:scattering2d", 20, 120, 40, op="scattering2d", sources=SCATTERING),
    Step("ntxent tuning", "tuning:ntxent", 20, 120, 40, op="ntxent", sources=NTXENT),
    Step("scattering2d compiled by PyTorch", "scattering2d_times:compiled", 30, 120, 100, op="scattering2d"),
    Step("build for CPUs", "build:cpu", 30, 240, 240, sources=("csrc/**/*", "setup.py")),
)  # fmt: skip
