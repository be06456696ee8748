"""The digest of a checkpoint, stored in the checkpoint: what is read is what was written.

`torch.save` writes a ZIP archive. Its SHA-256 becomes the archive's comment, at the very end of the file, where every
reader of ZIP archives, `torch.load` among them, skips it.
"""

from __future__ import annotations

import hashlib
import struct

# End of central directory (APPNOTE.TXT 4.3.16): signature, 16 bytes, and the length of the comment that follows.
_END = struct.Struct("<4s16sH")
_SIGNATURE = b"PK\x05\x06"
_PREFIX = b"sha256:"
_COMMENT = len(_PREFIX) + 2 * hashlib.sha256().digest_size
_LENGTH = struct.pack("<H", _COMMENT)


def sealed(archive: bytearray | memoryview | bytes) -> tuple[memoryview, bytes]:
    """Adds the digest to an archive.

    Args:
        archive: A ZIP archive without a comment, as `torch.save` writes it.

    Returns:
        The two parts of the file: the archive but for the length of its comment, and what follows.

    Raises:
        ValueError: It is not such an archive.
    """
    view = memoryview(archive)
    signature, _, length = _END.unpack(view[-_END.size :]) if len(view) >= _END.size else (b"", b"", 0)
    if signature != _SIGNATURE or length:
        raise ValueError("archive must be a ZIP archive without a comment")
    body = view[:-2]
    digest = hashlib.sha256(body).hexdigest().encode()
    return body, _LENGTH + _PREFIX + digest


def intact(file: bytes | memoryview) -> bool | None:
    """Compares a file with the digest that it holds.

    Args:
        file: All bytes of a file.

    Returns:
        Whether they agree; None for a file without a digest, such as a checkpoint of an earlier version.
    """
    view = memoryview(file)
    comment = bytes(view[-_COMMENT:])
    if not comment.startswith(_PREFIX):
        return None
    body, length = view[: -_COMMENT - 2], view[-_COMMENT - 2 : -_COMMENT]
    return length == _LENGTH and hashlib.sha256(body).hexdigest().encode() == comment[len(_PREFIX) :]
