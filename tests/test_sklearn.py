"""scikit-learn's interface: its own checks, pipelines and searches, and the calls of kymatio.sklearn."""

import math
import pickle

import numpy as np
import pandas
import pytest
import torch
from kymatio.scattering2d.frontend.numpy_frontend import ScatteringNumPy2D
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from scatsimclr import Scattering2D as Transform
from scatsimclr.sklearn import ScatSimCLREncoder, Scattering2D, ScatteringTransformer

# The smallest run: a second or less.
SMALL = {
    "dataset": {"input_shape": (8, 8, 1), "valid_size": 0.0}, "batch_size": 16, "neighbours": 0,
    "model": {"front": "paper", "head": "paper", "out_dim": 8}, "data.pipeline": "torch",
}  # fmt: skip
ENCODER = {"J": 1, "L": 1, "epochs": 1, "base_model": "scatsimclr4", "settings": SMALL}

NO_SQUARE = "its X has 2, 3, 5 or 10 columns: no image without a shape"
# scikit-learn's checks whose X is no image; `Padded` below passes them all.
EXPECTED = {
    **dict.fromkeys(
        (
            "check_fit_score_takes_y", "check_estimators_overwrite_params", "check_dont_overwrite_parameters",
            "check_estimators_fit_returns_self", "check_readonly_memmap_input", "check_estimators_dtypes",
            "check_dtype_object", "check_pipeline_consistency", "check_estimators_nan_inf", "check_estimators_pickle",
            "check_f_contiguous_array_estimator", "check_transformer_data_not_an_array", "check_transformer_general",
            "check_transformer_preserve_dtypes", "check_methods_sample_order_invariance",
            "check_methods_subset_invariance", "check_fit2d_1sample", "check_dict_unchanged", "check_fit_idempotent",
            "check_fit_check_is_fitted", "check_n_features_in", "check_fit2d_predict1d",
        ),
        NO_SQUARE,
    ),
    "check_fit2d_1feature": "its X has one column: an image of one pixel, smaller than 2^J",
}  # fmt: skip


class _Padded:
    """Takes rows of any length as the smallest square that holds them, so that scikit-learn's checks have images."""

    def _unfolded(self, rows):
        side = max(2, math.isqrt(rows.shape[1] - 1) + 1)
        padded = np.zeros((len(rows), side * side), rows.dtype)
        padded[:, : rows.shape[1]] = rows
        return padded.reshape(-1, side, side, 1)


class PaddedTransformer(_Padded, ScatteringTransformer):
    pass


class PaddedEncoder(_Padded, ScatSimCLREncoder):
    pass


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_where_x_is_an_image():
    results = check_estimator(ScatteringTransformer(J=1), expected_failed_checks=EXPECTED, on_skip=None)
    statuses = [result["status"] for result in results]
    assert statuses.count("failed") == 0
    assert statuses.count("passed") >= 20
    assert {result["check_name"] for result in results if result["status"] == "xfail"} == set(EXPECTED)


@pytest.mark.filterwarnings("ignore")
def test_all_of_scikit_learns_checks_pass_with_images():
    results = check_estimator(PaddedTransformer(J=1), on_skip=None)
    assert sum(result["status"] == "passed" for result in results) >= 45


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_interface_checks_pass_for_the_encoder():
    results = check_estimator(PaddedEncoder(**ENCODER), legacy=False, on_skip=None)
    assert sum(result["status"] == "passed" for result in results) >= 12


def test_a_search_in_a_pipeline_on_digits():
    digits = load_digits()
    X, y = digits.data[:500], digits.target[:500]
    train, test, known, truth = train_test_split(X, y, test_size=0.4, random_state=0, stratify=y)
    pipeline = make_pipeline(ScatteringTransformer(), StandardScaler(), LogisticRegression(max_iter=200))
    grid = {"scatteringtransformer__J": [1, 2], "scatteringtransformer__L": [2, 6]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(train, known)
    plain = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)).fit(train, known)
    assert set(search.best_params_) == set(grid)
    assert search.score(test, truth) >= 0.93
    assert search.score(test, truth) >= plain.score(test, truth)


