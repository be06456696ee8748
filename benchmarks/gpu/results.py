"""The results file of `gpu_check.py`: what has been measured so far, on disk after every case.

    format      2
    dry_run     whether it is of a dry run
    machine     device and versions; results of another machine are not continued
    verified    operator -> implementations all of whose agreement cases ran here and agreed
    steps       name -> status, why, digest of its files, date, seconds, processes, absent packages, extensions, and
                cases: name -> status, seconds, and what the case found

A case is "done" (then `agreed`, where it compares, says how it ended), "failed", "timed out", "crashed" or "not run". A
step is "done" when all its cases are, "not run" when none has been, else "incomplete".
"""

from __future__ import annotations

import datetime
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import STEPS, Step

FORMAT = 2
NOT_REACHED = "not reached"
# Cases that a second call leaves as they are.
SETTLED = ("done", "failed", "timed out", "crashed")


def finite(value: Any) -> Any:
    """The value with numbers that JSON does not have as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def write(path: Path, found: dict[str, Any]) -> None:
    """Replaces the file at once: whoever reads it sees the old text or the new one, whatever is killed when."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(finite(found), file, indent=1, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read(path: Path) -> dict[str, Any] | None:
    """What a results file holds; None where there is none of this format."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def verified(steps: dict[str, dict[str, Any]], plan: Sequence[Step] = STEPS) -> dict[str, list[str]]:
    """operator -> the implementations that ran on this device and agreed.

    Every step about an implementation must be done with every case in agreement, and no other case about the operator
    may have disagreed.
    """
    doubted, wanted = set(), {}
    for step in plan:
        cases = steps[step.name].get("cases", {}).values()
        if any(case.get("agreed") is False for case in cases) and not step.implementation:
            doubted.add(step.op)
        if step.implementation:
            done = steps[step.name]["status"] == "done"
            agreed = done and all(case.get("agreed", False) for case in cases)
            wanted.setdefault((step.op, step.implementation), []).append(agreed)
    found: dict[str, list[str]] = {}
    for (op, name), agreed in wanted.items():
        if all(agreed) and op not in doubted:
            found.setdefault(op, []).append(name)
    return found


class Results:
    """The results of one call, with those of earlier ones that it continues.

    Args:
        path: of the results file; None keeps them in memory.
        plan: the steps.
        machine: device and versions.
        dry: whether this is a dry run.
    """

    def __init__(self, path: Path | None, plan: Sequence[Step], machine: dict[str, Any], dry: bool):
        self.path, self.plan, self.dry = path, plan, dry
        self.notes: list[str] = []
        fresh = {step.name: {"status": "not run", "why": NOT_REACHED, "cases": {}} for step in plan}
        self.found: dict[str, Any] = {
            "format": FORMAT, "dry_run": dry, "machine": machine, "verified": {}, "steps": fresh,
        }  # fmt: skip
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            for left in path.parent.glob(f".{path.name}.*.partial"):
                left.unlink()  # of a call that was killed while it wrote
            if path.exists():
                self._continue(path)
            self.save()

    def _continue(self, path: Path) -> None:
        """Takes over an earlier call's results, as far as they are of this machine and these files."""
        earlier = read(path)
        if earlier is None:
            why = "it is no results file of this format"
        elif earlier["dry_run"] != self.dry:
            why = "one of the two is a dry run"
        else:
            why = difference(earlier["machine"], self.found["machine"])
        dropped = [] if why else [step.name for step in self.plan if self._changed(earlier, step)]
        if why or dropped:
            kept = path.with_name(f"{path.name}.{datetime.datetime.now():%Y%m%d-%H%M%S}.old")
            shutil.copy2(path, kept)
            what = f"{len(dropped)} steps, whose files have changed: {', '.join(dropped)}" if dropped else why
            self.notes.append(f"{path.name} is not continued: {what}; a copy is in {kept.name}")
        if why:
            return
        for step in self.plan:
            if step.name not in dropped and step.name in earlier["steps"]:
                self.found["steps"][step.name] = earlier["steps"][step.name]

    @staticmethod
    def _changed(earlier: dict[str, Any], step: Step) -> bool:
        before = earlier["steps"].get(step.name, {}).get("digest")
        return before is not None and before != step.digest()

    def save(self) -> None:
        """Writes the file."""
        if not self.dry:
            self.found["verified"] = verified(self.found["steps"], self.plan)
        if self.path is not None:
            write(self.path, self.found)

    def step(self, step: Step) -> dict[str, Any]:
        """What is known of a step."""
        found: dict[str, Any] = self.found["steps"][step.name]
        return found

    def forget_failures(self) -> None:
        """Makes cases that failed count as not run."""
        for entry in self.found["steps"].values():
            for case in entry["cases"].values():
                if case["status"] in SETTLED and case["status"] != "done":
                    case.update(status="not run", why="to be run again")

    def settled(self, step: Step) -> bool:
        """Whether nothing of a step is left to run."""
        cases = self.step(step)["cases"]
        return bool(cases) and all(case["status"] in SETTLED for case in cases.values())

    def not_started(self, step: Step, why: str) -> None:
        """Records why a step is not run in this call, where nothing is known from an earlier one."""
        if self.step(step)["why"] == NOT_REACHED:
            self.skipped(step, why)

    def skipped(self, step: Step, why: str) -> None:
        """Records why a step, or the rest of it, is not run."""
        entry = self.step(step)
        entry["why"] = why
        for case in entry["cases"].values():
            if case["status"] == "not run":
                case["why"] = why
        self._summarise(step)
        self.save()

    def started(self, step: Step, absent: list[str], extensions: list[str]) -> None:
        """Records that a step is run, without which packages and with which compiled extensions."""
        self.step(step).pop("failed", None)
        self.step(step).update(
            digest=step.digest(),
            date=datetime.date.today().isoformat(),
            absent=absent,
            extensions=extensions,
            why="",
        )

    def planned(self, step: Step, names: Sequence[str]) -> list[str]:
        """Records the names of a step's cases; those that are to be run."""
        cases = self.step(step)["cases"]
        for name in names:
            cases.setdefault(name, {"status": "not run", "why": NOT_REACHED})
        self._summarise(step)
        self.save()
        return [name for name in names if cases[name]["status"] not in SETTLED]

    def case(self, step: Step, name: str, status: str, seconds: float, data: dict[str, Any]) -> None:
        """Records the end of a case."""
        self.step(step)["cases"][name] = {"status": status, "seconds": round(seconds, 2), **data}
        self._summarise(step)
        self.save()

    def ended(self, step: Step, seconds: float, processes: int) -> None:
        """Records how long a step took, and in how many processes."""
        entry = self.step(step)
        entry["seconds"] = round(entry.get("seconds", 0) + seconds, 1)
        entry["processes"] = entry.get("processes", 0) + processes
        self._summarise(step)
        self.save()

    def _summarise(self, step: Step) -> None:
        entry = self.step(step)
        states = {case["status"] for case in entry["cases"].values()}
        if states == {"done"}:
            entry.update(status="done", why="")
        elif not states or states == {"not run"}:
            entry["status"] = "not run"
        else:
            entry["status"] = "incomplete"


