"""Data sets larger than memory: folders of shards, files of bytes that are mapped into memory.

A folder holds

- `manifest.json`: the shape of the images, the classes, which images each split has, and the shards with the number of
  their images and their SHA-256;
- `00000.u8`, `00001.u8`, …: images uint8 (k, H, W, C), C order, without a header;
- `labels.npy`: int64 (n,), −1 where an image has no label;
- `paths.jsonl`: the file of each image, a JSON string a line; absent where images have none.

Images are in the order in which the data set had them: a run sees the same views from shards as from the data set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tqdm import tqdm

from scatsimclr.config.messages import must, shown
from scatsimclr.data.imageset import DataError, ImageSet, Request
from scatsimclr.data.mapped import MappedImages

MANIFEST, LABELS, PATHS = "manifest.json", "labels.npy", "paths.jsonl"
Format: TypeAlias = Literal["scatsimclr shards 1"]
FORMAT: Format = "scatsimclr shards 1"
PARTS = ("train", "unlabeled", "test")  # in this order; the split pretrain is the first two
READ = 1 << 24  # bytes that are digested at a time


Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Side = Annotated[int, Field(gt=0, le=2**16)]
Count = Annotated[int, Field(ge=0, le=2**48)]


class _Shard(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    file: Annotated[str, Field(pattern=r"^[0-9]{5,12}\.u8$")]  # a name, never another folder
    images: Annotated[Count, Field(gt=0)]
    sha256: Digest


class _Written(BaseModel):
    """What manifest.json holds beside its digest."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Format
    shape: Annotated[list[Side], Field(min_length=3, max_length=3)]
    classes: list[str]
    images: dict[Literal["train", "unlabeled", "test"], Count]
    shards: Annotated[list[_Shard], Field(min_length=1)]
    files: dict[Literal["labels.npy", "paths.jsonl"], Digest]
    skipped: list[Annotated[list[str], Field(min_length=2, max_length=2)]]
    notes: list[str]

    @model_validator(mode="after")
    def _complete(self) -> _Written:
        if len(self.images) != len(PARTS) or LABELS not in self.files:
            raise ValueError(f"must have images of {', '.join(PARTS)}, and {LABELS}")
        if sum(self.images.values()) != sum(shard.images for shard in self.shards):
            raise ValueError("must have as many images in its parts as in its shards")
        return self


