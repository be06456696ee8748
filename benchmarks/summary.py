"""The summary after a run: where a peer is faster, then every group, then the peers that did not take part."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.records import OURS, largest_share, losses, missing_peers, seconds, times, title, two_figures


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest entry, the first aligned left and the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def summary(records: Sequence[dict]) -> list[str]:
    """Lines for the terminal; none without records."""
    if not records:
        return []
    lines, lost = [""], losses(records)
    lines.append("Where a peer is faster than ours:" if lost else "No peer is faster than ours in any group.")
    lines += [f"  {where} takes {ratio:.2f} of our time" for ratio, where in lost]
    rows = [("group", "ours", "peak MB", "of the limit", "others over ours")]
    for record in sorted(records, key=lambda record: record["op"]):
        own = record["competitors"][OURS]
        others = [
            f"{name} {times(over['ratio'])}" for name, over in record["over_ours"].items() if name != OURS
        ]
        peak = two_figures(own["peak_mb"]) if "peak_mb" in own else ""
        rows.append((title(record), seconds(own["median_s"]), peak, largest_share(record), "; ".join(others)))
    lines += ["", *table(rows)]
    missing = missing_peers(records)
    if missing:
        lines += ["", "Not compared with:", *(f"  {line}" for line in missing)]
    return lines
