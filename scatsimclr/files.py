"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import csv
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
_NAME = re.compile(r"\.\d+-[0-9a-f]{8}\.partial$")


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Gives a new name beside `path` to write to; what is there takes the place of `path` when the block ends.

    Where the block raises, the partial file is removed and `path` stays as it is. Names are unique, so that two
    processes that write the same file never write into each other's.

    Args:
        path: The file to write.
        durable: Wait until the disk has the contents, and the new name.

    Yields:
        A path that does not exist yet, hidden, in the folder of `path`, with its suffix before `.partial`.

    Raises:
        OSError: As opening, writing and renaming raise it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a whole file through `replacing`."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a whole file of UTF-8 text through `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def link(source: Path, target: Path) -> None:
    """Gives a file a second name, which replaces what had it; a copy where the file system has no hard links."""
    with replacing(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def check_space(folder: Path, size: int) -> None:
    """Asks whether `size` bytes fit on a folder's disk.

    Raises:
        OSError: ENOSPC, they do not.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(
            errno.ENOSPC, f"no space left: {size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free", str(folder)
        )


def remove_partial_files(folder: Path) -> None:
    """Removes what processes that died in `replacing` left in a folder and its subfolders.

    Only for a folder that no living process writes to.
    """
    for path in folder.rglob(f".*{PARTIAL}"):
        if _NAME.search(path.name):
            path.unlink(missing_ok=True)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes a whole CSV file through `replacing`: UTF-8, and any other bytes of file names as they are."""
    with (
        replacing(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the home folder in place of a leading ~ or ~user; as it is where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def printable(text: str) -> str:
    """Text that can be written as UTF-8: bytes of file names that are not UTF-8 become question marks."""
    return text.encode(errors="replace").decode()


def sync(path: Path) -> None:
    """Waits until the disk has a file's contents, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
