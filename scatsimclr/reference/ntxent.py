r"""NT-Xent and its multi-positive form, plain PyTorch.

Rows z_1 … z_M (normalised to length 1, or not), s_ik = z_i·z_k, c = 1/τ, P(i) the other rows of i's class:

    loss = Σ_i w_i ( log Σ_{k≠i} exp(c s_ik)  −  c / |P(i)| · Σ_{p∈P(i)} s_ip ),    w_i = 1 / #{i : P(i) ≠ ∅}

A class is the views of one image (NT-Xent: Sohn 2016; Chen et al. 2020, eq. 1, with two views) or all rows of
one label ("out" of Khosla et al. 2020, eq. 2). A row without a positive has w_i = 0: it is no anchor, only
another row's negative. With E_i = Σ_{k≠i} exp(c s_ik) and G_ik = w_i exp(c s_ik)/E_i + w_k exp(c s_ik)/E_k,

    ∂loss/∂z_i = c ( Σ_{k≠i} G_ik z_k − 2 w_i / |P(i)| · Σ_{p∈P(i)} z_p ),

because s and the classes are symmetric; and as the loss depends on (c, z) through c z_i·z_k alone,

    ∂loss/∂τ = −(1/2τ) Σ_i z_i·∂loss/∂z_i.

Only the rows first … first + rows − 1 are summed and get gradients: one process's share of all rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scatsimclr.reference.accumulation import accumulate_dtype


def view_labels(total: int, views: int, rows: int, device: torch.device) -> Tensor:
    """The class of each of `total` rows: in a block of `rows`, view v of image a is row a + v·rows/views."""
    index = torch.arange(total, device=device)
    images = rows // views
    return index // rows * images + index % rows % images


def _terms(
    x: Tensor,
    labels: Tensor | None,
    temperature: Tensor | None,
    tau: float,
    normalize: bool,
    views: int,
    first: int,
    rows: int,
) -> tuple[Tensor, float | Tensor, Tensor, Tensor, Tensor]:
    """(z, c, own, positive, w): rows, 1/τ, the local rows' masks (rows, M) of themselves and of P(i), w."""
    x = x.to(accumulate_dtype(x.dtype))
    z = F.normalize(x, dim=1) if normalize else x
    c: float | Tensor = 1 / tau if temperature is None else 1 / temperature.to(x.dtype)
    if labels is None:
        labels = view_labels(len(x), views, rows, x.device)
    index = torch.arange(len(x), device=x.device)
    local = slice(first, first + rows)
    own = index[local, None] == index
    positive = (labels[local, None] == labels) & ~own
    counts = (labels[:, None] == labels).sum(1)
    w = (counts > 1).to(x.dtype) / (counts > 1).sum().clamp(min=1)
    return z, c, own, positive, w


def ntxent(
    x: Tensor,
    labels: Tensor | None,
    temperature: Tensor | None,
    tau: float,
    normalize: bool,
    views: int,
    first: int,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """The local rows' share of the loss and their statistics, in `accumulate_dtype`.

    Args:
        x: all rows (M, D).
        labels: integers (M,), or None for `view_labels`.
        temperature: τ as one element, or None for tau.
        tau: τ where temperature is None.
        normalize: whether rows are normalised to length 1.
        views: views of an image, where labels is None.
        first: the first local row.
        rows: how many local rows there are.

    Returns:
        The loss (0-d), and the statistics (2, rows): a_i = max_{k≠i} s_ik and Σ_{k≠i} exp(c (s_ik − a_i)). Any a_i
        would do for the backward.
    """
    with torch.autocast(x.device.type, enabled=False):
        z, c, own, positive, w = _terms(x, labels, temperature, tau, normalize, views, first, rows)
        s = z[first : first + rows] @ z.T
        others = s.masked_fill(own, -torch.inf)
        shift = others.amax(1).clamp(min=torch.finfo(s.dtype).min)  # a lone row has no others
        total = torch.exp(c * (others - shift[:, None])).sum(1)
        w_row = w[first : first + rows]
        pull = (s * positive).sum(1) / positive.sum(1).clamp(min=1)
        anchors = torch.where(w_row > 0, c * (shift - pull) + total.log(), 0)
        return (w_row * anchors).sum().reshape(()), torch.stack((shift, total))


def ntxent_by_autograd(
    x: Tensor,
    labels: Tensor | None,
    temperature: Tensor | None,
    tau: float,
    normalize: bool,
    views: int,
) -> Tensor:
    """The loss (0-d) of all rows, in operations that PyTorch differentiates any number of times, unlike `ntxent`."""
    with torch.autocast(x.device.type, enabled=False):
        z, c, own, positive, w = _terms(x, labels, temperature, tau, normalize, views, 0, len(x))
        anchor = w > 0  # a lone row has no others: its sum would have no derivative
        s = c * (z[anchor] @ z.T)
        pull = (s * positive[anchor]).sum(1) / positive[anchor].sum(1)
        push = torch.logsumexp(s.masked_fill(own[anchor], -torch.inf), 1)
        loss: Tensor = (w[anchor] * (push - pull)).sum()
        return loss


def ntxent_backward(
    grad: Tensor,
    x: Tensor,
    stats: Tensor,
    labels: Tensor | None,
    temperature: Tensor | None,
    tau: float,
    normalize: bool,
    views: int,
    first: int,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """grad times the gradients of the whole loss in the local rows and in τ.

    Args:
        grad: the gradient in the loss (0-d).
        x: all rows (M, D).
        stats: the statistics of all rows (2, M).
        labels, temperature, tau, normalize, views, first, rows: as for `ntxent`.

    Returns:
        The gradient in the local rows (rows, D), of x's dtype, and the local rows' share of the one in τ (0-d).
    """
    with torch.autocast(x.device.type, enabled=False):
        z, c, own, positive, w = _terms(x, labels, temperature, tau, normalize, views, first, rows)
        local = slice(first, first + rows)
        s = (z[local] @ z.T).masked_fill(own, -torch.inf)
        (shift, total), w_row = stats, w[local, None]
        g = torch.where(w_row > 0, torch.exp(c * (s - shift[local, None])) / total[local, None], 0) * w_row
        g += torch.where(w > 0, torch.exp(c * (s - shift)) / total, 0) * w
        g -= positive * (2 * w_row / positive.sum(1, keepdim=True).clamp(min=1))
        dz = grad * c * (g @ z)
        dtau = (-c / 2 * (z[local] * dz).sum()).reshape(())
        if not normalize:
            return dz.to(x.dtype), dtau
        with torch.enable_grad():
            leaf = x[local].to(z.dtype).detach().requires_grad_()
            (dx,) = torch.autograd.grad(F.normalize(leaf, dim=1), leaf, dz)
        return dx.to(x.dtype), dtau
