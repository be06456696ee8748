"""Some of the files of `make fuzz` that readers get, changed at random instead of by coverage."""

from __future__ import annotations

import random
from functools import partial

import pytest

from tests.fuzz.checkpoints import spoiled_bytes
from tests.fuzz.guided import NAMES
from tests.fuzz.readers import readers
from tests.fuzz.settings import accepted


def test_every_reader_is_fuzzed():
    assert set(NAMES) == set(readers())


@pytest.mark.parametrize("name", NAMES)
def test_valid_files_are_read_and_others_refused_in_one_line(tmp_path, name):
    reader, rng = readers()[name], random.Random(0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.png").write_bytes(b"")  # that the tables of files name
    for file, content in reader.files.items():
        path = tmp_path / file
        path.write_bytes(content)
        assert accepted(partial(reader.read, path))
        for _ in range(40):
            path.write_bytes(spoiled_bytes(rng, content))
            accepted(partial(reader.read, path))
