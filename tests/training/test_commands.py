"""The commands as a person types them: exit status, and one line for each mistake."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from scatsimclr import backends, cli, embed, evaluate, info, train
from tests.training.conftest import TINY, write_images


def call(module, argv, capsys):
    status = cli.run(module.command, argv)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture(scope="module")
def run_folder(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "it"
    assert (
        cli.run(train.command, ["--data-dir", str(images), "--run-dir", str(folder), *TINY, "epochs=1"]) == 0
    )
    return folder


def mistakes(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    foreign = tmp_path / "foreign.pt"
    torch.save({"weights": torch.zeros(3)}, foreign)
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"not a checkpoint")
    one = tmp_path / "one"
    one.mkdir()
    Image.new("RGB", (16, 16)).save(one / "a.png")
    return [
        (["dataset.dataset=cifar11"], "cifar10"),
        (["epochz=3"], "did you mean epochs?"),
        (["model.J=6"], "2^J does not exceed the image, got 6 for images of 32×32"),
        (["--resume", str(tmp_path / "absent.pt")], "does not exist"),
        (["--resume", str(foreign)], "was not written by this program"),
        (["--resume", str(garbage)], "cannot be read"),
        (["fine_tune_from=absent.pth"], "absent.pth does not exist"),
        (["dataset.dataset=folder", "--data-dir", str(empty)], "empty"),
        (["dataset.dataset=folder", "--data-dir", str(tmp_path / "nowhere")], "nowhere"),
        (["dataset.dataset=folder"], "--data-dir"),
        (["dataset.dataset=folder", "--data-dir", str(one)], "1 image to train on: two or more are needed"),
        (["--config", "absent.yaml"], "absent.yaml does not exist"),
        (["device=cuda"], "no CUDA device"),
        (["--graphs"], "graphs=true: they need a CUDA device"),
        (["--mode", "pretext"], "exactly one of pretext.rotation=true and pretext.jigsaw=true"),
        (["dataset.dataset=stl10", "dataset.download=false", "--data-dir", str(empty)], "stl10"),
    ]


@pytest.mark.parametrize("case", range(16))
def test_a_mistake_ends_with_status_2_and_one_line(tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    argv, message = mistakes(tmp_path)[case]
    status, _, err = call(train, argv, capsys)
    assert status == 2
    assert err.count("\n") == 1
    assert message in err
    assert err.startswith("scatsimclr: error: ")
    assert not (tmp_path / "runs").exists()


def test_a_run_folder_is_not_overwritten(run_folder, images, capsys):
    before = (run_folder / "metrics.jsonl").read_text()
    status, _, err = call(train, ["--data-dir", str(images), "--run-dir", str(run_folder), *TINY], capsys)
    assert status == 2
    assert "already holds a run" in err
    assert (run_folder / "metrics.jsonl").read_text() == before


def test_a_resumed_run_may_not_become_another(run_folder, capsys):
    status, _, err = call(train, ["--resume", str(run_folder), "model.L=3", "seed=4"], capsys)
    assert status == 2
    assert "seed, model differ" in err


def test_a_longer_run_goes_on_from_a_finished_one(run_folder, images, tmp_path, capsys):
    folder = tmp_path / "copy"
    call(train, ["--data-dir", str(images), "--run-dir", str(folder), *TINY, "epochs=1"], capsys)
    status, out, _ = call(train, ["--resume", str(folder), "epochs=2"], capsys)
    assert status == 0
    assert "epoch 2/2" in out
    assert "epoch 1/2" not in out


def test_evaluate_prints_what_training_printed(run_folder, images, capsys):
    status, out, _ = call(train, ["--resume", str(run_folder)], capsys)
    rows = ("test accuracy", "kNN", "linear, ", "linear probe, ", "logistic, 2")

    def shown(text):
        return [
            line.split()[-1] for line in text.splitlines() if line.startswith(rows) and "by class" not in line
        ]

    after = shown(out)
    assert "scattering alone" in out
    status, out, _ = call(evaluate, [str(run_folder), "evaluation.batch_size=7"], capsys)
    assert status == 0
    assert shown(out) == after
    assert len(after) == 4
    assert out.splitlines()[1].split() == ["scattering", "whitened", "trained", "recommended"]


def test_evaluate_refuses_what_does_not_fit(run_folder, capsys):
    status, _, err = call(evaluate, [str(run_folder), "model.base_model=scatsimclr12"], capsys)
    assert status == 2
    assert "does not fit the model" in err
    assert err.count("\n") == 1


def test_flat_folder_without_labels_trains_and_says_so(tmp_path, capsys):
    folder = write_images(tmp_path / "in", 10)
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in folder.rglob("*.png"):
        path.rename(flat / f"{path.parent.name}-{path.name}")
    (flat / "broken.png").write_bytes(b"\x89PNG nothing")
    argv = ["--data-dir", str(flat), "--run-dir", str(tmp_path / "run"), *TINY, "epochs=1"]
    status, out, _ = call(train, argv, capsys)
    assert status == 0
    assert "no labels: no accuracy to measure" in out
    assert "1 file left out, not a readable image; the first: broken.png" in out
    assert "by rule" in (tmp_path / "run" / "recommendation.json").read_text()
    status, _, err = call(evaluate, [str(tmp_path / "run")], capsys)
    assert status == 2
    assert "label" in err


def test_the_images_decide_the_shape_and_the_run_keeps_it(tmp_path, capsys):
    """Grey files of 40×50: later commands, and a resumed run, take the shape from the run, not from the images."""
    for path in write_images(tmp_path / "in", 10).rglob("*.png"):
        Image.open(path).convert("L").resize((50, 40)).save(path)
    run = tmp_path / "run"
    auto = [*TINY, "dataset.input_shape=auto", "evaluation.probes=[knn]"]
    argv = ["--data-dir", str(tmp_path / "in"), "--run-dir", str(run), *auto, "epochs=1"]
    status, out, _ = call(train, argv, capsys)
    assert status == 0
    assert "grey images of 48×48" in out
    assert yaml.safe_load((run / "config.yaml").read_text())["dataset"]["input_shape"] == [48, 48, 1]
    write_images(tmp_path / "in", 10)
    resume = ["--resume", str(run), "dataset.input_shape=auto", "epochs=2"]
    status, _, err = call(train, resume, capsys)
    assert status == 2
    assert "the run would not be the same: other pixels (--resume-anyway continues it nevertheless)" in err
    status, out, _ = call(train, [*resume, "--resume-anyway"], capsys)
    assert status == 0
    assert "grey images of 48×48" in out
    assert call(evaluate, [str(run)], capsys)[0] == 0
    files = [str(tmp_path / "in"), "--output", str(tmp_path / "h.npy"), "--features", "h"]
    assert call(embed, [str(run), *files], capsys)[0] == 0
    assert np.load(tmp_path / "h.npy").shape == (20, 2048)


def test_info_names_every_operator(capsys):
    status, out, _ = call(info, [], capsys)
    assert status == 0
    for op, by_device in backends().items():
        line = next(line for line in out.splitlines() if line.startswith(op))
        assert line.split()[1] == by_device["cpu"]
        assert by_device["cuda"] in line


def test_the_console_script_and_the_modules_answer():
    for argv in (["-m", "scatsimclr.train", "--help"], ["-m", "scatsimclr.info"]):
        done = subprocess.run([sys.executable, *argv], capture_output=True, text=True, check=True)
        assert done.stdout
    code = "import sys; sys.argv = ['scatsimclr', 'trian']; from scatsimclr.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown command trian" in done.stderr
