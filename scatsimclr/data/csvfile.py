"""Tables of files that a person wrote down, with labels or without: CSV files, whatever program saved them."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scatsimclr.data.listing import Listing
from scatsimclr.errors import UserError
from scatsimclr.files import expanded

PATH_NAMES = frozenset(
    ("path", "paths", "file", "files", "filename", "file name", "file_name", "image", "images")
)
LABEL_NAMES = frozenset(("label", "labels", "class", "category", "target"))
SPLIT_NAMES = frozenset(("split", "subset", "set", "partition"))
TABLES = (".csv", ".tsv", ".txt")  # what a table of files is recognised by
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


def read_paths(path: Path) -> Listing[Path]:
    """Reads a table of image files to train on.

    It has a header with a column `path` and perhaps `label` and `split` (train, test, val or unlabeled), or else paths
    in the first column and labels in the second, if there is one; in any encoding and with any delimiter that
    `read_labels` takes. Paths start at the table's folder or at the working directory. Rows without a label are images
    without one, and so are rows with a confidence below 1: predictions.

    Raises:
        UserError: The table cannot be read, or none of its files exists.
    """
    lines = _lines(path)
    tables = [_rows(lines, delimiter) for delimiter in DELIMITERS]
    rows = max(
        tables, key=lambda rows: (sum(_file(path, _cell(row, 0)) is not None for row in rows), _width(rows))
    )
    if not rows:
        raise UserError(f"{path} is empty: expected lines of path or path,label")
    columns = _named_columns(path, rows)
    listing = Listing[Path](path.parent, str(path))
    seen: dict[Path, tuple[str, str]] = {}
    repeated: list[str] = []
    for row in rows:
        name = _cell(row, columns["path"]).strip()
        found = _file(path, name) if name else None
        label = _cell(row, columns["label"]).strip()
        if _predicted(_cell(row, columns["confidence"])):
            label = ""
        if name and found is None:
            listing.unreadable.append((name, "does not exist"))
        elif found is not None and found in seen:
            repeated.append(name)
        elif found is not None:
            seen[found] = (label, _cell(row, columns["split"]).strip().casefold())
    if not seen:
        first = f", the first: {listing.unreadable[0][0]}" if listing.unreadable else ""
        raise UserError(f"{path}: none of its {len(rows)} files exists{first}")
    if repeated:
        listing.notes.append(f"{path}: files that are listed again ({len(repeated)}): {named(repeated)}")
    _divide(listing, seen)
    return listing


def _divide(listing: Listing[Path], rows: dict[Path, tuple[str, str]]) -> None:
    """Puts files with (label, split) where they belong."""
    testing = next((name for name in ("test", "testing", "val", "valid", "validation")
                    if any(split == name for _, split in rows.values())), None)  # fmt: skip
    classes = sorted({label for label, split in rows.values() if label and split != "unlabeled"})
    if len(classes) < 2:
        if classes:
            listing.notes.append(f"all labels are {classes[0]!r}: the images are taken without labels")
        listing.train = [(file, -1) for file in rows]
        return
    listing.classes = classes
    listing.test = [] if testing else None
    left_out = []
    for file, (label, split) in rows.items():
        if not label or split in ("unlabeled", "unlabelled"):
            listing.unlabelled.append((file, -1))
        elif split == testing and listing.test is not None:
            listing.test.append((file, classes.index(label)))
        elif split in ("", "train", "training"):
            listing.train.append((file, classes.index(label)))
        else:
            left_out.append(file)
    listing.leave_out(
        left_out, f"of other splits than train and {testing}" if testing else "of unknown splits"
    )


def _named_columns(path: Path, rows: list[list[str]]) -> dict[str, int | None]:
    """The columns of path, label, split and confidence, None where there is none. Removes a header from `rows`."""
    head = [cell.strip().casefold() for cell in rows[0]]
    header = any(cell in PATH_NAMES for cell in head) and not any(_file(path, cell) for cell in rows[0])
    if not header:
        return {"path": 0, "label": 1, "split": None, "confidence": None}
    del rows[0]
    names = {"path": PATH_NAMES, "label": LABEL_NAMES, "split": SPLIT_NAMES, "confidence": {"confidence"}}
    return {
        column: next((i for i, cell in enumerate(head) if cell in known), None)
        for column, known in names.items()
    }


def _file(table: Path, name: str) -> Path | None:
    """The file that a table names; None where there is none."""
    name = name.strip()
    if not name or "\0" in name:
        return None
    for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
        for candidate in (table.parent / spelling, expanded(spelling)):
            try:
                if candidate.is_file():
                    return candidate
            except OSError:  # a name longer than names can be
                continue
    return None


def _width(rows: list[list[str]]) -> int:
    return sum(len(row) > 1 for row in rows)


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
