"""`python -m scatsimclr.embed CHECKPOINT IMAGES…`: features of images, as .npy or .parquet."""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from scatsimclr.allocator import keep_freed_memory
from scatsimclr.cli import run
from scatsimclr.config import Config
from scatsimclr.data.augment import center_view
from scatsimclr.data.decode import decode_batches
from scatsimclr.data.folder import image_files
from scatsimclr.errors import UserError
from scatsimclr.evaluation.features import FEATURES, WORDS, batch_features
from scatsimclr.evaluation.recommendation import Recommendation
from scatsimclr.evaluation.standard import Standard
from scatsimclr.models.folding import folded
from scatsimclr.scattering import Scattering2D
from scatsimclr.training.setup import augment_spec, front_end, load_split, restore

COLUMNS = ("row", "path", "label", "class")
SHOWN = 5  # files left out that are named on the terminal; all of them stand in the .skipped.csv


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scatsimclr.embed",
        description="Features of images by a trained encoder, in the order of the images: NAME.npy, float32 (n, F), "
        "with NAME.csv (row, path, label, class), or NAME.parquet with all of it in one table. Files that cannot be "
        "read are left out and named.",
        epilog="Examples: runs/RUN my/images --output features.npy | runs/RUN a.jpg b.png --output ab.parquet | "
        "runs/RUN --split test --output test.npy",
    )
    parser.add_argument("checkpoint", help="checkpoint file, run folder, or with --config weights alone")
    parser.add_argument("images", nargs="*", type=Path, help="image files, and folders (with all below)")
    parser.add_argument("-o", "--output", required=True, type=Path, help="NAME.npy or NAME.parquet")
    parser.add_argument("--split", help="instead of files: a split of the run's data set, such as test")
    parser.add_argument("-c", "--config", help="settings file, for weights that come without their settings")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set of --split is")
    parser.add_argument(
        "--features", choices=list(FEATURES),
        help="what is written: h, z, scattering, pooled as they are; both and both_pooled standardised by the run's "
        "images, each part with the same share of the variance (default: what the run recommends, else h)",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=64, metavar="N")
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", help="a setting, such as device=cpu"
    )
    return parser


@dataclass
class Rows:
    """A batch: images uint8 (k, H, W, C), their paths and labels, and (path, reason) of what was left out."""

    images: torch.Tensor
    paths: list[str]
    labels: list[int]
    skipped: list[tuple[str, str]]


def command(argv: list[str]) -> int:
    options = parser().parse_intermixed_args(argv)
    check(options)
    changes = ["fused=true", *options.set] + ([f"data_dir={options.data_dir}"] if options.data_dir else [])
    config, model, _ = restore(options.checkpoint, options.config, changes)
    writes = Writes.of(options, config, model)
    model = folded(model)
    if options.split:
        count, classes, batches = split_rows(config, options.split, options.batch_size)
        skipped = []
    else:
        files, skipped = image_files(options.images)
        count, classes = len(files), ()
        batches = file_rows(files, config, options.batch_size)
    if not count:
        raise UserError(f"no image file in {' '.join(map(str, options.images))}")
    writer = (ParquetWriter if options.output.suffix == ".parquet" else NpyWriter)(options.output, classes)
    keep_freed_memory()
    start = time.perf_counter()
    try:
        with tqdm(total=count, unit="image", desc="embedding", disable=None, leave=False) as bar:
            for rows in batches:
                skipped += rows.skipped
                if len(rows.images):
                    writer.write(embed(model, config, rows.images, writes), rows.paths, rows.labels)
                bar.update(len(rows.images) + len(rows.skipped))
        if not writer.rows:
            raise UserError(f"none of {count} image files can be read, the first: {': '.join(skipped[0])}")
        writer.close()
    finally:
        writer.discard()
    report(options.output, writes.features, writer.rows, skipped, time.perf_counter() - start)
    return 0


def check(options: argparse.Namespace) -> None:
    """UserError for what could not end well, before the work begins."""
    if options.output.suffix not in (".npy", ".parquet"):
        raise UserError(f"--output must end in .npy or .parquet, got {options.output}")
    if not options.output.parent.is_dir():
        raise UserError(f"--output: the folder {options.output.parent} does not exist")
    if bool(options.images) == bool(options.split):
        raise UserError("give either images (files or folders) or --split")
    if options.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, got {options.batch_size}")
    if options.output.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401, only whether it is there
        except ImportError:
            raise UserError("writing .parquet needs pyarrow: pip install pyarrow, or write .npy") from None


