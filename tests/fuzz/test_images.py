"""A few of the files of `make fuzz`."""

from __future__ import annotations

import warnings

import pytest

from tests.fuzz import images


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_good_pixels_are_read_whatever_the_metadata(tmp_path):
    found = {number: images.metadata_case(number, tmp_path) for number in range(10**6, 10**6 + 600)}
    assert {number: what for number, what in found.items() if what != "read"} == {}


def test_mutated_files_are_read_or_left_out(tmp_path):
    found = [images.pixels_case(number, tmp_path) for number in range(10**6, 10**6 + 300)]
    assert 0 < found.count("read") < len(found)
