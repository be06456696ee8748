"""The digest of a checkpoint, stored in the checkpoint: what is read is what was written.

`torch.save` writes a ZIP archive, whose directory holds the CRC-32 of every record. The directory's SHA-256 becomes the
archive's comment, at the very end of the file, which readers of ZIP archives skip, `torch.load` among them.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from pathlib import Path

_PREFIX = b"sha256:"
_COMMENT = len(_PREFIX) + 2 * hashlib.sha256().digest_size
_LENGTH = struct.pack("<H", _COMMENT)


def seal(path: Path) -> None:
    """Adds the digest to an archive.

    Args:
        path: A ZIP archive without a comment, as `torch.save` writes it.

    Raises:
        ValueError: It is not such an archive.
        OSError: As reading and writing raise it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            start, comment = archive.start_dir, archive.comment
    except zipfile.BadZipFile:
        raise ValueError(f"path must be a ZIP archive, got {path}") from None
    if comment:
        raise ValueError(f"path must be a ZIP archive without a comment, got {path}")
    with path.open("r+b") as file:
        file.seek(start)
        directory = file.read()[:-2]
        file.seek(start + len(directory))
        file.write(_LENGTH + _PREFIX + hashlib.sha256(directory).hexdigest().encode())


def intact(path: Path) -> bool | None:
    """Compares a file with the digest that it holds.

    Args:
        path: Any file.

    Returns:
        Whether they agree; None for a file without a digest, such as a checkpoint of an earlier version.

    Raises:
        OSError: As reading raises it.
    """
    # Opened once: another process may put a new file in its place meanwhile.
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _COMMENT))
        comment = file.read()
        if not comment.startswith(_PREFIX):
            return None
        try:
            with zipfile.ZipFile(file) as archive:
                file.seek(archive.start_dir)
                directory = file.read(size - archive.start_dir - _COMMENT - 2)
                length = file.read(2)
                right = hashlib.sha256(directory).hexdigest().encode() == comment[len(_PREFIX) :]
                return length == _LENGTH and right and archive.testzip() is None
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError):
            return False
