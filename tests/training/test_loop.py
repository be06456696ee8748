"""Whole runs on a folder of small images: what they leave, that they repeat, and that they can be resumed."""

import itertools
import json
import math
import os
import signal

import pytest
import torch
import yaml

from scatsimclr.config import load_config
from scatsimclr.errors import UserError
from scatsimclr.train import command
from scatsimclr.training import checkpoint
from scatsimclr.training.loop import Trainer
from scatsimclr.training.metrics import Metrics, read_metrics
from scatsimclr.training.schedule import learning_rate_factor
from scatsimclr.training.update import Update
from tests.training.conftest import TINY


def run(images, folder, *settings, resume=None):
    argv = ["--data-dir", str(images), "--run-dir", str(folder), *TINY, *settings]
    assert (
        command(argv if resume is None else ["--run-dir", str(folder), "--resume", str(resume), *settings])
        == 0
    )
    return folder


def trainer(images, folder, *settings):
    return Trainer(load_config(None, [*TINY, f"data_dir={images}", *settings]), folder)


def repeatable(folder):
    """Everything measured but the clock."""
    return [
        {key: value for key, value in record.items() if not key.endswith("_per_second")}
        for record in read_metrics(folder / "metrics.jsonl")
    ]


@pytest.fixture(scope="module")
def finished(images, tmp_path_factory):
    return run(images, tmp_path_factory.mktemp("runs") / "reference", "--fused", "epochs=4")


def test_a_run_leaves_everything_in_its_folder(finished):
    assert (finished / "report.html").exists()
    assert {"loss.svg", "pairs.png", "embeddings.svg"} <= {
        path.name for path in (finished / "plots").iterdir()
    }
    assert json.loads((finished / "environment.json").read_text())["torch"] == torch.__version__
    assert yaml.safe_load((finished / "config.yaml").read_text())["epochs"] == 4
    assert json.loads((finished / "config.json").read_text())["epochs"] == 4
    assert (finished / "model.safetensors").exists()
    last = [record for record in read_metrics(finished / "metrics.jsonl") if record["event"] == "evaluation"][
        -1
    ]
    recommended = json.loads((finished / "recommendation.json").read_text())
    assert recommended["features"] == last["recommended_features"]
    assert "2 training labels per class, 2 draws" in recommended["reason"]
    assert list((finished / "tensorboard").glob("events.*"))
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {
        "last.pt",
        "previous.pt",
        "best.pt",
    }
    events = [record["event"] for record in repeatable(finished)]
    assert events.count("epoch") == events.count("validation") == 4
    assert events.count("evaluation") == 3  # before, after epoch 2, after epoch 4


def test_the_loss_falls(finished):
    losses = [record["loss"] for record in repeatable(finished) if record["event"] == "epoch"]
    assert losses[-1] < losses[0] < math.log(15) + 2


def test_the_best_checkpoint_has_the_lowest_validation_loss(finished):
    losses = [record["loss"] for record in repeatable(finished) if record["event"] == "validation"]
    assert checkpoint.load(finished / "checkpoints" / "best.pt")["epoch"] == 1 + losses.index(min(losses))


def test_two_runs_with_one_seed_are_identical_and_with_another_are_not(images, finished, tmp_path):
    again = run(images, tmp_path / "again", "--fused", "epochs=4")
    assert repeatable(again) == repeatable(finished)
    other = run(images, tmp_path / "other", "--fused", "epochs=4", "seed=1")
    assert repeatable(other) != repeatable(finished)


@pytest.mark.parametrize(
    ("stop_at", "number", "status"),
    [(1, signal.SIGINT, 130), (5, signal.SIGTERM, 0), (6, signal.SIGUSR1, 0), (12, signal.SIGHUP, 0)],
)
def test_a_stopped_run_resumes_as_if_it_had_not_been(
    images, finished, tmp_path, monkeypatch, capsys, stop_at, number, status
):
    """Steps 3, 6, 9 and 12 are the last of their epochs: what is stopped there is the measuring after it."""
    folder, original = tmp_path / "stopped", Update.losses
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore it
    with monkeypatch.context() as patch:

        def stop(self, batch):
            if self.model.training and self.attempts == stop_at:
                os.kill(os.getpid(), number)
            return original(self, batch)

        patch.setattr(Update, "losses", stop)
        argv = ["--data-dir", str(images), "--run-dir", str(folder), "--fused", *TINY, "epochs=4"]
        assert command(argv) == status
    signal.signal(number, before)
    assert checkpoint.load(folder)["step"] == stop_at
    expected = f"stopped after step {stop_at}, epoch {1 + (stop_at - 1) // 3}; continue with: "
    assert f"{expected}python -m scatsimclr.train --resume {folder}\n" in capsys.readouterr().err
    run(images, folder, resume="auto")
    assert repeatable(folder) == repeatable(finished)
    for name in ("last.pt", "best.pt"):
        ours, theirs = (checkpoint.load(path / "checkpoints" / name)["model"] for path in (folder, finished))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_finished_run_can_be_resumed_for_its_result(finished, capsys):
    before = repeatable(finished)
    run(None, finished, resume=finished)
    assert "kNN, all labels" in capsys.readouterr().out
    assert [r for r in repeatable(finished) if r["event"] == "epoch"] == [
        r for r in before if r["event"] == "epoch"
    ]


