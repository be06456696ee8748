"""Memory kept between batches, in processes of their own: it is a setting of the whole process."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
import torch
from scatsimclr.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(25_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has the setting")
def test_a_large_block_is_taken_again_without_page_faults():
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, check=True
            ).stdout
        )
        for keep in (False, True)
    ]
    assert faults[0] > 20  # 100 MB: thousands of pages, or 48 where the system gives large ones
    assert faults[1] <= faults[0] / 10
