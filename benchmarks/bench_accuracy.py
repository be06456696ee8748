"""`python -m benchmarks.bench_accuracy --data-dir DIR`: what training gains, on images of Fashion-MNIST.

Trains this package's recipe and SimCLR on its ResNet-18 for the same number of minutes with `python -m
scatsimclr.train`, each in a process of its own, on a random but fixed sample of the training images, and tests them on
a fixed sample of the test images. They are compared with features that need no training: pixels, the scattering alone,
and whitened scattering. All have the same logistic probe, with the same draws of 10 and 100 labels per class; nothing
is chosen by test images.

The first seed trains for as many epochs as fit into the minutes at the measured speed. Later seeds on the same CPU, on
any number of threads, train for the same number of epochs, so that they differ only in their seed, and other work on
the machine costs time but no epochs.

Writes benchmarks/results/accuracy-cpu.json after each run, and continues where it stopped: a run that the file already
has, of the same contender, minutes, seed and number of images, is not repeated. --show prints the file's table.
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
from cpuinfo import get_cpu_info

from benchmarks.accuracy import PER_CLASS, TEST_IMAGES, table
from scatsimclr.data.datasets import load
from scatsimclr.data.imageset import ImageSet
from scatsimclr.environment import environment
from scatsimclr.evaluation.logistic import logistic_fit
from scatsimclr.evaluation.probe import accuracy, few_labels
from scatsimclr.evaluation.standard import Standard
from scatsimclr.training.metrics import read_metrics

OUTPUT = Path(__file__).parent / "results" / "accuracy-cpu.json"
DRAWS = 5  # draws of labels
_RESNET = ("model.base_model=resnet18", "model.front=paper", "model.head=paper", "neighbours=0")
# What each contender changes in the recipe configs/fashion_mnist.yaml. The ResNet keeps its augmentation, temperature,
# batch size and learning rate; with its 7×7 stem and pooling, an epoch takes a fraction of the time with a 3×3 stem.
CONTENDERS = {
    "ours": (),
    "paper": ("model.base_model=scatsimclr8", "model.front=paper", "model.head=paper", "neighbours=0"),
    "blocks8": ("model.base_model=scatsimclr8",),
    "no_neighbours": ("neighbours=0",),
    "paper_head": ("model.head=paper",),
    "resnet18": _RESNET,
    "resnet18_cifar_stem": (*_RESNET, "model.cifar_stem=true"),
}


def write_idx(images: ImageSet, folder: Path, part: str) -> None:
    """Writes images (n, H, W, 1) and labels as a split of an IDX data set."""
    n, height, width, _ = images.images.shape
    pictures = struct.pack(">4i", 0x803, n, height, width) + images.images.numpy().tobytes()
    labels = struct.pack(">2i", 0x801, n) + images.labels.to(torch.uint8).numpy().tobytes()
    (folder / f"{part}-images-idx3-ubyte").write_bytes(pictures)
    (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def write_part(source: Path | None, folder: Path, count: int) -> None:
    """Writes a data set of `count` random but fixed training images and TEST_IMAGES test images."""
    for split, part, number in (("train", "train", count), ("test", "t10k", TEST_IMAGES)):
        whole = load("fashion_mnist", split, size=(28, 28), channels=1, data_dir=source)
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:number]
        write_idx(whole.subset(order.sort().values), folder, part)


def earlier_epochs(runs: Sequence[dict], contender: str, images: int, minutes: float, cpu: str) -> int | None:
    """The epochs of an earlier seed on this CPU, "device" of its run being "<CPU>, <n> threads"; None for the first."""
    wanted, keys = (contender, images, minutes), ("contender", "images", "minutes")
    found = (run for run in runs if run["device"].rpartition(", ")[0] == cpu)
    return next((run["epochs"] for run in found if tuple(run[key] for key in keys) == wanted), None)


def train(data: Path, folder: Path, contender: str, duration: str, seed: int) -> dict:
    """Makes one run of the command line.

    Args:
        data: The folder of the data set.
        folder: The run folder.
        contender: A key of CONTENDERS.
        duration: A setting, epochs=N or minutes=N.
        seed: The run's seed.

    Returns:
        Its number of epochs, the seconds of their steps and of the whole process, and the figures before and after.
    """
    arguments = [
        "--fused", "--data-dir", str(data), "--run-dir", str(folder), "dataset.dataset=fashion_mnist",
        duration, f"seed={seed}", "eval_every_n_epochs=1000000", "evaluation.probes=[knn,few]",
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


def pixels(data: Path) -> dict[str, float]:
    """The figures of pixels, at the size that the encoders see, with the runs' probe and draws."""
    bank, queries = (
        load("fashion_mnist", split, size=(32, 32), channels=1, data_dir=data) for split in ("train", "test")
    )
    x, queried = (images.images.flatten(1).float() / 255 for images in (bank, queries))
    standard, found = Standard.of(x), {}
    for n in PER_CLASS:
        scores = []
        for seed in range(DRAWS):
            chosen = few_labels(bank.labels, n, seed)
            fit = logistic_fit(x[chosen], bank.labels[chosen], standard=standard, classes=10, seed=seed)
            scores.append(accuracy(fit.predict(queried), queries.labels))
        found |= {f"logistic_{n}": statistics.fmean(scores), f"logistic_{n}_sd": statistics.stdev(scores)}
    return found


def free(after: dict, name: str) -> dict[str, float]:
    """The figures of features that need no training, from a run's record."""
    keys = [f"logistic_{n}{suffix}" for n in PER_CLASS for suffix in ("", "_sd")]
    return {key: after[f"{name}_{key}"] for key in keys}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="where the files of Fashion-MNIST are")
    parser.add_argument("--images", type=int, default=5000, help="training images (default: 5000)")
    parser.add_argument("--minutes", type=float, nargs="+", default=[3.0], help="of each run (default: 3)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=["ours", "resnet18"],
        help="what to train (default: ours resnet18)",
    )  # fmt: skip
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT.name}")
    parser.add_argument("--show", action="store_true", help="print the table of the results file and exit")
    options = parser.parse_args(arguments)
    result = {"untrained": {}, "runs": []}
    if options.output.exists():
        result = json.loads(options.output.read_text())
    if options.show:
        print(table(result))
        return 0
    cpu = get_cpu_info()["brand_raw"]
    device = f"{cpu}, {torch.get_num_threads()} threads"
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
            epochs = earlier_epochs(result["runs"], contender, count, minutes, cpu)
            duration = f"minutes={minutes}" if epochs is None else f"epochs={epochs}"
            found = train(data, run_folder, contender, duration, seed)
            run = {"contender": contender, "images": count, "minutes": minutes, "seed": seed}
            origin = {"date": f"{date.today()}", "device": device}
            result["runs"].append(run | origin | found)
            if str(count) not in result["untrained"] and contender == "ours":
                own = {name: free(found["after"], name) for name in ("scattering", "whitened")}
                result["untrained"][str(count)] = own | {"pixels": pixels(data)}
            result["environment"] = environment()
            options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
