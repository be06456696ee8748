"""Memory kept between batches, in processes of their own: it is a setting of the whole process."""

import platform
import subprocess
import sys

import pytest

# malloc itself: between tensors a small block at the heap's end may keep it from being returned, by chance.
SCRIPT = """
import ctypes, resource
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size, blocks = 24 << 20, [0] * {blocks}
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


ON_GLIBC = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone has the setting"
)


def faults(before, blocks=6):
    """Page faults of taking blocks of 24 MB again, in a process that ran the statement `before`."""
    script = SCRIPT.format(before=before, blocks=blocks)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return int(done.stdout)


@ON_GLIBC
def test_blocks_of_a_batch_are_taken_again_without_page_faults():
    plain = faults("")
    assert plain > 50  # 144 MB: thousands of pages, or 72 where the system gives large ones
    kept = faults("from scatsimclr.allocator import keep_freed_memory; assert keep_freed_memory()")
    assert kept <= plain / 10


@ON_GLIBC
def test_an_augmentation_leaves_the_setting_to_the_program():
    imported = "from scatsimclr.data.augment import Augment, AugmentSpec"
    # Two blocks: malloc's own way to keep freed memory, which freeing one large block starts, holds 64 MB.
    plain, made = (faults(f"{imported}{then}", 2) for then in ("", "; Augment(AugmentSpec((96, 96)), 0)"))
    assert made > plain / 2 > 8
