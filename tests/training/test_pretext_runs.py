"""Runs with a pretext task."""

import pytest
import torch
from torch.nn import functional as F

from scatsimclr.config import load_config
from scatsimclr.data.augment import Augment
from scatsimclr.evaluation.features import extract
from scatsimclr.train import command
from scatsimclr.training import checkpoint
from scatsimclr.training.loop import Trainer
from scatsimclr.training.metrics import read_metrics
from tests.test_config import ORIGINAL_PRETEXT
from tests.training.conftest import TINY

TASKS = ["rotation", "jigsaw"]


def trainer(images, folder, task, *settings):
    chosen = ["mode=pretext", f"pretext.{task}=true"] if task else []
    return Trainer(load_config(None, [*TINY, "fused=true", f"data_dir={images}", *chosen, *settings]), folder)


def original_config(tmp_path, task):
    """The original's config_pretext.yaml with the task."""
    path, text = tmp_path / "config_pretext.yaml", ORIGINAL_PRETEXT
    if task == "jigsaw":
        text = text.replace("jigsaw: False", "jigsaw: True").replace("rotation: True", "rotation: False")
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("task", "limit", "epochs"), [("rotation", 320, 6), ("jigsaw", 160, 3)])
def test_the_originals_config_trains_on_digits_and_learns_the_task(tmp_path, task, limit, epochs):
    """On few images and epochs: rotation against one in four; jigsaw's loss falls."""
    status = command(
        ["--fused", "--config", original_config(tmp_path, task), "--mode", "pretext", "--run-dir", str(tmp_path / "r"),
         "dataset.dataset=digits", "dataset.input_shape=(16, 16, 3)", f"dataset.limit={limit}", f"epochs={epochs}",
         "batch_size=32", "lr=1e-3", "weight_decay=0", "model.base_model=scatsimclr8", "model.L=4",
         "eval_every_n_epochs=9", "evaluation.probes=[knn]",
         "augment.flip=0", "augment.jitter=0", "augment.crop_scale=(0.7, 1.0)"]
    )  # fmt: skip
    assert status == 0
    records = [
        record for record in read_metrics(tmp_path / "r" / "metrics.jsonl") if record["event"] == "epoch"
    ]
    assert all({"contrastive_loss", "pretext_loss", "pretext_accuracy"} <= set(record) for record in records)
    if task == "rotation":
        assert records[-1]["pretext_accuracy"] > 0.4
    assert records[-1]["pretext_loss"] < records[0]["pretext_loss"]
    state = checkpoint.load(tmp_path / "r")
    assert state["head"]["classification_fc.0.weight"].shape[0] == {"rotation": 4, "jigsaw": 35}[task]


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_is_contrastive_plus_lambda_times_cross_entropy(images, tmp_path, task):
    run = trainer(images, tmp_path / "run", task, "pretext.lambda=0.7", "amp=off")
    run.update.modules().eval()
    batch = next(run.loader.epoch(0, pretext=True))
    losses = run.update.losses(batch)
    z_i, z_j = (run.model(view)[1] for view in batch.views)
    pictures, labels = batch.pretext
    logits = run.head(run.model.encode(pictures))
    contrastive, pretext = run.update.criterion(z_i, z_j), F.cross_entropy(logits, labels)
    assert losses.parts["pretext_loss"].item() == pytest.approx(pretext.item(), rel=1e-6)
    assert losses.total.item() == pytest.approx((contrastive + 0.7 * pretext).item(), rel=1e-6)
    assert losses.total.item() == pytest.approx(
        losses.parts["contrastive_loss"].item() + 0.7 * losses.parts["pretext_loss"].item(), rel=1e-6
    )
    assert losses.parts["pretext_accuracy"].item() == (logits.argmax(1) == labels).double().mean().item()


def encoder_after(run):
    run.fit()
    figures = [
        {key: value for key, value in record.items() if not key.endswith("_per_second")}
        for record in read_metrics(run.folder / "metrics.jsonl")
    ]
    return run.model.state_dict(), figures


@pytest.mark.parametrize("task", TASKS)
def test_without_weight_the_run_is_the_unsupervised_one(images, tmp_path, task):
    plain, figures = encoder_after(trainer(images, tmp_path / "a", None))
    weighted, others = encoder_after(trainer(images, tmp_path / "b", task, "pretext.lambda=0"))
    assert figures == others
    assert all(torch.equal(plain[name], weighted[name]) for name in plain)


def test_the_task_starts_at_its_epoch(images, tmp_path):
    _, figures = encoder_after(
        trainer(images, tmp_path / "run", "rotation", "pretext.start_epoch=1", "epochs=3")
    )
    for event in ("epoch", "validation"):
        records = [record for record in figures if record["event"] == event]
        assert ["pretext_loss" in record for record in records] == [False, True, True]


def test_a_stopped_run_resumes_as_if_it_had_not_been(images, tmp_path):
    """Dropout's random state and the head's optimizer state included."""
    whole, figures = encoder_after(trainer(images, tmp_path / "a", "rotation", "epochs=3"))
    stopped = trainer(images, tmp_path / "b", "rotation", "epochs=3")
    original = stopped._train_epoch

    def stop():
        if stopped.progress.epoch == 1:
            raise KeyboardInterrupt
        return original()

    stopped._train_epoch = stop
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    resumed, others = encoder_after(Trainer(stopped.config, stopped.folder, checkpoint.load(stopped.folder)))
    assert figures == others
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("task", TASKS)
def test_resnets_train_with_a_pretext_task(images, tmp_path, task):
    run = trainer(images, tmp_path / "run", task, "model.base_model=resnet18", "epochs=1")
    assert run.head.fc1[0].in_features == run.model.h_dim == 512
    run.fit()
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_head_can_start_from_weights(images, tmp_path):
    first = trainer(images, tmp_path / "a", "rotation", "epochs=1")
    first.fit()
    second = trainer(images, tmp_path / "b", "rotation", f"pretext.fine_tune_from={tmp_path / 'a'}")
    assert torch.equal(first.head.fc1[0].weight, second.head.fc1[0].weight)


def test_six_images_are_augmented_for_a_rotation_sample_and_two_for_jigsaw(images, tmp_path, monkeypatch):
    counted, original = [], Augment.__call__

    def count(self, pictures, *rest):
        counted.append(len(pictures))
        return original(self, pictures, *rest)

    monkeypatch.setattr(Augment, "__call__", count)
    for task, expected in (("rotation", 6), ("jigsaw", 2)):
        run, counted[:] = trainer(images, tmp_path / task, task, "data.prefetch=0"), []
        next(run.loader.epoch(0, pretext=True))
        assert sum(counted) == expected * run.config.batch_size


def test_features_are_made_without_autograd_and_can_be_h_z_or_with_scattering(images, tmp_path):
    run = trainer(images, tmp_path / "run", None)
    options = {"batch_size": 3, "scattering": run.model._scatnet}
    h, z, scattering, both = (
        extract(run.model, run.data.test.images, run.data.spec, features=name, **options)
        for name in ("h", "z", "scattering", "both")
    )
    assert not h.requires_grad
    assert h.shape[1] == 2048
    assert z.shape[1] == 16
    assert torch.equal(both, torch.cat((h, scattering), 1))
    assert run.model.training
