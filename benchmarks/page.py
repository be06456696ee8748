"""The performance page with its plots, and other pages' tables, from results files: `python -m benchmarks.page`.

Without arguments: benchmarks/results/{filters,scattering2d,ntxent,conv3x3,augment,step,accuracy}-cpu.json become
docs/performance.md, docs/performance/*.svg, and the tables that the README and other pages of docs/ have between `<!--
performance: NAME -->` and `<!-- end -->`. With files and `--output PAGE.md`, a page of those files alone, with its
plots in a folder beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import accuracy, bench_install
from benchmarks.gpu import tables as gpu_tables
from benchmarks.measure import ROOT
from benchmarks.plots import PALETTE, draw, write
from benchmarks.records import (
    OURS,
    described,
    largest_share,
    load,
    losses,
    missing_peers,
    seconds,
    times,
    title,
    two_figures,
)

RESULTS = ROOT / "benchmarks" / "results"
GPU_RECORDS = ROOT / "scatsimclr" / "ops" / "records"
COMMITTED = [
    RESULTS / f"{name}-cpu.json"
    for name in ("filters", "scattering2d", "ntxent", "conv3x3", "augment", "step")
]
ACCURACY = RESULTS / "accuracy-cpu.json"
PAGE = ROOT / "docs" / "performance.md"
# Pages with tables between markers.
MARKED = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("index", "training", "scattering", "loss")),
]
FIGURES = {
    "ratios": "Each peer's time over ours, with the quartiles of that ratio over the rounds",
    "roofline": "Operations per second beneath the measured limits, by operations per byte",
    "ntxent": "NT-Xent by the number of rows, D = 128",
    "growth": "A training step by batch size and by image size",
    "threads": "Two threads against one",
}
# The headline: op, a part of the case, peer.
HEADLINE = [
    ("scattering2d forward", "16×3×96×96, J=2, L=16", "kymatio"),
    ("scattering2d forward", "64×3×32×32, J=2, L=8", "pytorch_wavelets"),
    ("scattering2d backward", "16×3×96×96, J=2, L=16", "kymatio"),
    ("NT-Xent cpu float32", "M=512, D=128", "original"),
    ("NT-Xent cpu float32", "M=8192, D=128", "plain"),
    ("conv3x3 cpu bfloat16", "N=32, size=24, C=128, O=128", "plain"),
    ("conv3x3 cpu float32", "N=32, size=24, C=128, O=128", "plain"),
    ("two views", "size=96, batch=64", "original"),
    ("training step", "blocks=8, size=32, batch=64", "original"),
    ("training step", "blocks=8, size=32, batch=64", "plain"),
    ("training step", "blocks=8, size=96, batch=16", "original"),
    ("features", "blocks=8, size=32, batch=64", "original"),
]
# Other marked tables: ops, the results file.
BLOCKS = {
    "scattering2d": (("scattering2d forward", "scattering2d backward"), "scattering2d"),
    "ntxent": (("NT-Xent cpu float32",), "ntxent"),
    "augment": (("two views",), "augment"),
}


INTRODUCTION = """\
Written by `make performance` (`python -m benchmarks.page`) from the results files listed at the end. Competitors take
turns in one process; times are medians. A ratio is a competitor's time over ours: above 1, ours is faster. Memory is
what a call takes beyond its input and output. "Share of the limit" is the largest share of the machine's measured rates
(matrix products in our precision, copy) that our time amounts to, with the operations and bytes of
`benchmarks/work.py`: transforms for the scattering, convolutions for a training step, and for NT-Xent 5·M²·D: the
similarity of each pair once, for the gradient all of them again and their product with the rows. It can exceed 100 %:
on CPUs our NT-Xent takes each pair once for the gradient as well, which makes 4·M²·D, and our 3×3
convolutions need 4/9 of the operations in their definition (Winograd's F(2×2, 3×3)). Peers that allocate large
temporaries in each call vary with what their process has freed before: the last two runs in the history of
`benchmarks/results/scattering2d-cpu.json` have 711 ms and 1.11 s for kymatio's 16×3×96×96 with L=16, and 34 and 33 ms
for ours."""


def command(stem: str) -> str:
    """The command that measures one part again; `--benchmark-json=FILE` makes it write a results file."""
    return f"`pytest benchmarks/bench_{stem}.py --benchmark-enable --benchmark-only`"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is the header."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def megabytes(entry: dict) -> str:
    """A competitor's peak memory; "–" where it was not measured."""
    return f"{two_figures(entry['peak_mb'])} MB" if "peak_mb" in entry else "–"


def op_table(records: Sequence[dict]) -> str:
    """A row for each case: our time, the other competitors' over ours, our memory and the first peer's."""
    names = list(dict.fromkeys(name for record in records for name in record["competitors"] if name != OURS))
    several = len({record["op"] for record in records}) > 1
    memory_of = "memory, ours / first peer" if any(record["peers"] for record in records) else "memory"
    rows = [["case", "ours", *names, memory_of, "share of the limit"]]
    for record in records:
        over, entries = record["over_ours"], record["competitors"]
        memory = " / ".join(megabytes(entries[name]) for name in (OURS, *record["peers"][:1]))
        rows.append([
            title(record) if several else described(record["case"]),
            seconds(entries[OURS]["median_s"]),
            *(times(over[name]["ratio"]) if name in over else "–" for name in names),
            memory.replace("– / –", "–"),
            largest_share(record) or "–",
        ])  # fmt: skip
    # Columns without entries are left out.
    kept = [i for i, column in enumerate(zip(*rows, strict=True)) if i < 2 or set(column[1:]) != {"–"}]
    return markdown([[row[i] for i in kept] for row in rows])


def headline(records: Sequence[dict]) -> str:
    """The README's first table."""
    found = {(record["op"], described(record["case"])): record for record in records}
    rows = [["operation", "case", "peer", "peer's time", "our time", "ratio"]]
    for op, case, peer in HEADLINE:
        record = found.get((op, case))
        if record and peer in record["peers"]:
            entries = record["competitors"]
            peer_s, own_s = (seconds(entries[name]["median_s"]) for name in (peer, OURS))
            rows.append([op, case, peer, peer_s, own_s, times(record["over_ours"][peer]["ratio"])])
    return markdown(rows)


def lost(records: Sequence[dict]) -> str:
    """A list of the groups in which a peer is faster."""
    found = [f"- {where} takes {ratio:.2f} of our time" for ratio, where in losses(records)]
    return "\n".join(found) or "In no group."


def origin(name: str, found: dict) -> str:
    """A line about a results file: machine, versions, date, commit."""
    machine, commit = found["machine_info"], found["commit_info"]
    limits = "; ".join(
        f"{device}: float32 products {rates['float32_flop_per_s'] / 1e9:.0f} GFLOP/s, bfloat16 products "
        f"{rates['bfloat16_flop_per_s'] / 1e9:.0f} GFLOP/s, copy {rates['copy_bytes_per_s'] / 1e9:.1f} GB/s"
        for device, rates in machine["limits"].items()
    )
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    return (
        f"- `{name}`: {found['datetime'][:10]}, commit {str(commit['id'])[:10]}"
        f"{' with changes' if commit.get('dirty') else ''}, {machine['cpu'].get('brand_raw', 'unknown CPU')} "
        f"({machine['isa']}), {machine['threads']} threads, {machine['gpu'] or 'no GPU'}, Python "
        f"{machine['python_version']}, torch {machine['torch']}, {versions}; limits {limits}"
    )


def worth(result: dict, folder: str) -> str:
    """The section on what training gains, from `bench_accuracy`'s results."""
    return f"""\
## What training gains

Fashion-MNIST, {accuracy.TEST_IMAGES:,} of its test images, the same logistic probe for all. Accuracy in %, mean ±
standard deviation over training seeds where there are several, or over five draws of labels.
(`python -m benchmarks.bench_accuracy --data-dir DIR`, `benchmarks/results/{ACCURACY.name}`;
{accuracy.devices(result)}.)

{accuracy.table(result)}

![Accuracy by minutes of training]({folder}/accuracy.svg)

*Accuracy by minutes of training; dashed lines need none.*"""


def page(
    files: dict[str, tuple[dict, list[dict]]],
    figures: Sequence[str],
    folder: str,
    trained: dict | None = None,
    gpus: Sequence[str] = (),
) -> str:
    """The page's text.

    Args:
        files: What `records.load` reads, by file name.
        figures: Names of the figures in the folder.
        folder: The folder of the figures, relative to the page.
        trained: `bench_accuracy`'s results; None leaves their section out.
        gpus: The sections of GPUs that have been measured.
    """
    records = [record for _, found in files.values() for record in found]
    parts = [
        "# Performance",
        INTRODUCTION,
        "## Where a peer is faster",
        lost(records),
        "## In short",
        headline(records),
    ]
    parts += [f"![{FIGURES[name]}]({folder}/{name}.svg)\n\n*{FIGURES[name]}.*" for name in figures]
    parts.append("## All groups")
    for op in dict.fromkeys(record["op"] for record in records):
        parts += [f"### {op}", op_table([record for record in records if record["op"] == op])]
    parts += gpus
    parts += [worth(trained, folder)] if trained else []
    parts += [
        "## Not compared with",
        "\n".join(f"- {line}" for line in missing_peers(records)) or "No peer is missing.",
    ]
    parts += ["## Files", "\n".join(origin(name, found) for name, (found, _) in files.items())]
    return "\n\n".join(parts) + "\n"


def blocks(records: Sequence[dict], trained: dict) -> dict[str, str]:
    """The marked tables by name."""
    installed = json.loads(bench_install.OUTPUT.read_text(encoding="utf-8"))
    found = {
        "headline": headline(records),
        "install": f"{bench_install.table(installed)}\n\n(`benchmarks/results/{bench_install.OUTPUT.name}`; "
        f"`python -m benchmarks.bench_install dist/*.whl`; {bench_install.origin(installed)})",
        "accuracy": f"{accuracy.table(trained)}\n\n(`benchmarks/results/{ACCURACY.name}`; "
        f"`python -m benchmarks.bench_accuracy --data-dir DIR`; {accuracy.devices(trained)})",
    }
    for name, (ops, stem) in BLOCKS.items():
        chosen = [record for record in records if record["op"] in ops]
        found[name] = f"{op_table(chosen)}\n\n(`benchmarks/results/{stem}-cpu.json`; {command(stem)})"
    return found


def inserted(text: str, tables: dict[str, str]) -> str:
    """Puts the tables between their markers.

    Raises:
        KeyError: For a marker that names none of them.
    """
    return re.sub(
        r"(<!-- performance: (\w+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}",
        text,
        flags=re.DOTALL,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page", description=__doc__.split("\n")[0].split(":")[0]
    )
    parser.add_argument(
        "files", nargs="*", type=Path, help="results files (default: those in the repository)"
    )
    parser.add_argument("-o", "--output", type=Path, default=PAGE, help="default: docs/performance.md")
    options = parser.parse_args(arguments)
    if options.files and options.output == PAGE:
        parser.error("docs/performance.md is only made from the repository's files; give --output for others")
    files = {path.name: load(path) for path in options.files or COMMITTED}
    records = [record for _, found in files.values() for record in found]
    limits = next(iter(files.values()))[0]["machine_info"]["limits"]
    folder = options.output.with_suffix("")
    figures = draw(records, limits, folder)
    trained, gpus = None, []
    if not options.files:
        gpus = gpu_tables.sections(GPU_RECORDS, markdown)
        trained = json.loads(ACCURACY.read_text(encoding="utf-8"))
        write(lambda: accuracy.plot(trained, PALETTE), folder / "accuracy.svg", trained)
        tables = blocks(records, trained)
        for path in MARKED:
            path.write_text(inserted(path.read_text(encoding="utf-8"), tables), encoding="utf-8")
    options.output.write_text(page(files, figures, folder.name, trained, gpus), encoding="utf-8")
    print(f"page: {options.output}, {len(figures) + (trained is not None)} plots in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
