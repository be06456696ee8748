"""Labels that a person wrote down: a CSV file of `path,label`, whatever program saved it."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scatsimclr.errors import UserError

PATH_NAMES = frozenset(
    ("path", "paths", "file", "files", "filename", "file name", "file_name", "image", "images")
)
LABEL_NAMES = frozenset(("label", "labels", "class", "category", "target"))
DELIMITERS = (",", ";", "\t")
SHOWN = 3  # files and classes that a message names
LARGEST_FIELD = 1 << 20


@dataclass
class Given:
    """The labels of a file.

    Attributes:
        labels: Class names by index into the image files.
        notes: Remarks on the other rows, a line each.
    """

    labels: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_labels(path: Path, root: Path, files: Sequence[str]) -> Given:
    """Reads the labels that a CSV file gives to image files.

    The file is UTF-8, UTF-16, or else Windows-1252, separated by commas, semicolons or tabs. It has a header (`path`
    and `label`, in any order among others), or else paths in the first column and labels in the second. Rows without a
    label are skipped, and so are rows with a confidence below 1: earlier predictions. Of several labels for an image,
    the most frequent one counts.

    Args:
        path: The CSV file.
        root: The folder of the images.
        files: The image files, relative to `root`, with `/`.

    Raises:
        UserError: For a file that cannot be read, that has no labels, or none of whose images exist.
    """
    lines = _lines(path)
    places = _Places(root, files)
    rows = max(
        (_rows(lines, delimiter) for delimiter in DELIMITERS),
        key=lambda rows: (
            sum(any(places.find(cell) is not None for cell in row) for row in rows),
            sum(len(row) > 1 for row in rows),
        ),
    )
    if not rows:
        raise UserError(f"{path} is empty: expected lines of path,label")
    path_column, label_column, confidence_column = _columns(path, rows, places)
    given = Given()
    votes: dict[int, Counter[str]] = {}
    missing, predicted = [], 0
    for row in rows:
        name, label = _cell(row, path_column), _cell(row, label_column).strip()
        if not name.strip() or not label:
            continue
        if _predicted(_cell(row, confidence_column)):
            predicted += 1
            continue
        index = places.find(name)
        if index is None:
            missing.append(name.strip())
        else:
            votes.setdefault(index, Counter())[label] += 1
    if not votes:
        raise UserError(_nothing(path, root, missing, predicted))
    given.labels, tied = decide(votes)
    _remark(given, path, files, votes, tied, missing, predicted)
    return given


def decide(votes: dict[int, Counter[str]]) -> tuple[dict[int, str], list[int]]:
    """The most frequent label of each image, and the images for which two are equally frequent, which get none."""
    labels, tied = {}, []
    for index, counts in votes.items():
        (first, count), *others = counts.most_common(2)
        if others and others[0][1] == count:
            tied.append(index)
        else:
            labels[index] = first
    return labels, tied


def named(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _lines(path: Path) -> list[str]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    # Universal newlines include those of old Macs; `splitlines` would also split at characters that names may contain.
    text = _decoded(content)
    if "\0" in text:
        raise UserError(f"{path} is not a CSV file: it contains bytes that no text has")
    lines = io.StringIO(text, newline=None).readlines()
    return lines[1:] if lines and lines[0].strip().lower() in {f"sep={mark}" for mark in ",;"} else lines


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    # Mostly Latin text in UTF-16 without a byte order mark: every other byte is zero.
    for encoding, zeros in (("utf-16-le", content[1::2]), ("utf-16-be", content[::2])):
        if len(content) > 3 and zeros.count(0) > 0.4 * len(zeros):
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """The rows that are not empty; quoted fields may contain line breaks."""
    csv.field_size_limit(LARGEST_FIELD)
    try:
        found = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except csv.Error:  # a field beyond the limit: the delimiter is another one, or this is no table
        return []
    return [row for row in found if any(cell.strip() for cell in row)]


def _columns(path: Path, rows: list[list[str]], places: _Places) -> tuple[int, int, int | None]:
    """The columns of path, label and confidence (None where there is none). Removes a header from `rows`."""
    head = [cell.strip().casefold() for cell in rows[0]]
    paths = [i for i, cell in enumerate(head) if cell in PATH_NAMES]
    labels = [i for i, cell in enumerate(head) if cell in LABEL_NAMES]
    header = (paths or labels) and places.find(rows[0][0]) is None
    if (header and not labels) or max(map(len, rows)) < 2:
        raise UserError(f"{path} must have columns path,label, got {','.join(rows[0])[:80]}")
    if not header:
        return 0, 1, None
    del rows[0]
    if not rows:
        raise UserError(f"{path} has a header and no rows below it")
    if not paths:
        paths = [i for i in range(len(head)) if i != labels[0]]
    return paths[0], labels[0], head.index("confidence") if "confidence" in head else None


def _cell(row: list[str], column: int | None) -> str:
    return row[column] if column is not None and column < len(row) else ""


def _predicted(confidence: str) -> bool:
    try:
        return float(confidence.replace(",", ".")) < 1
    except ValueError:
        return False


def _nothing(path: Path, root: Path, missing: list[str], predicted: int) -> str:
    """Why a file gives no labels."""
    if missing:
        count = f"none of the {len(missing)} files" if len(missing) > 1 else "the one file"
        verb = "is" if len(missing) > 1 else "is not"
        return f"{path}: {count} that it labels {verb} in {root}: {named(missing)}"
    if predicted:
        return f"{path}: all {predicted} labels are predictions, with a confidence below 1"
    return f"{path} gives no image a label"


def _remark(
    given: Given,
    path: Path,
    files: Sequence[str],
    votes: dict[int, Counter[str]],
    tied: list[int],
    missing: list[str],
    predicted: int,
) -> None:
    """Adds remarks on the rows that are not labels of their own."""
    several = [files[index] for index, counts in votes.items() if len(counts) > 1 and index in given.labels]
    if missing:
        given.notes.append(f"{path}: labels of files that do not exist ({len(missing)}): {named(missing)}")
    if several:
        given.notes.append(
            f"{path}: files with several labels, the most frequent one counts ({len(several)}): {named(several)}"
        )
    if tied:
        names = [files[index] for index in tied]
        given.notes.append(
            f"{path}: files with contradictory labels, treated as unlabelled ({len(tied)}): {named(names)}"
        )
    if predicted:
        given.notes.append(
            f"{path}: labels with a confidence below 1 are predictions and are skipped ({predicted}); clear the "
            "confidence of those that you have corrected"
        )
    same: dict[str, set[str]] = {}
    for label in given.labels.values():
        same.setdefault(label.casefold(), set()).add(label)
    for spellings in same.values():
        if len(spellings) > 1:
            given.notes.append(f"{path}: classes that differ only in case: {', '.join(sorted(spellings))}")


class _Places:
    """Finds the file that a person means."""

    def __init__(self, root: Path, files: Sequence[str]):
        self.exact = {name: index for index, name in enumerate(files)}
        self.plain: dict[str, list[int]] = {}
        self.folded: dict[str, list[int]] = {}
        for index, name in enumerate(files):
            self.plain.setdefault(_plain(name), []).append(index)
            self.folded.setdefault(_plain(name).casefold(), []).append(index)
        # A path may start at the working directory, or at the file system's root.
        self.prefixes = [
            _plain(prefix).rstrip("/") + "/"
            for prefix in (str(root), str(root.resolve()), root.resolve().name)
        ]

    def find(self, text: str) -> int | None:
        """The index of the file: an exact match, or one but for slashes and accents, or but for case; None without one.

        The latter two must be unique.
        """
        if text in self.exact:
            return self.exact[text]
        name = _plain(text.strip())
        names = [name] + [name[len(prefix) :] for prefix in self.prefixes if name.startswith(prefix)]
        for table, key in ((self.plain, str), (self.folded, str.casefold)):
            for candidate in names:
                found = table.get(key(candidate), ())
                if len(found) == 1:
                    return found[0]
        return None


def _plain(name: str) -> str:
    """A path with composed accents, `/` for every separator, and no leading `./`."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name
