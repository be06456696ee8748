"""Timing in turns, the record it leaves, and memory in a process of its own."""

import gc
import time
import weakref

import pytest
import torch

from benchmarks import measure


class Benchmark:
    """pytest-benchmark's fixture, as far as `interleaved` uses it."""

    def __init__(self, disabled=False):
        self.disabled, self.extra_info, self.group = disabled, {}, None

    def pedantic(self, target, setup, rounds, iterations):
        for _ in range(rounds):
            arguments, keywords = setup()
            target(*arguments, **keywords)


@pytest.fixture
def once(monkeypatch):
    """Turns of one call, and each called twice before them."""
    monkeypatch.setattr(measure, "TURN", 0)
    monkeypatch.setattr(measure, "SLOW", 0)


def test_competitors_take_turns_and_ours_is_last(monkeypatch, once):
    monkeypatch.setattr(measure, "rounds_for", lambda seconds: 3)
    order = []
    calls = {"ours": lambda: order.append("o"), "peer": lambda: order.append("p")}
    times = measure.interleaved(Benchmark(), calls)
    assert "".join(order) == "op" * 2 + "po" * 3  # each twice before
    assert {name: len(laps) for name, laps in times.items()} == {"ours": 3, "peer": 3}


def test_slow_ones_take_part_in_the_first_rounds_and_ours_never_alone(monkeypatch, once):
    rounds = iter((2, 4, 9))  # slow, quick, ours
    monkeypatch.setattr(measure, "rounds_for", lambda seconds: next(rounds))
    order = []
    calls = {name: lambda name=name: order.append(name[0]) for name in ("slow", "quick", "ours")}
    times = measure.interleaved(Benchmark(), calls)
    assert "".join(order[6:]) == "sqo" * 2 + "qo" * 2
    assert {name: len(laps) for name, laps in times.items()} == {"slow": 2, "quick": 4, "ours": 4}


def test_short_calls_are_repeated_in_a_turn_and_those_with_arguments_of_their_own_are_not(monkeypatch):
    monkeypatch.setattr(measure, "rounds_for", lambda seconds: 2)
    counts = {"short": 0, "long": 0, "prepared": 0, "ours": 0}

    def call(name, seconds):
        def run(*arguments):
            counts[name] += 1
            time.sleep(seconds)

        return run

    calls = {name: call(name, 1.1 * measure.TURN if name == "long" else 2e-5) for name in counts}
    times = measure.interleaved(Benchmark(), calls, prepare={"prepared": tuple})
    assert counts["long"] == counts["prepared"] == 6 + 2
    assert min(counts["short"], counts["ours"]) > 6 + 2 * 3
    assert {len(laps) for laps in times.values()} == {2}
    assert max(lap[""] for lap in times["short"]) < measure.TURN


def test_garbage_is_collected_between_turns_and_not_in_them(once):
    alive = weakref.WeakSet()
    seen = []

    class Cycle:
        def __init__(self):
            self.itself = self
            alive.add(self)

    calls = {"ours": lambda: seen.append((len(alive), gc.isenabled())), "peer": Cycle}
    measure.interleaved(Benchmark(), calls)
    assert set(seen[-3:]) == {(0, False)}
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_ratio_is_of_the_rounds_that_both_took():
    found = measure.figures({"slow": [6.0, 6.0], "ours": [3.0, 3.0, 1.0, 1.0, 1.0]})
    assert found["over_ours"]["slow"] == {"ratio": 2.0, "quartiles": [2.0, 2.0]}
    assert found["competitors"]["ours"]["median_s"] == 1.0


def test_disabled_each_runs_once():
    made = []
    calls = {"peer": lambda: made.append("peer"), "ours": lambda: made.append("ours")}
    benchmark = Benchmark(disabled=True)
    assert measure.interleaved(benchmark, calls) == {}
    measure.record(benchmark, {}, op="op", case={"shape": (1, 3), "J": 2})
    assert made == ["peer", "ours"]
    assert benchmark.group == "op: 1×3, J=2"
    assert benchmark.extra_info == {}


def test_a_call_that_yields_is_timed_in_parts():
    def call():
        yield "forward"
        time.sleep(0.03)
        yield "backward"

    found = measure.laps(call, (), "cpu")
    assert found["forward"] < 0.03 <= found["backward"]
    assert found[""] >= found["forward"] + found["backward"]


def test_arguments_are_made_outside_of_the_figure():
    made = []

    def prepare():
        time.sleep(0.02)
        made.append(1)
        return (5,)

    times = measure.interleaved(Benchmark(), {"ours": lambda x: x + 1}, prepare={"ours": prepare})
    assert len(made) == len(times["ours"]) + 6
    assert min(lap[""] for lap in times["ours"]) < 0.02


