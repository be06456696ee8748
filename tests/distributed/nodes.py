"""Runs of four machines under torchrun: one that ends, and those of which a machine is killed, frozen or cut off.

A machine is a network namespace with a host name of its own, on one bridge, or an address of the loopback interface.
Making namespaces needs root; where they are refused a case is not possible, and says so.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from scatsimclr.training import checkpoint
from tests.campaign import ImpossibleError
from tests.distributed.endings import after_steps, arguments, children_of, run
from tests.distributed.processes import TORCHRUN, free_port
from tests.faults.child import same, weights
from tests.faults.disks import command

MACHINES = 4
ENDED = 60.0  # seconds within which all machines have ended
ERROR = "scatsimclr: error: "
_numbers = itertools.count()


@dataclass
class Machine:
    """One of the machines of a run.

    Attributes:
        address: Where the others reach it.
        wrap: What commands on it begin with.
        log: Everything that they print.
        namespace: Its network; "" for an address of the loopback interface.
        torchrun: The process; None before it is started.
    """

    address: str
    log: Path
    wrap: Sequence[str] = ()
    namespace: str = ""
    torchrun: subprocess.Popen[bytes] | None = None
    _workers: list[int] = field(default_factory=list)

    def start(self, endpoint: str, argv: Sequence[str]) -> None:
        """Starts `python -m scatsimclr.train` by torchrun, in one process."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if self.namespace:
            environment["GLOO_SOCKET_IFNAME"] = "eth0"
        launch = [
            *self.wrap, *TORCHRUN, f"--nnodes={MACHINES}", "--nproc-per-node=1", "--rdzv-backend=c10d",
            "--rdzv-id=test", f"--rdzv-endpoint={endpoint}", f"--local-addr={self.address}",
        ]  # fmt: skip
        with self.log.open("wb") as file:
            self.torchrun = subprocess.Popen(
                [*launch, "-m", "scatsimclr.train", *argv],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def send(self, number: int) -> None:
        """Sends a signal to torchrun and to the training process."""
        assert self.torchrun is not None
        self._workers = children_of(self.torchrun.pid) or self._workers
        for pid in (self.torchrun.pid, *self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def text(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def addresses(folder: Path) -> Iterator[list[Machine]]:
    """Machines that are addresses of the loopback interface."""
    with stopped_at_the_end(
        [Machine(f"127.0.0.{n}", folder / f"{n}.log") for n in range(1, MACHINES + 1)]
    ) as found:
        yield found


@contextmanager
def namespaces(folder: Path) -> Iterator[list[Machine]]:
    """Machines with networks and host names of their own.

    Raises:
        ImpossibleError: They cannot be made here.
    """
    if not all(map(shutil.which, ("ip", "unshare"))):
        raise ImpossibleError("no ip and unshare (iproute2, util-linux)")
    mark = f"{os.getpid()}{next(_numbers)}"[-7:]
    bridge, machines, hosts = f"sb{mark}", [], folder / "hosts"
    lines = [f"10.77.0.{n} machine{n}\n" for n in range(1, MACHINES + 1)]
    hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
    try:
        command("ip", "link", "add", bridge, "type", "bridge")
        command("ip", "link", "set", bridge, "up")
        for n in range(1, MACHINES + 1):
            name, cable = f"s{n}-{mark}", f"v{n}{mark}"
            command("ip", "netns", "add", name)
            named = f'mount --bind "$0" /etc/hosts && hostname machine{n} && exec "$@"'
            hostname = ["unshare", "--uts", "--mount", "sh", "-c", named, str(hosts)]
            wrap = ["ip", "netns", "exec", name, *hostname]
            machines.append(Machine(f"10.77.0.{n}", folder / f"{n}.log", wrap, name))
            command("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name)
            command("ip", "link", "set", cable, "master", bridge, "up")
            command("ip", "-n", name, "address", "add", f"10.77.0.{n}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                command("ip", "-n", name, "link", "set", device, "up")
        with stopped_at_the_end(machines):
            yield machines
    finally:
        for machine in machines:
            subprocess.run(["ip", "netns", "delete", machine.namespace], capture_output=True)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True)


@contextmanager
def stopped_at_the_end(machines: list[Machine]) -> Iterator[list[Machine]]:
    try:
        yield machines
    finally:
        for machine in machines:
            if machine.torchrun is not None and machine.torchrun.poll() is None:
                machine.send(signal.SIGKILL)
                machine.torchrun.wait()


def ended(machines: Sequence[Machine], seconds: float) -> list[int]:
    """The exit statuses of torchrun on all machines, which end within so many seconds."""
    end, found = time.monotonic() + seconds, []
    for machine in machines:
        assert machine.torchrun is not None
        try:
            found.append(machine.torchrun.wait(max(0.1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{machine.address} still runs after {seconds:.0f} s:\n{texts(machines)}"
            ) from None
    return found


def texts(machines: Sequence[Machine]) -> str:
    """The end of what each machine has printed."""
    return "\n".join(f"--- {machine.address}\n{machine.text()[-3000:]}" for machine in machines)


def start(machines: Sequence[Machine], argv: Sequence[str]) -> None:
    endpoint = f"{machines[0].address}:{free_port()}"
    for machine in machines:
        machine.start(endpoint, argv)


def whole(folder: Path, *, networks: bool) -> str:
    """A run of four machines, to its end: the weights of four processes of one machine."""
    place, began = folder / "run", time.monotonic()
    run(MACHINES, arguments(folder / "whole"), folder / "whole.log")
    with (namespaces if networks else addresses)(folder) as machines:
        start(machines, arguments(place))
        states = ended(machines, 900)
        assert states == [0] * MACHINES, texts(machines)
    assert same(weights(place, "last"), weights(folder / "whole", "last"))
    return f"{time.monotonic() - began:.0f} s"


def lost(folder: Path, how: str) -> str:
    """A machine is lost, the one with torchrun's store or another: all others end, with a line, within a minute.

    Args:
        folder: For everything.
        how: "killed", "frozen" or "cut off". A frozen machine ends once it goes on, one that is cut off by itself.
    """
    found = []
    for victim in (3, 0):
        place = folder / f"{how.replace(' ', '-')}{victim}"
        place.mkdir()
        with namespaces(place) as machines:
            start(machines, arguments(place / "run", "epochs=1000"))
            after_steps(place / "run", 5)
            others = [machine for machine in machines if machine is not machines[victim]]
            began = time.monotonic()
            if how == "cut off":
                command("ip", "-n", machines[victim].namespace, "link", "set", "eth0", "down")
                others = machines
            else:
                machines[victim].send(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            states = ended(others, ENDED)
            seconds = time.monotonic() - began
            assert 0 not in states, texts(machines)
            if how == "frozen":
                machines[victim].send(signal.SIGCONT)
                ended(machines, ENDED)
            lines = [line for m in machines for line in m.text().splitlines() if line.startswith(ERROR)]
            assert lines, texts(machines)
            assert not any("]: Traceback" in m.text() for m in machines), texts(machines)  # of a process
            found.append(f"{seconds:.0f} s")
            assert checkpoint.load(place / "run")["step"] > 0
    return f"{how}: another machine {found[0]}, the one with the store {found[1]}"
