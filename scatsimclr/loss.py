"""Contrastive losses: exact, in memory linear in the batch, drop-in replacements for the usual ones.

    from scatsimclr.loss import NTXentLoss, nt_xent_loss, SupConLoss, sup_con_loss

The similarity matrix is never stored. Products, exponentials and sums are in float32 (float64 for float64 rows);
float16 and bfloat16 rows give a float32 loss and gradients in their own dtype. Autocast does not change the rows'
dtype. Deterministic. Differentiable any number of times: derivatives of the gradient come from plain PyTorch, which
stores the matrix. With `gather_distributed`, differentiable once: a second time raises RuntimeError.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scatsimclr.ops import ntxent as ops
from scatsimclr.ops.ntxent_distributed import Group, Rows, ntxent_loss_distributed

__all__ = ["NTXentLoss", "SupConLoss", "nt_xent_loss", "sup_con_loss"]


def nt_xent_loss(
    z_i: Tensor | Sequence[Tensor],
    z_j: Tensor | None = None,
    temperature: float | Tensor = 0.5,
    *,
    normalize: bool = True,
    views_dim: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """NT-Xent (Chen et al. 2020, eq. 1), averaged over all V·N rows.

    Args:
        z_i: one of two views (N, D) of N images; or, with z_j None, all V ≥ 2 views, as a (V, N, D) tensor or a
            sequence of (N, D) tensors: then every other view of an image is a positive, with equal weight.
        z_j: the other view (N, D), or None.
        temperature: τ > 0; a tensor of one element on the rows' device gets a gradient.
        normalize: cosine similarities (F.normalize, eps 1e-12), else dot products. A row of zeros has no direction:
            its gradient is F.normalize's, 1e12 times as large as others, and 0 in float16, which cannot hold that.
        views_dim: 1 where a tensor of all views is (N, V, D). None is 0, with a warning where V ≥ N.
        backend: "auto" or the name of one implementation.

    Returns:
        A 0-d tensor, float32 (float64 for float64 rows).

    Raises:
        TypeError: an argument is of a kind that cannot be used.
        ValueError: an argument has a shape or a value that cannot be used.
    """
    x, views = ops.stack_views(z_i, z_j, views_dim)
    return ops.ntxent_loss(x, temperature=temperature, normalize=normalize, views=views, backend=backend)


def sup_con_loss(
    z: Tensor | Sequence[Tensor],
    labels: Tensor,
    temperature: float | Tensor = 0.5,
    *,
    normalize: bool = True,
    views_dim: int | None = None,
    backend: str = "auto",
) -> Tensor:
    """The supervised contrastive loss, "out" form (Khosla et al. 2020, eq. 2).

    A row that shares its label with no other row is only a negative; the mean is over the other rows, and 0 where
    there are none. SupContrast's features are (N, V, D): pass views_dim=1 for them. Its loss is this one times
    temperature/base_temperature.

    Args:
        z: rows (M, D); or the V views of N images, as a (V, N, D) tensor or a sequence of (N, D) tensors.
        labels: any integers, (M,) for rows, (N,) for views.
        temperature: as for `nt_xent_loss`.
        normalize: as for `nt_xent_loss`.
        views_dim: as for `nt_xent_loss`.
        backend: as for `nt_xent_loss`.

    Returns:
        A 0-d tensor, float32 (float64 for float64 rows).

    Raises:
        TypeError: an argument is of a kind that cannot be used.
        ValueError: an argument has a shape or a value that cannot be used.
    """
    x, _, labels = _labelled(z, labels, views_dim)
    return ops.ntxent_loss(x, temperature=temperature, normalize=normalize, labels=labels, backend=backend)


def _labelled(
    z: Tensor | Sequence[Tensor], labels: Tensor, views_dim: int | None
) -> tuple[Tensor, int, Tensor]:
    """Rows (M, D), 1 view of each, and their labels."""
    if isinstance(z, Tensor) and z.dim() == 2:
        return ops.single_view(z, "z"), 1, labels
    x, views = ops.stack_views(z, None, views_dim)
    return x, 1, ops.repeat_labels(labels, views, len(x) // views)


class _ContrastiveLoss(nn.Module):
    """Keeps the temperature (a number, a learnt parameter, or a tensor that moves with the module) and the group."""

    operator_name = ops.NTXENT.name

    def __init__(
        self,
        temperature: float | Tensor,
        normalize: bool,
        views_dim: int | None,
        backend: str,
        gather_distributed: bool,
        group: Group,
        gather: str,
    ) -> None:
        super().__init__()
        ops.check_temperature(temperature)
        if gather not in ("all", "ring"):
            raise ValueError(f"gather must be 'all' or 'ring', got {gather!r}")
        if group is not None and not (dist.is_available() and isinstance(group, dist.ProcessGroup)):
            raise TypeError(f"group must be a ProcessGroup or None, got {type(group).__name__}")
        if gather == "ring" and backend not in ("auto", "reference"):
            raise ValueError(f"backend must be 'auto' or 'reference' with gather='ring', got {backend!r}")
        self.gather_distributed, self.group, self.gather = bool(gather_distributed), group, gather
        if not isinstance(temperature, Tensor):
            temperature = float(temperature)
        self.views_dim = views_dim
        if isinstance(temperature, Tensor) and not isinstance(temperature, nn.Parameter):
            self.register_buffer("temperature", temperature, persistent=False)
        else:
            self.temperature = temperature
        self.normalize = bool(normalize)
        self.backend = backend

    def over_processes(self, rows: Callable[[], Rows], device: torch.device) -> Tensor:
        """The loss (0-d) of the rows of all processes."""
        return ntxent_loss_distributed(
            rows,
            device=device,
            temperature=self.temperature,
            normalize=self.normalize,
            backend=self.backend,
            group=self.group,
            gather=self.gather,
        )

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, normalize={self.normalize}, backend={self.backend!r}"


class NTXentLoss(_ContrastiveLoss):
    """NT-Xent as a module: `NTXentLoss(temperature=0.5)(z_i, z_j)` with z_i, z_j (N, D) gives a 0-d tensor.

    The original's call `NTXentLoss(device, batch_size, temperature, use_cosine_similarity)` works unchanged, and so do
    lightly's keywords. The module takes the same views as `nt_xent_loss`.

    Args:
        device: accepted for the original's call, without effect. A number or a tensor alone, as in lightly's
            `NTXentLoss(0.1)`, is the temperature.
        batch_size: accepted for the original's call, without effect.
        temperature: as for `nt_xent_loss`, 0.5 by default.
        use_cosine_similarity: `normalize` of `nt_xent_loss`.
        memory_bank_size: must be 0: negatives come from the batch alone.
        gather_distributed: takes negatives from all processes of a torch.distributed group, which may have different N.
            Every process then gets the loss of the whole batch, and gradients that, averaged over the processes as
            DistributedDataParallel does, are those of one process with the whole batch.
        group: the group; None for the default one.
        gather: "all", each process gets all rows; or "ring", none holds more than four times its own, and twice as
            much is sent: for batches whose rows do not fit in a process's memory. The ring is plain PyTorch.
        views_dim: as for `nt_xent_loss`.
        backend: as for `nt_xent_loss`.

    Raises:
        TypeError: an argument of another kind, as where their order is another one.
        ValueError: a device, temperature or memory bank that cannot be used.
    """

    def __init__(
        self,
        device: torch.device | str | int | float | Tensor | None = None,
        batch_size: int | None = None,
        temperature: float | Tensor | None = None,
        use_cosine_similarity: bool = True,
        *,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
        group: Group = None,
        gather: str = "all",
        views_dim: int | None = None,
        backend: str = "auto",
    ) -> None:
        order = "the order is (device, batch_size, temperature, use_cosine_similarity)"
        if isinstance(device, Tensor) or ops.is_number(device):
            if temperature is None and batch_size is None:
                device, temperature = None, device
            elif isinstance(device, bool) or not isinstance(device, int):
                raise TypeError(
                    f"device must be a device, got {device!r}: {order}; pass the temperature by name, temperature=..."
                )
        elif isinstance(device, str):
            try:
                torch.device(device)
            except RuntimeError as error:
                raise ValueError(f"device must be a device, got {device!r}: {error}") from None
        elif device is not None and not isinstance(device, torch.device):
            raise TypeError(f"device must be a device, a string or None, got {device!r}: {order}")
        if batch_size is not None and (
            isinstance(batch_size, bool) or not isinstance(batch_size, numbers.Integral) or batch_size < 1
        ):
            raise TypeError(f"batch_size must be a positive integer or None, got {batch_size!r}: {order}")
        if use_cosine_similarity not in (True, False) or isinstance(use_cosine_similarity, float):
            raise TypeError(
                f"use_cosine_similarity must be True or False, got {use_cosine_similarity!r}: {order}"
            )
        bank = memory_bank_size if isinstance(memory_bank_size, int) else memory_bank_size[0]
        if bank != 0:
            raise ValueError(
                f"memory_bank_size must be 0, got {memory_bank_size!r}: there is no memory bank, and batches "
                "of any size fit in memory"
            )
        temperature = 0.5 if temperature is None else temperature
        super().__init__(
            temperature, use_cosine_similarity, views_dim, backend, gather_distributed, group, gather
        )

    def forward(self, z_i: Tensor | Sequence[Tensor], z_j: Tensor | None = None) -> Tensor:
        """The loss (0-d) of two views, or of all views in z_i."""
        if self.gather_distributed:
            return self.over_processes(
                lambda: (*ops.stack_views(z_i, z_j, self.views_dim), None), _device_of(z_i)
            )
        return nt_xent_loss(
            z_i,
            z_j,
            self.temperature,
            normalize=self.normalize,
            views_dim=self.views_dim,
            backend=self.backend,
        )


class SupConLoss(_ContrastiveLoss):
    """`sup_con_loss` as a module: `SupConLoss(temperature=0.5)(z, labels)` gives a 0-d tensor.

    Args:
        temperature: as for `sup_con_loss`.
        normalize: as for `sup_con_loss`.
        gather_distributed: as for `NTXentLoss`; labels are gathered too.
        group: as for `NTXentLoss`.
        gather: as for `NTXentLoss`.
        views_dim: as for `sup_con_loss`.
        backend: as for `sup_con_loss`.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.5,
        *,
        normalize: bool = True,
        gather_distributed: bool = False,
        group: Group = None,
        gather: str = "all",
        views_dim: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(temperature, normalize, views_dim, backend, gather_distributed, group, gather)

    def forward(self, z: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
        """The loss (0-d) of rows or views with labels."""
        if self.gather_distributed:
            return self.over_processes(lambda: _labelled(z, labels, self.views_dim), _device_of(z))
        return sup_con_loss(
            z,
            labels,
            self.temperature,
            normalize=self.normalize,
            views_dim=self.views_dim,
            backend=self.backend,
        )


def _device_of(z: object) -> torch.device:
    """Where the rows are, or would be if they could be used."""
    first = z[0] if isinstance(z, Sequence) and z else z
    return first.device if isinstance(first, Tensor) else torch.get_default_device()
