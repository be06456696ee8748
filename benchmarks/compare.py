"""Whether a change made a benchmark slower: `python -m benchmarks.compare OLD.json NEW.json`.

What is compared is each group's ratio of the reference peer to ours, of which the machine's speed and load cancel, as
both were timed in turns. A median ratio is uncertain by WIDTH times the distance of its quartiles over the square root
of the rounds (three standard errors). A change is beyond noise where it is larger than the uncertainties of both runs
together (the root of the sum of their squares), and than FLOOR, which two runs of the same code differ by for reasons
that no single run shows (where memory lies, which pages it got). Exit status 1 where a group became slower beyond
noise, 2 where a file is not there or no results file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import OURS, described
from benchmarks.records import load, title
from benchmarks.summary import table

WIDTH, FLOOR = 3.0, 1.25


def parts(record: dict) -> dict[str, dict]:
    """The whole and each phase, each with competitors and over_ours."""
    return {"": record, **record["phases"]}


def noise(part: dict, peer: str) -> float:
    """What a peer's median ratio is uncertain by, as a logarithm."""
    low, high = part["over_ours"][peer]["quartiles"]
    rounds = min(part["competitors"][name]["rounds"] for name in (peer, OURS))
    return WIDTH * math.log(high / low) / math.sqrt(rounds)


def change(old: dict, new: dict, peer: str) -> tuple[float, float]:
    """How many times as much time ours takes in `new`, by the ratios to the same peer, and where noise ends."""
    slower = old["over_ours"][peer]["ratio"] / new["over_ours"][peer]["ratio"]
    bound = max(math.log(FLOOR), math.hypot(noise(old, peer), noise(new, peer)))
    return slower, math.exp(bound)


def verdict(slower: float, bound: float) -> str:
    return "SLOWER" if slower > bound else "faster" if slower < 1 / bound else ""


def key(record: dict) -> tuple[str, str]:
    return record["op"], described(record["case"])


def compare(old: Sequence[dict], new: Sequence[dict]) -> tuple[list[dict], list[str]]:
    """One entry for each group and phase that both hold with a common peer, and lines on what could not be judged."""
    before, rows, notes = {key(record): record for record in old}, [], []
    for record in new:
        earlier = before.pop(key(record), None)
        if earlier is None:
            notes.append(f"{title(record)}: only in the new file")
            continue
        peer = next((name for name in record["peers"] if name in earlier["peers"]), None)
        if peer is None:
            notes.append(f"{title(record)}: no peer in both, so that only times could be compared")
            continue
        earlier_parts = parts(earlier)
        for name, part in parts(record).items():
            if name not in earlier_parts:
                notes.append(f"{title(record)}, {name}: only in the new file")
                continue
            slower, bound = change(earlier_parts[name], part, peer)
            ratios = [which["over_ours"][peer]["ratio"] for which in (earlier_parts[name], part)]
            rows.append({
                "group": title(record) + (f", {name}" if name else ""), "peer": peer, "old": ratios[0],
                "new": ratios[1], "slower": slower, "bound": bound, "verdict": verdict(slower, bound),
            })  # fmt: skip
    notes += [f"{title(record)}: only in the old file" for record in before.values()]
    return sorted(rows, key=lambda row: -row["slower"] / row["bound"]), notes


def lines(rows: Sequence[dict], notes: Sequence[str]) -> list[str]:
    """A table, what became slower first."""
    texts = [("group", "peer", "old", "new", "time of ours", "noise", "")]
    texts += [
        (
            row["group"], row["peer"], f"{row['old']:.2f}", f"{row['new']:.2f}", f"× {row['slower']:.2f}",
            f"× {row['bound']:.2f}", row["verdict"],
        )
        for row in rows
    ]  # fmt: skip
    slower = sum(row["verdict"] == "SLOWER" for row in rows)
    end = f"{slower} of {len(rows)} slower beyond noise" if rows else "nothing in common to compare"
    return [*table(texts), *(f"not judged: {note}" for note in notes), end]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.split("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    try:
        (_, old), (_, new) = load(options.old), load(options.new)
    except (OSError, json.JSONDecodeError, KeyError) as error:
        print(f"compare: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    rows, notes = compare(old, new)
    print("\n".join(lines(rows, notes)))
    return int(any(row["verdict"] == "SLOWER" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
