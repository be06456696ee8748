"""The only place that registers operators: schema, shapes, derivatives, checks and the table of implementations."""

from scatsimclr.ops import availability, conv3x3, library, ntxent, photometric, scattering2d

availability.load_extensions()

__all__ = ["conv3x3", "library", "ntxent", "photometric", "scattering2d"]
