"""The comparer: noise is not flagged, a slower kernel is, a slower machine is not."""

import json

import pytest

from benchmarks.compare import compare, main
from tests.benchmarks.records import record


def write(path, *records):
    entries = [{"extra_info": entry} for entry in records]
    path.write_text(json.dumps({"machine_info": {}, "benchmarks": entries}))
    return str(path)


def verdicts(old, new):
    return {row["group"]: row["verdict"] for row in compare(old, new)[0]}


def test_one_and_a_half_times_slower_is_flagged_and_first():
    old = [record(case={"M": m}, ours=1.0, plain=3.0) for m in (64, 512)]
    new = [record(case={"M": 64}, ours=1.02, plain=3.0), record(case={"M": 512}, ours=1.5, plain=3.0)]
    rows, notes = compare(old, new)
    assert [(row["group"], row["verdict"]) for row in rows] == [("loss: M=512", "SLOWER"), ("loss: M=64", "")]
    assert rows[0]["slower"] == pytest.approx(1.5)
    assert not notes


def test_a_machine_that_is_slower_altogether_is_not_flagged():
    assert verdicts([record(ours=1.0, plain=3.0)], [record(ours=4.0, plain=12.0)]) == {"loss: M=64": ""}


def test_a_peer_that_takes_another_time_is_not_ours_being_slower():
    old, new = record(ours=1.0, plain=3.0), record(ours=1.05, plain=1.8)
    (row,), _ = compare([old], [new])
    assert (row["clock"], row["verdict"]) == ("time", "")
    (row,), _ = compare([old], [new], same_cpu=False)
    assert (row["clock"], row["verdict"]) == ("plain", "SLOWER")


def test_nor_does_one_that_takes_longer_hide_it():
    old, new = record(ours=1.0, plain=3.0, other=8.0), record(ours=1.5, plain=4.8, other=8.2)
    (row,), _ = compare([old], [new])
    assert (row["clock"], row["verdict"]) == ("other", "SLOWER")
    assert row["slower"] == pytest.approx(1.5 * 8.0 / 8.2)


def test_faster_is_said():
    assert verdicts([record(ours=1.0, plain=3.0)], [record(ours=0.5, plain=3.0)]) == {"loss: M=64": "faster"}


@pytest.mark.parametrize(("rounds", "flagged"), [(5, ""), (200, "SLOWER")])
def test_what_few_and_wide_rounds_cannot_tell_is_not_flagged(rounds, flagged):
    wide = {"spread": 0.3, "rounds": rounds}
    found = verdicts([record(ours=1.0, plain=3.0, **wide)], [record(ours=1.6, plain=3.0, **wide)])
    assert found == {"loss: M=64": flagged}


def test_phases_are_judged_apart():
    old = record(ours=2.0, plain=3.0, phases={"forward": {"ours": 1.0, "plain": 1.5}})
    new = record(ours=2.2, plain=3.0, phases={"forward": {"ours": 1.5, "plain": 1.5}})
    assert verdicts([old], [new]) == {"loss: M=64": "", "loss: M=64, forward": "SLOWER"}


def test_what_cannot_be_judged_is_named():
    old = [record(case={"M": 1}, ours=1.0, plain=2.0), record(case={"M": 2}, ours=1.0)]
    new = [record(case={"M": 2}, ours=9.0), record(case={"M": 3}, ours=1.0, plain=2.0)]
    rows, notes = compare(old, new)
    assert not rows
    assert notes == [
        "loss: M=2: no peer in both files, so that only times could be compared",
        "loss: M=3: only in the new file",
        "loss: M=1: only in the old file",
    ]


def test_peers_of_one_file_alone_do_not_count():
    old, new = record(ours=1.0, plain=2.0, other=4.0), record(ours=1.0, other=4.0)
    assert compare([old], [new], same_cpu=False)[0][0]["clock"] == "other"


def test_exit_status(tmp_path, capsys):
    old = write(tmp_path / "old.json", record(ours=1.0, plain=3.0))
    new = write(tmp_path / "new.json", record(ours=1.5, plain=3.0))
    assert main([old, old]) == 0
    assert main([new, old]) == 0
    assert "faster" in capsys.readouterr().out
    assert main([old, new]) == 1
    assert "1 of 1 slower beyond noise" in capsys.readouterr().out
    assert main([old, str(tmp_path / "none.json")]) == 2
    (tmp_path / "torn.json").write_text("{")
    assert main([str(tmp_path / "torn.json"), new]) == 2
    assert capsys.readouterr().err.count("compare: ") == 2
