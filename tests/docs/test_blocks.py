"""Every code block of the README and of docs/ runs as it stands there, or says beside it why not."""

from __future__ import annotations

import importlib.util
import shutil

import numpy as np
import pytest
import sklearn.datasets
import sklearn.utils
import torch
from PIL import Image

from scatsimclr import cli, runs, train
from tests.docs.pages import PAGES, SMALL, blocks, run_commands, run_python, small_fit
from tests.training.conftest import write_images

# Blocks that do not run, with the reason that stands beside them.
NOT_RUN = {
    "CONTRIBUTING.md": ["takes minutes"] * 3,
    "docs/distributed.md": ["starts several processes"],
    "docs/evaluation.md": ["needs a file of the original code"],
    "docs/gpu.md": ["needs a GPU"] * 3,
    "docs/implementations.md": ["takes minutes"],
    "docs/index.md": ["installs"],
    "docs/machines.md": ["needs several machines", "needs Slurm", "needs a cluster"],
    "docs/reproduce.md": ["takes hours", "takes minutes"],
    "docs/training.md": ["downloads a data set"] * 2,
    "README.md": ["takes minutes"],
}


def names_on(page: str) -> dict[str, object]:
    """What a page's Python takes for granted: its reader's own tensors."""
    two_views = {"z_i": torch.randn(8, 16), "z_j": torch.randn(8, 16)}
    given = {
        "README.md": {"images": torch.rand(2, 96, 96), **two_views},
        "docs/export.md": {"images": torch.rand(2, 3, 16, 16)},
        "docs/loss.md": {"device": "cpu", "batch_size": 8, "temperature": torch.tensor(0.5), **two_views},
        "docs/python.md": {"X": np.random.default_rng(0).random((20, 64)), "y": np.arange(20) % 2},
        "docs/scattering.md": {
            "images": torch.rand(2, 96, 96),
            "rgb": torch.rand(2, 3, 96, 96),
            "torch": torch,
        },
    }
    return {"__name__": "__main__", **given.get(page, {})}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder as the pages' reader has it: images, some labels, and finished runs."""
    folder = tmp_path_factory.mktemp("reader")
    images = write_images(folder / "my" / "images", 20)
    paths = sorted(images.rglob("*.png"))
    for name in ("new.jpg", "a.jpg", "b.png"):
        Image.open(paths[7]).save(folder / name)
    labelled = [f"{path.relative_to(images)},{path.parent.name}" for path in paths[::4]]
    (folder / "few.csv").write_text("\n".join(["path,label", *labelled]) + "\n")
    run = folder / "runs" / "RUN"
    folders = ["dataset.dataset=folder", "--data-dir", str(images), "--run-dir", str(run)]
    assert cli.run(train.command, [*folders, *SMALL["scatsimclr.train"]]) == 0
    for name in ("ONE", "OTHER"):
        shutil.copytree(run, run.with_name(name))
    shutil.copytree(images, folder / "other" / "images")
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_in_order(page, workplace, tmp_path, monkeypatch):
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "fit", small_fit)
    digits = sklearn.datasets.load_digits()
    few = sklearn.utils.Bunch(images=digits.images[:300], target=digits.target[:300])
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: few)
    names = names_on(page)
    for block in blocks(page):
        if block.not_run or (block.needs and importlib.util.find_spec(block.needs) is None):
            continue
        if block.language == "python":
            run_python(block, names)
        elif block.language == "bash":
            run_commands(block, SMALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_that_do_not_run_are_these(page):
    assert [block.not_run for block in blocks(page) if block.not_run] == NOT_RUN.get(page, [])


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language(page):
    assert {block.language for block in blocks(page)} <= {"python", "bash", "text"}
