"""`python -m scatsimclr.embed CHECKPOINT IMAGES…`: features of images, as .npy or .parquet."""

from __future__ import annotations

if __name__ == "__main__":
    from scatsimclr.cli import start

    start("embed")

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol, cast

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from scatsimclr import commandline
from scatsimclr.allocator import keep_freed_memory
from scatsimclr.data.inputs import Inputs
from scatsimclr.encoder import Encoder
from scatsimclr.errors import UserError
from scatsimclr.evaluation.features import FEATURES, WORDS
from scatsimclr.extras import require
from scatsimclr.files import printable, replacing, write_csv
from scatsimclr.training.setup import load_split

COLUMNS = ("row", "path", "label", "class")
SHOWN = 5  # skipped files that are named on the terminal; .skipped.csv names all of them

Array = npt.NDArray[np.float32]


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = commandline.command_parser(
        "embed",
        "Features of images by a trained encoder, in the order of the images: NAME.npy, float32 (n, F), with NAME.csv "
        "(row, path, label, class), or NAME.parquet with all of it in one table. Files that cannot be read are "
        "skipped and named.",
        [
            "runs/RUN my/images --output features.npy",
            "runs/RUN a.jpg b.png --output ab.parquet",
            "runs/RUN --split test --output test.npy",
        ],
    )
    commandline.add_checkpoint(parser)
    commandline.add_words(parser, "IMAGES", "image files, and folders, searched recursively")
    commandline.add_output(parser, "FILE", "NAME.npy or NAME.parquet", required=True)
    parser.add_argument(
        "--split", metavar="NAME", help="instead of files: a split of the run's data set, such as test"
    )
    commandline.add_data_dir(parser, "where the data set of --split is")
    parser.add_argument(
        "--features", choices=list(FEATURES),
        help="what is written: h, z, scattering, pooled, texture and whitened as they are; parts side by side "
        "(both, both_pooled, h_whitened) standardised by the run's images (default: what the run recommends, else h)",
    )  # fmt: skip
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="images at a time (default: 64)"
    )
    return parser


