"""All probes together, on an encoder whose features are known, and the command on files of every kind."""

import json
import statistics

import pytest
import torch
from torch import nn

from scatsimclr import cli, evaluate
from scatsimclr.config import EvaluationSettings, load_config
from scatsimclr.data.augment import AugmentSpec
from scatsimclr.data.datasets import ImageSet
from scatsimclr.errors import UserError
from scatsimclr.evaluation.evaluate import Evaluation
from scatsimclr.evaluation.features import extract
from scatsimclr.evaluation.fine_tune import fine_tune_predict
from scatsimclr.evaluation.logistic import logistic_fit
from scatsimclr.evaluation.probe import accuracy, few_labels, linear_predict
from scatsimclr.evaluation.standard import Standard
from scatsimclr.evaluation.table import accuracy_table, titles
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.scattering import Scattering2D
from tests.data import writers
from tests.training.conftest import write_images

EVERY = ("knn", "linear", "few", "logistic", "folds", "fine_tune")


class Means(nn.Module):
    """h: the mean colour of each image, through a layer that can be trained; z: twice that."""

    h_dim = 3

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3, bias=False)
        nn.init.eye_(self.layer.weight)

    def encode(self, x):
        return self.layer(x.mean((2, 3)))

    def project(self, h):
        return 2 * h


def coloured(count, seed):
    """Red, green and blue images with noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 90, (count, 8, 8, 3), generator=generator)
    images[torch.arange(count), :, :, labels] += 120
    return ImageSet(images.to(torch.uint8), labels, ("red", "green", "blue"))


def evaluation(probes=EVERY, transform=None, joint=True, **settings):
    usual = {"labels_per_class": (2, 5), "seeds": 2, "probe_epochs": 2, "fine_tune_epochs": 1, "knn_k": 5}
    chosen = EvaluationSettings(probes=probes, **{**usual, **settings})
    folds = (torch.arange(20), torch.arange(20, 40))
    options = {"scattering": transform, "joint": joint}
    return Evaluation(
        Means(), coloured(60, 0), coloured(31, 1), AugmentSpec((8, 8)), chosen, folds, **options
    )


def test_every_probe_measures_and_has_a_title():
    probes = evaluation()
    results = probes.figures()
    assert set(results) == {
        "knn", "linear", "logistic_2", "logistic_2_sd", "logistic_5", "logistic_5_sd", "logistic", "folds", "folds_sd",
        "fine_tune",
    }  # fmt: skip
    assert results["knn"] == results["linear"] == results["logistic"] == 1.0
    (bank, queries), (labels, truth) = probes.features, probes.labels
    assert results["logistic_5"] == statistics.fmean(
        accuracy(
            logistic_fit(bank[i], labels[i], standard=Standard.of(bank), seed=seed).predict(queries), truth
        )
        for seed, i in enumerate(few_labels(labels, 5, seed) for seed in range(2))
    )
    scores = [
        accuracy(linear_predict(bank[fold], labels[fold], queries, epochs=2, seed=seed), truth)
        for seed, fold in enumerate(probes.folds)
    ]
    assert results["folds"] == statistics.fmean(scores)
    assert results["folds_sd"] == statistics.stdev(scores)
    assert set(titles(probes.settings)) == {name for name in results if not name.endswith("_sd")}


def test_quick_leaves_out_what_takes_long():
    assert set(evaluation().figures(quick=True)) == {"knn", "linear"}
    assert set(evaluation(probes=("linear", "few")).figures(quick=True)) == {"linear"}


@pytest.mark.parametrize(
    ("features", "width"),
    [
        ("auto", 3),
        ("h", 3),
        ("z", 3),
        ("scattering", 960),
        ("pooled", 960),
        ("texture", 2048),
        ("both", 963),
        ("both_pooled", 963),
    ],
)
def test_probes_see_the_features_of_the_settings(features, width):
    """J=1, L=4 make 5 channels of 4×4 for each colour; a map that is as small is not pooled."""
    bank, queries = evaluation(features=features, transform=Scattering2D(1, (8, 8), L=4)).features
    width = {960: 240, 963: 243}.get(width, width)
    assert bank.shape == (60, width)
    assert queries.shape == (31, width)


def test_the_scattering_alone_and_the_recommended_features_are_measured_on_the_same_draws():
    probes = evaluation(("knn", "few", "linear", "logistic"), Scattering2D(1, (8, 8), L=4))
    results = probes.figures()
    for prefix in ("scattering", "recommended"):
        assert {f"{prefix}_{key}" for key in ("knn", "logistic", "logistic_2", "logistic_5_sd")} <= set(
            results
        )
        assert f"{prefix}_linear" not in results
    name = results["scattering_features"]
    standard, truth = probes.standard(name), probes.labels[1]
    scores = [
        accuracy(
            logistic_fit(
                probes.rows(name, 0, i), probes.labels[0][i], standard=standard, seed=seed
            ).predict(probes.rows(name, 1)),
            truth,
        )
        for seed, i in enumerate(few_labels(probes.train.labels, 2, seed) for seed in range(2))
    ]  # fmt: skip
    assert results["scattering_logistic_2"] == statistics.fmean(scores)
    assert results["recommended_features"] == probes.recommended == probes.recommendation().features
    assert "recommended_features" not in probes.figures(recommend=False)
    assert (
        "recommended_features"
        not in evaluation(("few",), Scattering2D(1, (8, 8), L=4), features="h").figures()
    )


class Informed(Means):
    """h knows the class (`good`), or is noise."""

    def __init__(self, good):
        super().__init__()
        self.good = good

    def encode(self, x):
        if self.good:
            return self.layer(x.mean((2, 3)))
        return torch.sin(1e4 * self.layer(x.std((2, 3))))


def grey_bars(count, seed):
    """The class is the direction of a bar: what a mean cannot tell and a wavelet can."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randint(0, 120, (count, 8, 8, 3), generator=generator), torch.arange(count) % 2
    for index in range(count):
        place = int(torch.randint(1, 6, (1,), generator=generator))
        view = images[index] if labels[index] else images[index].transpose(0, 1)
        view[place : place + 2] += 110
    return ImageSet(images.to(torch.uint8), labels, ("across", "down"))


