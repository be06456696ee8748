"""Logistic regression against scikit-learn's, on shapes that go wrong, and the choice of its strength."""

import time
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from scatsimclr.evaluation import logistic
from scatsimclr.evaluation.logistic import DEFAULT_STRENGTH, STRENGTHS, logistic_fit, stratified_folds
from scatsimclr.evaluation.minimise import Objective, solve
from scatsimclr.evaluation.standard import Standard


def data(n, width, classes, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = 1.5 * torch.randn(classes, width, generator=generator)
    return centres[labels] + spread * torch.randn(n, width, generator=generator), labels


def theirs(fit, features, labels):
    """scikit-learn's solution of the same problem, far beyond our tolerance."""
    strength = fit.strength * (2 if len(labels.unique()) == 2 else 1)
    return LogisticRegression(C=strength, max_iter=100_000, tol=1e-10).fit(
        fit.standard(features).double().numpy(), labels.numpy()
    )


@pytest.fixture(autouse=True)
def _converged():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("strength", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize(
    ("n", "width", "classes"), [(40, 7, 3), (30, 211, 4), (13, 500, 3), (301, 20, 5), (9, 1, 3), (6, 6, 6)]
)
def test_coefficients_and_probabilities_are_scikit_learns(n, width, classes, strength):
    features, labels = data(n, width, classes, spread=3.0)
    fit = logistic_fit(features, labels, strengths=(strength,))
    assert fit.strength == strength
    model = theirs(fit, features, labels)
    scale = max(1.0, np.abs(model.coef_).max())
    np.testing.assert_allclose(fit.weight.numpy().T, model.coef_, atol=1e-3 * scale)
    other = features + 1
    expected = model.predict_log_proba(fit.standard(other).double().numpy())
    np.testing.assert_allclose(fit.log_probabilities(other).exp(), np.exp(expected), atol=1e-3)
    assert torch.equal(fit.predict(other), torch.from_numpy(model.predict(fit.standard(other).numpy())))


def test_two_classes_are_scikit_learns_with_twice_the_strength():
    features, labels = data(20, 5, 2, spread=4.0)
    fit = logistic_fit(features, labels, strengths=(10.0,))
    model = theirs(fit, features, labels)
    np.testing.assert_allclose(fit.weight[:, 1] - fit.weight[:, 0], model.coef_[0], rtol=1e-3, atol=1e-3)


def test_many_examples_of_many_features_are_near_scikit_learns(monkeypatch):
    monkeypatch.setattr(logistic, "LARGEST_ROTATION", 60)
    features, labels = data(400, 90, 3, spread=6.0)
    fit = logistic_fit(features, labels, strengths=(10.0,))
    expected = theirs(fit, features, labels).predict_proba(fit.standard(features).double().numpy())
    np.testing.assert_allclose(fit.log_probabilities(features).exp(), expected, atol=0.02)
    held = ~fit.held_out[:, 0].isnan()
    assert 50 <= int(held.sum()) <= 70


@pytest.mark.parametrize("axes", [False, True])
def test_a_solution_has_no_gradient_left(axes):
    features, labels = data(30, 8, 3)
    z = features.double() - features.double().mean(0)
    directions = (torch.eye(8, 3).double(), torch.ones(3).double()) if axes else None
    objective, share = (
        Objective(z, labels, 3, directions),
        torch.tensor([[0.1, 1.0, 50.0]]).double().repeat(30, 1),
    )
    solution, converged = solve(objective, share, None, 1e-6)
    assert converged.all()
    reference = solution.clone().requires_grad_(True)
    scores = torch.einsum("nd,dpk->npk", z, reference[:-1]) + reference[-1]
    loss = -(torch.log_softmax(scores, 2)[torch.arange(30), :, labels] * share).sum()
    (loss + 0.5 * reference[:-1].square().sum()).backward()
    norm = solution.square().sum((0, 2)).sqrt().clamp_min(1)
    assert (reference.grad.square().sum((0, 2)).sqrt() <= 1e-6 * norm).all()
    _, early = solve(objective, share, None, 1e-6, limit=2)
    assert not early.all()


def test_what_has_not_converged_is_told(monkeypatch):
    features, labels = data(30, 8, 3)
    monkeypatch.setattr(logistic, "solve", lambda *arguments: solve(*arguments, limit=1))
    with pytest.warns(UserWarning, match="30 examples did not converge"):
        logistic_fit(features, labels)


def test_the_strength_is_that_with_the_highest_held_out_likelihood():
    features, labels = data(60, 30, 3, spread=5.0)
    fit = logistic_fit(features, labels)
    folds, totals = stratified_folds(labels), {}
    x = fit.standard(features).double().numpy()
    for strength in STRENGTHS:
        totals[strength] = 0.0
        for fold in folds.unique():
            held = folds == fold
            model = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8).fit(
                x[~held], labels[~held].numpy()
            )
            log_p = model.predict_log_proba(x[held])
            totals[strength] += log_p[np.arange(len(log_p)), labels[held].numpy()].sum()
    assert fit.strength == max(totals, key=totals.get)
    assert len(set(totals.values())) == len(STRENGTHS)
    own = fit.held_out.gather(1, labels[:, None]).sum().item()
    assert own == pytest.approx(totals[fit.strength], rel=1e-2)


def test_folds_are_stratified_and_never_take_a_whole_class():
    labels = torch.tensor([0] * 50 + [1] * 2 + [2] + [3] * 17)
    folds = stratified_folds(labels, 3)
    assert torch.equal(folds, stratified_folds(labels, 3))
    assert not torch.equal(folds, stratified_folds(labels, 4))
    assert folds[52] == -1
    for label in (0, 1, 3):
        assert all(((folds != fold) & (labels == label)).any() for fold in range(5))
        counts = folds[labels == label].bincount(minlength=5)
        assert counts.max() - counts.min() <= 1
    assert folds[folds >= 0].bincount().max() <= 15
    assert stratified_folds(torch.arange(4)) is None


def test_one_example_of_each_class_has_the_default_strength():
    features, labels = data(4, 300, 4)
    fit = logistic_fit(features, labels)
    assert (fit.strength, fit.held_out) == (DEFAULT_STRENGTH, None)
    assert torch.equal(fit.predict(features), labels)


def test_a_class_with_one_example_is_always_fitted():
    features, labels = data(21, 40, 3)
    labels[labels == 2] = 1
    labels[5] = 2
    fit = logistic_fit(features, labels)
    assert fit.held_out[5].isnan().all()
    assert torch.isfinite(fit.held_out[torch.arange(21) != 5]).all()
    assert fit.predict(features)[5] == 2


def test_classes_without_examples_and_a_single_class():
    features, labels = data(12, 5, 2)
    fit = logistic_fit(features, 2 * labels, classes=5)
    log_p = fit.log_probabilities(features)
    assert log_p.shape == (12, 5)
    assert (log_p[:, [1, 3, 4]] == -torch.inf).all()
    assert (fit.held_out[:, [1, 3, 4]] == -torch.inf).all()
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(12))
    alone = logistic_fit(features, torch.ones(12, dtype=torch.int64))
    assert (alone.predict(features) == 1).all()


