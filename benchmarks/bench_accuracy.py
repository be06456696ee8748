"""`python -m benchmarks.bench_accuracy --data-dir DIR`: what training is worth, on images of Fashion-MNIST.

Trains this package's recipe and SimCLR on its ResNet-18 for equal minutes, as `python -m scatsimclr.train` does, each
in a process of its own, on a seeded part of the images; test images are a seeded part of the test set. Beside them
what needs no training: pixels, the scattering alone, and whitened scattering. One logistic probe for all, on the same
draws of 10 and 100 labels of each class; nothing is chosen by test images.

Writes benchmarks/results/accuracy-cpu.json after each run, and goes on where it stopped: a run that the file has, of
the same contender, minutes, seed and number of images, is not repeated. --show prints the file's table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch
import yaml

from scatsimclr.data.datasets import load
from scatsimclr.data.imageset import ImageSet
from scatsimclr.environment import environment
from scatsimclr.evaluation.logistic import logistic_fit
from scatsimclr.evaluation.probe import accuracy, few_labels
from scatsimclr.evaluation.standard import Standard
from scatsimclr.training.metrics import read_metrics
from scatsimclr.training.setup import build_evaluation, load_labelled, restore

OUTPUT = Path(__file__).parent / "results" / "accuracy-cpu.json"
PER_CLASS, DRAWS = (10, 100), 5
TEST_IMAGES = 5000
_RESNET = ("model.base_model=resnet18", "model.front=paper", "model.head=paper", "neighbours=0")
# What each contender changes of the recipe configs/fashion_mnist.yaml. The ResNet keeps its augmentation, temperature,
# batch and rate; with the stem of 7×7 and pooling an epoch takes a fraction of the time of the one of 3×3.
CONTENDERS = {
    "ours": (),
    "paper": ("model.front=paper", "model.head=paper", "neighbours=0"),
    "resnet18": _RESNET,
    "resnet18_cifar_stem": (*_RESNET, "model.cifar_stem=true"),
}
TITLES = {
    "pixels": "pixels",
    "scattering": "scattering alone",
    "whitened": "whitened scattering",
    "ours": "ours, recommended features",
    "ours h": "ours, h alone",
    "paper h": "the paper's model, h",
    "resnet18 h": "SimCLR, ResNet-18, h",
    "resnet18_cifar_stem h": "SimCLR, ResNet-18 with 3×3 stem, h",
}


def write_idx(images: ImageSet, folder: Path, part: str) -> None:
    """Images (n, H, W, 1) and labels as a split of an IDX data set."""
    n, height, width, _ = images.images.shape
    pictures = struct.pack(">4i", 0x803, n, height, width) + images.images.numpy().tobytes()
    labels = struct.pack(">2i", 0x801, n) + images.labels.to(torch.uint8).numpy().tobytes()
    (folder / f"{part}-images-idx3-ubyte").write_bytes(pictures)
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def write_part(source: Path | None, folder: Path, count: int) -> None:
    """A data set of `count` seeded training images and TEST_IMAGES test images."""
    for split, part, number in (("train", "train", count), ("test", "t10k", TEST_IMAGES)):
        whole = load("fashion_mnist", split, size=(28, 28), channels=1, data_dir=source)
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:number]
        write_idx(whole.subset(order.sort().values), folder, part)


def train(data: Path, folder: Path, contender: str, minutes: float, seed: int) -> dict:
    """One run of the command line: its figures, the seconds of its epochs' steps, and of the whole process."""
    arguments = [
        "--fused", "--data-dir", str(data), "--run-dir", str(folder), "dataset.dataset=fashion_mnist",
        f"minutes={minutes}", f"seed={seed}", "eval_every_n_epochs=1000000", "evaluation.probes=[knn,few]",
        f"evaluation.labels_per_class={list(PER_CLASS)}", f"evaluation.seeds={DRAWS}", *CONTENDERS[contender],
    ]  # fmt: skip
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "scatsimclr.train", *arguments], check=True)
    whole = time.perf_counter() - start
    records = read_metrics(folder / "metrics.jsonl")
    before, after = (record for record in records if record["event"] == "evaluation")
    epochs = [record for record in records if record["event"] == "epoch"]
    batch = yaml.safe_load((folder / "config.yaml").read_text())["batch_size"]
    seen = epochs[-1]["step"] / len(epochs) * batch
    return {
        "epochs": len(epochs),
        "seconds": sum(seen / record["images_per_second"] for record in epochs),
        "whole_seconds": whole,
        "before": before,
        "after": after,
    }


