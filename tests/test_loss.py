"""The public losses against their definition, spelt out in float64, and their arguments."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from scatsimclr.loss import NTXentLoss, SupConLoss, nt_xent_loss, sup_con_loss


def definition(x, labels, tau, normalize=True):
    """Khosla et al. 2020, eq. 2, row by row; NT-Xent where the labels are the images."""
    z = F.normalize(x.double(), dim=1) if normalize else x.double()
    s, terms = z @ z.T / tau, []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        positives = [k for k in others if labels[k] == labels[i]]
        if positives:
            terms.append(torch.logsumexp(s[i, others], 0) - s[i, positives].mean())
    return torch.stack(terms).mean() if terms else x.double().sum() * 0


def pair(n, d, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def original(zis, zjs, temperature, use_cosine_similarity):
    """The original's formula: cosine_similarity of broadcast rows, or tensordot, then cross-entropy."""
    n = len(zis)
    z = torch.cat([zjs, zis])
    similarity = F.cosine_similarity(z[:, None], z[None], dim=-1) if use_cosine_similarity else z @ z.T
    positives = torch.cat([similarity.diagonal(n), similarity.diagonal(-n)]).view(2 * n, 1)
    mask = 1 - torch.eye(2 * n) - torch.eye(2 * n).roll(n, 0)
    negatives = similarity[mask.bool()].view(2 * n, -1)
    logits = torch.cat((positives, negatives), 1) / temperature
    return F.cross_entropy(logits, torch.zeros(2 * n, dtype=torch.long), reduction="sum") / (2 * n)


@pytest.mark.parametrize("cosine", [True, False])
def test_the_originals_call(cosine):
    z_i, z_j = pair(13, 7, torch.float64)
    criterion = NTXentLoss("cpu", 512, 0.5, cosine)
    torch.testing.assert_close(criterion(z_i, z_j), original(z_i, z_j, 0.5, cosine), rtol=1e-12, atol=0)


@pytest.mark.parametrize("tau", [10.0, 0.5, 0.07, 0.001])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 5), (2, 3), (17, 31)])
def test_two_views(n, d, tau, normalize):
    z_i, z_j = (z.requires_grad_() for z in pair(n, d, torch.float64))
    want = definition(torch.cat((z_i, z_j)), list(range(n)) * 2, tau, normalize)
    got = nt_xent_loss(z_i, z_j, tau, normalize=normalize)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    for a, b in zip(torch.autograd.grad(got, (z_i, z_j)), torch.autograd.grad(want, (z_i, z_j)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12 / tau)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_more_views_as_a_tensor_or_a_list(views):
    z = torch.randn(views, 6, 9, dtype=torch.float64)
    want = definition(z.flatten(0, 1), list(range(6)) * views, 0.2)
    torch.testing.assert_close(nt_xent_loss(z, temperature=0.2), want)
    torch.testing.assert_close(nt_xent_loss(list(z), temperature=0.2), want)
    torch.testing.assert_close(NTXentLoss(temperature=0.2)(z), want)


@pytest.mark.parametrize(
    "labels", [[0, 1, 0, 2, 0, 1, -7, 2**40], [3] * 8, list(range(8)), [0, 0, 1, 2, 3, 4, 5, 6]]
)
def test_supervised(labels):
    z = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    want, got = definition(z, labels, 0.3), sup_con_loss(z, torch.tensor(labels), 0.3)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, z), torch.autograd.grad(want, z))


def test_supervised_views_share_their_images_label():
    z, labels = torch.randn(3, 4, 5), torch.tensor([1, 2, 1, 3])
    want = definition(z.flatten(0, 1), labels.repeat(3), 0.5)
    torch.testing.assert_close(SupConLoss()(z, labels), want.float())