@dataclass(frozen=True, eq=False)
class Writes:
    """features: a name of FEATURES. standard: how parts side by side are scaled, None for features as they are."""

    features: str
    scattering: Scattering2D
    standard: Standard | None

    @classmethod
    def of(cls, options: argparse.Namespace, config: Config, model: torch.nn.Module) -> Writes:
        """What the options, or else the run folder, say. UserError for parts that cannot be scaled."""
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
def embed(model: torch.nn.Module, config: Config, images: torch.Tensor, writes: Writes) -> np.ndarray:
    """Features float32 (k, F) of images uint8 (k, H, W, C), without augmentation."""
    device = next(model.parameters()).device
    x = center_view(images.to(device), augment_spec(config))
    features = batch_features(model, x, writes.features, config.resolved_amp(device.type), writes.scattering)
    return (features if writes.standard is None else writes.standard(features)).cpu().numpy()


def file_rows(files: Sequence[Path], config: Config, batch_size: int) -> Iterator[Rows]:
    *size, channels = config.dataset.input_shape
    for kept, images, failed in decode_batches(files, tuple(size), channels, batch_size, config.data.scale):
        skipped = [(str(files[index]), why) for index, why in failed.items()]
        yield Rows(images, [str(files[index]) for index in kept], [-1] * len(kept), skipped)


def split_rows(config: Config, split: str, batch_size: int) -> tuple[int, tuple[str, ...], Iterator[Rows]]:
    found = load_split(config, split)
    paths = found.paths or [""] * len(found)

    def batches() -> Iterator[Rows]:
        for start in range(0, len(found), batch_size):
            part = slice(start, start + batch_size)
            yield Rows(found.images[part], list(paths[part]), found.labels[part].tolist(), [])

    return len(found), found.classes, batches()


class NpyWriter:
    """NAME.npy and NAME.csv; rows go to a file beside them, so that memory holds one batch."""

    def __init__(self, output: Path, classes: tuple[str, ...]):
        self.output, self.classes, self.rows, self.width = output, classes, 0, 0
        self.raw = output.with_name(f".{output.name}.partial")
        self.table = output.with_name(f".{output.stem}.csv.partial")
        self._raw = self.raw.open("wb")
        self._table = self.table.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        self._csv = csv.writer(self._table)
        self._csv.writerow(COLUMNS)

    def write(self, features: np.ndarray, paths: list[str], labels: list[int]) -> None:
        self.width = features.shape[1]
        features.astype("<f4").tofile(self._raw)
        for path, label in zip(paths, labels, strict=True):
            self._csv.writerow((self.rows, path, label, self.classes[label] if label >= 0 else ""))
            self.rows += 1

    def close(self) -> None:
        self._raw.close()
        self._table.close()
        final = self.output.with_name(f".{self.output.name}.new")
        with final.open("wb") as file:
            np.save(file, np.memmap(self.raw, "<f4", "r", shape=(self.rows, self.width)))
        os.replace(final, self.output)
        os.replace(self.table, self.output.with_suffix(".csv"))

    def discard(self) -> None:
        self._raw.close()
        self._table.close()
        for path in (self.raw, self.table):
            path.unlink(missing_ok=True)


class ParquetWriter:
    """One table: row int64, path string, label int64, class string, embedding list<float32>."""

    def __init__(self, output: Path, classes: tuple[str, ...]):
        self.output, self.classes, self.rows = output, classes, 0
        self.temporary = output.with_name(f".{output.name}.partial")
        self._file = None

    def write(self, features: np.ndarray, paths: list[str], labels: list[int]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        flat = pa.array(features.ravel(), pa.float32())
        count = len(paths)
        columns = {
            "row": pa.array(range(self.rows, self.rows + count), pa.int64()),
            "path": pa.array([path.encode(errors="replace").decode() for path in paths], pa.string()),
            "label": pa.array(labels, pa.int64()),
            "class": pa.array([self.classes[label] if label >= 0 else "" for label in labels], pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, features.shape[1]),
        }
        table = pa.table(columns)
        if self._file is None:
            self._file = pq.ParquetWriter(self.temporary, table.schema)
        self._file.write_table(table)
        self.rows += count

    def close(self) -> None:
        self._file.close()
        os.replace(self.temporary, self.output)

    def discard(self) -> None:
        if self._file is not None:
            self._file.close()
        self.temporary.unlink(missing_ok=True)


def report(output: Path, features: str, rows: int, skipped: list[tuple[str, str]], seconds: float) -> None:
    print(f"{WORDS[features]} of {rows} images in {seconds:.1f} s, {rows / seconds:.0f} images/s: {output}"
          + (f" and {output.with_suffix('.csv')}" if output.suffix == ".npy" else ""))  # fmt: skip
    if not skipped:
        return
    names = output.with_suffix(".skipped.csv")
    with names.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("path", "reason"), *skipped])
    print(f"{len(skipped)} files left out, all named in {names}:")
    for path, why in skipped[:SHOWN]:
        print(f"  {path}: {why}")


if __name__ == "__main__":
    sys.exit(run(command))
