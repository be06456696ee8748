"""`python -m scatsimclr.evaluate CHECKPOINT`: probes of a trained encoder on the data set's test images."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from scatsimclr.allocator import keep_freed_memory
from scatsimclr.cli import run
from scatsimclr.errors import UserError
from scatsimclr.evaluation.evaluate import Evaluation
from scatsimclr.evaluation.table import accuracy_table
from scatsimclr.reporting import charts
from scatsimclr.training.setup import build_evaluation, load_labelled, restore

# Classes up to which the whole confusion matrix is printed.
PRINTED_CLASSES = 20


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scatsimclr.evaluate",
        description="Accuracy of an encoder on the test images by the probes of the settings, and by class: kNN, the "
        "paper's linear layer on all labels, logistic regression on a few per class (mean ± standard deviation over "
        "seeds) or on all, STL-10's folds, fine-tuning; beside them the same of the scattering transform alone and of "
        "the recommended features.",
        epilog="Examples: runs/RUN | runs/RUN evaluation.probes=[knn,linear,few,logistic] "
        "evaluation.labels_per_class=[1,10] | model_final.pth --config config.yaml --data-dir data",
    )
    parser.add_argument(
        "checkpoint",
        help="checkpoint file, or run folder (its last checkpoint); with --config also weights alone: "
        ".safetensors, or a .pth of the original code",
    )
    parser.add_argument("-c", "--config", help="settings file, for weights that come without their settings")
    parser.add_argument("--data-dir", metavar="DIR", help="where the images are")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--output", metavar="DIR", help="also write evaluation.json and confusion.svg there")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value",
        help="for instance evaluation.features=both, evaluation.seeds=10, dataset.dataset=cifar10",
    )  # fmt: skip
    return parser


def command(argv: list[str]) -> int:
    options = parser().parse_intermixed_args(argv)
    changes = options.settings + ([f"data_dir={options.data_dir}"] if options.data_dir else [])
    config, model, origin = restore(options.checkpoint, options.config, changes)
    train, test = load_labelled(config)
    if train is None or not train.classes:
        raise UserError(f"data set {config.dataset.dataset} has no labels to evaluate with")
    keep_freed_memory()
    evaluation = build_evaluation(config, model, train, test)
    results = evaluation.figures()
    by_class = accuracy_by_class(evaluation.confusion())
    record = {
        **results,
        "classes": dict(zip(test.classes, by_class, strict=True)),
        "confusion": evaluation.confusion().tolist(),
    }
    if options.output:
        folder = Path(options.output)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n")
        chart = charts.confusion(evaluation.confusion().numpy(), test.classes, "Confusion matrix")
        (folder / "confusion.svg").write_text(charts.standalone(chart), "utf-8", "replace")
    if options.json:
        print(json.dumps(record))
        return 0
    print(f"{config.model.base_model}, {origin}; {config.dataset.dataset}: "
          f"{len(train)} training and {len(test)} test images")  # fmt: skip
    print(accuracy_table([results], config.evaluation))
    print_classes(evaluation, by_class)
    return 0


def accuracy_by_class(confusion: torch.Tensor) -> list[float | None]:
    """Share of each class's test images that the linear probe gets right, None for a class without images."""
    totals = confusion.sum(1)
    return [
        right / total if total else None
        for right, total in zip(confusion.diagonal().tolist(), totals.tolist(), strict=True)
    ]


def print_classes(evaluation: Evaluation, by_class: list[float | None]) -> None:
    """Accuracy by class, and the confusion matrix (or, of many classes, the most confused pairs)."""
    names, confusion = evaluation.test.classes, evaluation.confusion()
    print("\nlinear probe by class (rows: true, columns: predicted)")
    width = max(5, *(len(name) for name in names))
    if len(names) <= PRINTED_CLASSES:
        columns = max(len(str(int(confusion.max()))), 2) + 1
        for name, share, row in zip(names, by_class, confusion.tolist(), strict=True):
            counts = "".join(f"{count or '·':>{columns}}" for count in row)
            print(f"{name:{width}} {percent(share):>7} {counts}")
        return
    for name, share in zip(names, by_class, strict=True):
        print(f"{name:{width}} {percent(share):>7}")
    wrong = confusion - torch.diag(confusion.diagonal())
    print("most confused")
    for index in wrong.flatten().argsort(descending=True, stable=True)[:10].tolist():
        true, predicted = divmod(index, len(names))
        if wrong[true, predicted]:
            print(f"  {names[true]} taken for {names[predicted]}: {int(wrong[true, predicted])}")


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


if __name__ == "__main__":
    sys.exit(run(command))
