"""Dependencies point one way, and importing costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scatsimclr

PACKAGE = Path(scatsimclr.__file__).parent
KERNELS = PACKAGE.parent / "kernels"

# What many modules may import, written once.
SETTINGS = {"config", "errors", "extras"}
TRANSFORM = {"scattering", "data", *SETTINGS}
EVALUATION = {"evaluation", "models", "files", *TRANSFORM}
REPORTING = {"reporting", "labelling", "environment", *EVALUATION}
TRAINING = {"training", "loss", "ops", "version", *REPORTING}
API = {"encoder", "runs", *TRAINING}
COMMAND = {"commandline", "cli", "allocator", *API}

# Every module and folder of the package -> what it may import of this package; see the layout in the README.
LAYERS = {
    "__init__": {"version"},  # all else by name, where it is first used
    "api": {"encoder", "runs", "data", "extras"},
    "errors": set(),
    "extras": {"errors"},
    "version": set(),
    "files": set(),
    "plain_yaml": set(),
    "allocator": set(),
    "waiting": set(),
    "cpu": set(),
    "reference": {"reference"},
    "fourier": set(),
    "filters": {"reference", "filters", "fourier"},
    "kernels": {"kernels", "reference"},
    "ops": {"reference", "ops", "kernels", "filters"},
    "scattering": {"ops", "filters", "reference"},
    "loss": {"ops", "reference"},
    "models": {"models", "scattering", "loss", "ops", "reference", "cpu", "files", "errors"},
    "data": {"data", "files", "ops", "reference", *SETTINGS},
    "config": {"cpu", "plain_yaml", *SETTINGS},
    "evaluation": EVALUATION,
    "labelling": {"labelling", *EVALUATION},
    "environment": {"ops"},
    "reporting": REPORTING,
    "training": TRAINING,
    "studies": {"studies", *TRAINING},
    "encoder": {"hub", *TRAINING},
    "hub": {"encoder", "errors", "extras"},
    "runs": API,
    "sklearn": {"scattering", "filters", *API},
    "commandline": {"errors"},
    "cli": {"commandline", "extras", "version", "waiting"},
    "train": COMMAND,
    "evaluate": COMMAND,
    "report": COMMAND,
    "label": COMMAND,
    "embed": COMMAND,
    "export": COMMAND,
    "shards": COMMAND,
    "reproduce": {"studies", *COMMAND},
    "info": {"cli", "commandline", "environment", "ops", "version"},
}


def imports(path: Path) -> set[str]:
    """First components, below the package, of what a file imports when it runs (typing-only imports left out)."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        # One dot stays within the folder, two would leave it unseen.
        assert getattr(node, "level", 0) <= 1, f"{path}: a relative import from outside its folder"
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = []
        found.update(name.split(".")[1] for name in names if name.startswith("scatsimclr."))
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    return found


def test_every_module_has_a_layer():
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    modules |= {path.parent.name for path in PACKAGE.glob("*/*.py")} | {"kernels"}
    assert modules == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_only_what_lies_below(layer):
    root = KERNELS if layer == "kernels" else PACKAGE / layer
    files = list(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]
    assert files
    for file in files:
        assert imports(file) <= LAYERS[layer], file


def outcome(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_is_free():
    assert (
        outcome("import sys, scatsimclr; print('torch' in sys.modules, 'numpy' in sys.modules)")
        == "False False\n"
    )
    code = (
        "import sys, scatsimclr, torch; scatsimclr.fit, scatsimclr.load, scatsimclr.read_image; "
        "scatsimclr.Scattering2D, scatsimclr.NTXentLoss, scatsimclr.ScatSimCLR; "
        "heavy = {'triton', 'nvidia.dali', 'scipy', 'sklearn', 'kymatio', 'tensorboard', 'PIL', 'pydantic'}; "
        "print(sorted(heavy & set(sys.modules)), torch.cuda.is_initialized())"
    )
    assert outcome(code) == "[] False\n"


def test_import_takes_a_tenth_of_a_second_beyond_torch():
    code = (
        "import time, torch; start = time.process_time(); from scatsimclr import {name}; "
        "print(time.process_time() - start)"
    )
    for name in ("NTXentLoss", "Scattering2D"):
        assert min(float(outcome(code.format(name=name))) for _ in range(3)) < 0.1
