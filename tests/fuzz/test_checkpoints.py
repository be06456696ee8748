"""Some of the files of a run of `make fuzz`."""

from __future__ import annotations

from tests.fuzz import checkpoints


def test_any_file_of_a_run_is_read_or_refused_in_one_line(tmp_path):
    run = checkpoints.Run(tmp_path / "spoiled", checkpoints.finished_run(tmp_path))
    found = [checkpoints.case(number, run) for number in range(10**6, 10**6 + 150)]
    assert 0 < found.count("read") < len(found)
