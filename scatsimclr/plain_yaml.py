"""YAML as settings need it: mappings, lists and plain values, of bounded size, whoever wrote them.

`yaml.safe_load` runs no code, but it also expands aliases without end ("billion laughs"), lets the last of two equal
keys win, reads `2026-01-01` as a date, and raises RecursionError and ValueError beside its own errors.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

LARGEST = 1_000_000  # characters
DEPTH = 20
NODES = 20_000


class PlainYamlError(ValueError):
    """A text is no YAML of this kind; the message says what and, where it is known, in which line."""


class _Loader(yaml.SafeLoader):
    """Refuses aliases, tags, equal keys, and more than DEPTH levels or NODES values."""

    depth = nodes = 0
    # Dates are text.
    yaml_constructors: ClassVar = {
        **yaml.SafeLoader.yaml_constructors,
        "tag:yaml.org,2002:timestamp": yaml.SafeLoader.construct_yaml_str,
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs' gap
        if isinstance(event, yaml.AliasEvent):
            raise PlainYamlError(f"aliases are not supported, got *{str(event.anchor)[:40]}{_line(event)}")
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise PlainYamlError(f"tags are not supported, got {tag[:40]}{_line(event)}")
        self.depth += 1
        self.nodes += 1
        if self.depth > DEPTH:
            raise PlainYamlError(f"nested more than {DEPTH} deep{_line(event)}")
        if self.nodes > NODES:
            raise PlainYamlError(f"more than {NODES:,} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise PlainYamlError(f"names must be plain text{_line(key)}")
            if key.value in keys:
                raise PlainYamlError(f"{key.value[:40]} is given twice{_line(key)}")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


def _line(place: yaml.Event | yaml.Node) -> str:
    return f" in line {place.start_mark.line + 1}" if place.start_mark else ""


def load(text: str) -> Any:
    """Reads a document.

    Args:
        text: One YAML document.

    Returns:
        Its value, of dicts, lists, strings, numbers, booleans and None; None for an empty text.

    Raises:
        PlainYamlError: It is not YAML, or more than settings need.
    """
    if len(text) > LARGEST:
        raise PlainYamlError(f"more than {LARGEST:,} characters")
    try:
        return yaml.load(text, _Loader)  # a subclass of SafeLoader
    except PlainYamlError:
        raise
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise PlainYamlError(f"{error.problem or error.context}{where}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise PlainYamlError(" ".join(str(error).split())[:120]) from None
