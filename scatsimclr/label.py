"""`python -m scatsimclr.label RUN IMAGES --labels few.csv --output labels.csv`: labels for all images from a few."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("label")

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from scatsimclr import commandline
from scatsimclr.allocator import keep_freed_memory
from scatsimclr.data.csvfile import named, read_labels
from scatsimclr.data.decode import shorter_side
from scatsimclr.encoder import Encoder
from scatsimclr.errors import UserError
from scatsimclr.files import printable, write_csv
from scatsimclr.labelling import Space, Suggestion, suggest
from scatsimclr.labelling.assigned import Assigned, assign
from scatsimclr.labelling.features import LARGEST_SIDE, scattering_features
from scatsimclr.labelling.images import Images, as_indices, class_folders, find, read
from scatsimclr.reporting.labels import write_page

SIZED = 50  # Without a run, the size of images is the median of so many files.


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = commandline.command_parser(
        "label",
        "Labels for all images of a folder from labels for some: labels.csv with path, label, confidence (1 where the "
        "label was given), and labels.html to check them, the least certain first. --suggest N names the images to "
        "label next in labels.suggest.csv or, where there are no labels yet, those to start with.",
        [
            "runs/RUN my/images --labels few.csv --output labels.csv",
            "my/images --encoder scattering --suggest 20",
        ],
    )
    commandline.add_words(
        parser,
        "PATH",
        "RUN IMAGES: a checkpoint file or run folder, and a folder of images; with --encoder scattering IMAGES alone",
    )
    parser.add_argument(
        "-l", "--labels", type=Path, metavar="FILE",
        help="CSV file of path,label (default: the names of class folders in IMAGES)",
    )  # fmt: skip
    commandline.add_output(parser, "FILE", "NAME.csv (default: labels.csv)", default=Path("labels.csv"))
    parser.add_argument("--suggest", type=int, metavar="N", help="name N images to label next")
    parser.add_argument(
        "--encoder", choices=("run", "scattering"), default="run",
        help="features of the trained encoder (default), or of the scattering transform alone, which needs no run",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of all random choices (default: 0)"
    )
    return parser


def command(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_intermixed_args(argv)
    checkpoint, root = check(options)
    start = time.perf_counter()
    keep_freed_memory()
    files, skipped = find(root)
    names = [path.relative_to(root).as_posix() for path in files]
    by_name, notes = given_labels(options.labels, root, names)
    if not by_name and not options.suggest:
        raise UserError(
            f"no labels: {root} has fewer than two class folders; give --labels FILE, or --suggest N for images to "
            "start with"
        )
    if by_name:
        as_indices(by_name, len(names))  # raises for labels that cannot work, before the images are read
    images, features = label_features(checkpoint, root, files, skipped, options.settings, options.seed)
    place = {name: index for index, name in enumerate(images.files)}
    labels = {place[names[index]]: name for index, name in by_name.items() if names[index] in place}
    if len(labels) < len(by_name):
        lost = [names[index] for index in by_name if names[index] not in place]
        notes.append(f"labelled files that cannot be read ({len(lost)}): {named(lost)}")
    if not labels:
        report(images.skipped, notes)
        cold_start(options, images, Space(features, options.seed))
        return 0
    found = assign(images, labels, features, count=options.suggest or 0, seed=options.seed)
    write(options.output, found)
    page = write_page(options.output.with_suffix(".html"), found, (*notes, *found.notes))
    report(images.skipped, [*notes, *found.notes])
    summary(options.output, page, found, time.perf_counter() - start)
    name_suggestions(options.output, images, found.suggestions)
    return 0


def check(options: argparse.Namespace) -> tuple[str | None, Path]:
    """The run, None without one, and the folder of images.

    Raises:
        UserError: For options that cannot work.
    """
    paths = commandline.split_words(options)
    wanted = 1 if options.encoder == "scattering" else 2
    if len(paths) != wanted:
        expected = "IMAGES alone with --encoder scattering" if wanted == 1 else "RUN IMAGES"
        raise UserError(f"arguments must be {expected}, got {' '.join(paths) or 'none'}")
    commandline.check_output_file(options.output, (".csv",))
    if options.suggest is not None:
        commandline.check_positive("--suggest", options.suggest)
    if options.labels and options.labels.resolve() == options.output.resolve():
        raise UserError(f"--output would overwrite --labels: {options.output}")
    return (paths[0] if wanted == 2 else None), Path(paths[-1])


def given_labels(file: Path | None, root: Path, names: Sequence[str]) -> tuple[dict[int, str], list[str]]:
    """Class names by file index, from the CSV file or else the class folders, and remarks."""
    folders = class_folders(names)
    if file is None:
        return folders, []
    given = read_labels(file, root, names)
    known, used = set(folders.values()), set(given.labels.values())
    unknown = sorted(used - known)
    if unknown and used & known:
        given.notes.append(f"{file}: classes for which {root} has no folder: {named(unknown)}")
    return given.labels, given.notes


def label_features(
    checkpoint: str | None,
    root: Path,
    files: Sequence[Path],
    skipped: Sequence[tuple[str, str]],
    changes: Sequence[str],
    seed: int = 0,
) -> tuple[Images, Tensor]:
    """Reads the images and computes their features.

    Returns:
        The images that can be read, and their features float32 (n, F): those that the run recommends, h and scattering
        where it recommends none, each part with its share of the variance over these images; whitened scattering
        without a run.
    """
    if checkpoint is None:
        images = read(root, files, skipped, (*own_size(files), 3))
        return images, scattering_features(images.pixels, seed)
    encoder = Encoder.load(checkpoint, changes=["fused=true", *changes])
    images = read(root, files, skipped, encoder.input_shape, encoder.config.data.scale)
    return images, encoder.label_features(images.pixels)


def own_size(files: Sequence[Path]) -> tuple[int, int]:
    """A square of the median shorter side of the first files, at most LARGEST_SIDE pixels and at least 8."""
    sides = [side for side in map(shorter_side, files[:SIZED]) if side]  # `read` reports those without
    side = min(LARGEST_SIDE, max(8, int(statistics.median(sides)))) if sides else 8
    return side, side


def cold_start(options: argparse.Namespace, images: Images, space: Space) -> None:
    """Suggests images to start with, where none has a label."""
    chosen = suggest(space, torch.full((len(images.files),), -1), options.suggest, seed=options.seed)
    name_suggestions(options.output, images, chosen)


def write(output: Path, found: Assigned) -> None:
    """Writes labels.csv."""
    rows = (
        (name, label, f"{confidence:.4f}" if confidence < 1 else "1")
        for name, label, confidence in zip(
            found.names, found.labels.tolist(), found.confidence.tolist(), strict=True
        )
    )
    write_csv(output, ("path", "label", "confidence"), rows)


def name_suggestions(output: Path, images: Images, suggestions: Sequence[Suggestion]) -> None:
    """Prints the suggestions and writes NAME.suggest.csv: path, an empty label to fill in, reason."""
    if not suggestions:
        return
    path = output.with_suffix(".suggest.csv")
    rows = [(images.files[entry.index], "", entry.reason) for entry in suggestions]
    write_csv(path, ("path", "label", "reason"), rows)
    print(f"images to label next ({len(rows)}), in {path}; fill in the labels there and pass it as --labels:")
    for name, _, reason in rows:
        print(f"  {printable(name)}  ({reason})")


def report(skipped: Sequence[tuple[str, str]], notes: Sequence[str]) -> None:
    """Prints remarks and skipped files as warnings."""
    if skipped:
        shown = named([f"{name} ({why})" for name, why in skipped])
        notes = [*notes, f"files that cannot be read and get no label ({len(skipped)}): {shown}"]
    for note in notes:
        print(f"scatsimclr: warning: {printable(note)}", file=sys.stderr)


def summary(output: Path, page: Path, assigned: Assigned, seconds: float) -> None:
    """Prints what was written and what accuracy to expect."""
    given, found = assigned.given, assigned.found
    count = int((given >= 0).sum())
    print(
        f"{len(given)} images in {seconds:.1f} s, {count} labels given, {len(assigned.classes)} classes: {output}"
    )
    if found.accuracy is None:
        print("expected accuracy: unknown, as every class has one label; the confidences are not calibrated")
    else:
        low, high = found.interval
        print(
            f"expected accuracy: {found.accuracy:.1%} (95 %: {low:.0%} to {high:.0%}), measured on {found.held} "
            f"held-out labels; method: {found.words}"
        )
    print(f"to check them, the least certain first: {page}")
