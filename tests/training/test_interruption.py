"""Signals: the first is noted, or raises where it may; the second ends the process."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import pytest

from scatsimclr.training.interruption import SIGNALS, FailedElsewhere, Interrupted, Interruption


@pytest.fixture(autouse=True)
def _asked():
    """Whoever runs the tests may ignore signals, as `nohup` and a shell's background do."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted(number):
    stop, before = Interruption(), signal.getsignal(number)
    with stop.watched():
        os.kill(os.getpid(), number)
        assert stop.number == number
    assert signal.getsignal(number) == before
    assert stop.status == (130 if number == signal.SIGINT else 0)


def test_it_raises_where_anything_may_stop_and_only_there():
    stop = Interruption()

    def evaluate():
        with stop.anywhere():
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("not stopped")

    with stop.watched():
        with pytest.raises(Interrupted):
            evaluate()
        with pytest.raises(Interrupted), stop.anywhere():  # it was asked before
            raise AssertionError("not stopped")


@pytest.mark.parametrize("ending", [False, True])
def test_the_failure_of_another_process_interrupts_unless_this_one_is_ending(ending):
    stop = Interruption()
    with stop.watched():
        if ending:
            stop.end()
        with nullcontext() if ending else pytest.raises(FailedElsewhere):
            stop.fail(2)
            time.sleep(0.05)


def test_the_second_ends_the_process_without_a_traceback():
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from scatsimclr.training.interruption import Interruption\n"
        "with Interruption().watched():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == "\nstopped at once\n"


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Interruption()
        with stop.watched():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_signals_alone():
    seen = []

    def work():
        with Interruption().watched():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
