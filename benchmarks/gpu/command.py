"""The command `gpu_check.py`, which see."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.gpu import supervisor, tables
from benchmarks.gpu.plan import MACHINE, ROOT, STEPS, Step
from benchmarks.gpu.results import Results, failures, left_out
from benchmarks.gpu.worker import DRILLS

NOT_ASKED = "not asked for"
CACHE = ROOT / "build" / "gpu"
RECORDS = ROOT / "scatsimclr" / "ops" / "records"
# In a dry run every step starts, and its cases take a fraction of a second each.
DRY = {"about": 0.0, "limit": 120.0, "case_limit": 60.0}
HANGING = {"case_limit": 10.0}  # of a step that hangs by a drill


def say(line: str) -> None:
    print(line, flush=True)


def drill(text: str) -> tuple[str, str]:
    """A step and what goes wrong in its first case."""
    step, _, kind = text.rpartition("=")
    if step not in {each.name for each in STEPS} or kind not in DRILLS:
        raise argparse.ArgumentTypeError(f"must be STEP={'|'.join(DRILLS)}, got {text!r}")
    return step, kind


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu_check.py", description="Checks and measures the GPU implementations; see its docstring."
    )
    parser.add_argument("--results", type=Path, help="default: scatsimclr/ops/records/gpu-<device>.json")
    parser.add_argument("--minutes", type=float, default=9.0, help="default: 9")
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", help="names of steps, or patterns like 'ntxent*'"
    )
    parser.add_argument("--retry", action="store_true", help="run again what failed, hung or crashed")
    parser.add_argument("--dry-run", action="store_true", help="every step on the CPU, with tiny sizes")
    parser.add_argument("--drill", type=drill, action="append", default=[], metavar="STEP=KIND",
                        help=f"in a dry run, a step's first case goes wrong: {', '.join(DRILLS)}")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.drill and not options.dry_run:
        parser.error("--drill is for --dry-run")
    unknown = [p for p in options.only or () if not any(fnmatch(step.name, p) for step in STEPS)]
    if unknown:
        parser.error(f"--only must name steps of {[step.name for step in STEPS]}, got {unknown}")
    return options


def prepare(dry: bool) -> None:
    """Sets what compilers read from the environment, before any process starts."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(CACHE / "triton"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE / "inductor"))
    if dry:
        os.environ.update(TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


def describe_machine(dry: bool, minutes: float) -> tuple[dict[str, Any], Any]:
    """Device and versions with absent packages, and the multiprocessing context in which they could be found out.

    Raises:
        SystemExit: With status 2, where there is no GPU.
    """
    why = ""
    for method in supervisor.METHODS:
        found, context = Results(None, [MACHINE], {}, dry), supervisor.context(method)
        until = time.monotonic() + max(60.0, 60 * minutes)
        supervisor.StepRun(MACHINE, found, context, until, dry, 1, lambda line: None).run()
        entry = found.step(MACHINE)
        case = entry["cases"].get("describe", {})
        if case.get("status") == "done":
            return case, context
        why = case.get("error") or entry["why"]
    say(f"gpu_check: {why}; --dry-run goes through every step without one"[:300])
    raise SystemExit(2)


def default_path(machine: dict[str, Any], dry: bool) -> Path:
    """Where results go by default."""
    device = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    return CACHE / "dry-run.json" if dry else RECORDS / f"gpu-{device}.json"


def extensions() -> list[str]:
    """The compiled extensions that are there."""
    return sorted(path.name.split(".")[0] for path in (ROOT / "scatsimclr").glob("_*.so"))


def planned(dry: bool, drills: dict[str, str]) -> list[Step]:
    """The steps with their limits."""
    if not dry:
        return list(STEPS)
    return [
        replace(step, **{**DRY, **(HANGING if drills.get(step.name) == "hang" else {})}) for step in STEPS
    ]


def why_not(step: Step, options: argparse.Namespace, results: Results, left: float) -> str | None:
    """Why a step is not run, in words; "" where that needs no word; None where it is."""
    if options.only and not any(fnmatch(step.name, pattern) for pattern in options.only):
        return "" if results.settled(step) else NOT_ASKED
    if results.settled(step):
        return ""
    if left < step.about:
        return f"out of time: {max(0, left):.0f} s were left, it needs about {step.about:.0f} s"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    start, options = time.monotonic(), parsed(arguments)
    prepare(options.dry_run)
    description, context = describe_machine(options.dry_run, options.minutes)
    machine = description["machine"]
    drills = dict(options.drill)
    plan = planned(options.dry_run, drills)
    try:
        results = Results(
            options.results or default_path(machine, options.dry_run), plan, machine, options.dry_run
        )
    except OSError as error:
        say(f"gpu_check: --results cannot be written: {error}"[:300])
        return 2
    for note in results.notes:
        say(f"gpu_check: {note}")
    if options.retry:
        results.forget_failures()
    until = start + 60 * options.minutes
    side_by_side = 2 if options.dry_run else max(1, min(8, (os.cpu_count() or 2) // 2))
    for step in plan:
        reason = why_not(step, options, results, until - time.monotonic())
        if reason is not None:
            if reason:
                results.not_started(step, reason)
            continue
        say(f"{step.name} ({time.monotonic() - start:.0f} s)")
        results.started(step, description["absent"], extensions())
        supervisor.StepRun(
            step, results, context, until, options.dry_run, side_by_side, say, drills.get(step.name, "")
        ).run()
    return conclude(results, time.monotonic() - start)


def conclude(results: Results, seconds: float) -> int:
    """Prints what has been found; returns the exit status."""
    found = results.found
    failed, waiting = len(failures(found)), len(left_out(found))
    ran = any(entry["status"] != "not run" for entry in found["steps"].values())
    verdict = (
        f"{failed} FAILED OR DISAGREE" if failed else "all that ran agrees" if ran else "NOTHING HAS RUN"
    )
    say("\n".join(tables.lines(found, NOT_ASKED)))
    say(f"gpu_check: {verdict}, {waiting} not run or in part; {results.path}, {seconds:.0f} s")
    return 0 if ran and not failed else 1
