"""Memory kept between batches, in processes of their own: it is a setting of the whole process."""

import platform
import subprocess
import sys

import pytest

# malloc itself: between tensors a small block at the heap's end may keep it from being returned, by chance.
SCRIPT = """
import ctypes, resource
from scatsimclr.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size, blocks = 24 << 20, [0] * 6
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for i in range(len(blocks)):
        blocks[i] = libc.malloc(size)
        libc.memset(blocks[i], 1, size)
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(sorted(faults() for _ in range(12))[6])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has the setting")
def test_blocks_of_a_batch_are_taken_again_without_page_faults():
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", SCRIPT.format(keep=keep)], capture_output=True, check=True
            ).stdout
        )
        for keep in (False, True)
    ]
    assert faults[0] > 50  # 144 MB: thousands of pages, or 72 where the system gives large ones
    assert faults[1] <= faults[0] / 10
