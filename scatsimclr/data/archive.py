"""Finding, downloading and unpacking the official archives of a data set."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch
from tqdm import tqdm

from scatsimclr.data.download import fetch
from scatsimclr.data.imageset import DataError, Request


@dataclass(frozen=True)
class Archive:
    """A .tar.gz that unpacks to `folder` with `members` in it; without a URL it is read but never downloaded."""

    file: str
    folder: str
    members: tuple[str, ...]
    url: str | None = None
    md5: str | None = None


def data_dir(request: Request) -> Path:
    """The folder in which archives are looked for, and to which they are downloaded."""
    chosen = request.data_dir or Path(pooch.os_cache("scatsimclr"))
    if chosen.exists() and not chosen.is_dir():
        raise DataError(f"{request.name}: the data folder {chosen} is not a folder")
    return chosen


def find(archive: Archive, needed: Sequence[str], request: Request) -> Path | None:
    """Looks for members of an archive, and unpacks it where only the archive is there.

    Args:
        archive: The archive.
        needed: The members that are needed.
        request: Names the data folder. Members may be in it, or in the archive's own folder below it.

    Returns:
        The folder with all `needed` members; None where neither they nor the archive are there.

    Raises:
        DataError: The archive is damaged or lacks a needed member, or the data folder is not a folder.
    """
    root = data_dir(request)
    for folder in (root / archive.folder, root):
        if all((folder / name).is_file() for name in needed):
            return folder
    if not (root / archive.file).is_file():
        return None
    return _unpacked(archive, needed, root, request.progress)


def obtain(archive: Archive, needed: Sequence[str], request: Request) -> Path:
    """`find`, with a download to the data folder where nothing is found and the request allows it.

    Raises:
        DataError: The files are not there and cannot be downloaded, or as `find` raises it.
    """
    folder = find(archive, needed, request)
    if folder is not None:
        return folder
    root = data_dir(request)
    absent = f"{request.name}: {_absence(archive, needed, root)}"
    remedy = "put it there, or name the folder that has it with --data-dir"
    if archive.url is None or archive.md5 is None or not request.download:
        raise DataError(f"{absent} and downloading is off: {remedy}")
    fetch(archive.url, archive.md5, root / archive.file, absent, remedy, request.progress)
    return _unpacked(archive, needed, root, request.progress)


def _unpacked(archive: Archive, needed: Sequence[str], root: Path, progress: bool) -> Path:
    folder = unpack(archive, root, progress)
    for name in needed:
        if not (folder / name).is_file():
            raise DataError(f"{root / archive.file}: has no {archive.folder}/{name}")
    return folder


def _absence(archive: Archive, needed: Sequence[str], root: Path) -> str:
    """Which file is missing where; an incomplete folder is distinguished from none at all."""
    folder = root / archive.folder
    if folder.is_dir():
        missing = next(name for name in needed if not (folder / name).is_file())
        return f"{folder} has no {missing}, {archive.file} is not in {root}"
    return f"neither {archive.file} nor {archive.folder}/ is in {root}"


def unpack(archive: Archive, root: Path, progress: bool) -> Path:
    """Unpacks the expected members of `root / archive.file`.

    Content is copied to the expected names, so that a path, link or device in the archive has no effect. It goes to a
    temporary folder first, and all members are put in their place together once gzip's checksum is verified.

    Returns:
        The members' folder.

    Raises:
        DataError: The archive is damaged, or the folder cannot be written.
    """
    source, target = root / archive.file, root / archive.folder
    wanted = {f"{archive.folder}/{name}": name for name in archive.members}
    try:
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=root) as temporary:
            with gzip.open(source) as stream:
                with tarfile.open(fileobj=stream, mode="r:") as tar:
                    for member in tar:
                        name = wanted.get(member.name.removeprefix("./"))
                        if name is not None:
                            _copy(tar, member, Path(temporary, name), source, progress)
                while stream.read(1 << 20):
                    pass
            target.mkdir(exist_ok=True)
            for file in sorted(Path(temporary).iterdir()):
                os.replace(file, target / file.name)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        size = source.stat().st_size
        raise DataError(f"{source}: damaged or truncated archive ({size} bytes found): {error}") from error
    except OSError as error:
        raise DataError(f"{source}: cannot be unpacked in {root}: {error.strerror or error}") from error
    return target


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, source: Path, progress: bool) -> None:
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        raise DataError(f"{source}: {member.name} is not a regular file in the archive")
    quiet = None if progress else True
    with (
        tqdm.wrapattr(
            content, "read", total=member.size, desc=target.name, disable=quiet, leave=False
        ) as data,
        open(target, "wb") as file,
    ):
        shutil.copyfileobj(data, file, 1 << 20)
