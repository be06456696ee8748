"""The code blocks of the documentation, and how they are run.

A block runs unless the line before it says otherwise, in one of two ways:

    <!-- not run: WHY -->
    <!-- run where installed: PACKAGE -->
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scatsimclr import cli, runs
from tests.training.conftest import TINY

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(
    r"^(?:<!-- (?P<how>not run|run where installed): (?P<what>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.M | re.S,
)

# What commands on a page are given besides, to be done in seconds.
SMALL = {
    "scatsimclr.train": [
        *(setting for setting in TINY if not setting.startswith(("dataset.dataset=", "model.base_model="))),
        *("model.base_model=scatsimclr4", "model.front=paper", "neighbours=0"),
        *("dataset.limit=40", "epochs=1", "evaluation.probes=[knn]"),
    ],
    "scatsimclr.evaluate": ["evaluation.probe_epochs=2", "evaluation.seeds=2"],
    "scatsimclr.export": ["--formats", "safetensors"],
    "scatsimclr.shards": ["dataset.input_shape=(16, 16, 3)"],
}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Path below the repository's root.
        line: Of its first line of code.
        language: As in the fence; "" where none is given.
        code: Its text.
        not_run: Why it is not run; "" where it is.
        needs: The package without which it cannot run, or "".
    """

    page: str
    line: int
    language: str
    code: str
    not_run: str
    needs: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        marks = {match["how"]: match["what"]}
        yield Block(
            page,
            line,
            match["language"],
            match["code"],
            marks.get("not run", ""),
            marks.get("run where installed", ""),
        )


def run_python(block: Block, names: dict[str, Any]) -> None:
    """Runs a block with, and into, the names that the page has so far; errors show the page's line."""
    code = "\n" * (block.line - 1) + block.code
    exec(compile(code, str(ROOT / block.page), "exec"), names)


def commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Module and arguments of every command of a block; it may only hold commands of this package."""
    for line in block.code.replace("\\\n", " ").splitlines():
        python, dash_m, module, *arguments = shlex.split(line, comments=True)
        assert (python, dash_m) == ("python", "-m"), f"{block}: {line}"
        assert module.startswith("scatsimclr."), f"{block}: {line}"
        yield module, arguments


def run_commands(block: Block, small: dict[str, Sequence[str]]) -> list[str]:
    """Runs a block's commands in this process, each with the settings in `small` that make it a matter of seconds.

    They take the place of `minutes=`, which a run cannot have beside `epochs=`.
    """
    ran = []
    for module, arguments in commands(block):
        arguments = [word for word in arguments if not word.startswith("minutes=")]
        status = cli.run(importlib.import_module(module).command, [*arguments, *small.get(module, ())])
        assert status == 0, f"{block}: {module} {arguments}"
        ran.append(module)
    return ran


def small_fit(
    *arguments: Any, settings: Mapping[str, Any], fit: Callable[..., Any] = runs.fit, **options: Any
) -> Any:
    """`scatsimclr.runs.fit`, which all of the Python interface calls, at the commands' small settings."""
    small = dict(setting.split("=", 1) for setting in SMALL["scatsimclr.train"])
    kept = {name: value for name, value in settings.items() if name not in {"minutes", *small}}
    chosen = {**kept, **{name: yaml.safe_load(value) for name, value in small.items()}}
    return fit(*arguments, settings=chosen, **options)
