"""Steps: the project's own tests for GPUs, one case for each test function."""

from __future__ import annotations

import ast
import importlib.util
from functools import partial
from typing import Any

from benchmarks.gpu.device import Cases, Data, Device, NotRun
from benchmarks.gpu.errors import readable
from benchmarks.gpu.plan import ROOT


def ntxent(device: Device) -> Cases:
    """Of NT-Xent."""
    return _functions(device, "tests/ops/test_ntxent_cuda.py")


def scattering2d(device: Device) -> Cases:
    """Of the scattering transform."""
    return _functions(device, "tests/ops/test_scattering2d_cuda.py")


def _functions(device: Device, file: str) -> Cases:
    for needed in ("pytest", "pytest_benchmark"):
        if importlib.util.find_spec(needed) is None:
            raise NotRun(f"{needed} is absent")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    names = [
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    return {name: partial(_run, f"{file}::{name}") for name in names[: device.pick(None, 1)]}


class _Outcomes:
    """What pytest reports."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] = self.counts.get(report.outcome, 0) + 1
        if report.failed:
            name = report.nodeid.rpartition("::")[2]
            self.failed[name] = readable(report.longreprtext[-1500:], 600)


def _run(test: str) -> Data:
    import pytest

    outcomes = _Outcomes()
    # Plugins that take a second to load and nothing to do here.
    without = [option for plugin in ("xdist", "hypothesispytest") for option in ("-p", f"no:{plugin}")]
    status = pytest.main(
        [*without, "-q", "--no-header", "--tb=short", "--rootdir", str(ROOT), str(ROOT / test)], [outcomes]
    )
    if status not in (0, 1):
        raise RuntimeError(f"pytest could not run {test}: exit status {int(status)}")
    return {"agreed": not outcomes.failed, "errors": outcomes.failed, "counts": outcomes.counts}
