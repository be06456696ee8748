"""`bench_accuracy` and what it makes of its results."""

import json

import pytest
import torch

from benchmarks import accuracy, bench_accuracy
from scatsimclr.data.datasets import load
from scatsimclr.data.imageset import ImageSet


def run(contender="ours", seed=0, minutes=3.0, images=100, **figures):
    after = {
        f"{prefix}logistic_{n}{suffix}": value
        for prefix in ("", "scattering_", "whitened_", "recommended_")
        for n in accuracy.PER_CLASS
        for suffix, value in (("", 0.5), ("_sd", 0.01))
    }
    key = {"contender": contender, "images": images, "minutes": minutes, "seed": seed, "device": "a CPU"}
    return key | {"after": after | figures}


def result(*runs):
    plain = {f"logistic_{n}{s}": v for n in accuracy.PER_CLASS for s, v in (("", 0.4), ("_sd", 0.02))}
    return {"untrained": {"100": {"scattering": plain}}, "runs": list(runs)}


def test_the_spread_is_over_seeds_and_of_a_single_one_over_draws():
    two = [run(seed=n, recommended_logistic_10=value) for n, value in enumerate((0.7, 0.8))]
    lines = accuracy.table(result(*two, run("resnet18"))).splitlines()
    assert lines[2] == "| 100 | 0 | scattering alone | – | 40.0 ± 2.0 | 40.0 ± 2.0 |"
    assert lines[3] == "| 100 | 3 | ours, recommended features | 2 | 75.0 ± 7.1 | 50.0 ± 0.0 |"
    assert lines[5] == "| 100 | 3 | SimCLR, ResNet-18, h | 1 | 50.0 ± 1.0 | 50.0 ± 1.0 |"


def test_a_run_in_the_file_is_not_repeated_and_untrained_figures_are_the_first_runs(tmp_path, monkeypatch):
    made = []

    def train(data, folder, contender, duration, seed):
        made.append((contender, duration, seed))
        return {"epochs": 7, "after": run(contender, whitened_logistic_10=0.6)["after"]}

    monkeypatch.setattr(bench_accuracy, "train", train)
    monkeypatch.setattr(bench_accuracy, "write_part", lambda *_: None)
    monkeypatch.setattr(bench_accuracy, "pixels", lambda _: dict(result()["untrained"]["100"]["scattering"]))
    output = tmp_path / "accuracy.json"
    argv = ["--images", "100", "--minutes", "3", "-o", str(output)]
    assert bench_accuracy.main([*argv, "--seeds", "0", "--contenders", "ours"]) == 0
    assert bench_accuracy.main([*argv, "--seeds", "0", "1", "--contenders", "ours", "resnet18"]) == 0
    first = [("ours", "minutes=3.0", 0), ("resnet18", "minutes=3.0", 0)]
    assert made == [*first, ("ours", "epochs=7", 1), ("resnet18", "epochs=7", 1)]
    found = json.loads(output.read_text())
    assert len(found["runs"]) == 4
    assert found["untrained"]["100"]["whitened"]["logistic_10"] == 0.6


def test_files_of_a_part_are_read_as_fashion_mnist(tmp_path):
    labels = torch.arange(30) % 10
    pixels = torch.randint(0, 256, (30, 28, 28, 1), dtype=torch.uint8)
    images = ImageSet(pixels, labels, tuple("0123456789"))
    bench_accuracy.write_idx(images, tmp_path, "train")
    read = load("fashion_mnist", "train", size=(28, 28), channels=1, data_dir=tmp_path)
    assert torch.equal(read.images, pixels)
    assert torch.equal(read.labels, labels)


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_plot_shows_every_kind_of_features(seeds):
    runs = [run(seed=n, minutes=m) for n in range(seeds) for m in (3.0, 20.0)]
    figure = accuracy.plot(result(*runs, run("resnet18")), ["red", "blue", "green", "cyan"])
    for axes in figure.axes:
        assert len(axes.containers) == 3  # ours recommended, ours h, ResNet
        assert [tuple(box[0].get_xdata()) for box in axes.containers[:1]] == [(3.0, 20.0)]
        assert any(line.get_linestyle() == "--" for line in axes.lines)


def test_later_seeds_train_for_the_first_ones_epochs_on_the_same_cpu_whatever_the_threads():
    first = run(minutes=20.0) | {"epochs": 190, "device": "Some CPU @ 2.0 GHz, 2 threads"}
    other = first | {"device": "Another CPU, 2 threads", "epochs": 80}
    found = [
        bench_accuracy.earlier_epochs([other, first], "ours", 100, 20.0, cpu)
        for cpu in ("Some CPU @ 2.0 GHz", "No CPU")
    ]
    assert found == [190, None]
    assert bench_accuracy.earlier_epochs([first], "resnet18", 100, 20.0, "Some CPU @ 2.0 GHz") is None
