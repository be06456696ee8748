"""The parts of `gpu_check.py`: results that are continued, what counts as verified, errors as data, tables."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import math
from dataclasses import replace

import pytest
import torch

from benchmarks import page
from benchmarks.gpu import command, machine, ntxent, plan, results, tables, training_step
from benchmarks.gpu.device import Device, NotRun, Turns, verdict
from benchmarks.gpu.errors import described, explained, kind, readable
from benchmarks.gpu.plan import STEPS, Step
from benchmarks.gpu.results import Results
from benchmarks.gpu.supervisor import summary
from benchmarks.peers import plain_ntxent
from benchmarks.work import ntxent_work
from scatsimclr.config import load_config
from scatsimclr.ops import gpu_records

DRY = Device(dry=True)
MACHINE = {"device": "A GPU", "torch": "2.11", "triton": "3.6", "cuda": "13.0", "python": "3.12"}
ONE = Step("one", "limits:cases", 10, 60, op="ntxent", implementation="triton")
OTHER = Step("other", "limits:cases", 10, 60, op="ntxent")


def opened(path, machine=MACHINE, dry=False, steps=(ONE, OTHER)):
    return Results(path, steps, machine, dry)


def filled(path):
    """One step done, the other with a case that failed and one that has not run."""
    found = opened(path)
    found.started(ONE, [], [])
    found.planned(ONE, ["a"])
    found.case(ONE, "a", "done", 1.0, {"agreed": True, "errors": {"x": 1.0}, "bounds": {"x": 2.0}})
    found.started(OTHER, ["kymatio"], ["_C"])
    assert found.planned(OTHER, ["b", "c"]) == ["b", "c"]
    found.case(OTHER, "b", "failed", 1.0, {"error": "why"})
    return found


def test_plan_and_names():
    names = [step.name for step in STEPS]
    assert len(set(names)) == len(names)
    assert {(step.op, step.implementation) for step in STEPS if step.implementation} == {
        ("ntxent", "triton"), ("scattering2d", "triton"), ("scattering2d", "cuda"), ("photometric", "triton"),
    }  # fmt: skip
    for step in STEPS:
        assert step.case_limit <= step.limit
        for pattern in (*plan.SHARED, *step.sources):
            assert list(plan.ROOT.glob(pattern)), pattern


def test_results_are_continued_on_the_same_machine(tmp_path):
    path = tmp_path / "gpu-one.json"
    filled(path)
    again = opened(path)
    assert again.notes == []
    assert again.settled(ONE)
    assert not again.settled(OTHER)
    assert again.planned(OTHER, ["b", "c"]) == ["c"]
    again.forget_failures()
    assert again.planned(OTHER, ["b", "c"]) == ["b", "c"]
    assert again.planned(ONE, ["a"]) == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"machine": {**MACHINE, "torch": "2.12"}}, "torch was 2.11, is 2.12"),
        ({"dry": True}, "one of the two is a dry run"),
    ],
)
def test_results_of_another_machine_are_not_continued_but_kept(tmp_path, changed, why):
    path = tmp_path / "gpu-one.json"
    filled(path)
    before = path.read_text()
    again = opened(path, **changed)
    assert why in again.notes[0]
    assert not again.settled(ONE)
    (kept,) = tmp_path.glob("gpu-one.json.*.old")
    assert kept.read_text() == before
    assert kept.name in again.notes[0]


def test_only_steps_whose_files_have_changed_are_dropped(tmp_path, monkeypatch):
    path = tmp_path / "gpu-one.json"
    filled(path)
    monkeypatch.setattr(plan, "content_digest", lambda path: b"other")
    changed = replace(OTHER, sources=("kernels/ntxent.py",))
    monkeypatch.setattr(Step, "digest", lambda self: "other" if self.sources else "same")
    found = json.loads(path.read_text())
    found["steps"]["one"]["digest"] = "same"
    path.write_text(json.dumps(found))
    again = opened(path, steps=(ONE, changed))
    assert "1 steps, whose files have changed: other" in again.notes[0]
    assert again.settled(ONE)
    assert again.step(changed)["cases"] == {}


def test_a_digest_is_of_the_files_that_a_step_depends_on(monkeypatch):
    step = next(step for step in STEPS if step.name == "ntxent agrees")
    before = step.digest()
    read = plan.content_digest

    def with_change(name):
        return lambda path: b"changed" if path.as_posix().endswith(name) else read(path)

    for name, differs in (
        ("kernels/ntxent_tiles.py", True),
        ("scatsimclr/reference/ntxent.py", True),
        ("benchmarks/gpu/ntxent.py", True),
        ("kernels/scattering2d.py", False),
        ("benchmarks/gpu/tables.py", False),
    ):
        monkeypatch.setattr(plan, "content_digest", with_change(name))
        assert (step.digest() != before) == differs, name


def test_a_file_of_something_else_is_kept_and_replaced(tmp_path):
    path = tmp_path / "gpu-one.json"
    path.write_text("{")
    found = opened(path)
    assert "it is no results file of this format" in found.notes[0]
    assert results.read(path)["machine"] == MACHINE


def test_what_json_lacks_is_written_as_text(tmp_path):
    path = tmp_path / "gpu-one.json"
    results.write(path, {"format": 2, "x": [math.nan, (1.0, math.inf)]})
    assert results.read(path) == {"format": 2, "x": ["nan", [1.0, "inf"]]}


@pytest.mark.parametrize(
    ("step", "case", "expected"),
    [
        (OTHER, {"status": "done"}, {"ntxent": ["triton"]}),
        (OTHER, {"status": "failed"}, {"ntxent": ["triton"]}),
        (OTHER, {"status": "done", "agreed": False}, {}),  # a test of the operator failed
        (ONE, {"status": "done", "agreed": False}, {}),
        (ONE, {"status": "done"}, {}),
        (ONE, {"status": "crashed"}, {}),
        (ONE, {"status": "not run", "why": ""}, {}),
    ],
)
def test_verified_is_what_agreed_in_everything(tmp_path, monkeypatch, step, case, expected):
    path = tmp_path / "gpu-one.json"
    found = filled(path)
    data = {key: value for key, value in case.items() if key != "status"}
    found.case(step, "a" if step is ONE else "b", case["status"], 1.0, data)
    assert json.loads(path.read_text())["verified"] == expected
    monkeypatch.setattr(gpu_records, "FOLDER", tmp_path)
    gpu_records._recorded.cache_clear()
    try:
        assert gpu_records.recorded_run("ntxent", "triton") == ("gpu-one.json" if expected else "")
    finally:
        gpu_records._recorded.cache_clear()


def test_a_dry_run_verifies_nothing(tmp_path):
    found = opened(tmp_path / "dry.json", dry=True)
    found.started(ONE, [], [])
    found.planned(ONE, ["a"])
    found.case(ONE, "a", "done", 1.0, {"agreed": True})
    assert json.loads((tmp_path / "dry.json").read_text())["verified"] == {}


def test_why_a_step_is_not_run(tmp_path):
    found = filled(tmp_path / "gpu-one.json")
    everything, some = argparse.Namespace(only=None), argparse.Namespace(only=["on*"])
    assert command.why_not(ONE, everything, found, 1000) == ""
    assert command.why_not(OTHER, everything, found, 1000) is None
    assert command.why_not(OTHER, everything, found, 4.4) == (
        "out of time: 4 s were left, it needs about 10 s"
    )
    assert command.why_not(OTHER, some, found, 1000) == "not asked for"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_only_a_dry_run_is_possible():
    with pytest.raises(NotRun, match="no GPU here"):
        machine.cases(Device(dry=False))


@pytest.mark.parametrize(("works", "tried"), [("forkserver", 1), ("spawn", 2), ("", 2)])
def test_processes_start_in_the_first_way_in_which_the_device_works(monkeypatch, capsys, works, tried):
    """An import that initialises CUDA would make it unusable in every forked process."""
    methods = []

    def run(self):
        methods.append(self.context.get_start_method())
        self.results.planned(self.step, ["describe"])
        status = "done" if methods[-1] == works else "failed"
        self.results.case(self.step, "describe", status, 1.0, {"machine": MACHINE, "error": "no GPU here"})

    monkeypatch.setattr(command.supervisor.StepRun, "run", run)
    if works:
        assert command.describe_machine(False, 1)[1].get_start_method() == works
    else:
        with pytest.raises(SystemExit) as ended:
            command.describe_machine(False, 1)
        assert ended.value.code == 2
        assert capsys.readouterr().out.startswith("gpu_check: no GPU here; --dry-run")
    assert len(methods) == tried


def test_errors_are_data_without_the_machines_folders():
    class OutOfResources(Exception):
        """As Triton's."""

    try:
        raise OutOfResources(f"{plan.ROOT}/kernels/x.py, /opt/some/where/y.py:\n\n  shared memory")
    except OutOfResources as error:
        found = described(error)
        line = explained(error)
    assert found["kind"] == "out of resources"
    assert found["where"][-1].endswith("test_errors_are_data_without_the_machines_folders")
    assert line == "OutOfResources: kernels/x.py, …/y.py: | shared memory"
    assert readable("x" * 100, 25) == "x" * 10 + " ... " + "x" * 10


