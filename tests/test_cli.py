"""What all commands share."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
import torch

import scatsimclr
from scatsimclr import train
from scatsimclr.cli import main, run
from scatsimclr.data.imageset import ImageSet
from scatsimclr.errors import UserError
from scatsimclr.training.words import left_out

NAMES = ["Mu\udcf1oz/caf\udce9.png", "日本.png", "großer Hund.png", "\ud800.png"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_no_name_is_unprintable(monkeypatch, encoding, stream):
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, stream, out)

    def command(argv):
        for name in NAMES:
            print(name, file=getattr(sys, stream))
        if stream == "stderr":
            raise UserError(NAMES[0])

    assert run(command, []) == (2 if stream == "stderr" else 0)
    out.flush()
    assert len(out.buffer.getvalue().splitlines()) == len(NAMES) + (stream == "stderr")


def test_a_stream_that_cannot_be_set_is_left(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run(lambda argv: print("ñ"), []) == 0


@pytest.mark.parametrize("newest", ["mine", "20261127-000000-folder", "a", "z"])
def test_the_newest_run_is_the_one_written_last(tmp_path, monkeypatch, newest):
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(["20261127-000000-folder", "mine", "z", "a"]):
        last = Path("runs") / name / "checkpoints" / "last.pt"
        last.parent.mkdir(parents=True)
        last.touch()
        time = 2 * 10**9 if name == newest else 10**9 + age
        os.utime(last, (time, time))
    (Path("runs") / "unfinished").mkdir()
    assert train.find_resume("auto", None) == (Path("runs") / newest, Path("runs") / newest)
    assert train.find_resume("auto", "runs/mine") == (Path("runs/mine"), Path("runs/mine"))
    assert train.find_resume("auto", "runs/unfinished") == (Path("runs/unfinished"), None)


def test_what_is_left_out_is_counted_by_reason():
    skipped = [
        ("a.png", "empty file"),
        ("b.png", "damaged image: OSError: x"),
        ("c.png", "damaged image: KeyError: y"),
    ]
    images = ImageSet(
        torch.zeros(1, 2, 2, 1, dtype=torch.uint8),
        torch.tensor([-1]),
        (),
        None,
        tuple(skipped),
        ("left out 30 images",),
    )
    assert left_out(images) == [
        "left out 30 images",
        "2 files left out, damaged image; the first: b.png",
        "1 file left out, empty file; the first: a.png",
    ]


def test_the_version_is_told(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scatsimclr", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"scatsimclr {scatsimclr.__version__}\n"
