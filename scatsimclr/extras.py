"""What only some uses of the package need, and the extra that brings it: `pip install 'scatsimclr[train]'`."""

from __future__ import annotations

from importlib.util import find_spec

from scatsimclr.errors import UserError

# What training needs, and all that reads images or makes pages: the modules of the extra `train`.
TRAIN = (
    "PIL", "filelock", "jinja2", "markupsafe", "pooch", "pydantic", "requests", "scipy", "sklearn", "tensorboard",
    "tqdm", "yaml",
)  # fmt: skip
# Modules whose package has another name.
PACKAGES = {
    "PIL": "pillow",
    "nvidia.dali": "nvidia-dali-cuda130",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


class MissingPackage(UserError, ImportError):
    """A package that is not installed, with the command that installs it."""


def require(what: str, extra: str, *modules: str) -> None:
    """Checks that modules are installed, and imports none of them.

    Args:
        what: Whatever needs them, for the message.
        extra: The extra of this package that brings them; "" for what the package itself needs.
        modules: Names as in an import.

    Raises:
        MissingPackage: One of them is not there; the message names all that are not, and the extra.
    """
    missing = [PACKAGES.get(module, module) for module in modules if not _installed(module)]
    if missing:
        wanted = f"'scatsimclr[{extra}]'" if extra else " ".join(missing)
        raise MissingPackage(f"{what} needs {', '.join(missing)}: pip install {wanted}")


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
