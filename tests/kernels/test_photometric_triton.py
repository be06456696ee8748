"""The Triton kernels of `photometric` without a GPU: Triton's interpreter, and its compiler's budgets.

Both run in processes of their own: TRITON_INTERPRET must be set, or unset, before the kernels are imported.
"""

from __future__ import annotations

import json

import pytest

from tests.kernels.ahead_of_time import capabilities, compile_all, interpret, run

pytest.importorskip("triton", reason="triton is not installed")

INTERPRET = """
import warnings, torch
from scatsimclr.kernels import photometric as kernels
from scatsimclr.reference.photometric import photometric as reference
from tests.ops.test_photometric import arguments

warnings.simplefilter("ignore", RuntimeWarning)
torch.utils.deterministic.fill_uninitialized_memory = True
torch.use_deterministic_algorithms(True)
kernels.BLOCK = 64  # several blocks
count = 0
for shape, half, dtype, channels in [
    ((5, 1, 1), 4, torch.float32, 3), ((9, 1, 13), 2, torch.float32, 3), ((3, 50, 1), 4, torch.float32, 3),
    ((24, 7, 5), 0, torch.float16, 3), ((24, 9, 11), 4, torch.float32, 3), ((6, 23, 23), 9, torch.float64, 3),
    ((0, 4, 4), 1, torch.float32, 3), ((24, 9, 11), 4, torch.float32, 1), ((24, 7, 5), 0, torch.float16, 1),
]:
    given = arguments(*shape, half=half, dtype=dtype, channels=channels)
    got = kernels.photometric(*given)
    assert got.dtype == dtype and torch.equal(got, reference(*given)), (shape, half, dtype)
    count += 1
"""

BUDGETS = """
import torch, ahead_of_time
from scatsimclr.kernels import photometric as kernels
from tests.ops.test_photometric import arguments

launches = ahead_of_time.record()
for dtype in (torch.float32, torch.bfloat16):
    for channels in (3, 1):
        kernels.photometric(*arguments(2, 96, 96, dtype=dtype, channels=channels))
ahead_of_time.report(launches, CC)
"""


def test_the_interpreter_gives_the_references_bits_without_races(front_ends):
    compile_all(interpret(INTERPRET, 9), front_ends)


@pytest.mark.parametrize("cc", capabilities([80, 90, 100], 90))
def test_the_compilers_budgets(cc):
    launches = json.loads(run(f"CC = {cc}\n" + BUDGETS))
    assert {launch["kernel"] for launch in launches} == {"colour_kernel", "rows_kernel", "columns_kernel"}
    for launch in launches:
        assert launch["spills"] == 0, launch
        assert launch["registers"] <= 128, launch
        # Roundings as the reference's: no fused multiply-add, no approximate division.
        assert launch["fused"] == launch["rough"] == 0, launch
