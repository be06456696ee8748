"""A results file of `gpu_check.py` in words: for the console and for the performance page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import failures, left_out, read
from benchmarks.records import seconds, times, two_figures
from benchmarks.summary import table

Found = dict[str, Any]


def load(folder: Path) -> dict[str, Found]:
    """The results of runs on GPUs in a folder, by file name: no dry runs."""
    files = {path.name: read(path) for path in sorted(folder.glob("gpu-*.json"))}
    return {name: found for name, found in files.items() if found and not found["dry_run"]}


def rates(found: Found) -> dict[str, float]:
    """The device's measured rates; {} where they were not measured."""
    return found["steps"].get("limits", {}).get("cases", {}).get("rates", {})


def share(data: Found, limits: dict[str, float]) -> tuple[float, str] | None:
    """The largest share of a measured rate that the fastest of ours amounts to, and of which rate.

    For NT-Xent the work is 5·M²·D operations, forward and backward, see `benchmarks.work.ntxent_work`.
    """
    fastest = min((data["ms"][name][1] for name in data["ours"] if name in data["ms"]), default=None)
    if fastest is None or not data.get("work"):
        return None
    # The scattering's arithmetic is float32's, whatever the dtype of its result.
    half = data["op"] == "ntxent" and data["dtype"] != "float32"
    dtype = "bfloat16" if half else "float32"
    of = {"flop": f"{dtype}_flop_per_s", "bytes": "copy_bytes_per_s"}
    shares = [
        (data["work"][kind] / (fastest / 1e3) / limits[rate], rate.split("_")[0])
        for kind, rate in of.items()
        if kind in data["work"] and rate in limits
    ]
    return max(shares, default=None)


def timed(found: Found) -> Iterator[tuple[str, str, Found]]:
    """(step, case, data) of every case with times."""
    for step, entry in found["steps"].items():
        for case, data in entry["cases"].items():
            if data["status"] == "done" and data.get("ms"):
                yield step, case, data


def rows(found: Found) -> list[list[str]]:
    """A row for each case with times: step, case, our fastest time, the others over it, share of the limit."""
    limits, lines = rates(found), []
    for step, case, data in timed(found):
        medians = {name: ms[1] for name, ms in data["ms"].items()}
        ours = min((name for name in data["ours"] if name in medians), key=medians.get, default=None)
        if ours is None:
            continue
        others = ", ".join(
            f"{name} {times(ms / medians[ours])}" for name, ms in medians.items() if name != ours
        )
        of = share(data, limits)
        lines.append([
            step, case, f"{seconds(medians[ours] / 1e3)} ({ours})", others or "–",
            f"{two_figures(100 * of[0])} % of {of[1]}" if of else "–",
        ])  # fmt: skip
    return lines


def agreement(found: Found) -> list[list[str]]:
    """A row for each step that compares: cases that agree, and the largest share of its bound that an error takes."""
    lines = []
    for step, entry in found["steps"].items():
        cases = [case for case in entry["cases"].values() if "agreed" in case]
        if not cases:
            continue
        compared = [case for case in entry["cases"].values() if "agreed" in case or case["status"] != "done"]
        shares = [
            case["errors"][name] / bound
            for case in cases
            for name, bound in case.get("bounds", {}).items()
            if bound and isinstance(case["errors"][name], float)
        ]
        agreed = sum(case["agreed"] for case in cases)
        worst = f"{two_figures(100 * max(shares))} %" if shares else "–"
        lines.append([step, f"{agreed} of {len(compared)}", worst])
    return lines


HEADS = (
    ["step", "cases that agree", "largest error, of its bound"],
    ["step", "case", "ours", "others over ours", "share of the limit"],
)


def console(found: Found) -> list[str]:
    """Everything in lines of text."""
    parts = [[head, *body] for head, body in zip(HEADS, (agreement(found), rows(found)), strict=True) if body]
    return [line for part in parts for line in (*table([tuple(row) for row in part]), "")]


def section(name: str, found: Found, markdown: Any) -> str:
    """A section of the performance page, of one file; `markdown` makes a table of rows."""
    machine, steps, limits = found["machine"], found["steps"].values(), rates(found)
    dates = sorted({entry["date"] for entry in steps if entry.get("date")})
    versions = ", ".join(f"{part} {machine[part]}" for part in ("torch", "triton", "cuda", "python"))
    agreed = "; ".join(f"{op}: {', '.join(names)}" for op, names in found["verified"].items())
    text = (
        f"## On {machine['device']}\n\n`scatsimclr/ops/records/{name}` (`python benchmarks/gpu_check.py`), "
        f"{', '.join(dates)}; {versions}. Implementations that agreed in everything: {agreed or 'none'}."
    )
    if limits:
        text += (
            f" Limits: float32 products {limits['float32_flop_per_s'] / 1e12:.1f} TFLOP/s, bfloat16 products "
            f"{limits['bfloat16_flop_per_s'] / 1e12:.0f} TFLOP/s, copy {limits['copy_bytes_per_s'] / 1e9:.0f} GB/s."
        )
    tables = zip(HEADS, (agreement(found), rows(found)), strict=True)
    parts = [text, *(markdown([head, *body]) for head, body in tables if body)]
    for title, lines in (("Failed or disagreed", failures(found)), ("Not run", left_out(found))):
        parts += [f"{title}:\n\n" + "\n".join(f"- {line}" for line in lines)] if lines else []
    return "\n\n".join(parts)


def sections(folder: Path, markdown: Any) -> list[str]:
    """The sections of all GPUs that have been measured."""
    return [section(name, found, markdown) for name, found in load(folder).items()]


def lines(found: Found, unless: str) -> list[str]:
    """What the command prints in the end; what is not run for the reason `unless` is left out."""
    waiting = [line for line in left_out(found) if not line.endswith(unless)]
    failed = [f"FAILED {line}" for line in failures(found)]
    return ["", *console(found), *failed, *(f"not run: {line}" for line in waiting)]
