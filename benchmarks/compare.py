"""Whether a change made a benchmark slower: `python -m benchmarks.compare OLD.json NEW.json`.

It compares each group's ratios of peers to ours, in which the machine's speed and load cancel, as both were timed in
turns, and on the same CPU also our time itself. A peer's time may double with what its memory allocator happens to
hold, and times grow with the machine's load; so the median of these clocks counts (of two, the one that shows less). A
median is uncertain by WIDTH times the distance of its quartiles over the square root of the rounds (three standard
errors). A change is beyond noise where it exceeds both the uncertainty of the two runs together (the root of the sum of
squares) and FLOOR: two runs of the same code differ by up to 1.28 in 43 groups (EPYC Zen 4, 2026-11-25), for reasons
that no single run shows, such as where memory lies.

The exit status is 1 where a group became slower beyond noise, and 2 for a file that is missing or not a results file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records import OURS, described, load, seconds, title
from benchmarks.summary import table

WIDTH, FLOOR = 3.0, 1.35


def parts(record: dict) -> dict[str, dict]:
    """The whole, under "", and each phase, each with competitors and over_ours."""
    return {"": record, **record["phases"]}


def noise(quartiles: Sequence[float], rounds: int) -> float:
    """The uncertainty of a median, as a logarithm."""
    low, high = quartiles
    return WIDTH * math.log(high / low) / math.sqrt(rounds)


def changes(old: dict, new: dict, peers: Sequence[str], same_cpu: bool) -> list[dict]:
    """For each clock, how many times as long ours takes in `new`, and up to where that is noise."""

    def change(clock, slower, noises, texts):
        bound = math.exp(max(math.log(FLOOR), math.hypot(*noises)))
        return {"clock": clock, "slower": slower, "bound": bound, "old": texts[0], "new": texts[1]}

    found = []
    for peer in peers:
        ratios = [part["over_ours"][peer] for part in (old, new)]
        rounds = [min(part["competitors"][name]["rounds"] for name in (peer, OURS)) for part in (old, new)]
        noises = [noise(ratio["quartiles"], n) for ratio, n in zip(ratios, rounds, strict=True)]
        texts = [f"{ratio['ratio']:.2f}" for ratio in ratios]
        found.append(change(peer, ratios[0]["ratio"] / ratios[1]["ratio"], noises, texts))
    if same_cpu:
        own = [part["competitors"][OURS] for part in (old, new)]
        noises = [noise(entry["quartiles_s"], entry["rounds"]) for entry in own]
        texts = [seconds(entry["median_s"]) for entry in own]
        found.append(change("time", own[1]["median_s"] / own[0]["median_s"], noises, texts))
    return found


def median(found: Sequence[dict]) -> dict:
    """The median change over the clocks; of two in the middle, the smaller one."""
    ordered, half = sorted(found, key=lambda change: change["slower"]), len(found) // 2
    middle = ordered[half : half + 1] if len(found) % 2 else ordered[half - 1 : half + 1]
    return min(middle, key=lambda change: abs(math.log(change["slower"])))


def verdict(slower: float, bound: float) -> str:
    """ "SLOWER" or "faster" beyond noise, else ""."""
    return "SLOWER" if slower > bound else "faster" if slower < 1 / bound else ""


def key(record: dict) -> tuple[str, str]:
    """What identifies a group."""
    return record["op"], described(record["case"])


def compare(old: Sequence[dict], new: Sequence[dict], same_cpu: bool = True) -> tuple[list[dict], list[str]]:
    """An entry for each group and phase that both files have with a common peer, and a line on each of the others."""
    before, rows, notes = {key(record): record for record in old}, [], []
    for record in new:
        earlier = before.pop(key(record), None)
        if earlier is None:
            notes.append(f"{title(record)}: only in the new file")
            continue
        peers = [name for name in record["peers"] if name in earlier["peers"]]
        if not peers:
            notes.append(f"{title(record)}: no peer in both files, so that only times could be compared")
            continue
        earlier_parts = parts(earlier)
        for name, part in parts(record).items():
            if name not in earlier_parts:
                notes.append(f"{title(record)}, {name}: only in the new file")
                continue
            found = changes(earlier_parts[name], part, peers, same_cpu)
            chosen = median(found)
            group = title(record) + (f", {name}" if name else "")
            rows.append({"group": group, **chosen, "verdict": verdict(chosen["slower"], chosen["bound"])})
    notes += [f"{title(record)}: only in the old file" for record in before.values()]
    return sorted(rows, key=lambda row: -row["slower"] / row["bound"]), notes


def lines(rows: Sequence[dict], notes: Sequence[str]) -> list[str]:
    """A table, with what became slower first."""
    texts = [("group", "clock", "old", "new", "our time", "noise", "")]
    texts += [
        (
            row["group"], row["clock"], row["old"], row["new"], f"× {row['slower']:.2f}", f"× {row['bound']:.2f}",
            row["verdict"],
        )
        for row in rows
    ]  # fmt: skip
    slower = sum(row["verdict"] == "SLOWER" for row in rows)
    end = f"{slower} of {len(rows)} slower beyond noise" if rows else "nothing in common to compare"
    return [*table(texts), *(f"not judged: {note}" for note in notes), end]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path, help="results file from before the change")
    parser.add_argument("new", type=Path, help="results file from after it")
    options = parser.parse_args(arguments)
    try:
        files = load(options.old), load(options.new)
    except (OSError, json.JSONDecodeError, KeyError) as error:
        print(f"compare: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    cpus = [found["machine_info"].get("cpu", {}).get("brand_raw") for found, _ in files]
    rows, notes = compare(files[0][1], files[1][1], same_cpu=cpus[0] == cpus[1])
    print("\n".join(lines(rows, notes)))
    return int(any(row["verdict"] == "SLOWER" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
