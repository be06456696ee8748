"""An update of the weights: recorded and replayed, with skipped float16 steps, in parts that are measured."""

import contextlib
import copy
import dataclasses
import json

import pytest
import torch

from scatsimclr.config import Config, load_config
from scatsimclr.cpu import native_bfloat16
from scatsimclr.data.loader import Batch
from scatsimclr.errors import UserError
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.train import command
from scatsimclr.training.graphs import WARM_UP, GraphedUpdate
from scatsimclr.training.loop import Trainer
from scatsimclr.training.profile import STEPS, Parts, StepProfiler
from scatsimclr.training.profile import WARM_UP as PROFILE_WARM_UP
from scatsimclr.training.update import Update
from tests.training.conftest import TINY


def batch(seed, count=4):
    views = torch.rand(2, count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return Batch(views, torch.arange(count))


def update(*settings, device="cpu"):
    torch.manual_seed(0)
    model = ScatSimCLR(1, 2, (16, 16, 3), 8, 16).to(device, memory_format=torch.channels_last)
    return Update(load_config(None, [*TINY, *settings]), model, None, torch.device(device))


def record_on_cpu(call):
    """As a CUDA graph: the call does not run when it is recorded, and each replay overwrites one result."""
    result = {}

    def replay():
        for name, value in call().items():
            result.setdefault(name, torch.empty_like(value)).copy_(value)

    return replay, result


def test_replays_read_the_new_batch_and_count_as_calls():
    calls, recorded = [], []

    def double(batch):
        calls.append(batch.views[0].sum().item())
        return {"loss": 2 * batch.views[0].sum()}

    def record(call):
        recorded.append(len(calls))
        return record_on_cpu(call)

    graphed, batches = GraphedUpdate(double, record), [batch(seed) for seed in range(WARM_UP + 3)]
    results = [graphed(one)["loss"].item() for one in batches]
    sums = [one.views[0].sum().item() for one in batches]
    assert results == pytest.approx([2 * value for value in sums])
    assert calls == pytest.approx(sums)
    assert recorded == [WARM_UP]


def test_every_form_of_batch_has_its_own_recording():
    seen = []
    graphed = GraphedUpdate(lambda batch: seen.append(batch.pretext is None) or {}, record_on_cpu)
    plain = batch(0)
    with_pretext = Batch(plain.views, plain.indices, (torch.rand(8, 3, 16, 16), torch.arange(8)))
    for one in [plain, with_pretext] * (WARM_UP + 2):
        graphed(one)
    assert seen == [True, False] * (WARM_UP + 2)
    assert len(graphed.recordings) == 2


def test_all_calls_before_a_recording_are_on_one_stream(monkeypatch):
    """Memory that a stream has freed is kept for it alone: each further stream is another set of activations."""
    made = []

    class Stream:
        def __init__(self):
            made.append(self)

        def wait_stream(self, other):
            pass

    default = Stream()
    made.clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: default)
    monkeypatch.setattr(torch.cuda, "stream", contextlib.nullcontext)
    graphed = GraphedUpdate(lambda batch: {}, record_on_cpu)
    for count in (4, 6):
        for seed in range(WARM_UP + 1):
            graphed(batch(seed, count))
    assert len(made) == 1


def test_a_profile_marks_nothing_inside_a_recording():
    """An event with times, recorded while a CUDA graph is captured, is an error."""
    run, inside = update(), []

    def record(call):
        def recorded():
            inside.append(True)
            result = call()
            inside.pop()
            return result

        recorded()
        return recorded, {}

    marked = run.part._now
    run.part._now = lambda: pytest.fail("marked inside a recording") if inside else marked()
    run._graphed = GraphedUpdate(run._eager, record)
    run.part.recording = True
    for seed in range(WARM_UP + 2):
        run(batch(seed))
    seconds = run.part.seconds()
    assert list(seconds) == ["recorded step"]
    assert seconds["recorded step"] > 0
    run._eager(batch(0))  # and marks parts again
    assert "backward" in run.part.seconds()


def test_a_profile_measures_replays_alone(images, tmp_path, monkeypatch):
    """Neither the calls before a recording nor the recording itself."""
    monkeypatch.setattr(Config, "resolved_graphs", lambda self, device, *, distributed=False: True)
    when = []

    def record(call):
        when.append(trainer.update.part.recording)
        result = call()
        return lambda: when.append(trainer.update.part.recording), result

    monkeypatch.setattr("scatsimclr.training.graphs.record_cuda", record)
    config = load_config(None, [*TINY, f"data_dir={images}", "batch_size=2", "epochs=1"])
    trainer = Trainer(config, tmp_path / "run", profile=True)
    trainer._train_epoch()
    table = json.loads((tmp_path / "run" / "profile.json").read_text())
    assert [row["part"] for row in table] == ["data", "recorded step", "idle"]
    # The recording, its first replay, and those that are not measured yet.
    assert when[0] is False
    assert when.index(True) == PROFILE_WARM_UP + 2
    assert when.count(True) == len(trainer.loader) - PROFILE_WARM_UP - WARM_UP - 1 > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_graphed_updates_equal_eager_ones(amp):
    losses = []
    for graphs in ("true", "false"):
        run = update("fused=true", f"amp={amp}", f"graphs={graphs}", "device=cuda", device="cuda")
        values = []
        for seed in range(WARM_UP + 5):
            run.rate = 1e-3 / (1 + seed)
            values.append(run(Batch(batch(seed % 3).views.cuda(), torch.arange(4))).total.item())
        losses.append(values)
    torch.testing.assert_close(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["device=cpu"], "need a CUDA device"),
        (["device=cuda", "amp=fp16"], "loss scaling"),
        (["device=cuda", "accumulate=2"], "accumulate=1"),
    ],
)
def test_graphs_that_cannot_be_are_refused_with_the_reason(settings, reason):
    config = load_config(None, [*TINY, "graphs=true", *settings])
    with pytest.raises(UserError, match=reason):
        config.resolved_graphs(config.device)


