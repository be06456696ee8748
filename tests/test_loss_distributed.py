"""`gather_distributed=True`: loss and gradients do not depend on the number of processes (gloo, CPU)."""

from __future__ import annotations

import re

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


COUNTS = (4, 3, 1)
# What rank 1 of three passes as its views, and what the other ranks' errors then say.
REFUSED = {
    "no rows": (lambda z: z[:, :0], "rank 1 cannot take its rows"),
    "columns": (lambda z: z[:, :, :-1], r"rank 0: 2 × 2 × 5, torch.float32; rank 1: 2 × 2 × 4"),
    "dtype": (lambda z: z.double(), r"rank 1: 2 × 2 × 5, torch.float64"),
    "views": (lambda z: torch.cat((z, z)), r"rank 1: 2 × 4 × 5"),
    "no tensor": (lambda z: 3.0, "rank 1 cannot take its rows"),
}


def unequal_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(COUNTS))
    z, tau = uneven()
    own = [part[sum(COUNTS[:rank]) : sum(COUNTS[: rank + 1])] for part in z]
    for backend in ("auto", "reference"):
        leaves = [part.clone().requires_grad_() for part in own]
        t = tau.clone().requires_grad_()
        loss = NTXentLoss(temperature=t, gather_distributed=True, backend=backend)(leaves)
        loss.backward()
        dist.all_reduce(t.grad)
        gradient = [part.grad / len(COUNTS) for part in leaves]
        torch.save((loss.detach(), gradient, t.grad / len(COUNTS)), f"{folder}/{rank}-{backend}")
    for name, (spoil, _) in REFUSED.items():
        views = torch.rand(2, 2, 5)
        try:
            NTXentLoss(gather_distributed=True, views_dim=0)(spoil(views) if rank == 1 else views)
            said = "nothing"
        except (TypeError, ValueError) as error:
            said = str(error)
        torch.save(said, f"{folder}/{rank}-{name}")
    dist.destroy_process_group()


def uneven():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, sum(COUNTS), DEPTH, generator=generator), torch.tensor(0.3)


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without torch.distributed")
def test_processes_with_different_numbers_of_images(tmp_path):
    """The loss of the whole batch; rows that do not fit together are an error everywhere."""
    mp.spawn(unequal_process, (str(tmp_path),), nprocs=len(COUNTS))
    z, tau = uneven()
    z.requires_grad_(), tau.requires_grad_()
    loss = NTXentLoss(temperature=tau)(z)
    loss.backward()
    for rank in range(len(COUNTS)):
        share = slice(sum(COUNTS[:rank]), sum(COUNTS[: rank + 1]))
        for backend in ("auto", "reference"):
            got, gradient, of_tau = torch.load(tmp_path / f"{rank}-{backend}")
            torch.testing.assert_close(got, loss.detach())
            torch.testing.assert_close(torch.stack(gradient), z.grad[:, share], rtol=2e-5, atol=1e-6)
            torch.testing.assert_close(of_tau, tau.grad, rtol=2e-5, atol=1e-6)
        for name, (_, told) in REFUSED.items():
            said = torch.load(tmp_path / f"{rank}-{name}")
            assert said != "nothing"
            if rank != 1:
                assert re.search(told, said), said
