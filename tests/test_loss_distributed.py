"""`gather_distributed=True`: loss and gradients do not depend on the number of processes (gloo, CPU)."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from scatsimclr.loss import NTXentLoss

IMAGES, FEATURES, DEPTH = 16, 7, 5


def model_and_data():
    torch.manual_seed(0)
    model = torch.nn.Linear(FEATURES, DEPTH)
    tau = torch.nn.Parameter(torch.tensor(0.3))
    return model, tau, torch.randn(IMAGES, FEATURES), torch.randn(IMAGES, FEATURES)


def step(gather, rank, size, cosine, backend):
    """Loss and parameter gradients of one process with its share of the images."""
    model, tau, x_i, x_j = model_and_data()
    share = slice(rank * IMAGES // size, (rank + 1) * IMAGES // size)
    criterion = NTXentLoss(None, None, tau, cosine, gather_distributed=gather, backend=backend)
    loss = criterion(model(x_i[share]), model(x_j[share]))
    loss.backward()
    return [loss.detach(), *(p.grad for p in (*model.parameters(), tau))]


def process(rank, folder, sizes):
    torch.set_num_threads(1)
    for size in sizes:
        if rank >= size:
            continue
        dist.init_process_group(
            "gloo", init_method=f"file://{folder}/store{size}", rank=rank, world_size=size
        )
        for cosine in (True, False):
            for backend in ("auto", "reference"):
                result = step(True, rank, size, cosine, backend)
                for gradient in result[1:]:  # what DistributedDataParallel does
                    dist.all_reduce(gradient)
                    gradient /= size
                torch.save(result, f"{folder}/{size}-{rank}-{cosine}-{backend}")
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
def test_one_two_and_four_processes_agree_with_one_that_does_not_gather(tmp_path):
    sizes = (1, 2, 4)
    mp.spawn(process, (str(tmp_path), sizes), nprocs=max(sizes))
    for cosine in (True, False):
        want = step(False, 0, 1, cosine, "auto")
        for size in sizes:
            for rank in range(size):
                for backend in ("auto", "reference"):
                    got = torch.load(tmp_path / f"{size}-{rank}-{cosine}-{backend}")
                    torch.testing.assert_close(got, want, rtol=2e-5, atol=1e-6)
