"""Competitors of more than one benchmark."""

from __future__ import annotations

import importlib.resources
import importlib.util
import sys
import types
from unittest import mock

import torch
import torch.nn.functional as F

from scatsimclr.filters import filter_bank


def kymatio_module(J, size, L):
    """kymatio's module, with filters from our equal bank, as its own would take up to half a minute.

    Raises:
        ImportError: Where it is not installed.
    """
    from kymatio.scattering2d.frontend.torch_frontend import ScatteringTorch2D

    def bank(M, N, J, L):
        ours = filter_bank(M, N, J, L)
        return {"phi": ours.phi, "psi": ours.psi}

    with mock.patch("kymatio.scattering2d.frontend.base_frontend.filter_bank", bank):
        return ScatteringTorch2D(J, size, L)


def pytorch_wavelets_layer():
    """pytorch_wavelets' scattering layer of order 2.

    It reads its coefficients with `pkg_resources`, which setuptools no longer has; the one function that it needs is
    put in its place.
    """

    def resource_stream(package, name):
        return importlib.resources.files(package).joinpath(name).open("rb")

    stand_in = types.ModuleType("pkg_resources")
    stand_in.resource_stream = resource_stream
    missing = {} if importlib.util.find_spec("pkg_resources") else {"pkg_resources": stand_in}
    with mock.patch.dict(sys.modules, missing):
        from pytorch_wavelets import ScatLayerj2

        return ScatLayerj2()


def plain_ntxent(z_i, z_j, tau=0.5):
    """NT-Xent as commonly written: normalisation, product, masked cross-entropy."""
    z = F.normalize(torch.cat((z_i, z_j)), dim=1)
    s = (z @ z.T / tau).fill_diagonal_(-torch.inf).float()
    return F.cross_entropy(s, torch.arange(len(z), device=z.device).roll(len(z_i)))


def original_ntxent(z_i, z_j, tau=0.5):
    """The original code's NT-Xent: cosine_similarity of broadcast rows, with an (M, M, D) temporary."""
    n = len(z_i)
    z = torch.cat((z_j, z_i))
    s = F.cosine_similarity(z[:, None], z[None], dim=-1)
    positives = torch.cat((s.diagonal(n), s.diagonal(-n))).view(2 * n, 1)
    eye = torch.eye(2 * n, device=z.device)
    logits = torch.cat((positives, s[eye + eye.roll(n, 0) == 0].view(2 * n, -1)), 1) / tau
    target = torch.zeros(2 * n, dtype=torch.long, device=z.device)
    return F.cross_entropy(logits, target, reduction="sum") / (2 * n)
