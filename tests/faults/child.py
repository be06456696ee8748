"""The training program in processes of its own, forked from one that has imported everything.

Importing takes seconds, a run as small as these about one: a fork makes hundreds of them possible.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from scatsimclr import cli, train
from scatsimclr.training import checkpoint
from scatsimclr.training.interruption import SIGNALS
from tests.training.conftest import TINY

BUG = 70  # exit status of an exception that nothing caught
SETTINGS = [
    "--fused", "--resume", "auto", *TINY, "epochs=3", "batch_size=4", "model.base_model=scatsimclr4",
    "checkpoint_every_n_steps=2", "evaluation.probes=[knn]",
]  # fmt: skip


class Child:
    """A running command.

    Attributes:
        pid: Its process.
        log: The file with everything that it prints.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        prepare: Callable[[], None] | None = None,
        command: Callable[[list[str]], int | None] = train.command,
    ) -> None:
        """Starts a command.

        Args:
            argv: Its arguments.
            log: Where to append what it prints.
            prepare: Called in the child before the command.
            command: The command, as `scatsimclr.cli.run` takes it.
        """
        self.log = log
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = BUG
            try:
                file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(file, 1)
                os.dup2(file, 2)
                for number in SIGNALS:  # whoever started this may ignore them
                    signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                if prepare is not None:
                    prepare()
                status = cli.run(command, list(argv))
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else BUG
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def send(self, number: int) -> None:
        """Sends a signal, if the process is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = 120) -> int:
        """Returns the exit status, negative for a signal.

        Raises:
            TimeoutError: The process has not ended after so many seconds; it is killed.
        """
        end = time.monotonic() + seconds
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"still running after {seconds} s:\n{self.text()[-2000:]}")
            time.sleep(0.002)
        return status

    _status: int | None = None

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


def arguments(folder: Path, images: Path, *settings: str) -> list[str]:
    """Of a run in `folder`, new or resumed."""
    return [*SETTINGS, "--run-dir", str(folder), "--data-dir", str(images), *settings]


def one_line(text: str) -> str:
    """The only line on standard error of a command that a user's mistake ended.

    Raises:
        AssertionError: There is a traceback, or another number of lines with an error, or one of over 300 characters.
    """
    assert "Traceback" not in text, text[-3000:]
    lines = [line for line in text.splitlines() if line.startswith("scatsimclr: error: ")]
    assert len(lines) == 1, text[-3000:]
    assert len(lines[0]) <= 320, lines[0]
    return lines[0]


def die_inside_a_write(folder: Path, nth: int, delay: float) -> Callable[[], None]:
    """What a child calls to kill itself while it writes in `folder`.

    Args:
        folder: The run folder.
        nth: At which opening for writing, or renaming, there.
        delay: So many seconds after it began.
    """

    def prepare() -> None:
        count = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event not in ("open", "os.rename") or str(folder) not in str(arguments[0]):
                return
            if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
                return
            count += 1
            if count == nth:
                threading.Thread(target=kill).start()

        def kill() -> None:
            time.sleep(delay)
            os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)

    return prepare


def tensors(state: object, prefix: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by their place in it."""
    if isinstance(state, torch.Tensor):
        return {prefix: state}
    if isinstance(state, dict):
        items = list(state.items())
    elif isinstance(state, list | tuple):
        items = list(enumerate(state))
    else:
        return {}
    return {name: value for key, inner in items for name, value in tensors(inner, f"{prefix}.{key}").items()}


def weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a run's checkpoint, "last" or "best"."""
    return tensors(checkpoint.load(folder / "checkpoints" / f"{name}.pt"))


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors have the same names and bits."""
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
