"""Writes shards: see `scatsimclr.data.shards`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from scatsimclr.data.imageset import DataError
from scatsimclr.data.listing import first
from scatsimclr.data.pieces import Source
from scatsimclr.data.shards import FORMAT, LABELS, MANIFEST, PARTS, PATHS, digest_of, digest_of_manifest
from scatsimclr.files import write_text

LARGEST = 512 * 10**6  # bytes of a shard


def write(source: Source, folder: Path, largest: int = LARGEST, *, progress: bool = True) -> int:
    """Writes shards; memory holds one piece. The manifest comes last: without it, the folder is not complete.

    Args:
        source: The images.
        folder: A new or empty folder.
        largest: Bytes of a shard; one of a single image may have more.
        progress: Whether to show a progress bar, on a terminal only.

    Returns:
        The number of images.

    Raises:
        DataError: The folder is not empty, or there is no image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise DataError(f"{folder} must be a new or empty folder, got one with files")
    writer = _Writer(folder, max(1, largest // int(np.prod(source.shape))))
    labels: list[int] = []
    paths: list[str] = []
    counts = dict.fromkeys(PARTS, 0)
    with tqdm(total=source.count, desc="writing", unit="image", disable=None if progress else True) as bar:
        for piece in source.pieces:
            writer.add(piece.images.numpy())
            labels += piece.labels
            paths += piece.paths or ()
            counts[piece.part] += len(piece.labels)
            bar.update(len(piece.labels))
    if not labels:
        raise DataError(f"no image to write to {folder}{first(source.skipped)}")
    shards = writer.close()
    with (folder / LABELS).open("wb") as file:
        np.save(file, np.array(labels, np.int64))
    if paths:
        write_text(folder / PATHS, "".join(json.dumps(path) + "\n" for path in paths))
    digests = {name: digest_of(folder / name) for name in (LABELS, PATHS) if (folder / name).is_file()}
    manifest = {
        "format": FORMAT, "shape": list(source.shape), "classes": list(source.classes), "images": counts,
        "shards": shards, "files": digests, "skipped": [list(pair) for pair in source.skipped],
        "notes": list(source.notes),
    }  # fmt: skip
    write_text(
        folder / MANIFEST, json.dumps({**manifest, "digest": digest_of_manifest(manifest)}, indent=1) + "\n"
    )
    return len(labels)


class _Writer:
    """Writes images to one shard after the other."""

    def __init__(self, folder: Path, most: int):
        self.folder, self.most = folder, most
        self._shards: list[dict[str, Any]] = []
        self._file: IO[bytes] | None = None
        self._sha = hashlib.sha256()

    def add(self, images: npt.NDArray[np.uint8]) -> None:
        """Appends images (k, H, W, C)."""
        while len(images):
            if self._file is None:
                name = f"{len(self._shards):05}.u8"
                self._file, self._sha = (self.folder / name).open("wb"), hashlib.sha256()
                self._shards.append({"file": name, "images": 0})
            room = self.most - self._shards[-1]["images"]
            part, images = np.ascontiguousarray(images[:room]), images[room:]
            self._file.write(part.data)
            self._sha.update(part.data)
            self._shards[-1]["images"] += len(part)
            if self._shards[-1]["images"] == self.most:
                self.close()

    def close(self) -> list[dict[str, Any]]:
        """Ends the current shard; returns the manifest's entries of all."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._shards[-1]["sha256"] = self._sha.hexdigest()
        return self._shards
