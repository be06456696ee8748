"""`python -m benchmarks.labelling`: labels for 5,000 images of Fashion-MNIST from a few of them.

With whitened scattering or, with `--epochs N`, the features that a run of N epochs on these images recommends. Measures
accuracy and calibration error on the unlabelled images, with 10 and 100 labels per class, of every candidate and of the
one that `label` chooses, beside the accuracy that `label` expects; and how many labels of suggested images reach the
accuracy of 100 random ones, in rounds of ten. Writes benchmarks/results/labelling.json, or labelling-trained.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scatsimclr.data.datasets import load
from scatsimclr.environment import environment
from scatsimclr.evaluation.probe import few_labels
from scatsimclr.label import label_features
from scatsimclr.labelling import Space, label, suggest
from scatsimclr.labelling.classifier import DEFAULT, probabilities, reliability
from scatsimclr.labelling.features import scattering_features

RESULTS = Path(__file__).parent / "results"
COUNT, ROUNDS, STEP = 5000, 10, 10


def trained_features(pixels: Tensor, epochs: int) -> Tensor:
    """What a run on a folder of the images (n, H, W, 1), without labels, recommends: as `label` has it, (n, F)."""
    with tempfile.TemporaryDirectory() as folder:
        images, run = Path(folder) / "images", Path(folder) / "run"
        images.mkdir()
        files = [images / f"{index:05}.png" for index in range(len(pixels))]
        for path, picture in zip(files, pixels[..., 0].numpy(), strict=True):
            Image.fromarray(picture).save(path)
        arguments = ["--fused", "--data-dir", str(images), "--run-dir", str(run), "dataset.dataset=folder"]
        command = [sys.executable, "-m", "scatsimclr.train", *arguments, f"epochs={epochs}"]
        subprocess.run(command, check=True)
        return label_features(str(run), images, files, [], [])[1]


def accuracies(space: Space, truth: Tensor, per_class: int, draws: int) -> dict[str, list[float]]:
    """Accuracies of every candidate and of `label` ("chosen"), its calibration error and expectations; one per draw."""
    found: dict[str, list[float]] = {}
    for draw in range(draws):
        chosen = few_labels(truth, per_class, draw)
        labels = torch.full_like(truth, -1)
        labels[chosen] = truth[chosen]
        rest = labels < 0
        log_p = space.candidates(chosen, truth[chosen], int(truth.max()) + 1, draw)
        for name, values in log_p.items():
            right = torch.from_numpy(values.argmax(1)) == truth
            found.setdefault(name, []).append(right[rest].float().mean().item())
        result = label(space, labels, seed=draw)
        right = (result.labels == truth)[rest]
        found.setdefault("chosen", []).append(right.float().mean().item())
        error = reliability(result.confidence[rest], right)[1]
        found.setdefault("calibration error", []).append(error)
        for name, value in zip(
            ("expected", "at least", "at most"), (result.accuracy, *result.interval), strict=True
        ):
            found.setdefault(name, []).append(value)
    return found


def course(space: Space, truth: Tensor, suggested: bool, seed: int) -> list[float]:
    """Accuracy on all images after each round of STEP further labels, suggested or random ones."""
    labels, p, reached = torch.full_like(truth, -1), None, []
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))
    for number in range(ROUNDS):
        new = order[number * STEP : (number + 1) * STEP].tolist()
        if suggested:
            new = [entry.index for entry in suggest(space, labels, STEP, probabilities=p, seed=seed)]
        labels[new] = truth[new]
        given = (labels >= 0).nonzero().flatten()
        log_p = space.candidates(given, labels[given], int(truth.max()) + 1, seed)[DEFAULT]
        p = torch.from_numpy(probabilities(log_p, 1.0)).float()
        predicted = p.argmax(1)
        predicted[given] = labels[given]
        reached.append((predicted == truth).float().mean().item())
    return reached


def needed(mean: np.ndarray, target: float) -> float:
    """Labels at which a course, interpolated between rounds, reaches `target`; infinite if it does not."""
    above = np.flatnonzero(mean >= target)
    if not len(above):
        return float("inf")
    number = int(above[0])
    if number == 0:
        return float(STEP)
    return STEP * (number + (target - mean[number - 1]) / (mean[number] - mean[number - 1]))


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="where the files of Fashion-MNIST are")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="train for so many epochs first, without labels")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    trained = options.epochs is not None
    output = options.output or RESULTS / ("labelling-trained.json" if trained else "labelling.json")
    images = load("fashion_mnist", "train", size=(28, 28), channels=1, data_dir=options.data_dir)
    images = images.subset(range(COUNT))
    features = (
        trained_features(images.images, options.epochs) if trained else scattering_features(images.images)
    )
    space, truth = Space(features), images.labels
    result = {
        "date": f"{date.today()}",
        "environment": environment(),
        "images": COUNT,
        "draws": options.draws,
        "epochs": options.epochs or 0,
    }
    for per_class in (10, 100):
        found = accuracies(space, truth, per_class, options.draws)
        result[f"{per_class} labels per class"] = found
        for name, values in found.items():
            print(
                f"{per_class:4} per class  {name:20} {100 * np.mean(values):5.1f} ± {100 * np.std(values):.1f} %"
            )
    courses = {
        name: [course(space, truth, name == "suggested", seed) for seed in range(options.draws)]
        for name in ("random", "suggested")
    }
    target = float(np.mean(courses["random"], 0)[-1])
    ratio = needed(np.mean(courses["suggested"], 0), target) / (ROUNDS * STEP)
    result |= {"courses": courses, "target": target, "ratio of labels": ratio}
    for name, rows in courses.items():
        print(name, " ".join(f"{100 * value:.1f}" for value in np.mean(rows, 0)))
    print(f"suggested images need {ratio:.2f} times as many labels as random ones for {100 * target:.1f} %")
    output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
