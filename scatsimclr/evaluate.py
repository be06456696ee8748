"""`python -m scatsimclr.evaluate CHECKPOINT`: probes of a trained encoder on the data set's test images."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("evaluate")

import argparse
import json
from collections.abc import Sequence

import torch

from scatsimclr import commandline
from scatsimclr.allocator import keep_freed_memory
from scatsimclr.errors import UserError
from scatsimclr.evaluation.table import accuracy_table, titles
from scatsimclr.files import printable, write_text
from scatsimclr.reporting import charts
from scatsimclr.reporting.templates import percent
from scatsimclr.training.setup import build_evaluation, load_labelled, restore

# Up to so many classes the whole confusion matrix is printed.
PRINTED_CLASSES = 20


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = commandline.command_parser(
        "evaluate",
        "Accuracy of an encoder on the test images, by the probes of the settings and by class: kNN, the paper's "
        "linear layer on all labels, logistic regression on a few labels per class (mean ± standard deviation over "
        "seeds) or on all, STL-10's folds, fine-tuning; beside them the same of the scattering transform alone and of "
        "the recommended features.",
        [
            "runs/RUN",
            "runs/RUN evaluation.probes=[knn,linear,few,logistic] evaluation.labels_per_class=[1,10]",
            "model_final.pth --config config.yaml --data-dir data",
        ],
    )
    commandline.add_checkpoint(parser)
    commandline.add_settings(parser, "evaluation.features=both or evaluation.seeds=10")
    commandline.add_data_dir(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    commandline.add_output(
        parser, "DIR", "folder to write evaluation.json and confusion.svg to (default: none)"
    )
    return parser


def command(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_intermixed_args(argv)
    config, model, origin = restore(options.checkpoint, options.config, commandline.settings_of(options))
    train, test = load_labelled(config)
    if train is None or test is None or not train.classes:
        raise UserError(f"data set {config.dataset.dataset} has no labels to evaluate with")
    keep_freed_memory()
    evaluation = build_evaluation(config, model, train, test)
    results = evaluation.figures()
    confusion, shown = evaluation.confusion(), titles(config.evaluation)[evaluation.shown_probe]
    by_class = accuracy_by_class(confusion)
    record = {
        **results,
        "classes": dict(zip(test.classes, by_class, strict=True)),
        "confusion": confusion.tolist(),
        "confusion_of": shown,
    }
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        write_text(options.output / "evaluation.json", json.dumps(record, indent=1) + "\n")
        chart = charts.confusion(confusion.numpy(), test.classes, f"Confusion matrix: {shown}")
        write_text(options.output / "confusion.svg", printable(charts.standalone(chart)))
    if options.json:
        print(json.dumps(record))
        return 0
    print(f"{config.model.base_model}, {origin}; {config.dataset.dataset}: "
          f"{len(train)} training and {len(test)} test images")  # fmt: skip
    print(accuracy_table([results], config.evaluation))
    print_classes(shown, test.classes, confusion, by_class)
    return 0


def accuracy_by_class(confusion: torch.Tensor) -> list[float | None]:
    """Share of each class's test images that a probe gets right, None for a class without images."""
    totals = confusion.sum(1)
    return [
        right / total if total else None
        for right, total in zip(confusion.diagonal().tolist(), totals.tolist(), strict=True)
    ]


def print_classes(
    probe: str, names: Sequence[str], confusion: torch.Tensor, by_class: Sequence[float | None]
) -> None:
    """Prints the accuracy by class and the confusion matrix or, of many classes, the pairs confused most often."""
    print(f"\n{probe}, by class (rows: true, columns: predicted)")
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
    print("most often confused")
    for index in wrong.flatten().argsort(descending=True, stable=True)[:10].tolist():
        true, predicted = divmod(index, len(names))
        if wrong[true, predicted]:
            print(f"  {names[true]} taken for {names[predicted]}: {int(wrong[true, predicted])}")