def command(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_intermixed_args(argv)
    images = [Path(word) for word in commandline.split_words(options)]
    check(options, images)
    encoder = Encoder.load(
        options.checkpoint,
        config=options.config,
        changes=["fused=true", *commandline.settings_of(options)],
    )
    features = options.features or encoder.features
    encoder.standard(features)  # raises for what cannot be scaled, before images are read
    inputs = of_split(encoder, options.split) if options.split else Inputs.of(images)
    keep_freed_memory()
    start = time.perf_counter()
    open_output = open_parquet if options.output.suffix == ".parquet" else open_npy
    skipped = list(inputs.skipped)
    with open_output(options.output, inputs.classes) as writer:
        with tqdm(total=len(inputs), unit="image", desc="embedding", disable=None, leave=False) as bar:
            for rows, values in encoder.batches(inputs, features=features, batch_size=options.batch_size):
                skipped += ((inputs.names[index], why) for index, why in rows.failed.items())
                if rows.index:
                    names = [inputs.names[index] for index in rows.index]
                    labels = [inputs.labels[index] for index in rows.index]
                    writer.write(values, names, labels)
                bar.update(len(rows.index) + len(rows.failed))
        if not writer.rows:
            raise UserError(
                f"none of {len(inputs)} image files can be read, the first: {': '.join(skipped[0])}"
            )
    report(options.output, features, writer.rows, skipped, time.perf_counter() - start)
    return 0


def of_split(encoder: Encoder, split: str) -> Inputs:
    """The images of a split of the run's data set."""
    return Inputs.of_set(load_split(encoder.config, split))


def check(options: argparse.Namespace, images: Sequence[Path]) -> None:
    """Raises UserError for options that cannot work, before the work begins."""
    commandline.check_output_file(options.output, (".npy", ".parquet"))
    if bool(images) == bool(options.split):
        raise UserError("give either images (files or folders) or --split")
    commandline.check_positive("--batch-size", options.batch_size)
    if options.output.suffix == ".parquet":
        require("writing .parquet", "parquet", "pyarrow")


class Writer(Protocol):
    """Takes features batch by batch; `rows` of them so far."""

    rows: int

    def write(self, features: Array, paths: list[str], labels: list[int]) -> None:
        """Appends features (k, F) of images with these paths and labels."""


@contextmanager
def open_npy(output: Path, classes: tuple[str, ...]) -> Iterator[NpyWriter]:
    """Writes NAME.npy and NAME.csv; an error leaves the earlier ones."""
    # An .npy file begins with its number of rows, unknown until the end: `raw` holds them, so that memory need not.
    with (
        replacing(output.with_suffix(".csv")) as table,
        replacing(output) as array,
        TemporaryFile(dir=output.parent) as raw,
        table.open("w", newline="", encoding="utf-8", errors="surrogateescape") as text,
    ):
        writer = NpyWriter(raw, text, classes)
        yield writer
        raw.flush()
        with array.open("wb") as file:
            np.save(file, np.memmap(raw, "<f4", "r", shape=(writer.rows, writer.width)))


class NpyWriter:
    """Features as bare float32 numbers, and the table beside them."""

    def __init__(self, raw: IO[bytes], text: IO[str], classes: tuple[str, ...]):
        self.classes, self.rows, self.width = classes, 0, 0
        self._raw, self._csv = raw, csv.writer(text)
        self._csv.writerow(COLUMNS)

    def write(self, features: Array, paths: list[str], labels: list[int]) -> None:
        """Appends features (k, F) of images with these paths and labels."""
        self.width = features.shape[1]
        features.astype("<f4").tofile(self._raw)
        for path, label in zip(paths, labels, strict=True):
            self._csv.writerow((self.rows, path, label, self.classes[label] if label >= 0 else ""))
            self.rows += 1


@contextmanager
def open_parquet(output: Path, classes: tuple[str, ...]) -> Iterator[ParquetWriter]:
    """Writes NAME.parquet; an error leaves the earlier one."""
    with replacing(output) as partial, ParquetWriter(partial, classes) as writer:
        yield writer


class _ParquetFile(Protocol):
    """What is used of pyarrow.parquet.ParquetWriter, which has no types."""

    def write_table(self, table: object) -> None: ...

    def close(self) -> None: ...


class ParquetWriter:
    """One table: row int64, path string, label int64, class string, embedding list<float32>."""

    def __init__(self, path: Path, classes: tuple[str, ...]):
        self.path, self.classes, self.rows = path, classes, 0
        self._file: _ParquetFile | None = None

    def __enter__(self) -> ParquetWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, features: Array, paths: list[str], labels: list[int]) -> None:
        """Appends features (k, F) of images with these paths and labels."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        flat = pa.array(features.ravel(), pa.float32())
        count = len(paths)
        columns = {
            "row": pa.array(range(self.rows, self.rows + count), pa.int64()),
            "path": pa.array([printable(path) for path in paths], pa.string()),
            "label": pa.array(labels, pa.int64()),
            "class": pa.array([self.classes[label] if label >= 0 else "" for label in labels], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
        }
        table = pa.table(columns)
        if self._file is None:
            self._file = cast(_ParquetFile, pq.ParquetWriter(self.path, table.schema))
        self._file.write_table(table)
        self.rows += count


def report(
    output: Path, features: str, rows: int, skipped: Sequence[tuple[str, str]], seconds: float
) -> None:
    """Prints what was written, and writes the names of skipped files to NAME.skipped.csv."""
    print(f"{WORDS[features]} of {rows} images in {seconds:.1f} s, {rows / seconds:.0f} images/s: {output}"
          + (f" and {output.with_suffix('.csv')}" if output.suffix == ".npy" else ""))  # fmt: skip
    if not skipped:
        return
    names = output.with_suffix(".skipped.csv")
    write_csv(names, ("path", "reason"), skipped)
    print(f"{len(skipped)} files skipped, all named in {names}:")
    for path, why in skipped[:SHOWN]:
        print(f"  {path}: {why}")