@dataclass(frozen=True)
class Manifest:
    """A folder of shards, whose files are there and have the right sizes.

    Attributes:
        folder: Where it is.
        shape: (H, W, C) of the images.
        classes: Names.
        images: How many each part has.
        shards: (file, images, SHA-256) of each.
        files: SHA-256 of the others.
        skipped, notes: As in `ImageSet`.
    """

    folder: Path
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    images: Mapping[str, int]
    shards: tuple[tuple[Path, int, str], ...]
    files: Mapping[str, str]
    skipped: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path | None) -> Manifest:
        """Reads and checks a manifest, and the sizes of the files that it names.

        Raises:
            DataError: The folder, its manifest or a file is absent, or not what was written.
        """
        if folder is None:
            raise DataError("shards: which ones? Name their folder with --data-dir")
        place = folder / MANIFEST
        if not folder.is_dir():
            raise DataError(f"shards: {folder} is {'not a folder' if folder.exists() else 'not there'}")
        if not place.is_file():
            raise DataError(
                f"shards: {folder} has no {MANIFEST}: it holds no shards, or writing them was interrupted"
            )
        try:
            found = json.loads(place.read_text(encoding="ascii"))
            digest = found.pop("digest")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise DataError(f"{place} is damaged: no manifest of shards") from None
        if digest != digest_of_manifest(found):
            raise DataError(f"{place} is damaged, or was changed: its digest does not fit")
        try:
            written = _Written.model_validate(found)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"])) or "the manifest"
            raise DataError(f"{place}: {name} {must(first)}, got {shown(first['input'])}") from None
        height, width, channels = written.shape
        shards = tuple((folder / shard.file, shard.images, shard.sha256) for shard in written.shards)
        manifest = cls(
            folder,
            (height, width, channels),
            tuple(written.classes),
            {str(part): count for part, count in written.images.items()},
            shards,
            {str(name): digest for name, digest in written.files.items()},
            tuple((path, why) for path, why in written.skipped),
            tuple(written.notes),
        )
        manifest._check_sizes()
        return manifest

    def _check_sizes(self) -> None:
        each = int(np.prod(self.shape))
        for path, count, _ in self.shards:
            size = path.stat().st_size if path.is_file() else None
            if size != count * each:
                is_ = "is not there" if size is None else f"has {size} bytes"
                raise DataError(f"{path} {is_}: expected {count * each}, {count} images of {each} bytes")
        for name in self.files:
            if not (self.folder / name).is_file():
                raise DataError(f"{self.folder / name} is not there")

    def __len__(self) -> int:
        return sum(self.images.values())

    def splits(self) -> dict[str, tuple[int, int]]:
        """Where each split begins and ends; without labels, there are neither train nor test images."""
        train, unlabelled, test = accumulate(self.images[part] for part in PARTS)
        found = {"pretrain": (0, unlabelled), "unlabeled": (train, unlabelled)}
        return found | ({"train": (0, train), "test": (unlabelled, test)} if self.classes else {})

    def mapped(self) -> MappedImages:
        """All images."""
        files, counts, _ = zip(*self.shards, strict=True)
        return MappedImages(files, counts, self.shape)

    def labels(self) -> torch.Tensor:
        """int64 (n,)."""
        self.verify(LABELS)
        try:
            found = np.load(self.folder / LABELS, allow_pickle=False)
        except (ValueError, EOFError, SyntaxError, RecursionError):  # of a header that is no array's
            found = None
        lowest, highest = -1, len(self.classes) - 1
        if not isinstance(found, np.ndarray) or found.dtype != np.int64 or found.shape != (len(self),):
            raise DataError(f"{self.folder / LABELS} must be int64 ({len(self)},)")
        if found.size and not lowest <= found.min() <= found.max() <= highest:
            raise DataError(f"{self.folder / LABELS} must hold numbers from -1 to {highest}")
        return torch.from_numpy(found)

    def paths(self) -> list[str] | None:
        """Of all images."""
        if PATHS not in self.files:
            return None
        self.verify(PATHS)
        try:
            with (self.folder / PATHS).open(encoding="ascii") as file:
                found = [json.loads(line) for line in file]
        except (ValueError, RecursionError):
            found = []
        if len(found) != len(self) or not all(isinstance(path, str) for path in found):
            raise DataError(f"{self.folder / PATHS} must hold {len(self)} JSON strings, a line each")
        return found

    def verify(self, name: str) -> None:
        """Raises DataError unless a file other than a shard has the digest that it was written with."""
        _verify(self.folder / name, self.files[name])

    def verify_all(self) -> None:
        """Reads every file; raises DataError for the first that is not what was written."""
        for name in self.files:
            self.verify(name)
        for path, _, digest in tqdm(self.shards, desc="checking", unit="shard", disable=None):
            _verify(path, digest)


def read(request: Request) -> ImageSet:
    """A split of the shards in the folder `data_dir`: images that stay there.

    Raises:
        DataError: The folder is not what was written, its images have another size than is asked for, or there are none
            for the split.
    """
    manifest = Manifest.read(request.data_dir)
    asked = (*request.size, request.channels)
    if asked != manifest.shape:
        raise DataError(
            f"dataset.input_shape must be auto, or {manifest.shape} as the shards in {manifest.folder}, got {asked}"
        )
    splits = manifest.splits()
    if request.split not in splits:
        raise DataError(f"{manifest.folder}: the split {request.split!r} needs labels, and there are none")
    start, end = splits[request.split]
    if start == end:
        raise DataError(f"{manifest.folder}: no image for the split {request.split!r}")
    paths = manifest.paths()
    return ImageSet(
        manifest.mapped().select(slice(start, end)),
        manifest.labels()[start:end],
        manifest.classes,
        None if paths is None else tuple(paths[start:end]),
        manifest.skipped,
        manifest.notes,
    )


def _verify(path: Path, digest: str) -> None:
    if digest_of(path) != digest:
        raise DataError(f"{path} is damaged: its SHA-256 is not the manifest's")


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(READ):
            sha.update(part)
    return sha.hexdigest()


def digest_of_manifest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its digest."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
