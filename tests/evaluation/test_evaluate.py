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
from scatsimclr.evaluation.evaluate import Evaluation, titles
from scatsimclr.evaluation.fine_tune import fine_tune_predict
from scatsimclr.evaluation.probe import accuracy, linear_predict
from scatsimclr.models.scatsimclr import ScatSimCLR
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


def evaluation(probes=EVERY, **settings):
    chosen = EvaluationSettings(
        probes=probes,
        labels_per_class=(2, 5),
        seeds=2,
        probe_epochs=2,
        fine_tune_epochs=1,
        knn_k=5,
        **settings,
    )
    folds = (torch.arange(20), torch.arange(20, 40))
    return Evaluation(Means(), coloured(60, 0), coloured(31, 1), AugmentSpec((8, 8)), chosen, folds)


def test_every_probe_measures_and_has_a_title():
    probes = evaluation()
    results = probes.figures()
    assert set(results) == {
        "knn", "linear", "linear_2", "linear_2_sd", "linear_5", "linear_5_sd", "logistic", "folds", "folds_sd",
        "fine_tune",
    }  # fmt: skip
    assert results["knn"] == results["linear"] == results["logistic"] == 1.0
    (bank, queries), (labels, truth) = probes.features, probes.labels
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


@pytest.mark.parametrize(("features", "width"), [("h", 3), ("z", 3), ("both", 6)])
def test_probes_see_the_features_of_the_settings(features, width):
    bank, queries = evaluation(features=features).features
    assert bank.shape == (60, width)
    assert queries.shape == (31, width)


@pytest.mark.parametrize("batch_size", [1, 7, 31, 256])
def test_figures_do_not_depend_on_the_batch_size(batch_size):
    probes = evaluation(probes=("knn", "linear"), batch_size=batch_size)
    assert torch.equal(probes.predicted, evaluation().predicted)
    assert len(probes.predicted) == 31


def test_the_confusion_matrix_counts_every_test_image():
    probes = evaluation()
    probes.predicted = torch.zeros(31, dtype=torch.int64)
    assert probes.confusion().tolist() == [[11, 0, 0], [10, 0, 0], [10, 0, 0]]
    assert evaluate.accuracy_by_class(probes.confusion()) == [1.0, 0.0, 0.0]


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
    assert "logistic regression, all labels" in text
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
    probes.predicted = (torch.arange(31) % 25).clamp(max=23)
    evaluate.print_classes(probes, evaluate.accuracy_by_class(probes.confusion()))
    text = capsys.readouterr().out
    assert "class 24 taken for class 23: 1" in text
    assert "class 0  100.0 %" in text
