"""Everything of ours that reads a file, with small valid files for each."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from scatsimclr.config import load_config
from scatsimclr.config.reading import shipped
from scatsimclr.data import datasets
from scatsimclr.data.csvfile import read_labels, read_paths
from scatsimclr.data.decode import read_image
from scatsimclr.data.pickles import load_batch
from scatsimclr.data.shards import digest_of_manifest
from scatsimclr.training.metrics import read_metrics


def _array(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


class Reader(NamedTuple):
    """How files are read: valid ones, by their names, and what is done with a file of such a name."""

    files: dict[str, bytes]
    read: Callable[[Path], object]


def readers() -> dict[str, Reader]:
    """Every reader by its name."""
    pixels = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    table = "path,label,split\na/b.png,cat,train\n\"c;d\",'dog',test\n"
    record = json.dumps({"event": "epoch", "epoch": 1, "step": 5, "loss": 0.5}).encode()
    batch = {b"data": np.zeros((2, 12), np.uint8), b"labels": [1, 2], b"filenames": [b"a", b"b"]}
    return {
        "settings": Reader(
            {f"{name}.yaml": str(shipped(name)).encode() for name in ("digits", "folder")},
            lambda path: load_config(str(path)),
        ),
        "metrics": Reader({"metrics.jsonl": b"\n".join([record] * 3)}, read_metrics),
        "labels": Reader(
            {"labels.csv": table.encode(), "wide.csv": table.replace(",", ";").encode("utf-16")},
            lambda path: read_labels(path, path.parent, ["a/b.png", "c;d"]),
        ),
        "paths": Reader({"paths.csv": table.encode(), "paths.txt": b"a/b.png\nlabels.csv\n"}, read_paths),
        "idx": Reader({"images": _idx(np.zeros((28, 28), np.uint8))}, _read_idx),
        "pickle": Reader({f"batch-{p}": pickle.dumps(batch, p) for p in (3, 4)}, load_batch),
        "shards": Reader({"manifest.json": json.dumps(_MANIFEST).encode()}, _read_shards),
        "image": Reader(
            {f"image.{suffix}": _encoded(pixels, suffix) for suffix in ("png", "jpg", "tif", "webp", "npy")},
            lambda path: read_image(path, (8, 8)),
        ),
    }


def _idx(images: np.ndarray) -> bytes:
    return struct.pack(">4I", 0x803, 1, *images.shape) + images.tobytes()


def _read_idx(path: Path) -> object:
    """The file as the images of MNIST, plain or compressed, beside a right file of labels."""
    folder = path.parent / "mnist"
    folder.mkdir(exist_ok=True)
    data = path.read_bytes()
    name = "train-images-idx3-ubyte" + (".gz" if data[:2] == b"\x1f\x8b" else "")
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(data)
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 1) + b"\3")
    return datasets.load("mnist", "train", size=(8, 8), channels=1, data_dir=folder, download=False)


_MANIFEST = {
    "format": "scatsimclr shards 1", "shape": [8, 8, 1], "classes": ["a"], "shards": [
        {"file": "00000.u8", "images": 2, "sha256": "0" * 64}],
    "images": {"train": 2, "unlabeled": 0, "test": 0}, "skipped": [["a.png", "empty file"]], "notes": ["a note"],
    "files": {"labels.npy": hashlib.sha256(_array(np.zeros(2, np.int64))).hexdigest()},
}  # fmt: skip


def _read_shards(path: Path) -> object:
    """The file as the manifest of a small folder of shards, with a digest that fits whatever can have one."""
    folder = path.parent / "shards"
    folder.mkdir(exist_ok=True)
    (folder / "00000.u8").write_bytes(bytes(128))
    (folder / "labels.npy").write_bytes(_array(np.zeros(2, np.int64)))
    data = path.read_bytes()
    with contextlib.suppress(ValueError, TypeError, RecursionError):
        found = json.loads(data)
        data = json.dumps({**found, "digest": digest_of_manifest(found)}).encode()
    (folder / "manifest.json").write_bytes(data)
    return datasets.load("shards", "pretrain", size=(8, 8), channels=1, data_dir=folder)


def _encoded(pixels: np.ndarray, suffix: str) -> bytes:
    if suffix == "npy":
        return _array(pixels)
    buffer = io.BytesIO()
    names = {"jpg": "JPEG", "tif": "TIFF"}
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, names.get(suffix, suffix.upper()), exif=exif)
    return buffer.getvalue()