def test_a_temperature_that_is_learnt():
    z_i, z_j = pair(9, 4, torch.float64)
    criterion = NTXentLoss(temperature=torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64)))
    (tau,) = criterion.parameters()
    criterion(z_i, z_j).backward()
    want = definition(
        torch.cat((z_i, z_j)), list(range(9)) * 2, leaf := tau.detach().clone().requires_grad_()
    )
    torch.testing.assert_close(tau.grad, *torch.autograd.grad(want, leaf))
    log_tau = torch.zeros(1, requires_grad=True)
    nt_xent_loss(*pair(9, 4), log_tau.exp()).backward()
    assert log_tau.grad.shape == (1,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows(dtype):
    z_i, z_j = (z.requires_grad_() for z in pair(20, 33, dtype))
    loss = nt_xent_loss(z_i, z_j, 0.1)
    loss.backward()
    assert loss.dtype == torch.float32
    assert z_i.grad.dtype == dtype
    exact = [z.detach().double().requires_grad_() for z in (z_i, z_j)]
    want = definition(torch.cat(exact), list(range(20)) * 2, 0.1)
    torch.testing.assert_close(loss.double(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        z_i.grad.double(), torch.autograd.grad(want, exact[0])[0], rtol=8e-3, atol=1e-6
    )


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autocast_does_not_lower_the_precision(backend):
    z_i, z_j = pair(20, 33)
    plain = nt_xent_loss(z_i, z_j, 0.05, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(nt_xent_loss(z_i, z_j, 0.05, backend=backend), plain)


def test_rows_that_are_not_contiguous():
    z_i, z_j = pair(12, 10)
    want = nt_xent_loss(z_i[::2, 1::2].clone(), z_j.T[:6, :5].clone())
    assert torch.equal(nt_xent_loss(z_i[::2, 1::2], z_j.T[:6, :5]), want)


def test_compiles_without_a_graph_break():
    criterion = torch.compile(NTXentLoss(temperature=0.2), fullgraph=True, backend="aot_eager")
    z_i, z_j = (z.requires_grad_() for z in pair(8, 6))
    loss = criterion(z_i * 2, z_j)
    want = nt_xent_loss(z_i * 2, z_j, 0.2)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(torch.autograd.grad(loss, z_i), torch.autograd.grad(want, z_i))


def test_lightlys_keywords():
    z_i, z_j = pair(8, 6)
    want = nt_xent_loss(z_i, z_j, 0.1)
    assert torch.equal(
        NTXentLoss(temperature=0.1, memory_bank_size=0, gather_distributed=False)(z_i, z_j), want
    )
    # Without a process group there is nothing to gather, as in lightly.
    assert torch.equal(NTXentLoss(temperature=0.1, gather_distributed=True)(z_i, z_j), want)
    with pytest.raises(ValueError, match="memory_bank_size must be 0, got 4096"):
        NTXentLoss(memory_bank_size=4096)
    assert torch.equal(NTXentLoss(0.1)(z_i, z_j), want)


Z = torch.zeros(4, 3)
WRONG = [
    ((Z, torch.zeros(5, 3)), {}, ValueError, r"z_j must have the shape of z_i, \(4, 3\), got \(5, 3\)"),
    ((Z, Z.double()), {}, TypeError, "z_j must have the dtype of z_i, torch.float32, got torch.float64"),
    ((Z, Z.to("meta")), {}, ValueError, "z_j must be on the device of z_i, cpu, got meta"),
    ((Z.int(), Z.int()), {}, TypeError, "z_i must be float32, float64, float16 or bfloat16, got torch.int32"),
    ((Z[:0], Z[:0]), {}, ValueError, r"z_i must hold at least one row and one column, got shape \(0, 3\)"),
    ((Z[:, :0], Z[:, :0]), {}, ValueError, r"at least one row and one column, got shape \(4, 0\)"),
    ((Z[0], Z[0]), {}, ValueError, r"z_i must have two dimensions \(N, D\), got shape \(3,\)"),
    ((Z.numpy(), Z), {}, TypeError, "z_i must be a tensor, got ndarray"),
    (
        (Z,),
        {},
        ValueError,
        r"z_i without z_j must hold all views as \(V, N, D\) with V ≥ 2, got shape \(4, 3\)",
    ),
    (([Z],), {}, TypeError, "at least two .* got list of length 1"),
    (([Z, Z, Z[:2]],), {}, ValueError, r"z_i\[2\] must have the shape of z_i\[0\]"),
    ((Z, Z, 0.0), {}, ValueError, "temperature must be positive and finite, got 0.0"),
    ((Z, Z, -1), {}, ValueError, "temperature must be positive and finite, got -1"),
    ((Z, Z, math.nan), {}, ValueError, "temperature must be positive and finite, got nan"),
    ((Z, Z, math.inf), {}, ValueError, "temperature must be positive and finite, got inf"),
    ((Z, Z, torch.tensor(0.0)), {}, ValueError, "temperature must be positive and finite, got 0.0"),
    ((Z, Z, torch.ones(2)), {}, TypeError, "temperature must be a number or a floating-point tensor of one"),
    ((Z, Z, torch.tensor(1)), {}, TypeError, "temperature must be .* got a torch.int64 tensor"),
    ((Z, Z, "0.5"), {}, TypeError, "temperature must be a number or a tensor, got str"),
    ((Z, Z), {"backend": "fast"}, ValueError, "backend must be 'auto' or one of .* got 'fast'"),
    ((Z, Z), {"backend": "triton"}, ValueError, "backend 'triton' of ntxent"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "message"), WRONG)
def test_wrong_arguments_are_named(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        nt_xent_loss(*args, **kwargs)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 1, 2, 3], TypeError, "labels must be a tensor, got list"),
        (torch.zeros(4), TypeError, "labels must be integers, got torch.float32"),
        (torch.zeros(3, dtype=torch.long), ValueError, r"one entry per row, \(4,\), got shape \(3,\)"),
    ],
)
def test_wrong_labels_are_named(labels, error, message):
    with pytest.raises(error, match=message):
        sup_con_loss(Z, labels)


def test_the_module_checks_its_temperature():
    with pytest.raises(ValueError, match=r"temperature must be positive and finite, got -0\.5"):
        NTXentLoss(temperature=-0.5)
