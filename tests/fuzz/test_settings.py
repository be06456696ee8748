"""Some of the settings of `make fuzz`."""

from __future__ import annotations

from tests.fuzz import settings


def test_any_settings_are_accepted_or_refused_in_one_line(tmp_path):
    found = [settings.case(number, tmp_path) for number in range(10**6, 10**6 + 400)]
    assert 0 < found.count("accepted") < len(found)
