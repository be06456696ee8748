"""What a light installation lacks is named with the extra that brings it, whichever way a user comes to it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement

import scatsimclr
from scatsimclr.extras import PACKAGES, TRAIN, MissingPackage, require

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIGHT = {Requirement(text).name for text in PROJECT["dependencies"]}


def brings(extra):
    """Names of the packages that an extra brings besides the package's own."""
    return {Requirement(text).name for text in PROJECT["optional-dependencies"][extra]}


def required():
    """(file, extra, modules) of every call of `require` with an extra of its own."""
    for path in sorted(Path(scatsimclr.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                _, extra, *modules = node.args
                named = [TRAIN if isinstance(m, ast.Starred) else (ast.literal_eval(m),) for m in modules]
                yield path, ast.literal_eval(extra), [name for names in named for name in names]


def test_the_message_names_all_that_is_missing_and_the_extra():
    require("this", "train", "torch", "email.message")
    with pytest.raises(MissingPackage) as raised:
        require("that", "dali", "torch", "none.such", "nosuch")
    assert str(raised.value) == "that needs none.such, nosuch: pip install 'scatsimclr[dali]'"
    assert isinstance(raised.value, ImportError)


def test_extras_bring_what_is_required_of_them():
    calls = list(required())
    assert {extra for _, extra, _ in calls} >= {"", "train", "onnx", "parquet", "dali"}
    for path, extra, modules in calls:
        known = brings(extra) if extra else LIGHT
        for module in modules:
            assert PACKAGES.get(module, module) in known, (path, module)
    assert {"torch", "numpy", "safetensors"} == LIGHT
    assert {PACKAGES.get(module, module) for module in TRAIN} == brings("train")


def third_party(path):
    """Top-level modules, not of the standard library, that a file imports when it is imported."""
    for node in ast.parse(path.read_text()).body:
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from {name.split(".")[0] for name in names} - {"", "scatsimclr", *sys.stdlib_module_names}


def test_every_folder_requires_what_its_files_import():
    light = {"torch", "numpy", "safetensors", "typing_extensions", "pydantic_core"}
    folders = Path(scatsimclr.__file__).parent
    given = {path.parent.name: set(modules) for path, _, modules in required() if path.name == "__init__.py"}
    # What a folder's files get from the folders that they import.
    given["evaluation"] = given["data"]
    given["data"] = given["data"] | given["config"]
    for path in folders.glob("*/*.py"):
        assert set(third_party(path)) <= light | given.get(path.parent.name, set()), path


def run_without(absent, code):
    program = f"import sys; sys.modules.update(dict.fromkeys({sorted(absent)})); {code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)


def test_light_use_needs_none_of_them():
    absent = {*TRAIN, "triton", "nvidia", "matplotlib", "kymatio", "pyarrow", "onnx", "huggingface_hub"}
    code = (
        "import torch; from scatsimclr import NTXentLoss, ScatSimCLR, Scattering2D, backends;"
        "NTXentLoss()(torch.randn(4, 8), torch.randn(4, 8)); Scattering2D(2, (16, 16))(torch.rand(1, 16, 16));"
        "ScatSimCLR(2, 4, (16, 16, 3), 8, 16).eval()(torch.rand(2, 3, 16, 16)); backends(); print('fine')"
    )
    done = run_without(absent, code)
    assert done.stdout == "fine\n", done.stderr


@pytest.mark.parametrize("command", ["train", "embed", "label", "evaluate", "report", "export", "reproduce"])
def test_commands_name_the_extra_in_one_line(command):
    done = run_without(TRAIN, f"from scatsimclr.cli import start; start({command!r})")
    assert done.returncode == 2
    missing = ", ".join(PACKAGES.get(module, module) for module in TRAIN)
    message = f"scatsimclr {command} needs {missing}: pip install 'scatsimclr[train]'"
    assert done.stderr == f"scatsimclr: error: {message}\n"


def test_without_torch_there_is_one_line():
    done = run_without({"torch"}, "from scatsimclr.cli import start; start('info')")
    assert done.returncode == 2
    assert done.stderr == "scatsimclr: error: scatsimclr needs torch: pip install torch\n"
