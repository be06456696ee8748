"""The log front: logarithms, standardisation, whitening by what augmentation moves."""

import pytest
import torch

from scatsimclr.data.augment import Augment, AugmentSpec, center_view
from scatsimclr.evaluation.front import fit_front
from scatsimclr.models import front as module
from scatsimclr.models.front import LogFront
from scatsimclr.models.scatsimclr import ScatSimCLR

SIZE = (16, 16)


def encoder(front="log", colours=3):
    torch.manual_seed(0)
    return ScatSimCLR(2, 4, (*SIZE, colours), 8, 16, front=front).eval()


def images(count=40):
    generator = torch.Generator().manual_seed(1)
    small = torch.randint(0, 256, (count, 3, 4, 4), generator=generator).float()
    large = torch.nn.functional.interpolate(small, SIZE, mode="bilinear")
    return large.permute(0, 2, 3, 1).to(torch.uint8).contiguous()


def augment(seed=3):
    return Augment(AugmentSpec(SIZE, crop_scale=(0.5, 1.0), blur=0.0), seed)


def fitted(count=40):
    model = encoder()
    fit_front(model, images(count), augment())
    return model


def test_all_directions_kept_it_is_the_inverse_root_of_the_views_covariance():
    """√λ (DᵀD/n + λ)^(−½) of the standardised vectors, in float64."""
    front = LogFront(1, 5, (2, 3))
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(200, 30, generator=generator) * torch.linspace(0.5, 4, 30) + 7
    views = plain + torch.randn(3, 200, 30, generator=generator) @ torch.randn(30, 30, generator=generator)
    front.set_whitening(plain, views)
    mean, scale = plain.double().mean(0), 1 / plain.double().std(0, correction=0)
    differences = ((views - views.mean(0)).double() * scale).flatten(0, 1)
    values, axes = torch.linalg.eigh(differences.T @ differences / (2 * 200))
    root = (axes * (module.LAMBDA / (values + module.LAMBDA)).sqrt()) @ axes.T
    coefficients = torch.expm1(torch.rand(20, 5, 2, 3, generator=generator)) + 1
    vectors = front.places_of(coefficients)
    expected = ((vectors.double() - mean) * scale) @ root
    torch.testing.assert_close(front.whitened(coefficients).double(), expected, rtol=1e-4, atol=1e-4)


def test_few_directions_leave_the_rest_as_it_is(monkeypatch):
    monkeypatch.setattr(module, "DIRECTIONS", 2)
    front = LogFront(1, 10, (1, 2))
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(500, 20, generator=generator)
    moved = torch.zeros(20)
    moved[3], moved[7] = 9.0, 5.0
    views = plain + torch.randn(2, 500, 20, generator=generator) * moved
    front.set_whitening(plain, views)
    assert front.directions.shape == (20, 2)
    x = (plain - front.whitening_mean) * front.whitening_scale
    left = (x - (x @ front.directions * front.shrink) @ front.directions.T).std(0)
    assert left[3] < 0.06
    assert left[7] < 0.1
    others = [i for i in range(20) if i not in (3, 7)]
    torch.testing.assert_close(left[others], torch.ones(18), rtol=0.1, atol=0)


def test_logarithms_and_order_0():
    front = LogFront(2, 3, (2, 2))
    front.set_floor(torch.tensor([5.0, 1.0, 0.1, -5.0, 0.0, 2.0]))
    x = torch.rand(4, 6, 2, 2) - 0.1
    found = front.compressed(x)
    assert torch.equal(found[:, [0, 3]], x[:, [0, 3]])
    torch.testing.assert_close(found[:, 1], torch.log1p(x[:, 1].clamp_min(0) / 0.1))
    torch.testing.assert_close(found[:, 5], torch.log1p(x[:, 5].clamp_min(0) / 0.2))
    assert torch.isfinite(found).all()


def test_the_adapter_sees_channels_of_mean_0_and_deviation_1():
    model = fitted()
    x = center_view(images(), augment().spec)
    seen = model.front(model.scatter(x))
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(seen.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        seen.std((0, 2, 3), correction=0), torch.ones(seen.shape[1]), atol=1e-3, rtol=0
    )
    assert seen.is_contiguous(memory_format=torch.channels_last)
    assert model.front(model.scatter(x, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_views_come_nearer_and_images_stay_apart():
    """New views of new images, changed in brightness and contrast: told by whitened features more clearly."""
    spec = AugmentSpec(
        SIZE, crop=False, flip=0.0, jitter=1.0, saturation=0.0, hue=0.0, grayscale=0.0, blur=0.0
    )
    model, data = encoder(), images(120)
    fit_front(model, data[:80], Augment(spec, 3))
    first, second = (Augment(spec, 9)(data[80:], torch.arange(40), 5, view) for view in (0, 1))

    def ratio(features):
        a, b = features(first), features(second)
        distances = torch.cdist(a, b)
        return (distances.diagonal().mean() / distances.mean()).item()

    standardised = ratio(lambda x: model.front(model.scatter(x)).flatten(1))
    assert ratio(model.whitened) < 0.8 * standardised


def test_measuring_is_deterministic_and_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    one, other = fitted(), encoder()
    torch.manual_seed(6)
    state = torch.get_rng_state()
    fit_front(other, images(), augment())
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in one.front.state_dict().items():
        assert torch.equal(value, other.front.state_dict()[name]), name
    another = encoder()
    fit_front(another, images(), augment(4))
    assert not torch.equal(another.front.shrink, one.front.shrink)


@pytest.mark.parametrize("data", [images(1), images(2), torch.zeros(5, *SIZE, 3, dtype=torch.uint8)])
def test_few_and_black_images_give_finite_features(data):
    model = encoder()
    fit_front(model, data, augment())
    x = center_view(images(), augment().spec)
    for found in (model.whitened(x), *model(x)):
        assert torch.isfinite(found).all()


def test_the_paper_is_one_setting_away_bit_for_bit():
    """Same weights from the same seed, the same keys as ever, and the adapter sees the coefficients as they are."""
    paper, log = encoder("paper"), fitted()
    assert paper.front is None
    assert not [name for name in paper.state_dict() if "front" in name]
    ours = dict(log.named_parameters())
    assert [name for name, _ in paper.named_parameters()] == list(ours)
    assert all(torch.equal(value, ours[name]) for name, value in paper.named_parameters())
    x = center_view(images(), augment().spec)
    expected = paper._adapter_network(paper._scatnet.features(x, channels_last=True)).flatten(1)
    assert torch.equal(paper.encode(x), expected)
    fit_front(paper, images(), augment())
    assert torch.equal(paper.encode(x), expected)
    with pytest.raises(ValueError, match="log"):
        paper.whitened(x)


def test_the_statistics_travel_with_the_weights():
    model, other = fitted(), encoder()
    other.load_state_dict(model.state_dict())
    x = center_view(images(), augment().spec)
    assert torch.equal(other.whitened(x), model.whitened(x))
    assert torch.equal(other.encode(x), model.encode(x))


def test_unknown_front():
    with pytest.raises(ValueError, match="front"):
        encoder("exp")
