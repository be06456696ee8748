"""`python -m scatsimclr.shards IMAGES --output FOLDER`: images as shards, for training on more than memory holds."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("shards")

import argparse
from pathlib import Path

from scatsimclr import commandline
from scatsimclr.config import load_config
from scatsimclr.config.values import OWN
from scatsimclr.data import datasets
from scatsimclr.data.pieces import source
from scatsimclr.data.shape import with_shape
from scatsimclr.data.sharding import LARGEST, write
from scatsimclr.data.shards import Manifest
from scatsimclr.errors import UserError

SHOWN = 5  # files that could not be read and are named


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = commandline.command_parser(
        "shards",
        "Writes images as shards: decoded and resized once, in files of bytes that training maps into memory, so that "
        "the images may be more than it holds. Training on shards (dataset.dataset=shards) is training on the images: "
        "the same splits, the same views.",
        [
            "my/images --output my/shards",
            "my/images --output my/shards dataset.input_shape=(64,64,3)",
            "--check my/shards",
        ],
    )
    commandline.add_words(
        parser, "IMAGES", "a folder, a CSV file of path or path,label, or a .npy file, as for training"
    )
    commandline.add_output(parser, "FOLDER", "a new folder for the shards")
    parser.add_argument(
        "--megabytes",
        type=int,
        default=LARGEST // 10**6,
        metavar="N",
        help="of a shard (default: %(default)s)",
    )
    parser.add_argument(
        "--check", type=Path, metavar="FOLDER", help="compare shards with their digests, and end"
    )
    return parser


def command(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_intermixed_args(argv)
    words = commandline.split_words(options)
    if options.check is not None:
        manifest = Manifest.read(options.check)
        manifest.verify_all()
        print(
            f"{options.check}: {len(manifest)} images in {len(manifest.shards)} shards are as they were written"
        )
        return 0
    if options.output is None:
        raise UserError("--output must name a new folder for the shards, got none")
    if len(words) > 1:
        raise UserError(f"IMAGES must be one folder or file, got {len(words)}")
    commandline.check_positive("--megabytes", options.megabytes)
    changes = [("dataset.dataset", OWN[0]), *(("data_dir", word) for word in words)]
    config = with_shape(load_config(None, [*changes, *options.settings]))
    height, width, channels = config.dataset.input_shape
    asked = datasets.request(
        config.dataset.dataset,
        "pretrain",
        size=(height, width),
        channels=channels,
        data_dir=config.data_dir,
        download=config.dataset.download,
        scale=config.data.scale,
    )
    found = source(asked)
    count = write(found, options.output, options.megabytes * 10**6)
    manifest = Manifest.read(options.output)
    print(
        f"{options.output}: {count} images of {height}×{width}×{channels} in {len(manifest.shards)} shards, "
        + ", ".join(f"{end - start} {name}" for name, (start, end) in manifest.splits().items())
    )
    for note in found.notes:
        print(f"note: {note}")
    if found.skipped:
        print(f"{len(found.skipped)} files could not be read, all named in the manifest:")
        for path, why in found.skipped[:SHOWN]:
            print(f"  {path}: {why}")
    return 0
