"""The instruction sets of this CPU that the compiled operators know."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from scatsimclr.ops.library import extension_missing


def available(names: Sequence[str]) -> list[str]:
    """Those of `names`, worst first, that this CPU has; the first is every machine's."""
    if extension_missing():
        return list(names[:1])
    found = []
    for name in names:
        try:
            torch.ops.scatsimclr.cpu_isa_force(name)
        except RuntimeError as error:
            if "this CPU only has" not in str(error):
                raise
        else:
            found.append(name)
    torch.ops.scatsimclr.cpu_isa_force("")
    return found
