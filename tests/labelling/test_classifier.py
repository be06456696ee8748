"""The method on digits: better than logistic regression, honest confidences, useful suggestions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from scatsimclr.evaluation.logistic import logistic_fit
from scatsimclr.evaluation.probe import few_labels
from scatsimclr.labelling import Space, label, suggest
from scatsimclr.labelling.classifier import (
    CANDIDATES,
    HIGHEST,
    TEMPERATURES,
    fit_temperature,
    probabilities,
    reliability,
)
from scatsimclr.labelling.propagation import directions, graph, nearest, propagate, smooth


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    return Space(torch.from_numpy(found.data).float()), torch.from_numpy(found.target).long(), found.data


def some(truth, chosen):
    labels = torch.full_like(truth, -1)
    labels[chosen] = truth[chosen]
    return labels


def test_better_than_logistic_regression_and_calibrated(digits):
    space, truth, data = digits
    features = torch.from_numpy(data).float()
    ours, theirs, errors = [], [], []
    for seed in range(3):
        chosen = few_labels(truth, 5, seed)
        labels = some(truth, chosen)
        found = label(space, labels, seed=seed)
        rest = labels < 0
        right = (found.labels == truth)[rest]
        ours.append(right.float().mean().item())
        errors.append(reliability(found.confidence[rest], right)[1])
        plain = logistic_fit(features[chosen], truth[chosen]).predict(features)
        theirs.append((plain == truth)[rest].float().mean().item())
        assert torch.equal(found.labels[chosen], truth[chosen])
        assert (found.confidence[chosen] == 1).all()
        assert found.confidence[rest].max() <= HIGHEST
    assert np.mean(ours) > np.mean(theirs) + 0.03
    assert np.mean(errors) < 0.08


def test_the_same_for_a_seed_and_any_scale(digits):
    _, truth, data = digits
    labels = some(truth, few_labels(truth, 3, 0))
    features = torch.from_numpy(data).float()
    first, second = label(features, labels), label(features, labels)
    assert torch.equal(first.confidence, second.confidence)
    other = label(features * 100 + 7, labels)
    assert (other.labels == first.labels).float().mean() > 0.99


def test_one_label_of_each_class_is_uncalibrated_and_said_so(digits):
    space, truth, _ = digits
    found = label(space, some(truth, few_labels(truth, 1, 0)))
    assert found.accuracy is None
    assert found.error is None
    with pytest.raises(ValueError, match="no label could be held out"):
        _ = found.interval
    assert (found.labels == truth).float().mean() > 0.5


@pytest.mark.parametrize("features", [torch.zeros(6, 4), torch.eye(6)[:, :1].repeat(1, 3), torch.rand(6, 1)])
def test_features_that_say_little_give_finite_confidences(features):
    found = label(features, torch.tensor([0, 1, -1, -1, 0, 1]))
    assert torch.isfinite(found.confidence).all()


def test_propagation_solves_its_equation():
    vectors = torch.nn.functional.normalize(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)))
    s = graph(*nearest(vectors, 6))
    assert abs(s - s.T).max() < 1e-12
    y = np.zeros((60, 2))
    y[0, 0] = y[1, 1] = 1
    f = np.linalg.solve(np.eye(60) - 0.8 * s.toarray(), y)
    expected = f / f.sum(1, keepdims=True)
    found = np.exp(propagate(s, np.array([0, 1]), np.array([0, 1]), 2, 0.8))
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_smoothed_features_solve_their_equation():
    vectors = directions(torch.randn(60, 5, generator=torch.Generator().manual_seed(0)))
    s = graph(*nearest(vectors, 6))
    f = np.linalg.solve(np.eye(60) - 0.8 * s.toarray(), vectors.double().numpy())
    f -= f.mean(0)
    expected = f / np.linalg.norm(f, axis=1, keepdims=True)
    np.testing.assert_allclose(smooth(s, vectors, 0.8).numpy(), expected, atol=1e-4)


def test_smoothed_features_need_fewer_labels(digits):
    space, truth, _ = digits
    shares = {"logistic": [], "smoothed": []}
    for seed in range(3):
        chosen = few_labels(truth, 3, seed)
        found = space.candidates(chosen, truth[chosen], 10, seed)
        for name, right in shares.items():
            right.append((found[name].argmax(1) == truth.numpy()).mean())
    assert np.mean(shares["smoothed"]) > np.mean(shares["logistic"]) + 0.05


def test_directions_hold_the_square_roots_of_the_deviations():
    """The same angles by the whole and by the randomised decomposition."""
    features = torch.randn(200, 40, generator=torch.Generator().manual_seed(0)) * 0.01
    features[:, :5] *= torch.tensor([1000.0, 800, 600, 400, 300])
    u, s, _ = torch.linalg.svd((features - features.mean(0)).double(), full_matrices=False)
    for count in (40, 5):
        found = directions(features, count).double()
        expected = torch.nn.functional.normalize((u * s.sqrt())[:, :count])
        torch.testing.assert_close(found @ found.T, expected @ expected.T, atol=2e-3, rtol=0)


def test_temperature_undoes_overconfidence():
    generator = np.random.default_rng(0)
    log_p = np.log(probabilities(generator.normal(size=(20_000, 4)), 1.0))
    truth = np.array([generator.choice(4, p=row) for row in np.exp(log_p)])
    temperature, _ = fit_temperature(3 * log_p, truth)
    assert temperature == pytest.approx(3, rel=0.05)


def test_a_few_labels_move_the_temperature_little_from_what_is_usual():
    log_p = np.log(probabilities(np.random.default_rng(0).normal(size=(10, 4)), 1.0))
    truth = log_p.argmax(1)  # always right: the likeliest temperature is the least
    assert fit_temperature(log_p, truth)[0] == pytest.approx(1 / 20, rel=0.01)
    spread = 0.2
    usual = fit_temperature(log_p, truth, prior=(1.5, 1 / (10 * spread**2)))[0]
    assert 1.5 * np.exp(-3 * spread) < usual < 1.5
    assert fit_temperature(log_p, truth, prior=(1.5, 1e6))[0] == pytest.approx(1.5, rel=1e-3)


def test_the_expected_accuracy_comes_with_an_interval(digits):
    """Of Wilson by hand, and it holds the accuracy of the images without a label."""
    space, truth, _ = digits
    assert set(TEMPERATURES) == set(CANDIDATES)
    held = 0
    for seed in range(3):
        chosen = few_labels(truth, 5, seed)
        found = label(space, some(truth, chosen))
        rest = torch.ones(len(truth), dtype=torch.bool)
        rest[chosen] = False
        low, high = found.interval
        assert found.held == 50
        held += low <= (found.labels == truth)[rest].float().mean().item() <= high
    assert held == 3
    by_hand = replace(found, accuracy=0.84, held=100).interval
    assert by_hand == pytest.approx((0.7558, 0.8990), abs=5e-4)


def test_calibration_error_by_hand():
    bins, error = reliability([0.9, 0.9, 0.5, 0.5], [True, False, True, False])
    assert [(entry.count, entry.accuracy) for entry in bins] == [(2, 0.5), (2, 0.5)]
    assert error == pytest.approx(0.2)


def test_suggestions_beat_random_images(digits):
    space, truth, _ = digits
    chosen = [entry.index for entry in suggest(space, torch.full_like(truth, -1), 20)]
    assert len(set(chosen)) == 20
    assert len(truth[chosen].unique()) == 10
    ours = (label(space, some(truth, torch.tensor(chosen))).labels == truth).float().mean()
    random = []
    for seed in range(5):
        order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))[:20]
        random.append((label(space, some(truth, order)).labels == truth).float().mean())
    assert ours > np.mean(random)


def test_suggestions_are_unlabelled_and_uncertain_with_plenty_of_labels(digits):
    space, truth, _ = digits
    labels = some(truth, few_labels(truth, 10, 0))
    found = label(space, labels)
    entries = suggest(space, labels, 10, probabilities=found.probabilities)
    assert all(labels[entry.index] < 0 for entry in entries)
    assert [entry.reason for entry in entries].count("uncertain") == 5
    doubtful = [float(found.confidence[entry.index]) for entry in entries if entry.reason == "uncertain"]
    assert max(doubtful) < found.confidence.median()


def test_what_cannot_be_labelled(digits):
    with pytest.raises(ValueError, match="two classes"):
        label(torch.rand(5, 3), torch.tensor([0, 0, -1, -1, -1]))
    with pytest.raises(ValueError, match="int64"):
        label(torch.rand(5, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="finite"):
        label(torch.full((5, 3), torch.nan), torch.tensor([0, 1, -1, -1, -1]))
