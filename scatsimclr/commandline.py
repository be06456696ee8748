"""What all commands share: their exit status, their options, and how settings are told from files."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from scatsimclr.errors import UserError, shortened

_SETTING = re.compile(r"[A-Za-z_][\w.]*=")


def run(command: Callable[[list[str]], int | None], argv: list[str] | None = None) -> int:
    """Runs a command and turns its exceptions into an exit status.

    File names that the terminal cannot show are printed with escapes, so that printing never fails.

    Args:
        command: Takes the arguments and returns an exit status, or None for 0.
        argv: The arguments; by default those of the process.

    Returns:
        0; 2, with one line on stderr, for a user's mistake; or 130 when interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        # Absent from streams that are not text files, such as a test's StringIO.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    try:
        status = command(sys.argv[1:] if argv is None else argv) or 0
        # A full disk or a reader that has left is met here, and not as the interpreter ends.
        print(end="", flush=True)
        return status
    except UserError as error:
        print(f"scatsimclr: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output has left; the interpreter would fail again when it flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as error:
        # Disks, permissions, files in the place of folders: nothing that a traceback would explain.
        name = error.filename2 or error.filename  # of a renaming, the name that it was to get
        where = f"{name}: " if name else ""
        print(f"scatsimclr: error: {shortened(f'{where}{error.strerror or error}')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nscatsimclr: interrupted", file=sys.stderr)
        return 130


def command_parser(name: str, description: str, examples: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of `python -m scatsimclr.NAME`; `examples` are argument lists."""
    return argparse.ArgumentParser(
        prog=f"python -m scatsimclr.{name}",
        description=description,
        epilog=f"Examples: {' | '.join(examples)}" if examples else None,
    )


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Adds CHECKPOINT, and --config for a checkpoint that comes without its settings."""
    parser.add_argument(
        "checkpoint",
        help="checkpoint file, or run folder (its last checkpoint); with --config also bare weights: "
        ".safetensors, or a .pth file of the original code",
    )
    add_config(parser, "settings file, for bare weights")


def add_config(parser: argparse.ArgumentParser, text: str) -> None:
    """Adds -c/--config."""
    parser.add_argument("-c", "--config", metavar="FILE", help=text)


def add_settings(parser: argparse.ArgumentParser, example: str = "device=cpu") -> None:
    """Adds `key=value …`, which `settings_of` reads."""
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help=f"any setting by its dotted name, such as {example}"
    )


def add_words(parser: argparse.ArgumentParser, metavar: str, text: str) -> None:
    """Adds the `words` of a command that takes paths and settings in any number: see `split_words`."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar=f"{metavar}|key=value",
        help=f"{text}; and any setting by its dotted name, such as device=cpu",
    )


def add_data_dir(parser: argparse.ArgumentParser, text: str = "where the images are") -> None:
    """Adds --data-dir, which `settings_of` reads."""
    parser.add_argument("--data-dir", metavar="DIR", help=text)


def add_output(
    parser: argparse.ArgumentParser,
    metavar: str,
    text: str,
    *,
    required: bool = False,
    default: Path | None = None,
) -> None:
    """Adds -o/--output, a Path."""
    parser.add_argument(
        "-o", "--output", type=Path, metavar=metavar, help=text, required=required, default=default
    )


def split_words(options: argparse.Namespace) -> list[str]:
    """Splits `options.words` into the paths, which it returns, and `options.settings`.

    A word `name=value` is a setting unless there is a file of that name.
    """
    settings = [word for word in options.words if _SETTING.match(word) and not Path(word).exists()]
    options.settings = settings
    return [word for word in options.words if word not in settings]


def settings_of(options: argparse.Namespace) -> list[str]:
    """The `key=value` settings of a command line; --data-dir comes last and wins."""
    data_dir = [f"data_dir={options.data_dir}"] if getattr(options, "data_dir", None) else []
    return [*options.settings, *data_dir]


def check_output_file(output: Path, suffixes: Sequence[str]) -> None:
    """UserError for an --output that cannot be written."""
    if output.suffix not in suffixes:
        raise UserError(f"--output must end in {' or '.join(suffixes)}, got {output}")
    if not output.parent.is_dir():
        raise UserError(f"--output must be in a folder that exists, got {output}")


def check_positive(option: str, value: int) -> None:
    """UserError for a count below 1."""
    if value < 1:
        raise UserError(f"{option} must be 1 or more, got {value}")
