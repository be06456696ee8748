"""A run folder has one owner: the process that trains in it.

The lock is the operating system's, so that it ends with its process, however that ends; a file beside it says who has
it, for the message that others get.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from scatsimclr.errors import UserError
from scatsimclr.files import remove_partial_files, write_text

LOCK, OWNER = ".lock", ".owner.json"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Owns a run folder, which is made if it is not there, for the duration of the block.

    Partial files that a dead owner left are removed. Where the file system has no locks, nothing is locked.

    Args:
        folder: The run folder.

    Raises:
        UserError: Another process owns it: its name, process and time are in the message.
        OSError: The folder cannot be made or written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(f"{folder} is in use by {_owner(folder)}; give another --run-dir") from None
    except NotImplementedError:  # flock on a file system without it
        yield
        return
    try:
        remove_partial_files(folder)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        write_text(
            folder / OWNER,
            json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": started}) + "\n",
        )
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        if made and [path.name for path in folder.iterdir()] == [LOCK]:  # a mistake leaves nothing behind
            (folder / LOCK).unlink()
            for path in made:
                with suppress(OSError):  # others have come to use it
                    path.rmdir()
        lock.release()


def remove_contents(folder: Path) -> None:
    """Removes what is in a folder that this process owns, but for the lock."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in (LOCK, OWNER):
            path.unlink()


def _owner(folder: Path) -> str:
    """Whoever has the lock, in words."""
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {int(owner['pid'])} on {str(owner['host'])[:64]} since {str(owner['since'])[:32]}"
    except (OSError, ValueError, KeyError, TypeError):  # between its lock and its file
        return "another process"
