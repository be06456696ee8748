"""The results of `benchmarks.bench_accuracy` as a table and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import pyplot as plt

PER_CLASS = (10, 100)  # labels per class
TEST_IMAGES = 5000
TITLES = {
    "pixels": "pixels",
    "scattering": "scattering alone",
    "whitened": "whitened scattering",
    "ours": "ours, recommended features",
    "ours h": "ours, h alone",
    "paper h": "the paper's model, h",
    "blocks8": "eight blocks, recommended features",
    "blocks8 h": "eight blocks, h alone",
    "no_neighbours": "neighbours are negatives, recommended features",
    "no_neighbours h": "neighbours are negatives, h alone",
    "paper_head": "the paper's head, recommended features",
    "paper_head h": "the paper's head, h alone",
    "resnet18 h": "SimCLR, ResNet-18, h",
    "resnet18_cifar_stem h": "SimCLR, ResNet-18 with 3×3 stem, h",
}

# Contenders without one part of the recipe; only the table shows them.
PARTS = ("blocks8", "no_neighbours", "paper_head")
FIXED = {"ours": "black", "pixels": "#999999"}  # colours


@dataclass(frozen=True)
class Entry:
    """Accuracies of one kind of features.

    Attributes:
        name: A key of TITLES.
        images: Number of training images.
        minutes: Minutes of training, 0 for none.
        seeds: For each training seed, accuracies in [0, 1] by PER_CLASS.
        spreads: Standard deviations over the draws of labels, by PER_CLASS.
    """

    name: str
    images: int
    minutes: float
    seeds: list[tuple[float, ...]]
    spreads: tuple[float, ...] = ()

    @property
    def figures(self) -> list[tuple[float, float | None]]:
        """Mean and standard deviation for each of PER_CLASS: over seeds where there are several, else over draws."""
        columns = list(zip(*self.seeds, strict=True))
        if len(self.seeds) > 1:
            return [(statistics.fmean(values), statistics.stdev(values)) for values in columns]
        return [(values[0], spread) for values, spread in zip(columns, self.spreads, strict=True)]


def entries(result: dict) -> list[Entry]:
    """All entries, sorted by images, minutes, and the order of TITLES."""

    def entry(name: str, images: int, minutes: float, records: Sequence[dict], prefix: str = "") -> Entry:
        seeds = [tuple(record[f"{prefix}logistic_{n}"] for n in PER_CLASS) for record in records]
        spreads = tuple(records[0][f"{prefix}logistic_{n}_sd"] for n in PER_CLASS)
        return Entry(name, images, minutes, seeds, spreads)

    found = [
        entry(name, int(images), 0.0, [record])
        for images, plain in result["untrained"].items()
        for name, record in plain.items()
    ]
    groups: dict[tuple[str, int, float], list[dict]] = {}
    for run in result["runs"]:
        groups.setdefault((run["contender"], run["images"], run["minutes"]), []).append(run["after"])
    for (contender, images, minutes), records in groups.items():
        if contender in TITLES:
            found.append(entry(contender, images, minutes, records, "recommended_"))
        found.append(entry(f"{contender} h", images, minutes, records))
    order = list(TITLES)
    return sorted(found, key=lambda e: (e.images, e.minutes, order.index(e.name)))


def devices(result: dict) -> str:
    """The machines that the runs were made on."""
    return "; ".join(dict.fromkeys(run["device"] for run in result["runs"]))


def table(result: dict) -> str:
    """A Markdown table of means and standard deviations in %."""
    head = ["images", "minutes", "features", "seeds", *(f"{n} labels per class" for n in PER_CLASS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for entry in entries(result):
        seeds = str(len(entry.seeds)) if entry.minutes else "–"
        cells = [f"{100 * mean:.1f} ± {100 * spread:.1f}" for mean, spread in entry.figures]
        row = [f"{entry.images:,}", f"{entry.minutes:g}", TITLES[entry.name], seeds, *cells]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def plot(result: dict, colours: Sequence[str]):
    """Accuracy over minutes of training, on the number of images with most runs; dashed lines need no training."""
    counts = [run["images"] for run in result["runs"]]
    shown = [entry for entry in entries(result) if entry.images == statistics.mode(counts)]
    shown = [entry for entry in shown if not entry.name.startswith(PARTS)]
    names = [name for name in TITLES if any(entry.name == name for entry in shown)]
    others = dict(zip((name for name in names if name not in FIXED), colours, strict=False))
    colour = others | FIXED
    figure, panels = plt.subplots(1, len(PER_CLASS), figsize=(8, 3.8), layout="constrained")
    for panel, axes in enumerate(panels):
        for name in names:
            own = [entry for entry in shown if entry.name == name]
            means, spreads = zip(
                *((100 * m, 100 * s) for m, s in (e.figures[panel] for e in own)), strict=True
            )
            label = TITLES[name] if panel == 0 else None
            if own[0].minutes:
                minutes = [entry.minutes for entry in own]
                axes.errorbar(minutes, means, spreads, fmt="o-", color=colour[name], capsize=3, label=label)
            else:
                axes.axhline(means[0], color=colour[name], linestyle="--", label=label)
        axes.set(
            xlabel="minutes of training",
            ylabel="test accuracy in %",
            title=f"{PER_CLASS[panel]} labels per class",
        )
        axes.set_xlim(left=0)
    figure.legend(loc="outside lower center", ncols=3)
    return figure
