"""ScatSimCLR at kernel speed: contrastive learning on a wavelet scattering front end.

Scattering2D    a drop-in for kymatio's torch front end
NTXentLoss      the exact NT-Xent loss in O(N·D) memory; nt_xent_loss is its function
ScatSimCLR      scattering → adapter network → (h, z)
backends        which implementation serves which operator on this machine
fit             trains on a folder, files, arrays or a data set, and gives a run
load            an encoder with its preprocessing: embed, predict, label, save_pretrained, push_to_hub
read_image      reads an image file as training does

Each is imported, and PyTorch with it, where it is first used: the command lines answer signals from their start on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scatsimclr.version import __version__

if TYPE_CHECKING:
    from scatsimclr.api import fit, load, read_image
    from scatsimclr.encoder import Encoder as Encoder
    from scatsimclr.loss import NTXentLoss, nt_xent_loss
    from scatsimclr.models.scatsimclr import ScatSimCLR
    from scatsimclr.ops.library import backends
    from scatsimclr.runs import Run as Run
    from scatsimclr.scattering import Scattering2D

__all__ = [
    "NTXentLoss",
    "ScatSimCLR",
    "Scattering2D",
    "__version__",
    "backends",
    "fit",
    "load",
    "nt_xent_loss",
    "read_image",
]

_MODULES = {
    "NTXentLoss": "loss",
    "nt_xent_loss": "loss",
    "ScatSimCLR": "models.scatsimclr",
    "backends": "ops.library",
    "Scattering2D": "scattering",
    "fit": "api",
    "load": "api",
    "read_image": "api",
    # With the extra train; not in __all__, as `from scatsimclr import *` works without it.
    "Encoder": "encoder",
    "Run": "runs",
}
# What `import scatsimclr` alone makes reachable: scatsimclr.loss.NTXentLoss.
_SUBMODULES = ("filters", "loss", "models", "ops", "reference", "scattering")


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_SUBMODULES})
