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
SETTINGS = {"config", "errors"}
TRANSFORM = {"scattering", "data", *SETTINGS}
EVALUATION = {"evaluation", "models", "files", *TRANSFORM}
REPORTING = {"reporting", "labelling", "environment", *EVALUATION}
TRAINING = {"training", "loss", "ops", "version", *REPORTING}
COMMAND = {"cli", "commandline", "allocator", *TRAINING}

# Every module and folder of the package -> what it may import of this package; see the layout in the README.
LAYERS = {
    "__init__": {"loss", "models", "ops", "scattering", "version"},
    "errors": set(),
    "version": set(),
    "files": set(),
    "plain_yaml": set(),
    "allocator": set(),
    "cpu": set(),
    "reference": {"reference"},
    "filters": {"reference", "filters"},
    "kernels": {"kernels", "reference"},
    "ops": {"reference", "ops", "kernels", "filters"},
    "scattering": {"ops", "filters", "reference"},
    "loss": {"ops", "reference"},
    "models": {"models", "scattering", "loss", "ops", "reference", "cpu", "files"},
    "data": {"data", "config", "errors", "files", "ops", "reference"},
    "config": {"config", "cpu", "errors", "plain_yaml"},
    "evaluation": EVALUATION,
    "labelling": {"labelling", *EVALUATION},
    "environment": {"ops"},
    "reporting": REPORTING,
    "training": TRAINING,
    "studies": {"studies", *TRAINING},
    "commandline": {"errors"},
    "cli": {"commandline"},
    "train": COMMAND,
    "evaluate": COMMAND,
    "report": COMMAND,
    "label": COMMAND,
    "embed": COMMAND,
    "export": COMMAND,
    "reproduce": {"studies", *COMMAND},
    "info": {"cli", "commandline", "environment", "ops"},
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


def test_import_is_free():
    code = (
        "import sys, scatsimclr, torch; "
        "heavy = {'triton', 'nvidia.dali', 'matplotlib', 'sklearn', 'kymatio', 'tensorboard', 'PIL'}; "
        "print(sorted(heavy & set(sys.modules)), torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"
