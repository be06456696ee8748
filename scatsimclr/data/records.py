"""Binary files of records of one size, and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scatsimclr.data.imageset import DataError


def count_records(file: Path, record: int, what: str) -> int:
    """How many records a file holds, one at least.

    Args:
        file: The file.
        record: Bytes of a record.
        what: The records' name, in the plural.

    Raises:
        DataError: The file is empty, or its last record is incomplete.
    """
    size = file.stat().st_size
    if size == 0 or size % record:
        whole = max(1, -(-size // record))
        raise DataError(
            f"{file}: truncated: expected whole {what} of {record} bytes ({whole * record} bytes for {whole}), "
            f"found {size}"
        )
    return size // record


def checked_labels(
    labels: Sequence[int] | npt.NDArray[np.uint8], file: Path, first: int, count: int
) -> npt.NDArray[np.int64]:
    """Labels first, first + 1, …, as indices 0..count - 1; DataError with the first one out of range."""
    found = np.asarray(labels)  # not int64 before the check: a damaged file's numbers may not fit
    wrong = np.flatnonzero((found < first) | (found >= first + count))
    if len(wrong):
        raise DataError(
            f"{file}: label {found[wrong[0]]} of image {wrong[0]} is not in {first}..{first + count - 1}"
        )
    return found.astype(np.int64) - first