def ringed(count, seed):
    """The class is how far a uniform colour is from grey, in any direction: no plane separates them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    away = torch.where(labels == 1, 100, 30)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    colours = 128 + torch.cat([away, torch.zeros(count, 1)], 1)
    noise = torch.randint(-9, 10, (count, 8, 8, 3), generator=generator)
    images = (colours[:, None, None] + noise).clamp(0, 255).to(torch.uint8)
    return ImageSet(images, labels, ("near", "far"))


@pytest.mark.parametrize(
    ("model", "sets", "expected"),
    [
        (Informed(True), coloured, {"h", "texture", "pooled", "both_pooled"}),
        (Informed(False), grey_bars, {"texture", "pooled"}),
        (Informed(False), ringed, {"texture"}),
    ],
)
def test_what_is_recommended_is_what_training_labels_speak_for(model, sets, expected):
    settings = EvaluationSettings(probes=("few",), labels_per_class=(10,), seeds=3)
    transform = Scattering2D(1, (8, 8), L=4)
    images = sets(60, 0), sets(30, 1)
    probes = Evaluation(model, *images, AugmentSpec((8, 8)), settings, scattering=transform)
    assert probes.recommended in expected
    # The test images have no say: others, with any labels, leave it as it is.
    other = ImageSet(images[1].images.flip(0).contiguous(), images[1].labels.roll(1), images[1].classes)
    again = Evaluation(model, images[0], other, AugmentSpec((8, 8)), settings, scattering=transform)
    assert again.recommended == probes.recommended
    alone = Evaluation(model, *images, AugmentSpec((8, 8)), settings, scattering=transform, joint=False)
    assert alone.recommended == "h"
    assert alone.figures()["recommended_logistic_10"] == alone.figures()["logistic_10"]


def test_one_label_a_class_leaves_the_choice_to_a_rule():
    settings = EvaluationSettings(probes=("few",), labels_per_class=(1,), seeds=2)
    transform = Scattering2D(1, (8, 8), L=4)
    probes = Evaluation(
        Means(), coloured(60, 0), coloured(31, 1), AugmentSpec((8, 8)), settings, scattering=transform
    )
    assert (probes.scattering_features, probes.recommended) == ("scattering", "both")


def test_texture_is_the_same_wherever_it_is_and_however_many_images_are_asked_for():
    transform = Scattering2D(1, (8, 8), L=4)
    images = ringed(12, 0).images
    found = extract(Means(), images, AugmentSpec((8, 8)), features="texture", scattering=transform)
    assert found.shape == (12, 2048)
    assert (found >= 0).all()
    assert 0.2 < (found > 0).float().mean() < 0.8
    uniform = images.float().mean((1, 2), keepdim=True).expand_as(images).to(torch.uint8)
    one, turned = (
        extract(Means(), x, AugmentSpec((8, 8)), features="texture", scattering=transform, batch_size=5)
        for x in (uniform, uniform.flip(1))
    )
    torch.testing.assert_close(one, turned)


def test_of_a_large_set_only_pooled_coefficients_are_looked_at(monkeypatch):
    monkeypatch.setattr("scatsimclr.evaluation.recommendation.LARGEST", 4 * 91 * 240 - 1)
    probes = evaluation(("few",), Scattering2D(1, (8, 8), L=4))
    assert probes.scattering_features in ("texture", "pooled")
    assert probes.recommended in ("texture", "pooled", "h", "both_pooled")
    assert "scattering" not in probes._parts


def test_the_table_has_a_column_for_each_of_them():
    probes = evaluation(("knn", "linear", "few"), Scattering2D(1, (8, 8), L=4))
    before, after = probes.figures(recommend=False), probes.figures()
    after = {**after, "recommended_logistic_5": 0.1234, "recommended_logistic_5_sd": 0.05}
    lines = accuracy_table([before, after], probes.settings).splitlines()
    assert lines[0].split() == ["scattering", "untrained", "trained", "recommended"]
    assert lines[1].split()[4:6] == [before["scattering_features"], "h"]
    row = next(line for line in lines if line.startswith("logistic, 5 labels per class"))
    assert row.endswith("12.3 ± 5.0")
    assert next(line for line in lines if line.startswith("linear")).split().count("–") == 2
    assert max(map(len, lines)) <= 90
    assert accuracy_table([after], probes.settings).splitlines()[0].split() == [
        "scattering", "trained", "recommended",
    ]  # fmt: skip
    assert accuracy_table([{"knn": 0.5}], probes.settings).splitlines()[2].split()[-1] == "50.0"


@pytest.mark.parametrize("batch_size", [1, 7, 31, 256])
def test_figures_do_not_depend_on_the_batch_size(batch_size):
    probes = evaluation(probes=("knn", "linear"), batch_size=batch_size)
    assert torch.equal(probes.predicted, evaluation().predicted)
    assert len(probes.predicted) == 31


def test_the_confusion_matrix_counts_every_test_image():
    probes = evaluation()
    probes.predictions = lambda *_: [torch.zeros(31, dtype=torch.int64)]
    assert probes.confusion().tolist() == [[11, 0, 0], [10, 0, 0], [10, 0, 0]]
    assert evaluate.accuracy_by_class(probes.confusion()) == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("chosen", "key", "draws"),
    [
        (("knn", "few"), "knn", 1),
        (("few",), "logistic_1", 3),
        (("few", "logistic"), "logistic", 1),
        (("knn", "linear"), "linear", 1),
        ((), "linear", 1),
    ],
)
def test_the_confusion_matrix_is_of_a_figure_that_is_shown(chosen, key, draws):
    probes = evaluation(probes=chosen, labels_per_class=(1, 2), seeds=3, probe_epochs=1)
    figures, confusion = probes.figures(), probes.confusion()
    assert probes.shown_probe == key
    assert confusion.sum() == 31 * draws
    if chosen:
        assert confusion.diagonal().sum() / confusion.sum() == pytest.approx(figures[key])


def test_fine_tuning_leaves_the_encoder_and_the_random_state_alone():
    train, test, model, state = coloured(60, 0), coloured(31, 1), Means(), torch.get_rng_state()
    spec = AugmentSpec((8, 8))
    found = [
        fine_tune_predict(model, train.images, train.labels, test.images, spec, epochs=30, lr=0.05)
        for _ in "ab"
    ]
    assert torch.equal(*found)
    assert torch.equal(found[0], test.labels)
    assert torch.equal(model.layer.weight, torch.eye(3))
    assert torch.equal(torch.get_rng_state(), state)


def test_folds_are_stl10s_alone():
    with pytest.raises(UserError, match="only stl10 has predefined folds, digits has none"):
        load_config(None, ["evaluation.probes=[folds]"])


CONFIG = """
model: {base_model: scatsimclr8, J: 2, L: 2, out_dim: 8}
dataset: {dataset: %s, input_shape: "(16, 16, 3)", download: false}
evaluation: {probe_epochs: 1, labels_per_class: [1], seeds: 2, probes: %s}
"""


def original_file(tmp_path, dataset, probes):
    (tmp_path / "config.yaml").write_text(CONFIG % (dataset, probes))
    path = tmp_path / "model_final.pth"
    torch.save(ScatSimCLR(2, 2, (16, 16, 3), 8, 8).state_dict(), path)
    return [str(path), "--config", str(tmp_path / "config.yaml")]


def test_an_original_file_is_evaluated_with_its_config(tmp_path, capsys):
    images = write_images(tmp_path / "images", 10)
    argv = [*original_file(tmp_path, "folder", "[knn, linear, logistic]"), "--data-dir", str(images)]
    output = tmp_path / "out"
    assert cli.run(evaluate.command, [*argv, "--output", str(output)]) == 0
    text = capsys.readouterr().out
    assert "logistic, all labels" in text
    assert "alone, without a network" in text
    assert "across" in text
    record = json.loads((output / "evaluation.json").read_text())
    assert sum(map(sum, record["confusion"])) == 4
    assert set(record["classes"]) == {"across", "down"}
    assert (output / "confusion.svg").stat().st_size > 1000
    assert cli.run(evaluate.command, argv[:1]) == 2
    assert "give them with --config" in capsys.readouterr().err


def test_stl10s_folds(tmp_path, capsys):
    writers.stl10(tmp_path)
    argv = [*original_file(tmp_path, "stl10", "[folds]"), "--data-dir", str(tmp_path), "--json"]
    assert cli.run(evaluate.command, argv) == 0
    assert {"folds", "folds_sd"} <= set(json.loads(capsys.readouterr().out))


def test_many_classes_are_listed_with_the_most_confused_pairs(capsys):
    probes = evaluation()
    names = tuple(f"class {i}" for i in range(25))
    probes.test = ImageSet(probes.test.images, torch.arange(31) % 25, names)
    probes.predictions = lambda *_: [(torch.arange(31) % 25).clamp(max=23)]
    confusion = probes.confusion()
    evaluate.print_classes("kNN", names, confusion, evaluate.accuracy_by_class(confusion))
    text = capsys.readouterr().out
    assert "class 24 taken for class 23: 1" in text
    assert "class 0  100.0 %" in text
