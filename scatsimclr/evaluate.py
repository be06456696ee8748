"""`python -m scatsimclr.evaluate CHECKPOINT`: probes of a trained encoder on the data set's test images."""

from __future__ import annotations

import argparse
import json
import sys

from scatsimclr.cli import run
from scatsimclr.config import load_config
from scatsimclr.errors import UserError
from scatsimclr.evaluation.evaluate import evaluate_encoder
from scatsimclr.train import cell
from scatsimclr.training import checkpoint
from scatsimclr.training.loop import augment_spec, build_model, load_labelled, pick_device


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scatsimclr.evaluate",
        description="Linear probe by the paper's recipe and kNN over all test images, and the linear probe with a "
        "few labels per class (mean ± standard deviation over seeds).",
    )
    parser.add_argument("checkpoint", help="checkpoint file, or run folder (its last checkpoint)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the images are")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value",
        help="for instance evaluation.labels_per_class=[1,10], evaluation.seeds=10, dataset.dataset=cifar10",
    )  # fmt: skip
    return parser


def command(argv: list[str]) -> int:
    options = parser().parse_intermixed_args(argv)
    state = checkpoint.load(options.checkpoint)
    settings = options.settings + ([f"data_dir={options.data_dir}"] if options.data_dir else [])
    config = load_config(base=state["config"], overrides=settings)
    model = build_model(config)
    checkpoint.load_weights(options.checkpoint, model)
    model.to(pick_device(config))
    train, test = load_labelled(config)
    if train is None or not train.classes:
        raise UserError(f"data set {config.dataset.dataset} has no labels to evaluate with")
    results = evaluate_encoder(model, train, test, augment_spec(config), config.evaluation)
    if options.json:
        print(json.dumps(results))
        return 0
    print(f"{config.model.base_model} after epoch {state['epoch']}, {config.dataset.dataset}: "
          f"{len(train)} training and {len(test)} test images")  # fmt: skip
    print(f"{'kNN':38}{cell(results, 'knn'):>16}")
    print(f"{'linear probe, all labels':38}{cell(results, 'linear'):>16}")
    for n in config.evaluation.labels_per_class:
        print(f"{f'linear probe, {n} labels per class':38}{cell(results, f'linear_{n}'):>16}")
    return 0


if __name__ == "__main__":
    sys.exit(run(command))