@pytest.mark.parametrize("estimator", [ScatteringTransformer(J=1), ScatSimCLREncoder(**ENCODER)])
def test_frames_of_pandas_go_in_and_come_out(estimator):
    digits = load_digits(as_frame=True).data[100:140]
    plain = clone(estimator).fit(digits.to_numpy())
    ours = clone(estimator).set_output(transform="pandas").fit(digits)
    found = ours.transform(digits)
    assert isinstance(found, pandas.DataFrame)
    assert list(found.index) == list(digits.index)
    assert list(found.columns) == list(ours.get_feature_names_out())
    assert list(ours.feature_names_in_) == list(digits.columns)
    np.testing.assert_array_equal(found.to_numpy(), plain.transform(digits.to_numpy()))
    with pytest.raises(ValueError, match="feature names"):
        ours.transform(digits[digits.columns[::-1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(8, 8), (16, 12)])
def test_the_calls_of_kymatio_give_kymatios_numbers(dtype, shape):
    X = np.random.default_rng(0).random((5, math.prod(shape))).astype(dtype)
    theirs = ScatteringNumPy2D(2, shape, 4, 2, False, "numpy")
    expected = theirs(X.reshape(-1, *shape)).reshape(5, -1)
    ours = Scattering2D(2, shape, 4, 2, False, "numpy", "array")
    assert ours.transform(X).dtype == dtype  # without fit
    tolerance = 1e-12 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(ours.transform(X), expected, rtol=1e-5, atol=tolerance)
    np.testing.assert_array_equal(ours.predict(X), ours.fit().transform(X))
    planes = np.concatenate([X, X[:, ::-1]], 1)  # two planes in a row, as kymatio takes them
    both = Scattering2D(2, shape=shape, L=4).fit(planes).transform(planes)
    np.testing.assert_allclose(both[:, : expected.shape[1]], expected, rtol=1e-5, atol=1e-6)


def test_rows_and_arrays_of_colours_are_the_same_images():
    X = np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3), np.uint8)
    ours = ScatteringTransformer(J=1, L=3)
    found = ours.fit_transform(X)
    assert ours.image_shape_ == (8, 12, 3)
    assert found.dtype == np.float32
    rows = ScatteringTransformer(J=1, L=3, shape=(8, 12, 3)).fit_transform(X.reshape(4, -1))
    np.testing.assert_array_equal(found, rows)
    planes = torch.from_numpy(X.transpose(0, 3, 1, 2).astype(np.float32))
    expected = Transform(1, (8, 12), L=3)(planes).flatten(1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
    assert len(ours.get_feature_names_out()) == found.shape[1]
    with pytest.raises(ValueError, match=r"images of \(8, 12, 3\), as in fit, got \(8, 10, 3\)"):
        ours.transform(X[:, :, :10])


@pytest.mark.parametrize(
    ("estimator", "X", "message"),
    [
        (ScatteringTransformer(), np.zeros((2, 560)), "560 columns, which are no square"),
        (ScatteringTransformer(shape=(8, 8)), np.zeros((2, 60)), r"as many columns as shape=\(8, 8\)"),
        (ScatteringTransformer(shape=(8, 8, 3)), np.zeros((2, 64)), r"as many columns as shape=\(8, 8, 3\)"),
        (ScatteringTransformer(out_type="list"), np.zeros((2, 64)), "out_type must be 'array', got 'list'"),
        (ScatteringTransformer(), np.zeros((2, 1, 8, 8, 1)), "got 5 axes"),
        (ScatteringTransformer(), None, "shape must be given where X is not"),
        (ScatSimCLREncoder(**ENCODER), np.zeros((1, 64)), "two images or more, got 1 sample"),
    ],
)
def test_what_is_no_image_is_refused(estimator, X, message):
    with pytest.raises(ValueError, match=message):
        estimator.fit(X)


def test_padded_images_are_taken_as_they_are():
    transform = Transform(1, (8, 8), pre_pad=True)
    X = np.random.default_rng(0).random((3, transform.M_padded, transform.N_padded)).astype(np.float32)
    ours = ScatteringTransformer(J=1, shape=(8, 8), pre_pad=True)
    expected = transform(torch.from_numpy(X)).flatten(1).numpy()
    np.testing.assert_allclose(ours.fit_transform(X), expected, rtol=1e-6)
    np.testing.assert_allclose(ours.fit_transform(X.reshape(3, -1)), expected, rtol=1e-6)
    assert ours.fit(X)._n_features_out == expected.shape[1]


def test_the_encoder_in_a_pipeline_learns_without_labels():
    digits = load_digits()
    X, y = digits.data[:160], digits.target[:160]
    encoder = ScatSimCLREncoder(
        **{**ENCODER, "L": 2, "settings": {**SMALL, "dataset.input_shape": (16, 16, 1)}}
    )
    pipeline = make_pipeline(encoder, StandardScaler(), LogisticRegression(max_iter=200)).fit(
        X[:120], y[:120]
    )
    assert pipeline.score(X[120:], y[120:]) > 0.5
    fitted = pipeline[0]
    assert fitted.encoder_.config.data.scale == (0.0, 16.0)
    assert len(fitted.get_feature_names_out()) == fitted.transform(X[:2]).shape[1]
    again = clone(fitted).fit(
        X[:120], y[::-1][:120]
    )  # the labels do not matter, and nothing is left to chance
    np.testing.assert_array_equal(again.transform(X), fitted.transform(X))
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.transform(X[:5]), fitted.transform(X[:5]))
