"""What went wrong, as data: kind, message and where in this project, without paths of the machine."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from benchmarks.gpu.plan import ROOT

# By the name of a class that the error is of, so that Triton need not be imported.
KINDS = {
    "OutOfMemoryError": "out of memory",
    "OutOfResources": "out of resources",
    "CompilationError": "compilation",
    "PTXASError": "compilation",
    "TorchDynamoException": "compilation",
    "InductorError": "compilation",
    "CalledProcessError": "compilation",
    "AcceleratorError": "device",
    "ImportError": "absent",
}
_FOLDERS = re.compile(r"/(?:[\w.+@-]+/)+")


def kind(error: BaseException) -> str:
    """What sort of error it is; "error" where it is none of the known ones."""
    classes = [parent.__name__ for parent in type(error).__mro__]
    return next((found for name, found in KINDS.items() if name in classes), "error")


def absent(error: BaseException) -> bool:
    """Whether all that is wrong is that some other package is not installed."""
    own = ("scatsimclr", "benchmarks")
    return isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith(own)


def readable(text: str, length: int) -> str:
    """The text without the machine's folders, shortened in its middle: compilers put the reason last."""
    text = _FOLDERS.sub("…/", text.replace(f"{ROOT}/", "")).strip()
    half = (length - 5) // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"


def explained(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return readable(f"{type(error).__name__}: {' | '.join(lines)}", 300)


def described(error: BaseException) -> dict[str, object]:
    """An error as data: "kind", "error", and "where", the last lines of this project that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)]
    own = [frame for frame in own if ".venv" not in frame.filename]
    return {
        "kind": kind(error),
        "error": readable(f"{type(error).__name__}: {error}", 2000),
        "where": [f"{Path(f.filename).relative_to(ROOT)}:{f.lineno} {f.name}" for f in own[-4:]],
    }
