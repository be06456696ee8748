"""The operator `photometric`: every implementation that runs here gives the reference's bits."""

import itertools

import numpy as np
import pytest
import torch

from scatsimclr.ops import availability
from scatsimclr.ops.photometric import PHOTOMETRIC, photometric
from scatsimclr.reference.blur import gaussian_weights

SHAPES = [(5, 1, 1), (9, 1, 13), (3, 50, 1), (31, 7, 5), (64, 23, 23), (7, 5, 33), (12, 96, 96), (0, 4, 4)]


def arguments(batch, height, width, half=4, dtype=torch.float32, seed=0, channels=3):
    """Samples with every combination of steps, some of few colours and some grey; or all of them grey, one channel."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=g)

    images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=g)
    images[::3] = (images[::3].float() * 0.2 + 100).to(torch.uint8)
    images[::7] = images[::7, ..., :1]
    images = images[..., :channels].contiguous()
    orders = torch.tensor(list(itertools.permutations(range(4))))
    order = orders[torch.randint(0, 24, (batch,), generator=g)].clone()
    order[uniform(batch, 4) < 0.2] = -1
    order[uniform(batch) < 0.2] = -1
    factors = uniform(batch, 4) * 2
    factors[:, 3] = ((uniform(batch) - 0.5) * 511).trunc()
    weights = torch.from_numpy(gaussian_weights((uniform(batch) * 2 + 0.1).numpy(), 2 * half + 1)).int()
    weights[uniform(batch) < 0.5] = torch.tensor([0] * half + [256], dtype=torch.int32)
    table = (torch.arange(256) / 255 - torch.tensor([0.4, 0.5, 0.6][:channels])[:, None]).to(dtype)
    return images, uniform(batch) < 0.5, order, factors, uniform(batch) < 0.2, weights, table


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_isa_gives_the_references_bits(isa, shape, channels):
    for half, dtype in ((0, torch.float32), (1, torch.bfloat16), (4, torch.float32), (9, torch.float64)):
        given = arguments(*shape, half=half, dtype=dtype, channels=channels)
        got, expected = photometric(*given), photometric(*given, backend="reference")
        assert got.dtype == dtype
        assert got.shape == (shape[0], channels, *shape[1:])
        assert torch.equal(got, expected)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grey_is_the_first_of_three_equal_channels_and_knows_no_colour_steps(shape, backend):
    """Even with saturation, hue and grey asked for: they do not change grey levels."""
    images, *steps, table = arguments(*shape, channels=1)
    three = photometric(images.expand(-1, -1, -1, 3), *steps, table.expand(3, 256), backend=backend)
    grey = photometric(images, *steps, table, backend=backend)
    assert torch.equal(grey, three[:, :1])
    mirror, order, factors, grayscale, weights = steps
    steps = mirror, torch.where(order > 1, -1, order), factors, torch.zeros_like(grayscale), weights
    assert torch.equal(grey, photometric(images, *steps, table, backend=backend))


def test_the_kernels_product_has_the_whole_part_of_the_quotient():
    """For every d · chroma + 32512 with d and chroma / 255 from 0 to 255."""
    sums = np.arange(32512, 255 * 255 * 255 + 32512 + 1, dtype=np.int32).astype(np.float32)
    quotients = (sums / np.float32(65025)).astype(np.int32)
    assert np.array_equal((sums * (np.float32(1) / np.float32(65025))).astype(np.int32), quotients)


@pytest.mark.parametrize("shift", [-51, 0, 23])
def test_hue_of_a_lattice_of_all_colours(isa, shift):
    steps = torch.arange(0, 256, 3, dtype=torch.uint8)
    images = torch.cartesian_prod(steps, steps, steps).view(1, 86, 86 * 86, 3)
    given = (
        images, torch.tensor([False]), torch.tensor([[3, -1, -1, -1]]), torch.tensor([[1.0, 1, 1, shift]]),
        torch.tensor([False]), torch.tensor([[256]], dtype=torch.int32), torch.arange(256.0).expand(3, 256),
    )  # fmt: skip
    assert torch.equal(photometric(*given), photometric(*given, backend="reference"))


def test_the_default_on_a_cpu_is_the_compiled_kernel_and_threads_change_nothing():
    if availability.compiled().usable:
        assert PHOTOMETRIC.default("cpu").name == "cpu"
    given = arguments(33, 20, 20)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(photometric(*given))
    torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_samples_do_not_depend_on_their_batch():
    given = arguments(20, 11, 9)
    whole = photometric(*given)
    part = [a[7:12] for a in given[:-1]]
    assert torch.equal(photometric(*part, given[-1]), whole[7:12])


def test_views_into_larger_memory_are_read_where_they_are_and_nothing_is_written_beside_the_result():
    images, *rest = arguments(6, 10, 12)
    around = torch.full((6, 12, 15, 3), 77, dtype=torch.uint8)
    around[:, 1:11, 2:14] = images
    assert torch.equal(photometric(around[:, 1:11, 2:14], *rest), photometric(images, *rest))
    turned = images.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(photometric(turned, *rest), photometric(images, *rest))


def test_nothing_to_do_is_the_table():
    images = torch.from_numpy(np.arange(2 * 3 * 4 * 3).reshape(2, 3, 4, 3).astype(np.uint8))
    off = torch.zeros(2, dtype=torch.bool)
    given = (images, off, torch.full((2, 4), -1), torch.zeros(2, 4), off, torch.tensor([[256]] * 2).int())
    table = torch.randn(3, 256)
    expected = torch.stack([table[c][images[..., c].long()] for c in range(3)], 1)
    got = photometric(*given, table)
    assert torch.equal(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels", [1, 3])
def test_opcheck(channels):
    torch.library.opcheck(torch.ops.scatsimclr.photometric.default, arguments(3, 5, 6, channels=channels))


@pytest.mark.parametrize(
    ("position", "value", "error", "name"),
    [
        (0, torch.zeros(4, 5, 6, 3), TypeError, "images"),
        (0, torch.zeros(4, 5, 6, dtype=torch.uint8), ValueError, "images"),
        (0, torch.zeros(4, 5, 6, 2, dtype=torch.uint8), ValueError, "images"),
        (0, torch.zeros(4, 5, 6, 1, dtype=torch.uint8), ValueError, "table"),
        (1, torch.zeros(3, dtype=torch.bool), ValueError, "mirror"),
        (2, torch.zeros(4, 3, dtype=torch.int64), ValueError, "order"),
        (3, torch.zeros(4, 4, dtype=torch.float64), TypeError, "factors"),
        (5, torch.zeros(4, 2), TypeError, "weights"),
        (6, torch.zeros(3, 255), ValueError, "table"),
    ],
)
def test_bad_arguments_are_refused_by_name(position, value, error, name):
    given = list(arguments(4, 5, 6))
    given[position] = value
    with pytest.raises(error, match=rf"^{name} must .*, got "):
        photometric(*given)


def test_an_unknown_step_is_refused_and_a_backend_that_cannot_serve_says_why():
    given = list(arguments(4, 5, 6))
    if availability.compiled().usable:
        given[2] = torch.full((4, 4), 7)
        with pytest.raises(RuntimeError, match=r"order must be -1\.\.3"):
            photometric(*given)
    with pytest.raises(ValueError, match="backend"):
        photometric(*given, backend="triton")
    assert set(PHOTOMETRIC.implementations) == {"cpu", "triton", "reference"}
