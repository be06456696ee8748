"""YAML of settings: what is read, and what is refused in one short line."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scatsimclr.plain_yaml import PlainYamlError, load

LAUGHS = "a: &a [x, x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}]\n" for i in range(20))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "a: 1\nb: [1, 2.5, x]\nc: {d: true, e: null}",
            {"a": 1, "b": [1, 2.5, "x"], "c": {"d": True, "e": None}},
        ),
        ("date: 2026-01-01", {"date": "2026-01-01"}),
        ("crop: (0.4, 1.0)", {"crop": "(0.4, 1.0)"}),
        ("", None),
        ("5", 5),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_what_settings_need_is_read(text, value):
    assert load(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "aliases are not supported, got \\*a in line 2"),
        ("a: 1\nb: 2\na: 3", "a is given twice in line 3"),
        ("[" * 3000, "nested more than 20 deep in line 1"),
        ("- " * 1000, "nested more than 20 deep in line 1"),
        ("[" + "1," * 30_000 + "]", "more than 20,000 values"),
        ("a" * 1_000_001, "more than 1,000,000 characters"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: 0x_", "invalid literal"),
        (
            "a: !!python/object/apply:os.system [x]",
            "tags are not supported, got tag:yaml.org,2002:python/object",
        ),
        ("a: !!float ''", "tags are not supported"),
        ("? [1]\n: 2", "names must be plain text in line 1"),
        ("a: {", "expected the node content"),
        ("a: 'x", "unexpected end of stream in line 1"),
        ("a: 1\n\tb: 2", "in line 2"),
        ("\0", "special characters are not allowed"),
        ("a: 1\n---\nb: 2", "another document in line 2"),
    ],
)
def test_what_they_do_not_need_is_refused_in_one_short_line(text, message):
    with pytest.raises(PlainYamlError, match=message) as error:
        load(text)
    assert len(str(error.value)) <= 200
    assert "\n" not in str(error.value)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(values)
def test_what_yaml_writes_is_read(value):
    text = yaml.safe_dump(value)
    expected = yaml.safe_load(text)
    if "&id" not in text:
        assert load(text) == expected


def error_of(text):
    try:
        load(text)
    except PlainYamlError as error:
        return str(error)
    return ""


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="a1:-[]{}&*!|>'\"\n \t#?,%@0x_.e+~=<"))
def test_any_text_is_a_value_or_an_error(text):
    assert len(error_of(text)) <= 200
