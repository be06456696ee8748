"""The operators `ntxent` and `ntxent_backward`: every implementation that runs here, against float64."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from scatsimclr.loss import nt_xent_loss
from scatsimclr.ops import availability
from scatsimclr.ops import ntxent as ops
from scatsimclr.ops.ntxent import NTXENT, NTXENT_BACKWARD
from scatsimclr.reference import ntxent as reference
from tests.ops.machine import ISAS, forced

# Error allowed beyond plain PyTorch's of the same dtype, relative to the largest entry: 16 roundings in
# float32; more in float64, where the truth is plain PyTorch itself and its error counts on this side. One
# rounding of a similarity of size 1 is multiplied by c = 1/τ, hence c/16 of them where c is larger.
EPSILON = {torch.float32: 1e-6, torch.float64: 1e-13}


@pytest.fixture(params=["reference", *ISAS])
def implementation(request):
    """The reference, or the compiled kernel on one instruction set."""
    if request.param == "reference":
        yield "reference"
        return
    skip_without_the_kernel()
    with forced(request.param):
        yield "cpu"


def skip_without_the_kernel():
    if obstacle := availability.compiled().obstacle:
        pytest.skip(obstacle)


@pytest.fixture
def cpu():
    skip_without_the_kernel()
    return "cpu"


def rows(count, depth, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(1000 * count + depth + seed)
    return torch.randn(count, depth, generator=generator, dtype=torch.float64).to(dtype)


def plain(x, tau, normalize=True):
    """What a user would write: normalise, product, masked cross-entropy. Loss and gradient of two views."""
    leaf = x.detach().clone().requires_grad_()
    z = F.normalize(leaf, dim=1) if normalize else leaf
    s = (z @ z.T / tau).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    loss = F.cross_entropy(s, torch.arange(len(z)).roll(len(z) // 2))
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def run(implementation, x, tau, normalize=True, views=2, labels=None, first=0, count=None):
    """Loss, statistics, gradient and temperature gradient of one implementation."""
    settings = (labels, None, tau, normalize, views, first, count or len(x))
    forward, backward = NTXENT.by(implementation), NTXENT_BACKWARD.by(implementation)
    loss, stats = forward(x, *settings)
    everyone = stats if count is None else forward(x, labels, None, tau, normalize, 1, 0, len(x))[1]
    return loss, stats, *backward(torch.ones_like(loss), x, everyone, *settings)


def error(got, truth):
    assert got.isfinite().all()
    return ((got.double() - truth).abs().max() / truth.abs().max().clamp(min=1e-300)).item()


def assert_as_good_as_plain(implementation, x, tau, normalize=True):
    truth = plain(x.double(), tau, normalize)
    # Gradients in units of their rows' lengths. Where they vanish (saturated rows), errors are relative to
    # the terms that cancel: 1/(τM) each.
    unit = x.double().norm(dim=1, keepdim=True).clamp(min=1e-12) if normalize else torch.ones(())
    size = truth[0].abs().clamp(min=1), (truth[1] * unit).abs().max().clamp(min=0.5 / tau / len(x))
    allowed = EPSILON[x.dtype] * max(1, 1 / (16 * tau))
    loss, _, gradient, _ = run(implementation, x, tau, normalize)
    plain_loss, plain_gradient = plain(x, tau, normalize)
    assert loss.isfinite()
    assert gradient.isfinite().all()

    def errors(loss, gradient):
        both = (loss.double() - truth[0]) / size[0], (gradient.double() - truth[1]) * unit / size[1]
        return [t.abs().max().nan_to_num().item() for t in both]  # plain PyTorch may be NaN here

    for kernel, same_dtype in zip(errors(loss, gradient), errors(plain_loss, plain_gradient), strict=True):
        assert kernel <= same_dtype + allowed


# Below 256 rows strips are 32 long, below 2048 they are 64, then 128; products are cut at 128 columns.
SHAPES = [
    *((2, d) for d in (1, 2, 127)),
    *((62, d) for d in (31, 32, 33)),
    *((66, d) for d in (1, 64, 129)),
    *((254, d) for d in (7, 128)),
    (258, 257),
    (514, 17),
    (34, 4096),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "depth"), SHAPES)
def test_two_views_are_as_good_as_plain(implementation, count, depth, dtype):
    for tau, normalize in ((0.5, True), (0.01, True), (2.0, False)):
        assert_as_good_as_plain(implementation, rows(count, depth, dtype), tau, normalize)


def test_long_strips(cpu):
    """2,050 rows: strips of 128 rows, the last of 2."""
    for tau in (0.5, 0.01):
        assert_as_good_as_plain(cpu, rows(2050, 96), tau)


def hostile():
    x = rows(70, 24)
    duplicates = x.clone()
    duplicates[3:9] = duplicates[3]
    zeros = x.clone()
    zeros[[0, 11, 35]] = 0
    antipodal = torch.cat((x[:35], -x[:35]))
    return {
        "duplicates": duplicates,
        "zero rows": zeros,
        "all zero": torch.zeros_like(x),
        "antipodal": antipodal,
        "one direction": x[:1].expand(70, 24) * torch.linspace(0.5, 2, 70)[:, None],
        "huge": x * 1e30,
        "mixed sizes": x * torch.logspace(-9, 30, 70)[:, None],
        "N = 1": x[:2],
        "N = 1, antipodal": torch.stack((x[0], -x[0])),
    }


@pytest.mark.parametrize("tau", [10.0, 1.0, 0.1, 0.0167, 0.0166, 0.01, 0.001])
@pytest.mark.parametrize("case", hostile())
def test_hostile_rows_at_any_temperature(implementation, case, tau):
    """0.01667 is where float32 changes from no maximum to row maxima."""
    assert_as_good_as_plain(implementation, hostile()[case], tau)
    assert_as_good_as_plain(implementation, hostile()[case].double(), tau)


def test_large_dot_products(implementation):
    assert_as_good_as_plain(implementation, rows(70, 24) * 1e3, 0.1, normalize=False)


@pytest.mark.parametrize("depth", [3, 64])
@pytest.mark.parametrize("tau", [0.3, 0.005])
def test_labels_and_views(implementation, depth, tau):
    x = rows(150, depth)
    generator = torch.Generator().manual_seed(depth)
    for labels, views in (
        (torch.randint(0, 12, (150,), generator=generator), 1),
        (torch.randint(-(2**60), 2**60, (150,), generator=generator), 1),  # no positives at all
        (torch.zeros(150, dtype=torch.long), 1),
        (None, 3),
        (None, 1),
    ):
        truth = run("reference", x.double(), tau, True, views, labels)
        got = run(implementation, x, tau, True, views, labels)
        assert (got[0].double() - truth[0]).abs() <= 2e-6 * max(1, truth[0], 1 / (16 * tau))
        assert (got[2].double() - truth[2]).abs().max() <= 3e-6 / min(16 * tau, 1) * truth[
            2
        ].abs().max() + 1e-12
        assert (got[3].double() - truth[3]).abs() <= 1e-5 / tau / min(16 * tau, 1)


@pytest.mark.parametrize("tau", [0.3, 0.005])
def test_a_share_of_the_rows(implementation, tau):
    """The shares of three processes, of a size that strips do not divide, add up to the whole."""
    x = rows(3 * 82, 40)
    whole = run("reference", x.double(), tau, labels=reference.view_labels(246, 2, 82, x.device))
    parts = [run(implementation, x, tau, first=first, count=82) for first in (0, 82, 164)]
    torch.testing.assert_close(sum(p[0] for p in parts).double(), whole[0], rtol=2e-6 / tau, atol=0)
    assert error(torch.cat([p[2] for p in parts]), whole[2]) < 2e-6 / tau
    torch.testing.assert_close(sum(p[3] for p in parts).double(), whole[3], rtol=1e-5 / tau, atol=1e-6 / tau)


def test_statistics_of_another_implementation(cpu):
    """Row maxima as shifts, where the kernel itself uses none."""
    x, settings = rows(100, 16), (None, None, 0.2, True, 2, 0, 100)
    stats = reference.ntxent(x, *settings)[1]
    own = run(cpu, x, 0.2)[2]
    assert error(NTXENT_BACKWARD.by(cpu)(torch.ones(()), x, stats, *settings)[0], own.double()) < 1e-6


def test_a_misaligned_view_inside_sentinels(implementation):
    buffer = torch.full((70 * 33 + 17,), torch.nan)
    x = buffer[7 : 7 + 70 * 33].view(70, 33).copy_(rows(70, 33))
    assert x.data_ptr() % 16
    got, want = run(implementation, x, 0.5), run(implementation, x.clone(), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert buffer[:7].isnan().all()
    assert buffer[7 + 70 * 33 :].isnan().all()


@pytest.mark.parametrize("tau", [0.5, 0.01])
def test_the_same_bits_for_one_and_two_threads_and_from_run_to_run(cpu, tau):
    x, threads = rows(1100, 72), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 3, 1):
            torch.set_num_threads(count)
            results.append(run(cpu, x, tau))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_not_hidden(implementation, poison):
    x = rows(40, 8)
    x[17, 3] = poison
    assert run(implementation, x, 0.5)[0].isnan()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_opcheck(dtype):
    x = rows(12, 5).to(dtype).requires_grad_()
    labels, tau = torch.arange(12) % 4, torch.tensor(0.4, requires_grad=True)
    for args in (
        (x, None, None, 0.5, True, 2, 0, 12),
        (x, labels, tau, 1.0, False, 1, 0, 12),
        (x.detach(), None, None, 0.5, True, 2, 4, 4),
    ):
        torch.library.opcheck(torch.ops.scatsimclr.ntxent, args)
    loss, stats = (t.detach() for t in torch.ops.scatsimclr.ntxent(x, labels, tau, 1.0, False, 1, 0, 12))
    backward = (loss, x.detach(), stats, labels, tau.detach(), 1.0, False, 1, 0, 12)
    torch.library.opcheck(torch.ops.scatsimclr.ntxent_backward, backward)


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("labels", [None, [0, 1, 0, 2, 3, 3, 0, 1]])
def test_gradcheck(backend, normalize, labels):
    if backend == "cpu":
        skip_without_the_kernel()
    x = rows(8, 3, torch.float64).requires_grad_()
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    labels = labels if labels is None else torch.tensor(labels)

    def loss(x, tau):
        return ops.ntxent_loss(
            x, temperature=tau, normalize=normalize, views=2, labels=labels, backend=backend
        )

    assert torch.autograd.gradcheck(loss, (x, tau))


def test_the_dispatcher_serves_the_compiled_kernel(cpu):
    assert NTXENT.default("cpu").name == "cpu"
    for op in ("ntxent", "ntxent_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"scatsimclr::{op}", "CPU")
    z_i, z_j = rows(300, 48), rows(300, 48, seed=1)
    assert torch.equal(nt_xent_loss(z_i, z_j), nt_xent_loss(z_i, z_j, backend="cpu"))


def test_a_share_has_no_autograd_formula_of_its_own():
    with pytest.raises(RuntimeError, match="share of the rows"):
        torch.ops.scatsimclr.ntxent(rows(8, 3).requires_grad_(), None, None, 0.5, True, 2, 4, 4)


def script(code, **environment):
    """Runs code in a fresh process and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


