"""A campaign: cases that take minutes, each in a folder of its own, one line for each."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

Case = Callable[[Path], object]


class ImpossibleError(Exception):
    """This machine does not allow the case: mounting a disk, for instance."""


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every campaign has; `description` is its module's docstring."""
    assert description is not None
    made = argparse.ArgumentParser(prog=f"python -m {module}", description=description.partition(": ")[2])
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--only", nargs="+", default=[""], help="cases whose names begin so")
    return made


def run_campaign(options: argparse.Namespace, cases: Callable[[Path], dict[str, Case]]) -> None:
    """Runs the cases that were asked for, prints what each returns, and exits with whether any failed.

    Args:
        options: What `parser` made.
        cases: Called with a folder for what they share; returns the cases by their names.
    """
    torch.set_num_threads(1)  # no thread is started before the forks
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index, (case, run) in enumerate(cases(folder).items()):
            if not case.startswith(tuple(options.only)):
                continue
            own = folder / f"case-{index}"
            own.mkdir()
            start = time.monotonic()
            try:
                result: object = run(own)
            except ImpossibleError as error:
                result = f"not possible here: {error}"
            except Exception:
                failed += 1
                result = "FAILED\n" + traceback.format_exc()
            print(f"{case:32} {time.monotonic() - start:6.1f} s  {result}", flush=True)
    print(f"{failed} failed")
    sys.exit(int(failed > 0))
