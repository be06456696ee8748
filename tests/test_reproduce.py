"""The sweeps: their cells are valid settings, their tables say what was measured, and they survive a kill."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from xml.etree import ElementTree

import pytest
import torch

from scatsimclr.config import load_config
from scatsimclr.errors import UserError
from scatsimclr.reproduce import command, parser, plan
from scatsimclr.studies import running
from scatsimclr.studies.catalogue import STUDIES
from scatsimclr.studies.plots import plot
from scatsimclr.studies.sweep import SCALES, SERIES
from scatsimclr.studies.tables import spreadsheet, table, write_tables
from scatsimclr.training import checkpoint

TABLE1 = ["table1", "--scale", "tiny"]


def sweep_of(*argv):
    return plan(parser().parse_intermixed_args([str(word) for word in argv]))


def write_result(sweep, name, seed, accuracy):
    cell = next(cell for cell in sweep.study.cells if cell.name == name)
    folder = sweep.folder(cell, seed)
    folder.mkdir(parents=True)
    config = sweep.config(cell, seed).model_dump(mode="json", by_alias=True)
    after = {"linear": accuracy, "logistic_10": accuracy / 2, "logistic_10_sd": 0.1}
    before = {name: value / 2 for name, value in after.items()}
    after |= {"scattering_logistic_10": accuracy / 4, "whitened_logistic_10": accuracy / 3}
    after["recommended_logistic_10"] = accuracy * 0.9
    (folder / "result.json").write_text(json.dumps({"config": config, "before": before, "after": after}))
    return folder


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("table1", 16),
        ("table2", 4),
        ("table3", 15),
        ("figure7", 17),
        ("figure8", 3),
        ("study", 4),
        ("precision", 4),
    ],
)
def test_every_cell_is_a_valid_run_of_its_own(name, cells, scale, tmp_path):
    sweep = sweep_of(name, "--scale", scale, "--output", tmp_path)
    assert len(sweep.study.cells) == len({cell.name for cell in sweep.study.cells}) == cells
    configs = [sweep.config(cell, 3).model_dump_json() for cell in sweep.study.cells]
    assert len(set(configs)) == cells
    assert all(sweep.config(cell, 3).seed == 3 for cell in sweep.study.cells)
    assert all(sweep.config(cell, 3).fused for cell in sweep.study.cells if cell.name != "reference")
    assert len(sweep.study.rows) * len(sweep.study.columns) == cells


def test_all_studies_are_tested():
    assert set(STUDIES) == {"table1", "table2", "table3", "figure7", "figure8", "study", "precision"}


def test_the_published_recipe():
    first = sweep_of("table1").config(STUDIES["table1"].cells[0], 0)
    assert (first.epochs, first.batch_size, first.model.base_model) == (5, 256, "scatsimclr12")
    assert (first.dataset.dataset, first.dataset.input_shape) == ("stl10", (96, 96, 3))
    cifar = sweep_of("table1", "--dataset", "cifar20").config(STUDIES["table1"].cells[0], 0)
    assert cifar.dataset.input_shape == (96, 96, 3)
    cells = {cell.name: cell for cell in STUDIES["table3"].cells}
    config = sweep_of("table3").config(cells["resnet18-jigsaw"], 0)
    assert (config.task, config.pretext.lambda_, config.pretext.start_epoch) == ("jigsaw", 0.3, 40)
    assert sweep_of("figure8").config(STUDIES["figure8"].cells[2], 0).dataset.input_shape == (32, 32, 3)
    published = {cell.name: dict(cell.published) for cell in STUDIES["table1"].cells}
    assert published["J2-L16"] == {"stl10": 64.03, "cifar20": 46.73}


@pytest.mark.parametrize(
    ("name", "on"),
    [
        ("baseline", "crop flip colour grey blur affine"),
        ("without-affine", "crop flip colour grey blur"),
        ("only-crop+colour", "crop colour"),
        ("without-grey+blur", "crop flip colour"),
        ("only-crop", "crop"),
        ("none", ""),
    ],
)
def test_the_steps_of_the_augmentation(name, on):
    cell = next(cell for cell in STUDIES["figure7"].cells if cell.name == name)
    augment = sweep_of("figure7").config(cell, 0).augment
    steps = {"crop": augment.crop, "flip": augment.flip, "colour": augment.jitter,
             "grey": augment.grayscale, "blur": augment.blur, "affine": augment.affine}  # fmt: skip
    assert {step for step, value in steps.items() if value} == set(on.split())


def test_small_is_a_tenth():
    cells = {cell.name: cell for cell in STUDIES["table3"].cells}
    config = sweep_of("table3", "--scale", "small").config(cells["scatsimclr8-rotation"], 0)
    assert (config.epochs, config.pretext.start_epoch, config.dataset.limit) == (10, 4, 10000)
    assert sweep_of("table1", "--scale", "small").config(STUDIES["table1"].cells[0], 0).epochs == 2


def test_table_with_published_figures_spread_and_missing_cells(tmp_path):
    sweep = sweep_of("table1", "--seeds", 2, "--output", tmp_path, "augment.hue=0.1")
    write_result(sweep, "J1-L4", 0, 0.60)
    write_result(sweep, "J1-L4", 1, 0.62)
    write_result(sweep, "J2-L16", 1, 0.65)
    write_tables(sweep)
    lines = (tmp_path / "table1.md").read_text().splitlines()
    assert "| scale | L=4 | L=8 | L=12 | L=16 |" in lines
    assert "| J=1 | 61.00 ± 1.41 / 61.90 | – / 62.75 | – / 63.00 | – / 63.70 |" in lines
    assert any(line.endswith("65.00 (1 of 2) / 64.03 |") for line in lines)
    assert any("5 epochs, batches of 256, 2 seeds" in line for line in lines)
    assert "- Settings for all cells: augment.hue=0.1." in lines
    rows = {row["cell"]: row for row in csv.DictReader((tmp_path / "table1.csv").open())}
    assert len(rows) == 16
    assert [rows["J1-L4"][key] for key in ("runs", "mean", "sd", "published")] == [
        "2", "61.0000", "1.4142", "61.9",
    ]  # fmt: skip
    assert [rows["J4-L4"][key] for key in ("runs", "mean", "sd", "published")] == ["0", "", "", "45.12"]
    assert ElementTree.fromstring((tmp_path / "table1.svg").read_text()).tag.endswith("}svg")
    assert not list(tmp_path.glob(".*"))


def test_other_data_has_no_published_column(tmp_path):
    text = table(sweep_of("table2", "--dataset", "photos", "--output", tmp_path))
    assert "| blocks | ours |\n" in text
    assert "has no figures for photos" in text
    assert "76.47" not in text
    assert "| blocks | ours | published |" in table(sweep_of("table2", "--output", tmp_path))
    assert "only prove that the sweep runs" in table(sweep_of(*TABLE1, "--output", tmp_path))


def test_the_study_shows_few_labels_over_training_seeds(tmp_path):
    sweep = sweep_of("study", "--output", tmp_path)
    for seed in range(5):
        write_result(sweep, "resnet18-none", seed, 0.5 + 0.02 * seed)
    text = table(sweep)
    headings = "scattering alone | whitened scattering | untrained | trained | trained, recommended"
    assert f"| model | {headings} |" in text
    row = "13.50 ± 0.79 | 18.00 ± 1.05 | 13.50 ± 0.79 | 27.00 ± 1.58 | 48.60 ± 2.85"
    assert f"| ResNet-18 | {row} |" in text
    assert "| ResNet-18, rotation | – | – | – | – | – |" in text
    assert "only measured with" not in text  # the digits' recipe has the log front
    assert "- Whitened scattering is only measured with model.front=log." in table(
        sweep_of("study", "--output", tmp_path, "--dataset", "photos")
    )
    assert "logistic regression with 10 labels per class" in text
    assert "5 seeds" in text
    row = next(
        row for row in csv.DictReader(io.StringIO(spreadsheet(sweep))) if row["cell"] == "resnet18-none"
    )
    means = ("mean", "untrained_mean", "scattering_mean", "whitened_mean", "recommended_mean")
    assert [float(row[name]) for name in means] == pytest.approx([27.0, 13.5, 13.5, 18.0, 48.6])
    assert float(row["whitened_sd"]) == pytest.approx(1.0541, abs=1e-4)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", plot(sweep))
    assert texts[1 : 1 + len(headings.split(" | "))] == headings.split(" | ")


def test_results_of_earlier_versions_are_shown_as_far_as_they_go(tmp_path):
    sweep = sweep_of("study", "--output", tmp_path, "--seeds", 1)
    path = write_result(sweep, "resnet18-none", 0, 0.5) / "result.json"
    result = json.loads(path.read_text())
    result["after"] = {"linear_10": 0.5, "logistic_10": 0.3}
    path.write_text(json.dumps(result))
    assert "| ResNet-18 | – | – | 12.50 | 30.00 | – |" in table(sweep)


@pytest.mark.parametrize("name", list(STUDIES))
@pytest.mark.parametrize("filled", [False, True])
def test_every_study_is_drawn(name, filled, tmp_path):
    sweep = sweep_of(name, "--output", tmp_path, "--seeds", 2)
    if filled:
        for index, cell in enumerate(sweep.study.cells):
            write_result(sweep, cell.name, 0, 0.5 + 0.01 * index)
            write_result(sweep, cell.name, 1, 0.52 + 0.01 * index)
    drawn = ElementTree.fromstring(plot(sweep)).findall(".//{*}path")
    dots = [path for path in drawn if "line" not in path.get("class") and "grid" not in path.get("class")]
    names = len(SERIES) if sweep.study.baselines else len(sweep.study.columns)
    legend = (names if names > 1 else 0) + sweep.study.published(sweep.dataset)
    published = sum(sweep.dataset in cell.published for cell in sweep.study.cells)
    cells = len(sweep.study.cells) * (len(SERIES) if sweep.study.baselines else 1)
    assert len(dots) == legend + published + (cells if filled else 0)


class FakeTrainer:
    """Stands in for the training: notes what it was given, and stops where the test says."""

    started: list
    stop_at: str | None

    def __init__(self, config, folder, state=None):
        self.config, self.folder, self.state = config, folder, state
        folder.mkdir(parents=True, exist_ok=True)

    def fit(self):
        name = f"{self.folder.parent.name}/{self.config.seed}"
        self.started.append((name, self.state["epoch"] if self.state else None))
        if name == self.stop_at:
            state = {
                "config": self.config.as_json(), "epoch": 7, "step": 1, "best": 0.0, "seconds": 1.0, "update": {},
                "model": {"weight": torch.zeros(1)}, "rng": torch.zeros(1),
            }  # fmt: skip
            checkpoint.save(self.folder / "checkpoints" / "last.pt", state)
            raise KeyboardInterrupt
        after = {"linear": 0.5, "logistic_10": 0.4, "logistic_10_sd": 0.0}
        return {"before": {"linear": 0.2, "logistic_10": 0.1}, "after": after}


@pytest.fixture
def fake(monkeypatch):
    FakeTrainer.started, FakeTrainer.stop_at = [], None
    monkeypatch.setattr(running, "Trainer", FakeTrainer)
    return FakeTrainer


def test_a_stopped_sweep_goes_on_where_it_was(fake, tmp_path, capsys):
    argv = [*TABLE1, "--output", str(tmp_path), "--cells", "J1-*", "--seeds", "2"]
    fake.stop_at = "J1-L12/0"
    assert command(argv) == 130
    assert "continue with python -m scatsimclr.reproduce table1 --scale tiny" in capsys.readouterr().err
    assert [name for name, _ in fake.started] == ["J1-L4/0", "J1-L8/0", "J1-L12/0"]
    assert (tmp_path / "table1.md").read_text().count("50.00 (1 of 2)") == 2

    fake.started, fake.stop_at = [], None
    FakeTrainer.started = fake.started
    assert command(argv) == 0
    assert fake.started == [
        ("J1-L12/0", 7), ("J1-L16/0", None), *((f"J1-L{L}/1", None) for L in (4, 8, 12, 16)),
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "2 of 8 runs have finished already" in out
    assert "[8/8] J1-L16 seed 1: 50.00 %" in out
    assert (tmp_path / "table1.md").read_text().count("50.00 ± 0.00") == 4

    FakeTrainer.started = []
    assert command(argv) == 0
    assert FakeTrainer.started == []


def test_leftovers_without_a_checkpoint_are_thrown_away(fake, tmp_path):
    folder = tmp_path / "cells" / "J1-L4" / "seed0"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("{}\n")
    assert command([*TABLE1, "--output", str(tmp_path), "--cells", "J1-L4"]) == 0
    assert fake.started == [("J1-L4/0", None)]
    assert {path.name for path in folder.iterdir()} == {"result.json", ".lock"}


def test_other_settings_need_another_folder(fake, tmp_path):
    argv = [*TABLE1, "--output", str(tmp_path), "--cells", "J1-L4"]
    assert command(argv) == 0
    for setting, told in (("lr=0.01", "lr=0.001, now it is 0.01"), ("augment.hue=0.1", "augment.hue=0.0")):
        with pytest.raises(UserError, match=f"was run with {told}.*give another --output"):
            command([*argv, setting])
    assert command([*argv, "log_every_n_steps=3", "--data-dir", str(tmp_path)]) == 0


def test_other_settings_than_those_of_the_checkpoint(fake, tmp_path):
    argv = [*TABLE1, "--output", str(tmp_path), "--cells", "J1-L4"]
    fake.stop_at = "J1-L4/0"
    assert command(argv) == 130
    with pytest.raises(UserError, match="was run with epochs=1, now it is 2; give another --output"):
        command([*argv, "epochs=2"])


def test_a_result_that_cannot_be_read_is_named(fake, tmp_path):
    path = tmp_path / "cells" / "J1-L4" / "seed0" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(UserError, match=r"result.json cannot be read; remove it"):
        command([*TABLE1, "--output", str(tmp_path)])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--dataset", "digit"], "did you mean 'digits'"),
        (["--seeds", "0"], "--seeds must be 1 or more"),
        (["--cells", "J9*"], "no cell is called J9*"),
        (["model.J=2"], "model.J cannot be set here: the cells of table1 differ in it"),
        (["seed=2"], "seed cannot be set here: --seeds sets it"),
        (["dataset.dataset=digits"], "--dataset sets it"),
        (["epoch=2"], "unknown setting epoch; did you mean epochs?"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(argv, message, tmp_path, fake):
    with pytest.raises(UserError) as raised:
        command([*TABLE1, "--output", str(tmp_path / "out"), *argv])
    assert message in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("argv", [["table9"], [], ["table1", "--scale", "huge"]])
def test_what_argparse_refuses(argv, capsys):
    with pytest.raises(SystemExit) as raised:
        command(argv)
    assert raised.value.code == 2
    assert "table" in capsys.readouterr().err


def test_lists(capsys):
    assert command(["--list"]) == 0
    assert capsys.readouterr().out.count("\n") == 7
    assert command(["table1", "--list", "--cells", "J2-*"]) == 0
    assert capsys.readouterr().out.splitlines()[3].split() == ["J2-L16", "model.J=2", "model.L=16"]


def test_tiny_is_small_whatever_the_data():
    config = sweep_of(*TABLE1, "--dataset", "stl10").config(STUDIES["table1"].cells[0], 0)
    assert (config.epochs, config.dataset.limit, config.dataset.input_shape) == (1, 128, (16, 16, 3))
    assert config != load_config("stl10")


def test_a_killed_sweep_goes_on(tmp_path):
    argv = [
        sys.executable,
        "-m",
        "scatsimclr.reproduce",
        *TABLE1,
        "--cells",
        "J3-L[48]",
        "--output",
        str(tmp_path),
    ]
    # one thread: two that wait for each other take minutes on a machine that is busy with other tests
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    first, second = (tmp_path / "cells" / name / "seed0" / "result.json" for name in ("J3-L4", "J3-L8"))
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    ) as process:
        deadline = time.monotonic() + 300
        while not first.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert first.exists(), process.stderr.read().decode()
    assert process.returncode == -signal.SIGKILL
    assert not second.exists()
    written = os.stat(first).st_mtime_ns
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment)
    assert "1 of 2 runs have finished already" in done.stdout
    assert os.stat(first).st_mtime_ns == written
    assert second.exists()
    rows = {row["cell"]: row for row in csv.DictReader((tmp_path / "table1.csv").open())}
    assert rows["J3-L4"]["runs"] == rows["J3-L8"]["runs"] == "1"
    assert float(rows["J3-L4"]["mean"]) > 0
    assert not [*tmp_path.rglob("*.pt"), *tmp_path.rglob("*.safetensors")]  # tiny keeps no weights
