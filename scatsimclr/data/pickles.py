"""Reading the pickled CIFAR batches without letting the file decide what code runs."""

from __future__ import annotations

import io
import math
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scatsimclr.data.imageset import DataError

_REFUSED = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(OverflowError, MemoryError, AssertionError, struct.error),
)


class _Forbidden(pickle.UnpicklingError):
    """The pickle names something that a CIFAR batch has no use for."""


class _Dtype:
    """Stands in for numpy.dtype: uint8 and nothing else."""

    def __init__(self, code: str | bytes, *_flags: object) -> None:
        if code not in ("u1", b"u1"):
            raise _Forbidden(f"an array of type {code!r}, only uint8 is expected")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes."""


class _Array:
    """Stands in for numpy.ndarray and its `_reconstruct`; `value` is the array once its state is there.

    These classes define `__setstate__` on purpose: unpickling then has no other way to set anything on them.
    """

    def __init__(self, *_prototype: object) -> None:
        self.value: npt.NDArray[np.uint8] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran, raw = state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes) or math.prod(shape) != len(raw):
            raise _Forbidden("an array whose shape and bytes do not agree")
        self.value = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # written by NumPy 2
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle._Unpickler):
    """The unpickler written in Python: that in C allocates gigabytes where a file numbers its objects so."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _ALLOWED:
            raise _Forbidden(f"it would load {module}.{name}, which image data never needs")
        return _ALLOWED[module, name]


def load_batch(path: Path) -> dict[str, Any]:
    """The dictionary pickled in `path`, with text keys: uint8 arrays, lists, strings, bytes and integers.

    Nothing else can come out, because the only classes a file can name are the stand-ins above: unlike with
    `pickle.load`, a file that was tampered with runs no code.

    Raises:
        DataError: The file tries to, or is damaged or truncated.
    """
    raw = path.read_bytes()
    try:
        batch = _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except _Forbidden as error:
        raise DataError(f"{path}: refused as unsafe: {error}") from error
    except _REFUSED as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: damaged or truncated ({len(raw)} bytes found): {reason}") from error
    if not isinstance(batch, dict):
        raise DataError(f"{path}: expected a pickled dictionary, found {type(batch).__name__}")
    return {_text(key): _value(value) for key, value in batch.items()}


def _value(value: object) -> object:
    return value.value if isinstance(value, _Array) else value


def _text(key: object) -> str:
    return key.decode("latin-1") if isinstance(key, bytes) else str(key)
