"""`minutes=N`: epochs by measured speed."""

import time

import pytest
import torch

from scatsimclr.config import load_config
from scatsimclr.errors import UserError
from scatsimclr.training import duration
from scatsimclr.training.duration import epochs_in, seconds_per_epoch
from scatsimclr.training.loop import Trainer
from scatsimclr.training.update import Update

SMALL = [
    "dataset.input_shape=(8, 8, 3)",
    "model.J=1",
    "model.L=2",
    "dataset.limit=64",
    "batch_size=8",
    "fused=true",
]


def trainer(folder, *changes):
    return Trainer(load_config(overrides=[*SMALL, *changes]), folder)


def slowed(monkeypatch, seconds):
    """Every update takes so much longer."""
    plain = Update.__call__

    def call(self, batch, **options):
        time.sleep(seconds)
        return plain(self, batch, **options)

    monkeypatch.setattr(Update, "__call__", call)


def test_the_epochs_fit_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(duration, "SECONDS", 0.3)
    slowed(monkeypatch, 0.1)
    measured = []

    def measure(*args):
        measured.append(seconds_per_epoch(*args))
        return measured[0]

    monkeypatch.setattr(duration, "seconds_per_epoch", measure)
    made = trainer(tmp_path / "run", "minutes=1", "flat_epochs=100")
    assert len(made.loader) == 7
    assert measured[0] >= 7 * 0.1
    held_out = len(made.data.validation) / len(made.data.pretrain)
    assert made.config.epochs == epochs_in(1, measured[0], held_out) < 60 / 0.7
    assert made.config.flat_epochs == made.config.epochs // 4
    assert f"epochs: {made.config.epochs}\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_measuring_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(duration, "SECONDS", 0.01)
    made = trainer(tmp_path / "run", "epochs=1")
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    state = torch.get_rng_state()
    assert seconds_per_epoch(made.config, made.model, None, made.loader, made.device) > 0
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in made.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in made.model.parameters())


def test_an_epoch_of_one_step_is_counted(tmp_path):
    made = trainer(tmp_path / "run", "batch_size=60", "dataset.valid_size=0")
    assert len(made.loader) == 1
    assert seconds_per_epoch(made.config, made.model, None, made.loader, made.device) > 0


def test_one_epoch_at_least():
    assert epochs_in(1, 10, 0) == 6
    assert epochs_in(1, 10, 0.3) == 5
    assert epochs_in(0.01, 1000, 0) == 1


def test_a_resumed_run_keeps_its_epochs(tmp_path, monkeypatch):
    monkeypatch.setattr(duration, "SECONDS", 0.05)
    slowed(monkeypatch, 0.02)
    first = trainer(tmp_path / "run", "minutes=0.01", "evaluation.probes=[knn]")
    first.fit()
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    again = Trainer(load_config(base=state["config"]), tmp_path / "run", state)
    assert again.config.epochs == first.config.epochs


def test_epochs_and_minutes_together_are_refused():
    with pytest.raises(UserError, match="give one of them"):
        load_config(overrides=["epochs=3", "minutes=2"])
    with pytest.raises(UserError, match="minutes"):
        load_config(overrides=["minutes=-1"])