def untrained(data: Path, run: Path) -> dict[str, dict[str, float]]:
    """The figures of pixels and, by the front of a run, of whitened scattering, with the run's probe and draws."""
    config, model, _ = restore(str(run), changes=[f"data_dir={data}"])
    train_set, test_set = load_labelled(config)
    labels, truth = train_set.labels, test_set.labels
    evaluation = build_evaluation(config, model, train_set, test_set)
    bank, queries = (images.images.flatten(1).float() / 255 for images in (train_set, test_set))
    found = {"pixels": {}, "whitened": {}}
    for n in PER_CLASS:
        pixels = [
            logistic_fit(bank[chosen], labels[chosen], standard=Standard.of(bank), classes=10, seed=seed)
            for seed, chosen in enumerate(few_labels(labels, n, seed) for seed in range(DRAWS))
        ]
        whitened = evaluation.rows("whitened", 1)
        scores = {
            "pixels": [accuracy(fit.predict(queries), truth) for fit in pixels],
            "whitened": [accuracy(fit.predict(whitened), truth) for fit in evaluation.fits("whitened", n)],
        }
        for name, values in scores.items():
            found[name] |= {
                f"logistic_{n}": statistics.fmean(values),
                f"logistic_{n}_sd": statistics.stdev(values),
            }
    return found


def figures(run: dict, prefix: str = "") -> tuple[float, ...]:
    """The mean over the draws for each number of labels in PER_CLASS."""
    return tuple(run["after"][f"{prefix}logistic_{n}"] for n in PER_CLASS)


def rows(result: dict) -> list[tuple[str, int, float, list[tuple[float, ...]]]]:
    """(name, images, minutes, figures of each seed), of what needs no training with the spread of its draws aside."""
    found = []
    for count, plain in result["untrained"].items():
        found += [(name, int(count), 0.0, [tuple(plain[name][f"logistic_{n}"] for n in PER_CLASS)])
                  for name in ("pixels", "scattering", "whitened")]  # fmt: skip
    groups: dict[tuple[str, int, float], list[dict]] = {}
    for run in result["runs"]:
        groups.setdefault((run["contender"], run["images"], run["minutes"]), []).append(run)
    for (contender, count, minutes), runs in groups.items():
        if contender == "ours":
            found.append(("ours", count, minutes, [figures(run, "recommended_") for run in runs]))
        found.append((f"{contender} h", count, minutes, [figures(run) for run in runs]))
    order = list(TITLES)
    return sorted(found, key=lambda row: (row[1], row[2], order.index(row[0])))


def table(result: dict) -> str:
    """Means and, over seeds of training, sample standard deviations in %."""
    head = ["images", "minutes", "features", "seeds", *(f"{n} labels a class" for n in PER_CLASS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, count, minutes, seeds in rows(result):
        cells = []
        for values in zip(*seeds, strict=True):
            spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{100 * statistics.fmean(values):.1f}{spread}")
        trained = [f"{minutes:g}", TITLES[name], str(len(seeds))] if minutes else ["0", TITLES[name], "–"]
        lines.append("| " + " | ".join([f"{count:,}", *trained, *cells]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="where the files of Fashion-MNIST are")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--minutes", type=float, nargs="+", default=[3.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=["ours", "resnet18"])
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    parser.add_argument("--show", action="store_true", help="print the table of the results file and end")
    options = parser.parse_args(arguments)
    result = {"untrained": {}, "runs": []}
    if options.output.exists():
        result = json.loads(options.output.read_text())
    if options.show:
        print(table(result))
        return 0
    done = {(run["contender"], run["images"], run["minutes"], run["seed"]) for run in result["runs"]}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        write_part(options.data_dir, data, options.images)
        wanted = [
            (contender, options.images, minutes, seed)
            for minutes in options.minutes
            for seed in options.seeds
            for contender in options.contenders
        ]
        for number, key in enumerate(key for key in wanted if key not in done):
            contender, count, minutes, seed = key
            run_folder = Path(folder) / f"run{number}"
            found = train(data, run_folder, contender, minutes, seed)
            run = {
                "contender": contender,
                "images": count,
                "minutes": minutes,
                "seed": seed,
                "date": f"{date.today()}",
            }
            result["runs"].append(run | found)
            if str(count) not in result["untrained"] and contender == "ours":
                plain = {
                    key.removeprefix("scattering_"): value
                    for key, value in found["after"].items()
                    if key.startswith("scattering_")
                }
                result["untrained"][str(count)] = untrained(data, run_folder) | {"scattering": plain}
            result["environment"] = environment()
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
