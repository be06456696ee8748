"""The page on your own images, from a folder to features: every command of its walk-through, in order and verbatim."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scatsimclr import cli
from tests.training.conftest import TINY, write_images

PAGE = (Path(__file__).parents[1] / "docs" / "images.md").read_text(encoding="utf-8")
SECTION = PAGE.split("\n## ")[0]
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", SECTION, re.S)


@pytest.mark.parametrize("labelled", [True, False])
def test_every_command_of_the_walk_through_works(tmp_path, monkeypatch, capsys, labelled):
    monkeypatch.chdir(tmp_path)
    images = write_images(tmp_path / "my" / "images", 20)
    if not labelled:
        for path in images.rglob("*.png"):
            path.rename(images / f"{path.parent.name} {path.name}")
    chosen = sorted(images.rglob("*.png"))[7]
    with Image.open(chosen) as picture:
        picture.save("new.jpg", quality=100, subsampling=0)
    printed = {}
    for language, block in BLOCKS:
        if language == "python":
            capsys.readouterr()
            exec(compile(block, "images.md", "exec"), {})
            printed["python"] = capsys.readouterr().out
            continue
        for line in block.splitlines():
            python, dash_m, module, *arguments = shlex.split(line, comments=True)
            assert (python, dash_m) == ("python", "-m")
            # The recipe trains for an hour; smaller settings are all that is added.
            small = [*TINY, "epochs=1"] if module == "scatsimclr.train" else []
            assert cli.run(importlib.import_module(module).command, arguments + small) == 0
            printed[module] = capsys.readouterr().out
    assert list(printed) == ["scatsimclr.train", "scatsimclr.report", "scatsimclr.embed", "python"]
    assert (tmp_path / "runs" / "mine" / "report.html").exists()
    assert len(np.load("features.npy")) == 40
    rows = Path("features.csv").read_text().splitlines()[1:]
    nearest = rows[int(re.search(r"\d+", printed["python"]).group())]
    assert chosen.name in nearest
