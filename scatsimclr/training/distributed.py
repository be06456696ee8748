"""The processes that train one run together: who this one is, what they agree on, and how they end.

torchrun starts them and torch.distributed connects them. Every process holds the whole model and has its share of each
batch; the first one names the run folder, writes, prints and evaluates. Without torchrun there is one process, which is
the first, and nothing here does anything. With torchrun one process is a group of one: it normalises as several ones
do, so that runs go on with the same figures by any number of processes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore, Store

from scatsimclr.errors import UserError, shortened
from scatsimclr.training.interruption import FailedElsewhere, Interrupted, Interruption
from scatsimclr.training.meeting import meet
from scatsimclr.training.watch import Watch

T = TypeVar("T")

JOINING = timedelta(minutes=5)  # for the store to be there
STEP = timedelta(minutes=30)  # for the collectives of a step, and for all processes to be there
WAITING = timedelta(
    days=1
)  # for the first one, which may evaluate for hours; `Watch` sees whether it is alive
NOTHING: tuple[str, Any] = ("", None)  # what the others put in for the first process's word
_FOLDER = "scatsimclr/folder"


class World:
    """One of the processes of a run, or the only one.

    Attributes:
        stop: Whether the run is to stop.
        rank: Of this process.
        size: Number of processes.
        local_rank: Of this process among those of its machine.
        local_size: Processes of its machine.
        steps: The name of the group of the collectives inside a step; "" without torchrun.
        gradients: A group of its own, so that the sums of gradients wait for no other collective; None for one process.
    """

    steps = ""
    gradients: dist.ProcessGroup | None = None
    _control: dist.ProcessGroup | None = None
    _watch: Watch | None = None

    def __init__(
        self,
        stop: Interruption | None = None,
        rank: int = 0,
        size: int = 1,
        local_rank: int = 0,
        local_size: int = 1,
    ) -> None:
        self.stop = stop or Interruption()
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size

    @property
    def main(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    @property
    def shared(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    def connect(self) -> None:
        """Meets the other processes.

        Raises:
            UserError: They are not there.
        """
        try:
            if _agents_store():
                store = _store()
                name = meet(PrefixStore("scatsimclr/meeting", store), self.rank, self.size, STEP)
                own = PrefixStore(name, store)
                dist.init_process_group(store=own, rank=self.rank, world_size=self.size, timeout=STEP)
            else:
                dist.init_process_group(timeout=STEP)
            self.steps = dist.group.WORLD.group_name  # type: ignore[union-attr]
            if not self.shared:
                return
            self.gradients = dist.new_group()
            self._control = dist.new_group(backend="gloo", timeout=WAITING)
            people: list[Any] = [None] * self.size
            dist.all_gather_object(people, (socket.gethostname(), os.getpid()), group=self._control)
            # What an earlier attempt of the same job left in the store is not this one's.
            token = self.from_main(lambda: secrets.token_hex(8))
            news = PrefixStore(f"scatsimclr/{token}", _store())
            hosts = self.main and not _agents_store()
            self._watch = Watch(news, self.rank, self.stop, people, hosts=hosts)
            self.barrier()
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the processes of the run do not meet: {shortened(str(error), 200)}") from None
        self._watch.start()

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.shared:
            # An all-reduce: gloo's barrier has a timeout of its own.
            dist.all_reduce(torch.zeros(1), group=self._control)

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """A block that one process of each machine does before its others: it may download."""
        if self.local_rank:
            self.barrier()
        yield
        if not self.local_rank:
            self.barrier()

    def broadcast(self, value: T) -> T:
        """The first process's value, in all processes; it must be picklable."""
        if not self.shared:
            return value
        box: list[Any] = [value if self.main else None]
        dist.broadcast_object_list(box, group=self._control, group_src=0)
        found: T = box[0]
        return found

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, in all processes, where it is not called; it must be picklable.

        Raises:
            FailedElsewhere, Interrupted: `make` has failed or was interrupted, and the first process says how.
        """
        if not self.shared:
            return make()
        if not self.main:
            made: T = self.answer(*self.broadcast(NOTHING))
            return made
        try:
            value = make()
        except BaseException as error:
            self.broadcast(self.ended(error))
            raise
        self.broadcast(("value", value))
        return value

    @staticmethod
    def ended(error: BaseException) -> tuple[str, Any]:
        """What the first process tells the others of its exception."""
        return ("stopped" if isinstance(error, Interrupted) else "failed", exit_status(error))

    @staticmethod
    def answer(kind: str, value: Any) -> Any:
        """What the first process told: its value, or an exception of the same kind."""
        if kind == "stopped":
            raise Interrupted
        if kind == "failed":
            raise FailedElsewhere(value)
        return value

    def gathered(self, value: T) -> list[T]:
        """Every process's value, in all processes; it must be picklable."""
        if not self.shared:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._control)
        return found

    def send(self, t: torch.Tensor, to: int) -> dist.Work | None:
        """Begins to send a CPU tensor to a process."""
        return dist.isend(t, group=self._control, group_dst=to)

    def receive(self, t: torch.Tensor, origin: int) -> torch.Tensor:
        """Fills a CPU tensor with one that a process sends."""
        dist.recv(t, group=self._control, group_src=origin)
        return t

    def ask(self, wishes: Callable[[], tuple[int, ...]]) -> Callable[[], tuple[int, ...]]:
        """The largest of all processes' wishes, element by element.

        Args:
            wishes: This process's, the same number in every process. With several processes it is asked at once, and
                the answer travels while the caller works; the only process is asked when the answer is wanted.

        Returns:
            Waits for the answer, which is the same in all processes.
        """
        if not self.shared:
            return wishes
        told = torch.tensor(wishes(), dtype=torch.int64)
        work = dist.all_reduce(told, dist.ReduceOp.MAX, group=self._control, async_op=True)

        def answer() -> tuple[int, ...]:
            if work is not None:
                work.wait()
            return tuple(told.tolist())

        return answer

    def check(self) -> None:
        """Ends a phase in which all processes work together, at the same place in all of them, if one is to stop.

        Raises:
            Interrupted: One is to stop.
        """
        if self.shared:
            (number,) = self.ask(lambda: (self.stop.number or 0,))()
            if number:
                self.stop.number = number
                raise Interrupted

    @contextmanager
    def together(self) -> Iterator[None]:
        """Such a phase: the only process may be stopped anywhere in it, several ones at their `check`."""
        with contextlib.nullcontext() if self.shared else self.stop.anywhere():
            yield

    def copy_from_main(self, *modules: nn.Module | None) -> None:
        """Gives all processes the first one's parameters and buffers."""
        if not self.shared:
            return
        self.barrier()  # the first process may have measured all images
        for module in modules:
            for tensor in [] if module is None else [*module.parameters(), *module.buffers()]:
                packed = tensor.detach().contiguous()
                dist.broadcast(packed, 0)
                tensor.detach().copy_(packed)

    def copy_buffers_from_main(self, module: nn.Module) -> None:
        """Gives all processes the first one's buffers: the running statistics where each has its own batches'."""
        if self.shared:
            for tensor in module.buffers():
                dist.broadcast(tensor, 0)

    def leave(self) -> None:
        """Ends this process's part of a run that is complete."""
        self.barrier()
        if self._watch is not None:
            self._watch.close()
        if self.steps:
            dist.destroy_process_group()

    def give_up(self, error: BaseException) -> NoReturn:
        """Ends this process's part of a run that is not: one process says why, the others end without a word.

        Raises:
            BaseException: The error, where it is to be reported; SystemExit where another process reports it;
                Interrupted where the error is that another one was asked to stop.
        """
        status, found = exit_status(error), None
        if self._watch is None:  # there are no others, or they have not been met
            raise error
        if isinstance(error, RuntimeError):  # perhaps only the echo of what happened to another process
            found = self._watch.reason(seconds=2.0) or broken_connection(error)
        if found == "stopped" or isinstance(error, Interrupted):
            self._watch.close()
            _exit_without_waiting(self.stop.status)
            raise error if isinstance(error, Interrupted) else Interrupted from None
        _exit_without_waiting(status)
        if isinstance(error, FailedElsewhere) or found == "failed":
            self._watch.close()
            raise SystemExit(status) from None
        if not self._watch.claim(status):
            raise SystemExit(status) from None
        if found is not None:
            print(
                f"scatsimclr: error: {found} is gone; the run ends, and continues from its last checkpoint",
                file=sys.stderr,
                flush=True,
            )
            raise SystemExit(status) from None
        raise error


