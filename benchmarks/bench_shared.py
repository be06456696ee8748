"""Claim: beside one busy program on two cores, training keeps over half of its speed.

Competitors train in processes of their own and take turns; those that wait sleep. "ours" is training as the command
`train` runs it, "ours, spinning" the same where threads wait for each other as long as OpenMP makes them, "plain" the
plain step of `bench_step`; all on views from our loader. `busy` is the number of other programs that never wait. Before
timing, the losses of the first step are compared.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from benchmarks.measure import compare
from benchmarks.shared import SIZE, STEPS, busy, trainer

full = pytest.mark.full
KINDS = ("plain", "ours, spinning", "ours")


@pytest.mark.parametrize("others", [pytest.param(0, marks=full), 1, pytest.param(3, marks=full)])
def bench_shared(benchmark, others):
    batch = 8 if benchmark.disabled else 64
    with ExitStack() as stack:
        calls = {name: stack.enter_context(trainer(name, batch)) for name in KINDS}
        losses = {name: call() for name, call in calls.items()}
        assert losses["ours, spinning"] == losses["ours"] == pytest.approx(losses["plain"], rel=2e-2)
        stack.enter_context(busy(others))
        compare(
            benchmark,
            calls,
            op="training beside busy programs",
            case={"busy": others, "size": SIZE, "batch": batch},
            peers=["plain"],
            items=STEPS * batch,
        )