def test_tritons_errors_are_told_apart():
    errors = pytest.importorskip("triton.runtime.errors", reason="triton is not installed")
    compiler = pytest.importorskip("triton.compiler.errors")
    assert kind(errors.OutOfResources(300000, 232448, "shared memory")) == "out of resources"
    assert kind(compiler.CompilationError("x = 1", ast.parse("x = 1").body[0], "why")) == "compilation"
    assert kind(torch.OutOfMemoryError("why")) == "out of memory"
    assert kind(RuntimeError("why")) == "error"


def test_nan_never_agrees():
    assert verdict({"x": (1.0, 1.0)}, {"same": True})["agreed"]
    assert not verdict({"x": (math.nan, 1.0)})["agreed"]
    assert not verdict({"x": (0.0, 1.0)}, {"same": False})["agreed"]


def test_one_competitors_failure_is_its_own():
    turns = Turns(DRY)

    def broken():
        raise ValueError("not here")

    assert turns.add("ours", lambda: broken, ours=True) is False
    assert turns.add("plain", lambda: lambda: None)
    found = turns.times()
    assert list(found["ms"]) == ["plain"]
    assert found["missing"] == {"ours": "ValueError: not here"}
    assert found["ours"] == ["ours"]
    assert turns.add("needs more", lambda: importlib.import_module("no_such_package"), ours=True) is False
    assert turns.times()["ours"] == ["ours"]