def test_constant_and_equal_features_and_scales_do_not_matter():
    features, labels = data(40, 6, 3, spread=3.0)
    expected = logistic_fit(features, labels)
    hostile = torch.cat((features * torch.tensor([1e-3, 1, 1e3, 1, 1e6, 1]) + 7, torch.full((40, 3), 1e4)), 1)
    found = logistic_fit(hostile, labels)
    torch.testing.assert_close(
        found.log_probabilities(hostile), expected.log_probabilities(features), rtol=1e-2, atol=1e-2
    )
    nothing = logistic_fit(torch.ones(40, 4), labels)
    torch.testing.assert_close(nothing.log_probabilities(torch.ones(1, 4)).exp()[0], labels.bincount() / 40)


def test_equal_examples_of_different_classes():
    fit = logistic_fit(torch.eye(2, 9).repeat(6, 1), torch.tensor([0, 0, 1, 2] * 3))
    assert torch.isfinite(fit.log_probabilities(torch.eye(2, 9))).all()


def test_the_statistics_of_all_images_change_the_fit():
    features, labels = data(12, 20, 3)
    everything = torch.cat((features, 5 * torch.randn(100, 20, generator=torch.Generator().manual_seed(0))))
    one, other = (logistic_fit(features, labels, standard=Standard.of(f)) for f in (features, everything))
    assert not torch.allclose(one.log_probabilities(features), other.log_probabilities(features), atol=1e-3)


def test_it_repeats_and_leaves_the_threads_alone():
    features, labels = data(50, 30, 5, spread=4.0)
    before = torch.get_num_threads()
    first, second = (logistic_fit(features, labels, seed=1) for _ in "ab")
    assert torch.equal(first.weight, second.weight)
    assert torch.get_num_threads() == before


def test_a_hundred_labels_of_thousands_of_features_take_a_moment():
    features, labels = data(100, 5184, 10, spread=8.0)
    start = time.process_time()
    logistic_fit(features, labels)
    assert time.process_time() - start < 1.5  # 0.12 s on an idle core


@pytest.mark.parametrize(
    ("features", "labels", "options", "message"),
    [
        (torch.ones(3, 2), torch.zeros(2, dtype=torch.int64), {}, "labels \\(n,\\)"),
        (torch.ones(0, 2), torch.zeros(0, dtype=torch.int64), {}, "n ≥ 1"),
        (torch.ones(3, 2), torch.zeros(3), {}, "int64"),
        (torch.ones(3, 2), torch.tensor([0, -1, 1]), {}, "must be 0..1, got -1..1"),
        (torch.ones(3, 2), torch.tensor([0, 1, 2]), {"classes": 2}, "must be 0..1, got 0..2"),
        (torch.tensor([[0.0], [torch.nan]]), torch.tensor([0, 1]), {}, "finite"),
        (torch.ones(2, 1), torch.tensor([0, 1]), {"strengths": ()}, "strengths must be positive"),
    ],
)
def test_what_cannot_be_fitted_is_refused(features, labels, options, message):
    with pytest.raises(ValueError, match=message):
        logistic_fit(features, labels, **options)


def test_standardised_features_share_the_variance():
    generator = torch.Generator().manual_seed(0)
    wide, narrow = 7 * torch.randn(200, 50, generator=generator) + 3, torch.randn(200, 4, generator=generator)
    narrow[:, 3] = 2.5
    both = Standard.side_by_side({"h": Standard.of(wide), "z": Standard.of(narrow)})
    found = both(torch.cat((wide, narrow), 1))
    variance = found.var(0, correction=0)
    assert variance[:50].sum() == pytest.approx(0.5, rel=1e-4)
    assert variance[50:].sum() == pytest.approx(0.5, rel=1e-4)
    assert (found[:, 53] == 0).all()
    torch.testing.assert_close(found.mean(0), torch.zeros(54), atol=1e-6, rtol=0)


def test_a_sample_may_round_to_more_examples_than_features(monkeypatch):
    """One of each of ten classes, of nine features: the sample's axes are those of XᵀX, not of its Gram matrix."""
    monkeypatch.setattr(logistic, "LARGEST_ROTATION", 8)
    labels = torch.arange(60) % 10
    features = torch.randn(10, 9)[labels] + 0.1 * torch.randn(60, 9)
    assert (logistic_fit(features, labels).predict(features) == labels).float().mean() > 0.9