def failures(found: dict[str, Any]) -> list[str]:
    """A line for each case that failed or disagreed, and each step that could not start."""
    lines = []
    for name, entry in found["steps"].items():
        if entry.get("failed"):
            lines.append(f"{name}: {entry['why']}")
        for case, data in entry["cases"].items():
            if data.get("agreed") is False:
                lines.append(f"{name}, {case}: disagrees, {data.get('errors')}")
            elif data["status"] not in ("done", "not run"):
                lines.append(f"{name}, {case}: {data['status']}, {data.get('error', '')}"[:300])
            broken = set(data.get("ours", ())) & set(data.get("missing", ()))
            lines += [f"{name}, {case}: {one} did not run, {data['missing'][one]}" for one in sorted(broken)]
    return lines


def left_out(found: dict[str, Any]) -> list[str]:
    """A line for each step of which something has not been run."""
    lines = []
    for name, entry in found["steps"].items():
        waiting = [case for case, data in entry["cases"].items() if data["status"] == "not run"]
        if waiting or entry["status"] == "not run":
            some = f" ({len(waiting)} of {len(entry['cases'])} cases)" if waiting else ""
            lines.append(f"{name}{some}: {entry['why'] or entry['cases'][waiting[0]]['why']}")
    return lines


def difference(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """What of the machine is not as it was, in words; "" where nothing is."""
    names = [key for key in {**earlier, **now} if earlier.get(key) != now.get(key)]
    return "; ".join(f"{key} was {earlier.get(key)}, is {now.get(key)}" for key in names)
