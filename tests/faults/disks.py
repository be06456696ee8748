"""Full, read-only and immutable disks, and files where folders should be: one line, and nothing lost.

Mounting and `chattr` need root; where they are refused a case is not possible, and says so.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scatsimclr.training import checkpoint
from tests.campaign import ImpossibleError
from tests.faults.child import Child, arguments, one_line, same, weights
from tests.faults.kills import reference


def command(*words: str) -> None:
    try:
        subprocess.run(words, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ImpossibleError(str(getattr(error, "stderr", "") or error).strip()) from None


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A tmpfs in `folder`."""
    folder.mkdir(parents=True)
    command("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))
    try:
        yield folder
    finally:
        command("umount", "--lazy", str(folder))


def full(folder: Path, images: Path, megabytes: int | None) -> str:
    """A disk too small for the run: one line, the last checkpoint is whole, and with room the run goes on.

    Args:
        folder: Where the disk is mounted.
        images: What to train on.
        megabytes: Its size; None for one that fills in mid-run: two checkpoints fit, and not a third beside them.

    Returns:
        The line.
    """
    whole = folder / "whole"
    reference(whole, images)
    if megabytes is None:
        megabytes = int(2.5 * (whole / "checkpoints" / "last.pt").stat().st_size / 1e6)
    with mounted(folder / "full", f"size={megabytes}m") as disk:
        run = disk / "run"
        child = Child(arguments(run, images), folder / "full.log")
        assert child.wait() == 2, child.text()[-3000:]
        line = one_line(child.text())
        assert not list(disk.rglob("*.partial")), "a partial file keeps the disk full"
        if (run / "checkpoints" / "last.pt").exists():
            checkpoint.load(run)
        command("mount", "-o", "remount,size=500m", str(disk))
        again = Child(arguments(run, images), folder / "again.log")
        assert again.wait() == 0, again.text()[-3000:]
        assert same(weights(run, "last"), weights(whole, "last"))
    return line


def read_only(folder: Path, images: Path) -> str:
    with mounted(folder / "read_only", "size=30m") as disk:
        command("mount", "-o", "remount,ro", str(disk))
        child = Child(arguments(disk / "run", images), folder / "read_only.log")
        assert child.wait() == 2, child.text()[-3000:]
        return one_line(child.text())


def immutable(folder: Path, images: Path) -> str:
    run = folder / "immutable"
    run.mkdir()
    command("chattr", "+i", str(run))
    try:
        child = Child(arguments(run, images), folder / "immutable.log")
        assert child.wait() == 2, child.text()[-3000:]
        return one_line(child.text())
    finally:
        command("chattr", "-i", str(run))


def file_as_folder(folder: Path, images: Path, part: str) -> str:
    """`part`: of the run folder, which is a file instead of a folder; "" is the run folder itself."""
    run = folder / f"file-{part.replace('/', '-')}"
    path = run / part
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")
    child = Child(arguments(run, images), folder / f"{run.name}.log")
    assert child.wait() == 2, child.text()[-3000:]
    assert path.read_text() == "a file"
    return one_line(child.text())


def folder_as_file(folder: Path, images: Path, part: str) -> str:
    """`part`: of the run folder, which is a folder instead of a file."""
    run = folder / f"folder-{part.replace('/', '-')}"
    (run / part).mkdir(parents=True)
    child = Child(arguments(run, images), folder / f"{run.name}.log")
    assert child.wait() == 2, child.text()[-3000:]
    shutil.rmtree(run)
    return one_line(child.text())
