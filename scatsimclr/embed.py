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
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from scatsimclr import commandline
from scatsimclr.allocator import keep_freed_memory
from scatsimclr.config import Config
from scatsimclr.data.augment import center_view
from scatsimclr.data.decode import decode_batches
from scatsimclr.data.folder import image_files
from scatsimclr.errors import UserError
from scatsimclr.evaluation.features import FEATURES, WORDS, batch_features
from scatsimclr.evaluation.recommendation import Recommendation
from scatsimclr.evaluation.standard import Standard
from scatsimclr.files import printable, replacing, write_csv
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.folding import folded
from scatsimclr.scattering import Scattering2D
from scatsimclr.training.setup import augment_spec, front_end, load_split, restore

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


@dataclass
class Rows:
    """A batch.

    Attributes:
        images: uint8 (k, H, W, C).
        paths: One per image; "" for a data set that is not made of files.
        labels: One per image, −1 without a label.
        skipped: (path, reason) of each file that could not be read.
    """

    images: torch.Tensor
    paths: list[str]
    labels: list[int]
    skipped: list[tuple[str, str]]


def command(argv: list[str]) -> int:
    """Runs the command; returns its exit status."""
    options = parser().parse_intermixed_args(argv)
    images = [Path(word) for word in commandline.split_words(options)]
    check(options, images)
    config, model, _ = restore(
        options.checkpoint, options.config, ["fused=true", *commandline.settings_of(options)]
    )
    writes = Writes.of(options, config, model)
    model = folded(model)
    skipped: list[tuple[str, str]] = []
    classes: tuple[str, ...] = ()
    if options.split:
        count, classes, batches = split_rows(config, options.split, options.batch_size)
    else:
        files, skipped = image_files(images)
        count, batches = len(files), file_rows(files, config, options.batch_size)
    if not count:
        raise UserError(f"no image file in {' '.join(map(str, images))}")
    keep_freed_memory()
    start = time.perf_counter()
    open_output = open_parquet if options.output.suffix == ".parquet" else open_npy
    with open_output(options.output, classes) as writer:
        with tqdm(total=count, unit="image", desc="embedding", disable=None, leave=False) as bar:
            for rows in batches:
                skipped += rows.skipped
                if len(rows.images):
                    writer.write(embed(model, config, rows.images, writes), rows.paths, rows.labels)
                bar.update(len(rows.images) + len(rows.skipped))
        if not writer.rows:
            raise UserError(f"none of {count} image files can be read, the first: {': '.join(skipped[0])}")
    report(options.output, writes.features, writer.rows, skipped, time.perf_counter() - start)
    return 0


def check(options: argparse.Namespace, images: Sequence[Path]) -> None:
    """Raises UserError for options that cannot work, before the work begins."""
    commandline.check_output_file(options.output, (".npy", ".parquet"))
    if bool(images) == bool(options.split):
        raise UserError("give either images (files or folders) or --split")
    commandline.check_positive("--batch-size", options.batch_size)
    if options.output.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401, only whether it is there
        except ImportError:
            raise UserError("writing .parquet needs pyarrow: pip install pyarrow, or write .npy") from None


@dataclass(frozen=True, eq=False)
class Writes:
    """What is written.

    Attributes:
        features: A name of FEATURES.
        scattering: The transform, for features that need it.
        standard: How parts side by side are scaled; None for features as they are.
    """

    features: str
    scattering: Scattering2D
    standard: Standard | None

    @classmethod
    def of(cls, options: argparse.Namespace, config: Config, model: Encoder) -> Writes:
        """What the options say or, where they say nothing, the run folder.

        Raises:
            UserError: For parts that cannot be scaled.
        """
        found = Recommendation.load(options.checkpoint, next(model.parameters()).device)
        features = options.features or (found.features if found else "h")
        standard = None
        if len(FEATURES[features]) > 1:
            if found is None:
                raise UserError(
                    f"--features {features} needs the statistics of a run folder, and {options.checkpoint} has none"
                )
            standard = found.standard(features)
        return cls(features, front_end(config, model), standard)


@torch.inference_mode()
def embed(model: Encoder, config: Config, images: torch.Tensor, writes: Writes) -> Array:
    """Features float32 (k, F) of images uint8 (k, H, W, C), without augmentation."""
    device = next(model.parameters()).device
    x = center_view(images.to(device), augment_spec(config))
    features = batch_features(model, x, writes.features, config.resolved_amp(device.type), writes.scattering)
    found: Array = (features if writes.standard is None else writes.standard(features)).cpu().numpy()
    return found


def file_rows(files: Sequence[Path], config: Config, batch_size: int) -> Iterator[Rows]:
    """Batches of image files, in order."""
    height, width, channels = config.dataset.input_shape
    for kept, images, failed in decode_batches(
        files, (height, width), channels, batch_size, config.data.scale
    ):
        skipped = [(str(files[index]), why) for index, why in failed.items()]
        yield Rows(images, [str(files[index]) for index in kept], [-1] * len(kept), skipped)


def split_rows(config: Config, split: str, batch_size: int) -> tuple[int, tuple[str, ...], Iterator[Rows]]:
    """The number of images of a split, its classes, and its batches."""
    found = load_split(config, split)
    paths = found.paths or [""] * len(found)

    def batches() -> Iterator[Rows]:
        for start in range(0, len(found), batch_size):
            part = slice(start, start + batch_size)
            yield Rows(found.images[part], list(paths[part]), found.labels[part].tolist(), [])

    return len(found), found.classes, batches()


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