def test_the_record(monkeypatch):
    limits = {"float32_flop_per_s": 100.0, "copy_bytes_per_s": 10.0}
    monkeypatch.setattr(measure, "limits", lambda device: limits)
    benchmark = Benchmark()
    seconds = {"ours": (2.0, 2.0, 2.0), "twin": (1.0,), "peer": (4.0, 8.0, 6.0)}
    measure.record(
        benchmark, {name: [{"": t} for t in values] for name, values in seconds.items()}, op="op", case={"M": 1},
        peers=["peer", "absent"], missing={"absent": "why"}, work={"flop": 100, "bytes": 4}, peak_mb={"ours": 1.234},
    )  # fmt: skip
    found = benchmark.extra_info
    assert found["peers"] == ["peer"]
    assert found["missing"] == {"absent": "why"}
    assert found["competitors"]["peer"] == {"median_s": 6.0, "quartiles_s": [5.0, 7.0], "rounds": 3}
    assert found["competitors"]["ours"]["peak_mb"] == 1.23
    assert found["over_ours"]["peer"] == {"ratio": 3.0, "quartiles": [2.5, 3.5]}
    assert found["share"]["ours"] == {"float32_flop_per_s": 0.5, "copy_bytes_per_s": 0.2}


def test_a_comparison_is_timed_measured_and_recorded(monkeypatch, once):
    monkeypatch.setattr(measure, "rounds_for", lambda seconds: 3)
    monkeypatch.setattr(measure, "quick", False)
    monkeypatch.setattr(
        measure, "peak_mb", lambda module, name, size: {"peer": 7.0, "ours": 5.0}[name] * size
    )
    benchmark, prepared = Benchmark(), []
    found = measure.compare(
        benchmark,
        {"twin": int, "peer": int, "ours": abs},
        prepare={"ours": lambda: prepared.append(0) or (-1,)},
        op="op",
        case={"M": 1},
        peers=["peer"],
        memory=("module", 2),
        without_memory=["twin"],
    )
    assert found == {"peer": 14.0, "ours": 10.0}
    competitors = benchmark.extra_info["competitors"]
    assert {name: entry.get("peak_mb") for name, entry in competitors.items()} == {**found, "twin": None}
    assert {entry["rounds"] for entry in competitors.values()} == {3}
    assert len(prepared) == 3 + 2  # each was called twice before


def test_threads_are_compared_where_their_number_leaves_no_trace(monkeypatch, once):
    monkeypatch.setattr(measure, "rounds_for", lambda seconds: 3)
    seen, before = [], torch.get_num_threads()
    try:
        benchmark = Benchmark()
        timed = lambda: seen.append(torch.get_num_threads())  # noqa: E731
        measure.compare_threads(benchmark, lambda: [torch.ones(1)], timed, op="op", case={"M": 1})
        assert set(benchmark.extra_info["competitors"]) == {"ours", "ours, one thread"}
        assert seen[-6:] == [1, 2] * 3
        assert torch.get_num_threads() == measure.THREADS
        with pytest.raises(AssertionError):
            measure.compare_threads(
                Benchmark(), lambda: [torch.tensor(torch.get_num_threads())], int, op="op", case={}
            )
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("quick", [False, True])
def test_rounds(monkeypatch, quick):
    monkeypatch.setattr(measure, "quick", quick)
    assert measure.rounds_for(1e-4) == measure.MOST[quick]
    assert measure.rounds_for(0.9) == measure.LEAST[quick]
    assert [measure.rounds_for(s) for s in (2.0, 9.0)] == [3, 1]


SMALL = {
    "scattering2d": ("ours", (2, 3, 16, 16), 2, 4),
    "ntxent": ("ours", 2048, 32, "cpu", "float32"),
    "conv3x3": ("ours", 2, 8, 32, 16, "float32"),
    "step": ("ours, float32", 8, 16, 2),
}


@pytest.mark.parametrize("module", SMALL)
def test_memory_of_each_benchmark(module):
    assert 0 <= measure.peak_mb(f"benchmarks.bench_{module}", *SMALL[module]) < 2000


def test_memory_that_is_known(tmp_path, monkeypatch):
    (tmp_path / "benchmarks").symlink_to(measure.ROOT / "benchmarks")
    (tmp_path / "known.py").write_text(
        "import torch\n"
        "def memory_case(returned):\n"
        "    return (lambda: torch.ones(25_000_000)), returned, 'cpu'\n"
    )
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    assert measure.peak_mb("known", 0) == pytest.approx(100, abs=5)
    assert measure.peak_mb("known", 60_000_000) == pytest.approx(40, abs=5)
