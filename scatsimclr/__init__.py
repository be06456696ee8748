"""ScatSimCLR at kernel speed: contrastive learning on a wavelet scattering front end.

Scattering2D    a drop-in for kymatio's torch front end
NTXentLoss      the exact NT-Xent loss in O(N·D) memory; nt_xent_loss is its function
ScatSimCLR      scattering → adapter network → (h, z)
backends        which implementation serves which operator on this machine
"""

from scatsimclr.loss import NTXentLoss, nt_xent_loss
from scatsimclr.models.scatsimclr import ScatSimCLR
from scatsimclr.ops.library import backends
from scatsimclr.scattering import Scattering2D
from scatsimclr.version import __version__

__all__ = ["NTXentLoss", "ScatSimCLR", "Scattering2D", "__version__", "backends", "nt_xent_loss"]
