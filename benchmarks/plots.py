"""The figures of the performance page, from records: the same SVG bytes for the same records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from benchmarks.records import OURS, title

# Okabe and Ito's colours, which colour-blind readers can tell apart; ours is black.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "scatsimclr", "font.size": 9, "font.family": "sans-serif",
         "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#dddddd",
         "axes.axisbelow": True, "legend.frameon": False,
         "figure.facecolor": "white", "savefig.facecolor": "white"}  # fmt: skip


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name."""
    others = [name for name in dict.fromkeys(names) if name != OURS]
    return {OURS: "black", **{name: PALETTE[i % len(PALETTE)] for i, name in enumerate(others)}}


def of(records: Sequence[dict], op: str) -> list[dict]:
    """The records of ops that begin with `op`."""
    return [record for record in records if record["op"].startswith(op)]


def ratios(records: Sequence[dict]):
    """Each peer's time over ours, with quartiles, in a row for each group."""
    shown = [record for record in records if record["peers"]]
    if not shown:
        return None
    colour = colours([peer for record in shown for peer in record["peers"]])
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.24 * len(shown)), layout="constrained")
    for row, record in enumerate(shown):
        for peer in record["peers"]:
            over = record["over_ours"][peer]
            axes.plot(over["quartiles"], [row, row], color=colour[peer], linewidth=1.5)
            axes.plot(over["ratio"], row, "o", color=colour[peer], markersize=5)
    for peer in list(colour)[1:]:
        axes.plot([], [], "o", color=colour[peer], label=peer)
    axes.axvline(1, color="black", linewidth=1)
    axes.set(xscale="log", xlabel="time of the peer over ours (left of the line the peer is faster)")
    axes.set_yticks(range(len(shown)), [title(record) for record in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def roofline(records: Sequence[dict], limits: dict):
    """Float32 operations per second over operations per byte, beneath the measured roofs; ours and the first peer."""
    shown = [
        r
        for r in records
        if {"flop", "bytes"} <= r["work"].keys()
        and (r["device"], r["precision"]) == ("cpu", "float32")
        and r["peers"]
    ]
    if not shown or "cpu" not in limits:
        return None
    peak, copy = limits["cpu"]["float32_flop_per_s"], limits["cpu"]["copy_bytes_per_s"]
    at = [record["work"]["flop"] / record["work"]["bytes"] for record in shown]
    xs = [min(*at, peak / copy) / 4, peak / copy, max(*at, peak / copy) * 2]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(xs, [min(peak, x * copy) / 1e9 for x in xs], color="#555555", linewidth=1.5)
    axes.text(xs[1], 1.15 * peak / 1e9, f"float32 products, {peak / 1e9:.0f} GFLOP/s", ha="left")
    axes.text(1.15 * xs[0], xs[0] * copy / 1e9, f"copy, {copy / 1e9:.0f} GB/s", ha="left", va="center")
    marker = dict(zip(dict.fromkeys(record["op"] for record in shown), "os^D", strict=False))
    colour = colours([record["peers"][0] for record in shown])
    points = {}
    for record, x in zip(shown, at, strict=True):
        for name in (OURS, record["peers"][0]):
            rate = record["work"]["flop"] / record["competitors"][name]["median_s"] / 1e9
            points.setdefault((record["op"], name), []).append((x, rate))
    for (op, name), found in points.items():
        style = {"marker": marker[op], "linestyle": "", "color": colour[name]}
        axes.plot(*zip(*found, strict=True), **style, label=f"{op}, {name}")
    axes.set(xscale="log", yscale="log", xlabel="operations per byte", ylabel="GFLOP/s")
    axes.set_ylim(top=2 * max(peak / 1e9, *(rate for found in points.values() for _, rate in found)))
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def growth(records: Sequence[dict]):
    """Images per second and peak memory of a training step, by batch size and by image size."""
    shown = of(records, "training step of ours")
    if len(shown) < 3:
        return None
    figure, panels = plt.subplots(2, 2, figsize=(8, 5), sharey="row", layout="constrained")
    first = shown[0]["case"]["size"]
    fixed = max(record["case"]["batch"] for record in shown if record["case"]["size"] != first)
    for column, (axis, other, value) in enumerate((("batch", "size", first), ("size", "batch", fixed))):
        chosen = sorted((r for r in shown if r["case"][other] == value), key=lambda r: r["case"][axis])
        xs = [record["case"][axis] for record in chosen]
        own = [record["competitors"][OURS] for record in chosen]
        rates = [r["items"] / entry["median_s"] for r, entry in zip(chosen, own, strict=True)]
        panels[0, column].plot(xs, rates, "o-", color="black")
        panels[1, column].plot(xs, [entry.get("peak_mb") for entry in own], "o-", color="black")
        sizes = f"{value}×{value} pixels" if other == "size" else f"batch {value}"
        panels[0, column].set_title(sizes, fontsize=9)
        panels[1, column].set_xlabel("batch" if axis == "batch" else "height and width of the images")
        for panel in panels[:, column]:
            panel.set_xscale("log")
            panel.set_xticks(xs, list(map(str, xs)))
            panel.minorticks_off()
    for row in panels:
        row[0].set_ylim(0)  # after everything is drawn in both columns, which share it
    panels[0, 0].set_ylabel("images/s")
    panels[1, 0].set_ylabel("peak memory, MB")
    return figure


def loss_by_rows(records: Sequence[dict]):
    """Time and memory of NT-Xent by the number of rows, for each competitor."""
    shown = sorted(
        (r for r in of(records, "NT-Xent cpu") if r["case"]["D"] == 128), key=lambda r: r["case"]["M"]
    )
    if len(shown) < 3:
        return None
    colour = colours([name for record in shown for name in record["competitors"]])
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    for name in colour:
        for panel, figure_of in ((panels[0], "median_s"), (panels[1], "peak_mb")):
            points = [
                (record["case"]["M"], record["competitors"][name][figure_of])
                for record in shown
                if record["competitors"].get(name, {}).get(figure_of)
            ]
            if points:
                panel.plot(*zip(*points, strict=True), "o-", color=colour[name], markersize=4)
        panels[0].plot([], [], "o-", color=colour[name], label=name)
    panels[0].set(xscale="log", yscale="log", xlabel="rows M", ylabel="seconds, forward and backward")
    panels[1].set(xscale="log", yscale="log", xlabel="rows M", ylabel="memory beyond rows and gradients, MB")
    figure.legend(loc="outside upper center", ncols=5)
    return figure


def threads(records: Sequence[dict]):
    """What two threads gain over one."""
    shown = [record for record in records if "ours, one thread" in record["over_ours"]]
    if not shown:
        return None
    figure, axes = plt.subplots(figsize=(8, 1 + 0.35 * len(shown)), layout="constrained")
    gains = [record["over_ours"]["ours, one thread"] for record in shown]
    axes.barh(range(len(shown)), [gain["ratio"] for gain in gains], color="#999999", height=0.6)
    for row, gain in enumerate(gains):
        axes.plot(gain["quartiles"], [row, row], color="black", linewidth=1.5)
    axes.axvline(2, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [title(record) for record in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel("time with one thread over time with two (the line: 2)")
    return figure


FIGURES: dict[str, Callable] = {
    "ratios": lambda records, limits: ratios(records),
    "roofline": roofline,
    "ntxent": lambda records, limits: loss_by_rows(records),
    "growth": lambda records, limits: growth(records),
    "threads": lambda records, limits: threads(records),
}


def digest(records: Sequence[dict] | dict) -> str:
    """A digest of records, by which a figure says what it shows."""
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()[:16]


def write(make: Callable, path: Path, shown: Sequence[dict] | dict) -> bool:
    """Writes the figure that `make` draws of `shown`; False where it draws none."""
    with plt.rc_context(STYLE):
        figure = make()
        if figure is None:
            return False
        metadata = {"Date": None, "Creator": None, "Description": digest(shown)}
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=metadata)
        plt.close(figure)
    return True


def draw(records: Sequence[dict], limits: dict, folder: Path) -> list[str]:
    """Writes NAME.svg of every figure for which there are enough records, and returns their names."""
    return [
        name
        for name, make in FIGURES.items()
        if write(lambda make=make: make(records, limits), folder / f"{name}.svg", records)
    ]
