"""Writes tiny data sets in the true file formats, and returns what a reader must find in them."""

import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import ClassVar

import numpy as np


def images(n, height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def pack_folder(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)


def _planes(pictures):
    """(n, 3 * h * w), as CIFAR stores an image: red, green, blue, each row by row."""
    return np.stack([np.concatenate([p[:, :, c].ravel() for c in range(3)]) for p in pictures])


def _cifar10_batches():
    for i, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]
    ):
        yield name, images(3, 32, 32, i), np.array([i, 9 - i, 2 * i])
    yield "test_batch", images(4, 32, 32, 9), np.array([0, 9, 3, 3])


def _expected(batches):
    return {
        "train": tuple(np.concatenate(x) for x in zip(*[b[1:] for b in batches[:-1]], strict=True)),
        "test": batches[-1][1:],
    }


def cifar10_binary(root: Path):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    batches = list(_cifar10_batches())
    for name, pictures, labels in batches:
        records = np.concatenate([labels[:, None].astype(np.uint8), _planes(pictures)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"kind{i}" for i in range(10)) + "\n\n")
    return _expected(batches)


def _cifar100_splits():
    for split, n in (("train", 5), ("test", 3)):
        yield split, (images(n, 32, 32, n), np.arange(n) + 15, np.arange(n) * 20 + 3)


def cifar100_binary(root: Path):
    """Returns split -> (images, coarse labels, fine labels)."""
    folder = root / "cifar-100-binary"
    folder.mkdir()
    result = dict(_cifar100_splits())
    for split, (pictures, coarse, fine) in result.items():
        labels = np.stack([coarse, fine], axis=1).astype(np.uint8)
        (folder / f"{split}.bin").write_bytes(np.concatenate([labels, _planes(pictures)], axis=1).tobytes())
    (folder / "coarse_label_names.txt").write_text("".join(f"group_{i}\n" for i in range(20)))
    (folder / "fine_label_names.txt").write_text("".join(f"kind_{i}\n" for i in range(100)))
    return result


class _Python2Pickler(pickle._Pickler):
    """Protocol 2 as Python 2 wrote the official files: bytes are plain strings, NumPy 1 module names."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def _save_string(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = _save_string


def python2_pickle(value) -> bytes:
    buffer = io.BytesIO()
    _Python2Pickler(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def cifar10_python(root: Path):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    batches = list(_cifar10_batches())
    for name, pictures, labels in batches:
        files = [b"a.png"] * len(labels)
        batch = {
            b"batch_label": b"x",
            b"labels": labels.tolist(),
            b"data": _planes(pictures),
            b"filenames": files,
        }
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {
        b"num_cases_per_batch": 3,
        b"label_names": [f"kind{i}".encode() for i in range(10)],
        b"num_vis": 3072,
    }
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    return _expected(batches)


def cifar100_python(root: Path):
    folder = root / "cifar-100-python"
    folder.mkdir()
    result = dict(_cifar100_splits())
    for split, (pictures, coarse, fine) in result.items():
        batch = {b"data": _planes(pictures), b"coarse_labels": coarse.tolist(), b"fine_labels": fine.tolist()}
        (folder / split).write_bytes(python2_pickle(batch))
        result[split] = pictures, coarse, fine
    meta = {
        b"coarse_label_names": [f"group_{i}".encode() for i in range(20)],
        b"fine_label_names": [f"kind_{i}".encode() for i in range(100)],
    }
    (folder / "meta").write_bytes(python2_pickle(meta))
    return result


def stl10(root: Path, train=4, test=3, unlabelled=2):
    """Returns part -> (images, labels)."""
    folder = root / "stl10_binary"
    folder.mkdir()
    result = {}
    for seed, (part, n) in enumerate((("train", train), ("test", test), ("unlabeled", unlabelled))):
        pictures, labels = images(n, 96, 96, 20 + seed), np.arange(n) % 10
        # column by column: the transposed picture of every channel
        planes = [np.concatenate([p[:, :, c].T.ravel() for c in range(3)]) for p in pictures]
        (folder / f"{part}_X.bin").write_bytes(np.stack(planes).tobytes())
        if part != "unlabeled":
            (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        result[part] = pictures, labels
    (folder / "class_names.txt").write_text("".join(f"thing{i}\n" for i in range(10)))
    lines = [f"{i % train} {(i + 1) % train} \n" for i in range(10)]
    (folder / "fold_indices.txt").write_text("".join(lines))
    return result