def test_one_of_ours_that_does_not_run_is_a_failure(tmp_path):
    found = filled(tmp_path / "gpu-one.json")
    found.case(
        OTHER, "b", "done", 1.0, {"ours": ["triton"], "missing": {"triton": "OutOfResources", "plain": "x"}}
    )
    assert results.failures(found.found) == ["other, b: triton did not run, OutOfResources"]


@pytest.mark.parametrize(("M", "rows"), [(2, 1), (26, 7), (64, 64)])
def test_float64_in_chunks_is_the_formulas(M, rows):
    x = torch.randn(M, 9)
    loss, gradient = ntxent.in_chunks(x, 0.3, rows)
    leaf = x.double().requires_grad_()
    expected = plain_ntxent(*leaf.chunk(2), 0.3) if M > 2 else leaf.sum() * 0
    if M > 2:  # of two rows the loss is a sum over one other row: 0
        torch.testing.assert_close(loss, expected.double(), rtol=1e-6, atol=0)
    (truth,) = torch.autograd.grad(expected, leaf)
    torch.testing.assert_close(gradient, truth, rtol=1e-5, atol=1e-9)


def test_the_steps_settings_are_those_of_a_fused_run():
    config = load_config(None, ["fused=true"])
    own = training_step.settings(torch.bfloat16, True)
    for name in ("fused", "views", "pretext"):
        assert getattr(own, name) == getattr(config, name), name
    assert own.loss.use_cosine_similarity == config.loss.use_cosine_similarity
    assert own.resolved_amp("cuda") == config.resolved_amp("cuda")
    assert own.resolved_graphs("cuda") == config.resolved_graphs("cuda")


def timed(**changes):
    return {
        "status": "done", "op": "ntxent", "dtype": "bfloat16", "ours": ["triton"], "missing": {},
        "ms": {"triton": [0.9, 1.0, 1.1], "plain": [3.9, 4.0, 4.1]}, "work": ntxent_work(8192, 128, 2), **changes,
    }  # fmt: skip


def test_the_share_of_the_limit_counts_five_products():
    rates = {"float32_flop_per_s": 5e13, "bfloat16_flop_per_s": 8e14, "copy_bytes_per_s": 3e12}
    assert ntxent_work(8192, 128)["flop"] == 5 * 8192**2 * 128
    found, rate = tables.share(timed(), rates)
    assert found == pytest.approx(5 * 8192**2 * 128 / 1e-3 / 8e14)
    assert rate == "bfloat16"
    assert tables.share(timed(), {}) is None
    assert tables.share(timed(ours=[]), rates) is None


def test_the_page_has_a_section_of_each_gpu(tmp_path):
    found = filled(tmp_path / "gpu-a-gpu.json")
    found.case(OTHER, "b", "done", 1.0, timed())
    opened(tmp_path / "gpu-dry.json", dry=True)
    (text,) = tables.sections(tmp_path, page.markdown)
    assert text.startswith("## On A GPU\n")
    assert "`scatsimclr/ops/records/gpu-a-gpu.json`" in text
    assert "agreed in everything: ntxent: triton." in text
    assert "Not run:\n\n- other (1 of 2 cases): not reached" in text
    assert "| one | 1 of 1 | 50 % |" in text
    assert "| other | b | 1 ms (triton) | plain 4.0 | – |" in text
    assert text in page.page({}, [], "performance", None, [text])
    assert summary(timed()) == "triton 1 ms, plain 4 ms"
