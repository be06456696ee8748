"""A process that runs cases of one step of `gpu_check.py`, one at a time, as its supervisor asks."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import signal
import sys
import time
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.gpu.errors import absent, described, explained
from benchmarks.gpu.plan import ROOT

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
# What `--drill` can make of the first case of a step.
DRILLS = ("fail", "hang", "sticky", "crash")


@dataclass(frozen=True)
class Assignment:
    """What a worker works on.

    Attributes:
        cases: "module:function" of a step.
        dry: whether there is no GPU.
        drill: what to do instead of the first case, or "".
    """

    cases: str
    dry: bool
    drill: str = ""


def import_from_checkout() -> None:
    """Makes `scatsimclr.kernels` importable where the package is not installed, only checked out.

    An install maps the folder `kernels/` to that name; without one, nothing does.
    """
    from scatsimclr import extras  # the parent of what follows must be there first

    # Packages ask for all that their modules need; a step imports a few of these. What it lacks, its import says.
    extras.require = lambda *names: None
    if importlib.util.find_spec("scatsimclr.kernels") is None:
        folder = ROOT / "kernels"
        spec = importlib.util.spec_from_file_location(
            "scatsimclr.kernels", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules["scatsimclr.kernels"] = module
        spec.loader.exec_module(module)


def main(connection: Connection, assignment: Assignment) -> None:
    """Sends the names of the step's cases, then runs those whose names come, until None does.

    Messages sent are ("cases", names), ("not run", why) or ("failed", error) at first, and (status, data, whether the
    device is still usable) for each case.
    """
    os.setpgrp()  # so that compilers that it starts end with it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    os.chdir(ROOT)
    with suppress(EOFError, ConnectionError):  # the supervisor has ended
        _serve(connection, assignment)


def _serve(connection: Connection, assignment: Assignment) -> None:
    try:
        cases, device = _listed(assignment)
    except Exception as error:  # reported: nothing of this step can run
        expected = type(error).__name__ == "NotRun"  # of a module that may be what cannot be imported
        connection.send(("not run", str(error)) if expected else ("failed", described(error)))
        return
    connection.send(("cases", list(cases)))
    while (name := connection.recv()) is not None:
        drill = assignment.drill if name == next(iter(cases)) else ""
        status, data = _run(device, cases[name], name, drill)
        usable = drill != "sticky" and device.usable()
        connection.send((status, data, usable))
        if not usable:
            return
        device.free()


def _listed(assignment: Assignment) -> tuple[dict[str, Any], Any]:
    warnings.simplefilter("ignore")
    import_from_checkout()
    from benchmarks.gpu.device import Device

    device = Device(assignment.dry)
    module, _, function = assignment.cases.partition(":")
    cases = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(device)
    if not device.usable():
        raise RuntimeError("the device does not compute")
    return cases, device


def _run(device: Any, call: Any, name: str, drill: str) -> tuple[str, dict[str, Any]]:
    """(status, data) of a case."""
    import torch

    from benchmarks.gpu.device import NotRun

    torch.manual_seed(zlib.crc32(name.encode()))  # the same in whichever process, after whichever case
    try:
        if drill:
            _drill(drill)
        data = call()
        device.synchronize()  # an error of this case is not to show in the next one
        return "done", data
    except NotRun as reason:
        return "not run", {"why": str(reason)}
    except (Exception, SystemExit) as error:  # recorded; the other cases go on
        return ("not run", {"why": explained(error)}) if absent(error) else ("failed", described(error))


def _drill(kind: str) -> None:
    if kind == "hang":
        time.sleep(1e6)
    if kind == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    raise RuntimeError(f"drill: {kind}")
