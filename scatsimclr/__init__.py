"""ScatSimCLR at kernel speed: contrastive learning on a wavelet scattering front end.

Scattering2D    a drop-in for kymatio's torch front end
NTXentLoss      the exact NT-Xent loss in O(N·D) memory; nt_xent_loss is its function
ScatSimCLR      scattering → adapter network → (h, z)
backends        which implementation serves which operator on this machine

Each is imported, and PyTorch with it, where it is first used: the command lines answer signals from their start on.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scatsimclr.version import __version__

if TYPE_CHECKING:
    from scatsimclr.loss import NTXentLoss, nt_xent_loss
    from scatsimclr.models.scatsimclr import ScatSimCLR
    from scatsimclr.ops.library import backends
    from scatsimclr.scattering import Scattering2D

__all__ = ["NTXentLoss", "ScatSimCLR", "Scattering2D", "__version__", "backends", "nt_xent_loss"]

_MODULES = {
    "NTXentLoss": "loss",
    "nt_xent_loss": "loss",
    "ScatSimCLR": "models.scatsimclr",
    "backends": "ops.library",
    "Scattering2D": "scattering",
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
