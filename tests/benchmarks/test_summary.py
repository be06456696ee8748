"""What is printed after a run: its order and its figures."""

from benchmarks.records import losses, seconds, times, two_figures
from benchmarks.summary import summary
from tests.benchmarks.records import record


def test_where_a_peer_is_faster_comes_first_and_the_worst_of_it_first():
    in_a_part = record("in a part", ours=2.0, plain=3.0, phases={"forward": {"ours": 1.0, "plain": 0.5}})
    lines = summary([record("won", ours=1.0, plain=3.0), record("little", ours=1.0, plain=0.9), in_a_part])
    text = "\n".join(lines)
    assert lines[1:4] == [
        "Where a peer is faster than ours:",
        "  in a part: M=64, forward alone: plain takes 0.50 of our time",
        "  little: M=64: plain takes 0.90 of our time",
    ]
    assert text.index("takes 0.90") < text.index("won: M=64")


def test_nothing_is_lost_to_a_variant_of_ours():
    entry = record(ours=1.0, twin=0.5, plain=2.0, changes={"peers": ["plain"]})
    assert losses([entry]) == []
    assert summary([entry])[1] == "No peer is faster than ours in any group."


def test_missing_peers_are_listed_with_the_reason():
    lines = summary([record(ours=1.0, plain=2.0, changes={"missing": {"lightly": "needs torchvision"}})])
    assert lines[-2:] == ["Not compared with:", "  lightly: needs torchvision (loss: M=64)"]


def test_the_table_names_time_ratio_and_the_nearest_limit():
    share = {"ours": {"float32_flop_per_s": 0.21, "bfloat16_flop_per_s": 0.9, "copy_bytes_per_s": 0.4}}
    lines = summary([record(ours=0.002, plain=0.05, changes={"share": share})])
    row = next(line for line in lines if line.startswith("loss"))
    assert all(text in row for text in ("2 ms", "40 % of copy", "plain 25"))


def test_without_records_nothing_is_printed():
    assert summary([]) == []


def test_figures_in_words():
    assert [seconds(s) for s in (12.34, 0.01234, 0.0000512)] == ["12.3 s", "12.3 ms", "51.2 µs"]
    assert [times(r) for r in (0.793, 1.04, 1.24, 9.98, 517.4)] == ["0.79", "1.04", "1.2", "10", "517"]
    assert [two_figures(v) for v in (0.131, 4.12, 531.4)] == ["0.13", "4.1", "531"]