def test_reference_path_gives_the_same_run(images, tmp_path):
    """With the same views: DALI's differ by rounding. Adam's first steps have the rate's size whatever the gradient
    has, and BatchNorm of twelve rows enlarges them: a high rate and a small batch make large steps of rounding.
    """
    shared = ("epochs=3", "amp=off", "lr=1e-5", "batch_size=12")
    fused = run(images, tmp_path / "fused", "--fused", "data.pipeline=torch", *shared)
    reference = run(images, tmp_path / "reference", *shared)
    steps = 0
    for own, other in zip(repeatable(reference), repeatable(fused), strict=True):
        if own["event"] in ("train", "epoch"):
            bound = 0.005 if steps else 1e-5  # the first step has the same weights
            assert own["loss"] == pytest.approx(other["loss"], rel=bound)
            steps += own["event"] == "train"
    assert steps > 3


def test_every_training_step_is_in_training_mode_also_after_an_evaluation(images, tmp_path, monkeypatch):
    modes, original = [], Update.losses

    def record(self, batch):
        modes.append((torch.is_grad_enabled(), self.model.training))
        return original(self, batch)

    monkeypatch.setattr(Update, "losses", record)
    trainer(images, tmp_path / "run", "epochs=3", "eval_every_n_epochs=1").fit()
    assert set(modes) == {(True, True), (False, False)}


def test_accumulated_gradients_are_the_mean_of_the_batches(images, tmp_path):
    whole = trainer(images, tmp_path / "a", "accumulate=3", "batch_size=8")
    gradients = []
    whole.update.optimizer.step = lambda: gradients.append(
        [p.grad.clone() for p in whole.model.l2.parameters()]
    )
    whole._train_epoch()

    single = trainer(images, tmp_path / "b", "batch_size=8")
    separate = []
    single.update.optimizer.step = lambda: separate.append(
        [p.grad.clone() for p in single.model.l2.parameters()]
    )
    single._train_epoch()

    steps = len(single.loader)
    assert len(separate) == steps
    assert len(gradients) == math.ceil(steps / 3)
    for group, gradient in enumerate(gradients):
        for index, own in enumerate(gradient):
            mean = torch.stack([s[index] for s in separate[3 * group : 3 * group + 3]]).mean(0)
            torch.testing.assert_close(own, mean, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    "setting",
    ["views=separate", "amp=bf16", "activation_checkpointing=true", "best_by=knn", "dataset.valid_size=0"],
)
def test_settings_that_change_the_step(images, tmp_path, setting):
    results = trainer(images, tmp_path / "run", setting, "epochs=1").fit()
    measured = {"knn", "linear", "logistic_2", "logistic_2_sd"}
    compared = {"features", "knn", "logistic_2", "logistic_2_sd"}
    free = {f"{name}_{key}" for name in ("scattering", "whitened") for key in compared}
    assert set(results["before"]) == measured | free
    assert set(results["after"]) == measured | free | {f"recommended_{key}" for key in compared}
    assert (tmp_path / "run" / "checkpoints" / "best.pt").exists()


def test_the_held_out_images_are_seeded_and_not_trained_on(images, tmp_path):
    first, second, other = (
        trainer(images, tmp_path / name, f"seed={seed}") for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert torch.equal(first.data.validation.images, second.data.validation.images)
    assert not torch.equal(first.data.validation.images, other.data.validation.images)
    rows = torch.cat((first.data.pretrain.images, first.data.validation.images)).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows)


def test_fine_tuning_starts_from_the_weights(images, finished, tmp_path):
    tuned = trainer(images, tmp_path / "run", f"fine_tune_from={finished}")
    expected = checkpoint.load(finished)["model"]
    assert torch.equal(tuned.model.l1.weight, expected["l1.weight"])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(images, tmp_path, monkeypatch):
    monkeypatch.setattr(Update, "contrastive", lambda self, _: self.model.l2.weight.sum() * math.nan)
    with pytest.raises(
        UserError, match=r"became nan at step 1, learning rate 0.001; there is no checkpoint yet"
    ):
        trainer(images, tmp_path / "run").fit()


def test_a_checkpoint_by_steps_does_not_replace_a_good_one_by_a_bad_one(images, tmp_path, monkeypatch):
    """A loss that is not finite is found before it is saved, also where it is not due to be logged."""
    run = trainer(images, tmp_path / "run", "checkpoint_every_n_steps=1", "log_every_n_steps=100")
    original = Update.contrastive

    def spoiled(self, batch):
        return original(self, batch) * (math.nan if self.attempts == 2 else 1)

    monkeypatch.setattr(Update, "contrastive", spoiled)
    with pytest.raises(UserError, match="became nan at step 2"):
        run._train_epoch()
    run.checkpoints.wait()
    assert checkpoint.load(run.folder)["step"] == 1


def test_learning_rate_is_flat_then_a_falling_half_cosine():
    factors = [learning_rate_factor(epoch, 10, 100) for epoch in range(100)]
    assert factors[:11] == [1.0] * 11
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[-1] < 0.001
    assert learning_rate_factor(0, 10, 1) == 1.0


def test_a_line_cut_off_by_a_crash_does_not_hide_the_others(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.write("epoch", 1, 5, loss=1.0)
    metrics.write("epoch", 2, 10, loss=0.5)
    metrics.close()
    with metrics.path.open("a") as file:
        file.write('{"event": "epoch", "ep')
    assert [record["step"] for record in read_metrics(metrics.path)] == [5, 10]
    Metrics(tmp_path, resume_step=5).close()
    assert [json.loads(line)["step"] for line in metrics.path.read_text().splitlines()] == [5]