def test_automatic_choices():
    fused, plain = load_config(None, [*TINY, "fused=true"]), load_config(None, TINY)
    assert fused.resolved_graphs("cuda")
    assert not fused.resolved_graphs("cpu")
    assert not plain.resolved_graphs("cuda")
    assert fused.resolved_amp("cuda") == torch.bfloat16
    assert fused.resolved_amp("cpu") == (torch.bfloat16 if native_bfloat16() else None)
    assert plain.resolved_amp("cuda") is None


def test_the_rate_that_is_set_is_the_rate_that_is_used():
    run = update()
    run(batch(0))
    before = run.model.l2.weight.detach().clone()
    run.rate = 0.0
    run(batch(1))
    assert torch.equal(run.model.l2.weight, before)
    run.rate = 1e-3
    run(batch(2))
    assert not torch.equal(run.model.l2.weight, before)


def test_float16_overflows_are_skipped_and_counted():
    run = update("amp=fp16")
    run(batch(0))
    skipped, scale = run.skipped, run.scaler.get_scale()
    before = run.model.l2.weight.detach().clone()
    handle = run.model.l2.weight.register_hook(lambda grad: grad * float("inf"))
    run(batch(1))
    handle.remove()
    assert run.skipped == skipped + 1
    assert torch.equal(run.model.l2.weight, before)
    assert run.scaler.get_scale() < scale
    resumed = update("amp=fp16")
    resumed.load_state_dict(run.state_dict())
    assert resumed.skipped == run.skipped


def test_updates_go_on_from_a_state_dict():
    whole = update()
    for seed in range(2):
        whole(batch(seed))
    again = update()
    again.model.load_state_dict(whole.model.state_dict())
    again.load_state_dict(copy.deepcopy(whole.state_dict()))
    for run in (whole, again):
        run(batch(2))
    assert torch.equal(whole.model.l2.weight, again.model.l2.weight)


def test_a_profile_accounts_for_the_step(images, tmp_path, capsys):
    folder = tmp_path / "run"
    argv = ["--data-dir", str(images), "--run-dir", str(folder), "--fused", "--profile", *TINY]
    assert command([*argv, "batch_size=2", "epochs=1"]) == 0
    table = json.loads((folder / "profile.json").read_text())
    assert [row["part"] for row in table] == [
        "data", "scattering", "adapter", "loss", "backward", "optimizer", "idle",
    ]  # fmt: skip
    assert sum(row["share"] for row in table) == pytest.approx(1, abs=0.01)
    assert all(row["seconds"] > 0 for row in table[:-1])
    assert f"a step, mean of {STEPS}:" in capsys.readouterr().out
    assert "traceEvents" in json.loads((folder / "trace.json").read_text())


def test_a_profile_of_an_epoch_with_few_steps(images, tmp_path, capsys):
    argv = ["--data-dir", str(images), "--profile", *TINY, "epochs=1"]
    assert command([*argv, "--run-dir", str(tmp_path / "a"), "batch_size=6"]) == 0  # 26 images
    assert "a step, mean of 1:" in capsys.readouterr().out
    assert command([*argv, "--run-dir", str(tmp_path / "b"), "batch_size=8"]) == 0
    assert "too few steps" in capsys.readouterr().out


def test_views_reach_the_encoder_without_a_copy(images, tmp_path, monkeypatch):
    run = Trainer(load_config(None, [*TINY, "fused=true", f"data_dir={images}"]), tmp_path / "run")
    seen, scatter = [], run.model.scatter
    monkeypatch.setattr(run.model, "scatter", lambda x: seen.append(x) or scatter(x))
    batch = next(run.loader.epoch(0))
    run.update(batch)
    (x,) = seen
    assert x.shape == (16, 3, 16, 16)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert x.data_ptr() == batch.views.data_ptr()


def test_a_profile_without_a_measured_step_is_stopped(tmp_path):
    profiler = StepProfiler(tmp_path, Parts(torch.device("cpu")), warm_up=1)
    profiler.step()
    assert torch.autograd._profiler_enabled()
    profiler.finish()
    assert not torch.autograd._profiler_enabled()
    assert "too few steps" in profiler.text()


@pytest.mark.parametrize("views", ["concatenated", "separate"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_views_of_half_the_precision_train_without_autocast(dtype, views):
    rounded, exact = update("amp=off", f"views={views}"), update("amp=off", f"views={views}")
    small = dataclasses.replace(batch(0), views=batch(0).views.to(dtype))
    same = dataclasses.replace(small, views=small.views.float())
    assert torch.equal(rounded(small).total, exact(same).total)
    for ours, theirs in zip(rounded.model.parameters(), exact.model.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
