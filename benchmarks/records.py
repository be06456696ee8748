"""Reads records (see `benchmarks.measure`) from results files, and puts their figures into words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

OURS = "ours"


def described(case: dict) -> str:
    """The sizes of a case as text: `16×3×96×96, J=2, L=16`."""
    return ", ".join(
        "×".join(map(str, value)) if key == "shape" else f"{key}={value}" for key, value in case.items()
    )


def load(path: Path) -> tuple[dict, list[dict]]:
    """What a results file says about its origin (machine_info, commit_info, datetime), and its records."""
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    records = [entry["extra_info"] for entry in found.pop("benchmarks")]
    return found, [record for record in records if "competitors" in record]


def title(record: dict) -> str:
    """The name of a group."""
    return f"{record['op']}: {described(record['case'])}"


def seconds(value: float) -> str:
    """Three significant figures, with a suitable unit."""
    factor, unit = (1, "s") if value >= 1 else (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
    return f"{value * factor:.3g} {unit}"


def times(ratio: float) -> str:
    """A ratio with two significant figures, or three from 100 on: 0.79, 1.2, 21, 517."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 1.05 else f"{ratio:.2f}"


def two_figures(value: float) -> str:
    """A number with at least two significant figures and no exponent: 0.13, 4.1, 531."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def losses(records: Sequence[dict]) -> list[tuple[float, str]]:
    """(peer's time over ours, where) for every group and phase in which a peer is faster, the worst first."""
    found = []
    for record in records:
        parts = {"": record["over_ours"]}
        parts |= {f", {name} alone": part["over_ours"] for name, part in record["phases"].items()}
        for part, over in parts.items():
            found += [
                (over[peer]["ratio"], f"{title(record)}{part}: {peer}")
                for peer in record["peers"]
                if over[peer]["ratio"] < 1
            ]
    return sorted(found)


def largest_share(record: dict) -> str:
    """Our largest share of a measured rate, of copies or of products in the record's precision, in words."""
    other = {"float32_flop_per_s", "bfloat16_flop_per_s"} - {f"{record['precision']}_flop_per_s"}
    shares = {rate: share for rate, share in record["share"].get(OURS, {}).items() if rate not in other}
    if not shares:
        return ""
    rate = max(shares, key=shares.get)
    return f"{two_figures(100 * shares[rate])} % of {rate.split('_')[0]}"


def missing_peers(records: Sequence[dict]) -> list[str]:
    """Which peers do not take part and why, and in which groups where these are few."""
    where: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for peer, why in record["missing"].items():
            where.setdefault((peer, why), []).append(title(record))
    return [
        f"{peer}: {why}" + (f" ({'; '.join(groups)})" if len(groups) < 3 else "")
        for (peer, why), groups in sorted(where.items())
    ]
