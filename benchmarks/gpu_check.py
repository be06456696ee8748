"""Claim: the GPU implementations agree with the reference, and how far they are from the machine's limits and from
others. One command for a machine with a GPU, without network and without an install:

    python benchmarks/gpu_check.py [--minutes 9] [--results FILE] [--only STEP ...] [--retry] [--dry-run]

goes through the steps of `gpu/plan.py` in the order of their worth, each in a process of its own, and writes FILE
(default: `scatsimclr/ops/records/gpu-<device>.json`) after every case. A case that fails, hangs or takes the device
with it is recorded as such, and the others go on. What does not fit the minutes is recorded as not run. A second call
continues the file: it leaves out what has run on the same device from the same files. Compiled kernels are kept in
`build/gpu/` in between.

The records are shipped with the package: `python -m scatsimclr.info` reads from them which implementations have run on
hardware. `--dry-run` goes through every step on the CPU, with tiny sizes and Triton's interpreter. The exit status is 0
where all that ran agrees, 1 where something failed or disagrees, or nothing ran, 2 where there is no GPU or FILE cannot
be written.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])  # not this folder, whose modules are benchmarks.*
    from benchmarks.gpu.command import main

    sys.exit(main())
