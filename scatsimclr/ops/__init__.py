"""The only place that registers operators: schema, fake, autograd, validation and the table of backends."""

from scatsimclr.ops import conv3x3, library, ntxent, photometric, scattering2d

library.load_extension()

__all__ = ["conv3x3", "library", "ntxent", "photometric", "scattering2d"]
