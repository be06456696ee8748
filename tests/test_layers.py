"""Dependencies point one way, and importing costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scatsimclr

PACKAGE = Path(scatsimclr.__file__).parent
KERNELS = PACKAGE.parent / "kernels"

# module prefix -> what it may import of this package; see the layout in the README.
LAYERS = [
    ("errors", set()),
    ("files", set()),
    ("cpu", set()),
    ("config", {"config", "cpu", "errors"}),
    ("reference", {"reference"}),
    ("filters", {"reference", "filters"}),
    ("kernels", {"kernels", "reference"}),
    ("ops", {"reference", "ops", "kernels", "filters"}),
    ("scattering", {"ops", "filters", "reference"}),
    ("loss", {"ops", "reference"}),
    ("models", {"models", "scattering", "loss", "ops", "reference", "cpu", "files"}),
    ("data", {"data", "config", "errors", "files", "ops", "reference"}),
    ("studies", set()),
    ("sweeps", {"studies", "config", "data", "errors"}),
    ("evaluation", {"evaluation", "models", "scattering", "data", "config", "errors"}),
    ("labelling", {"labelling", "evaluation", "models", "scattering", "data", "config", "errors"}),
    ("environment", {"ops"}),
    (
        "reporting",
        {
            "reporting",
            "labelling",
            "evaluation",
            "models",
            "data",
            "scattering",
            "environment",
            "config",
            "errors",
        },
    ),
    (
        "training",
        {
            *(
                "training",
                "reporting",
                "labelling",
                "evaluation",
                "models",
                "loss",
                "scattering",
                "data",
                "environment",
                "config",
                "errors",
                "files",
            ),
            "ops",
        },
    ),
]


def imports(path: Path) -> set[str]:
    """First components, below the package, of what a file imports when it runs (typing-only imports left out)."""
    found = set()

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide what a layer imports"
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


@pytest.mark.parametrize(("layer", "allowed"), LAYERS, ids=[layer for layer, _ in LAYERS])
def test_layer_imports_only_what_lies_below(layer, allowed):
    root = KERNELS if layer == "kernels" else PACKAGE / layer
    files = list(root.rglob("*.py")) if root.is_dir() else [root.with_suffix(".py")]
    assert files
    for file in files:
        assert imports(file) <= allowed, file


def test_import_is_free():
    code = (
        "import sys, scatsimclr, torch; "
        "heavy = {'triton', 'nvidia.dali', 'matplotlib', 'sklearn', 'kymatio', 'tensorboard', 'PIL'}; "
        "print(sorted(heavy & set(sys.modules)), torch.cuda.is_initialized())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] False"