def broken_connection(error: RuntimeError) -> str | None:
    """What is gone where a collective's connection broke, as when another machine dies; None for other errors."""
    text = str(error)
    lost = "gloo/transport/" in text or "ncclRemoteError" in text
    if not lost and not isinstance(error, dist.DistNetworkError):
        return None
    words = re.sub(r"^\[[^]]*\] |\. This is typically caused .*", "", text, flags=re.DOTALL)
    return f"another process ({shortened(words, 160)})"


def exit_status(error: BaseException) -> int:
    """Of a process that this exception ends."""
    if isinstance(error, FailedElsewhere):
        return error.status
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, UserError | OSError) else 1


def _exit_without_waiting(status: int) -> None:
    """Lets the interpreter end at once after its last words: a collective that others have left would never end."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)


def number_of_processes() -> int:
    """Of the run that this process is one of, by the environment that torchrun sets.

    Raises:
        UserError: It is no number.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdecimal() or not int(text):
        raise UserError(f"WORLD_SIZE must be the number of processes, as torchrun sets it, got {text!r}")
    return int(text)


@contextmanager
def joined(stop: Interruption) -> Iterator[World]:
    """This process's part of a run, by the environment that torchrun sets; without it, of the only process.

    An exception in the block is reported by the process that it came to first; in the others it becomes SystemExit.

    Args:
        stop: Watches the signals; hears of those that came to other processes.

    Raises:
        UserError: The environment is not torchrun's, or the processes do not meet.
    """
    size = number_of_processes()
    stop.relayed = "TORCHELASTIC_RUN_ID" in os.environ
    if size == 1 and "RANK" not in os.environ:
        yield World(stop)
        return
    try:
        rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
        world = World(stop, rank, size, local, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        stop.reports = world.main
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"WORLD_SIZE={size} without RANK, MASTER_ADDR and MASTER_PORT ({error}): start with torchrun"
        ) from None
    try:
        world.connect()
        yield world
        world.leave()
    except BaseException as error:
        stop.end()
        world.give_up(error)


def _store() -> Store:
    """A connection of its own to the store of the run's processes."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store: Store = dist.TCPStore(host, port, is_master=False, timeout=JOINING)  # type: ignore[attr-defined]
    return store


def _agents_store() -> bool:
    """Whether torchrun holds the store, which then outlives these processes; else the first of them does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _job() -> Store | None:
    """What torchrun keeps while it restarts the processes of a job; None without it."""
    if not _agents_store():
        return None
    try:
        return PrefixStore(os.environ.get("TORCHELASTIC_RUN_ID", ""), _store())
    except RuntimeError:
        return None


def remember(folder: Path) -> None:
    """Notes the run folder for the processes that torchrun may start after these."""
    if store := _job():
        store.set(_FOLDER, str(folder.resolve()))


def remembered() -> Path | None:
    """The run folder of the processes that torchrun has started before these; None for the first ones."""
    store = _job()
    return Path(store.get(_FOLDER).decode()) if store and store.check([_FOLDER]) else None
