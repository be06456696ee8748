"""Everything of ours that reads a file, with small valid files for each."""

from __future__ import annotations

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
from scatsimclr.training.metrics import read_metrics


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


def _encoded(pixels: np.ndarray, suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == "npy":
        np.save(buffer, pixels)
        return buffer.getvalue()
    names = {"jpg": "JPEG", "tif": "TIFF"}
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(buffer, names.get(suffix, suffix.upper()), exif=exif)
    return buffer.getvalue()
