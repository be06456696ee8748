"""The scaling model: its count of operations, its limits, and the table in the documentation."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.scaling import SETTINGS, Encoder, Step, table
from scatsimclr.config import load_config
from scatsimclr.training.setup import build_model

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.fixture(scope="module")
def encoder():
    return Encoder.of(load_config(None, SETTINGS))


@pytest.mark.parametrize("name", ["scatsimclr4", "resnet18"])
def test_operations_are_those_that_pytorch_counts(name):
    config = load_config(None, ["dataset.input_shape=(32,32,3)", f"model.base_model={name}", "model.L=4"])
    model, counted = build_model(config).eval(), FlopCounterMode(display=False)
    with torch.inference_mode(), counted:
        x = torch.zeros(1, 3, 32, 32)
        coefficients = model.scatter(x) if config.model.scattering else None
        before = counted.get_total_flops()
        h = model.encode(x) if coefficients is None else model.adapt(coefficients)
        model.project(h)
    assert Encoder.of(config).trained == counted.get_total_flops() - before


def test_one_process_sends_nothing_and_many_send_as_much_as_infinitely_many(encoder):
    alone = Step(encoder, 1, 4096)
    assert alone.gradients == alone.moments == alone.gathered == alone.ring == 0
    many = Step(encoder, 10**6, 4096)
    assert many.gradients == pytest.approx(8 * encoder.parameters, rel=1e-5)
    assert many.gathered == pytest.approx(8192 * 130 * 4, rel=1e-5)
    assert many.gathered_memory == pytest.approx(many.gathered, rel=1e-3)


def test_the_ring_holds_a_share_and_the_all_gather_the_batch(encoder):
    for figure, grows in (("ring_memory", 8), ("gathered_memory", 1.15)):
        few, many = (getattr(Step(encoder, processes, 262144), figure) for processes in (8, 64))
        assert few / many == pytest.approx(grows, rel=0.2), figure
    wide = Step(replace(encoder, width=2048), 512, 262144)
    assert wide.gathered_memory > 100 * wide.ring_memory


def test_the_page_has_the_table(encoder):
    found = re.search(r"<!-- scaling -->\n(.*?)<!-- end -->", PAGE.read_text(encoding="utf-8"), re.S)
    assert found[1].splitlines() == list(table(encoder)), "paste what python -m benchmarks.scaling prints"


def test_the_page_says_what_is_counted(encoder):
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    moments, work = encoder.moments, (encoder.trained / 1e9, encoder.fixed / 1e9)
    assert (
        f"P = {encoder.parameters / 1e6:.2f} million, {len(moments)} BatchNorm layers with {sum(moments):,}"
        in text
    )
    assert f"D = {encoder.width}, T = {work[0]:.2f} GFLOP, S = {work[1]:.3f} GFLOP" in text
