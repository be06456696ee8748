"""One process owns a run folder; others are told which."""

import os
import signal
import subprocess
import sys

import pytest

from scatsimclr.errors import UserError
from scatsimclr.files import replacing
from scatsimclr.training.ownership import OWNER, owned

OTHER = """
import sys, time
from pathlib import Path
from scatsimclr.training.ownership import owned
with owned(Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "owned\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_is_told_who_the_first_is(tmp_path, other):
    with (
        pytest.raises(UserError, match=rf"is in use by process {other.pid} on \S+ since 20"),
        owned(tmp_path),
    ):
        pass


def test_a_dead_owner_owns_nothing(tmp_path, other):
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert (tmp_path / OWNER).exists()
    with owned(tmp_path):
        assert str(os.getpid()) in (tmp_path / OWNER).read_text()
    assert not (tmp_path / OWNER).exists()


@pytest.mark.parametrize("text", ["", "{", "5", '{"pid": "x"}', '{"pid": 1}'])
def test_a_damaged_owner_file_is_no_traceback(tmp_path, other, text):
    (tmp_path / OWNER).write_text(text)
    with pytest.raises(UserError, match="is in use by another process"), owned(tmp_path):
        pass


def test_partial_files_of_the_dead_are_removed_and_others_stay(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with replacing(tmp_path / "checkpoints" / "last.pt") as partial:
        name = partial.name
        partial.write_text("")
    left = tmp_path / "checkpoints" / name
    left.write_text("half")
    mine = tmp_path / "notes.partial"
    mine.write_text("mine")
    with owned(tmp_path):
        assert not left.exists()
    assert mine.exists()


def test_the_folder_is_free_after_an_error(tmp_path):
    def fail():
        with owned(tmp_path):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with owned(tmp_path):
        pass