FRESH = """
import os, torch
from scatsimclr import loss
torch.set_num_threads(2)
threads = lambda: len(os.listdir('/proc/self/task'))
def step(x, backend):
    x.grad = None
    value = loss.nt_xent_loss(x[: len(x) // 2], x[len(x) // 2 :], 0.5, backend=backend)
    value.backward()
    return value.detach(), x.grad
def peak():
    return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) / 1024

# Uninitialised memory is 3.4e38 here (MALLOC_PERTURB_), so that any of it would be seen.
small = torch.randn(66, 37, requires_grad=True)
before = threads()
got = step(small, 'cpu')
started = threads() - before
want = step(small, 'reference')
print(all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(got, want)), started)

warm = torch.randn(1024, 128, requires_grad=True)
step(warm, 'cpu')
print(threads() - before > 0)
large = torch.randn(8192, 128, requires_grad=True)
large.grad = torch.zeros_like(large)
open('/proc/self/clear_refs', 'w').write('5')
start = peak()
loss.nt_xent_loss(large[:4096], large[4096:], 0.5, backend='cpu').backward()
print(peak() - start)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_poisoned_memory_no_thread_for_a_tiny_batch_and_little_memory(cpu):
    right, started, parallel, extra = script(FRESH, MALLOC_PERTURB_="128", MALLOC_ARENA_MAX="1")
    assert right == "True"
    assert started == "0"
    assert parallel == "True"
    # Beyond input and accumulated gradient; the (M, M) similarities alone would be 256 MB.
    assert float(extra) < 24
