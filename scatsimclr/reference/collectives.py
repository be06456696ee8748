"""Sums over processes, for operators that work on the rows of all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def named(group: str) -> dist.ProcessGroup:
    """The group of this name (`ProcessGroup.group_name`), which an operator can take where it cannot take a group."""
    found: dist.ProcessGroup = torch._C._distributed_c10d._resolve_process_group(group)  # type: ignore[arg-type]
    return found


def summed(t: Tensor, group: str) -> Tensor:
    """The sum of t over the processes of a group, in place; t itself where `group` is empty."""
    if group:
        dist.all_reduce(t, group=named(group))
    return t
