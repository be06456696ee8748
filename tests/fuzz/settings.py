"""`python -m tests.fuzz.settings`: settings files and `key=value` settings that nobody would write.

Shipped settings files with spoiled bytes and lines, settings of every name with values of every kind, deep, long and
huge ones among them. Each gives settings or a message of one line and at most 300 characters, within seconds. Prints
how many were accepted and refused.
"""

from __future__ import annotations

import argparse
import random
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import yaml

from scatsimclr.config import load_config, setting_names, shipped
from scatsimclr.errors import UserError

SECONDS = 10  # that a case may take
MESSAGE = 300  # characters
FILES = ("digits", "photos", "cifar10", "stl10", "folder", "fashion_mnist")
TEXTS = (
    "2026-01-01", "0x_", "0b", "1_0", "9" * 5000, "-" + "9" * 5000, "1e400", "-1e400", ".nan", ".inf", "0x" + "f" * 400,
    "1:30:99", "true", "null", "~", "''", "[]", "{}", "[[]]", "[" * 500, "{a: " * 500, "&a [*a]", "*a", "!!float ''",
    "!!python/object/apply:os.system [x]", "|\n  a", "> b", "(0.4, 1.0)", "(1, 2, 3)", "(-1, 0)", "(1e9, 1e9, 3)",
    "(0, 0, 0)", "[32, 32, 3]", "[1.5, 2.5]", "\0", "\ud800", "ﬁ", "١٢", "1" * 100_000, "auto", "a,b", "=", "=1",
    "@", "%", "'", '"', "1.0.0", "+5", "-0", "1e-320",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 3, 2**31, 2**63, -(2**63), 10**9, 10**18, 10**400, 0.5, -0.5, 1e308, 1e-308, float("nan"),
           float("inf"), float("-inf"), True, False, None)  # fmt: skip


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """TimeoutError where a block takes longer."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def nested(rng: random.Random, depth: int) -> object:
    """Any value of lists, dicts, numbers and texts."""
    kind = rng.randrange(6 if depth else 3)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice(TEXTS)[: rng.choice((10, 10, 10_000))]
    if kind == 3:
        return [nested(rng, depth - 1) for _ in range(rng.choice((0, 1, 2, 3, 1000 if depth == 1 else 2)))]
    names = [
        rng.choice((rng.choice(setting_names()).split(".")[-1], rng.choice(TEXTS)[:20], "a", "lambda"))
        for _ in range(2)
    ]
    return {name: nested(rng, depth - 1) for name in names}


def override(rng: random.Random) -> str:
    """A setting of the command line, whose name there mostly is."""
    name = rng.choice(setting_names())
    if rng.random() < 0.15:
        name = rng.choice(
            (name + "x", name[:-1], "." + name, name + ".a", "a" * 10_000, "", "..", name.upper())
        )
    value = rng.choice(
        (
            rng.choice(TEXTS),
            str(rng.choice(NUMBERS)) if rng.random() < 0.9 else "x",
            str(rng.randint(-5, 300)),
        )
    )
    return rng.choice((f"{name}={value}", f"{name}={value}", f"{name}={value}", f"{name} = {value}", name))


def file_bytes(rng: random.Random) -> bytes:
    """A settings file: a shipped one with spoiled lines and bytes, or settings of any values."""
    if rng.random() < 0.5:
        lines = (shipped(rng.choice(FILES)) or "").splitlines()
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(lines))
            indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
            name = lines[place].strip().partition(":")[0]
            lines[place] = rng.choice((
                f"{indent}{name}: {rng.choice(TEXTS)}", f"{indent}{name}: {rng.choice(NUMBERS)}",
                lines[place] + "\n" + lines[place],
                "\t" + lines[place], "", lines[place] * 3, "- a", indent + "  extra: 1",
            ))  # fmt: skip
        text = "\n".join(lines) + "\n"
    else:
        settings: dict[str, object] = {}
        for name in rng.sample(setting_names(), rng.randint(1, 6)):
            *sections, leaf = name.split(".")
            inner = settings
            for section in sections:
                found = inner.setdefault(section, {})
                inner = found if isinstance(found, dict) else {}
            inner[leaf] = nested(rng, 3)
        if rng.random() < 0.2:
            settings[rng.choice(("model", "dataset", "augment", "loss", "pretext"))] = nested(rng, 2)
        text = yaml.safe_dump(settings)
    made = bytearray(text.encode("utf-8", "surrogatepass"))
    for _ in range(rng.choice((0, 0, 0, 1, 8))):
        if made:
            made[rng.randrange(len(made))] = rng.randrange(256)
    return bytes(made)


def answered(read: Callable[[], object], refusal: type[ValueError] = UserError) -> bool:
    """Calls `read`; False where it refuses what it reads, by a message of one short line.

    Raises:
        AssertionError: The message is too long, or of several lines.
        Exception: Whatever else was raised: a bug.
    """
    try:
        read()
    except refusal as error:
        message = str(error)
    else:
        return True
    assert len(message) <= MESSAGE, f"{len(message)} characters: {message[:500]}"
    assert "\n" not in message, message
    return False


def accepted(read: Callable[[], object], refusal: type[ValueError] = UserError) -> bool:
    """As `answered`, within SECONDS, or else TimeoutError."""
    with limited(SECONDS):
        return answered(read, refusal)


def case(number: int, folder: Path) -> str:
    """One file or command line; returns "accepted" or "refused"; raises as `accepted` does."""
    rng = random.Random(number)
    file = None
    if rng.random() < 0.6:
        file = folder / "settings.yaml"
        file.write_bytes(file_bytes(rng))
    overrides = [override(rng) for _ in range(rng.randint(0 if file else 1, 3))]
    try:
        read = accepted(lambda: load_config(None if file is None else str(file), overrides).to_yaml())
    except Exception as error:
        raise AssertionError(f"case {number}: {overrides!r:.500}") from error
    return "accepted" if read else "refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(": ")[2].splitlines()[0])
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = Counter(
            case(number, Path(folder)) for number in range(options.first, options.first + options.count)
        )
    print(f"settings: {options.count} cases, {found['accepted']} accepted, {found['refused']} refused")


if __name__ == "__main__":
    main()
