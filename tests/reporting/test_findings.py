"""What a report computes: neighbours, mistakes, clusters and the choice of images, against plain loops."""

import numpy as np
import pytest
import torch

from scatsimclr.config import load_config
from scatsimclr.evaluation.interval import wilson
from scatsimclr.reporting import comparison, findings, results


@pytest.mark.parametrize("skip_self", [False, True])
def test_nearest_are_the_most_similar_by_cosine(skip_self, monkeypatch):
    bank = torch.randn(1100, 5)  # more than one block of queries
    queries = bank if skip_self else torch.randn(9, 5)
    found, cosines = findings.nearest(queries, bank, skip_self=skip_self)
    unit = torch.nn.functional.normalize(bank.double(), dim=1)
    for row in (0, 5, len(queries) - 1):
        similarity = (unit @ torch.nn.functional.normalize(queries[row].double(), dim=0)).tolist()
        order = sorted((i for i in range(1100) if not (skip_self and i == row)), key=lambda i: -similarity[i])
        assert found[row].tolist() == order[: findings.NEIGHBOURS]
        assert cosines[row].tolist() == pytest.approx([similarity[i] for i in order[:6]], abs=1e-5)


def test_nearest_of_few_are_all_the_others():
    found, _ = findings.nearest(torch.eye(3), torch.eye(3), skip_self=True)
    assert [sorted(row) for row in found.tolist()] == [[1, 2], [0, 2], [0, 1]]


def test_most_confused_pairs_come_first_with_their_images():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    predicted = np.array([0, 1, 0, 1, 0, 0, 0, 2, 1])
    counts = np.zeros((3, 3), int)
    np.add.at(counts, (labels, predicted), 1)
    found = findings.most_confused(counts, labels, predicted)
    assert [(pair.true, pair.predicted, pair.count, pair.of) for pair in found] == [
        (2, 0, 2, 4), (0, 1, 1, 3), (1, 0, 1, 2), (2, 1, 1, 4),
    ]  # fmt: skip
    assert found[0].examples == [5, 6]


def test_clusters_are_those_that_were_planted():
    centres = torch.randn(5, 20) * 10
    truth = torch.arange(100) % 5
    found = findings.cluster(centres[truth] + torch.randn(100, 20))
    assert len(found.central) == 5
    assert all(len(set(found.members[truth == group])) == 1 for group in range(5))
    assert found.silhouette > 0.5
    assert all(
        found.members[index] == number for number, group in enumerate(found.central) for index in group
    )


@pytest.mark.parametrize("features", [torch.zeros(20, 4), torch.randn(7, 4), torch.ones(1, 4)])
def test_there_may_be_no_clusters(features):
    assert findings.cluster(features) is None


@pytest.mark.parametrize("count", [1, 2, 9, 12])
def test_few_or_equal_points_have_a_place(count):
    points, method = findings.project(np.zeros((count, 6), np.float32))
    assert points.shape == (count, 2)
    assert np.isfinite(points).all()
    assert method == ("t-SNE" if count >= 10 else "PCA")


def test_images_of_a_sorted_set_are_chosen_from_all_of_it():
    chosen = findings._chosen(10_000)
    assert len(set(chosen.tolist())) == findings.SHOWN
    counts = torch.bincount(chosen // 1000, minlength=10)
    assert counts.min() > 100
    assert torch.equal(findings._chosen(7), torch.arange(7))


def test_the_gallery_has_one_of_each_class_before_a_second():
    labels = torch.tensor([2, 0, 0, 0, 1, 2])
    assert findings._one_of_each(labels).tolist() == [1, 2, 3, 4, 0, 5]
    assert findings._one_of_each(torch.arange(30).flip(0)).tolist() == list(range(29, 19, -1))


def test_the_interval_is_wilsons():
    low, high = wilson(0.9, 100)
    assert (low, high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert wilson(1.0, 50)[1] == pytest.approx(1)
    assert wilson(0.0, 50)[0] == pytest.approx(0)


def record(event, epoch, **figures):
    return {"event": event, "epoch": epoch, "step": 10 * epoch, **figures}


def run_of(**after):
    """Records of a run whose scattering and untrained network reach 0.6 and 0.5."""
    base = {"logistic_10": 0.5, "scattering_logistic_10": 0.6, "scattering_features": "pooled", "linear": 0.5}
    return [
        record("evaluation", 0, **base),
        record("evaluation", 3, knn=0.1, linear=0.2),
        record("evaluation", 6, **base | {"linear": 0.9, "recommended_features": "both"} | after),
    ]


def test_scores_are_the_first_and_the_last_evaluation():
    config = load_config(None, ["evaluation.labels_per_class=[1,10]"])
    records = [
        record("evaluation", 0, knn=0.5, logistic_1=0.2, logistic_1_sd=0.1, logistic_10=0.4, linear=0.6),
        record("evaluation", 3, knn=0.1, linear=0.2),
        record("evaluation", 6, knn=0.7, logistic_1=0.3, logistic_1_sd=0.2, logistic_10=0.3, linear=0.9),
    ]
    found = {score.key: score for score in results.scores(config, records)}
    assert found["logistic_1"].before_sd == 0.1
    assert found["linear"].gain == pytest.approx(0.3)
    assert [score.key for score in results.headline(list(found.values()))] == ["logistic_1", "linear"]
    begun = results.scores(config, records[:1])
    assert all(score.after is None and score.gain is None for score in begun)
    assert results.scores(config, [record("evaluation", 0)]) == []


def test_records_of_earlier_versions_are_read():
    config = load_config(None, ["evaluation.features=both"])
    records = [record("evaluation", n, knn=0.5, linear_10=0.4, linear_10_sd=0.1, linear=0.6) for n in (0, 6)]
    found = results.scores(config, records)
    assert [score.key for score in results.headline(found)] == ["linear_10", "linear"]
    assert results.features_in_words(records) == {"scattering": None, "whitened": None, "recommended": None}
    assert results.verdict(found) == ""


def test_a_gain_is_ahead_of_the_better_of_scattering_and_the_untrained_network():
    config = load_config(None, [])
    for reached, gain, words in (
        (0.7, 0.1, "gained +10.0 points"), (0.55, -0.05, "not better than what needs no training (−5.0 points)"),
    ):  # fmt: skip
        found = results.scores(config, run_of(logistic_10=0.99, recommended_logistic_10=reached))
        claim = results.headline(found)
        # The linear layer gained by far more, but nothing says how far the scattering alone comes with it.
        assert [score.key for score in claim] == ["logistic_10"]
        assert claim[0].gain == pytest.approx(gain)
        assert claim[0].better == (gain > 0)
        assert words in results.verdict(found)
        assert ("use scattering alone" in results.verdict(found)) == (gain < 0)


def test_where_nothing_was_gained_the_better_of_the_rest_is_named():
    config = load_config(None, [])
    for before, words in ((0.5, "use scattering alone"), (0.65, "use the untrained network")):
        records = run_of(recommended_logistic_10=0.6)
        records[0]["logistic_10"] = before
        assert words in results.verdict(results.scores(config, records))


def test_no_gain_is_claimed_that_whitened_scattering_has_too():
    config = load_config(None, [])
    found = results.scores(config, run_of(recommended_logistic_10=0.7, whitened_logistic_10=0.72))
    assert results.headline(found)[0].gain == pytest.approx(-0.02)
    assert "use whitened scattering" in results.verdict(found)


def test_a_gain_within_the_noise_of_the_draws_is_none():
    config = load_config(None, ["evaluation.seeds=4"])
    spreads = {"recommended_logistic_10_sd": 0.06, "scattering_logistic_10_sd": 0.08}
    for reached, better in ((0.64, False), (0.66, True)):
        records = run_of(recommended_logistic_10=reached, **spreads)
        score = results.headline(results.scores(config, records))[0]
        assert score.error == pytest.approx(0.05)
        assert score.better == better


def test_the_noise_is_that_of_what_the_gain_is_ahead_of():
    config = load_config(None, ["evaluation.seeds=4"])
    records = run_of(
        recommended_logistic_10=0.7, recommended_logistic_10_sd=0.06,
        whitened_logistic_10=0.62, whitened_logistic_10_sd=0.08, scattering_logistic_10_sd=0.5,
    )  # fmt: skip
    score = results.headline(results.scores(config, records))[0]
    assert score.enough == "whitened scattering"
    assert score.error == pytest.approx(0.05)


def test_a_run_that_goes_on_shows_the_scattering_of_its_beginning():
    config = load_config(None, [])
    score = next(s for s in results.scores(config, run_of()[:2]) if s.key == "logistic_10")
    assert (score.scattering, score.after) == (0.6, None)
    assert results.features_in_words(run_of()) == {
        "scattering": "pooled scattering",
        "whitened": None,
        "recommended": "h and scattering",
    }


def test_throughput_adds_up_the_epochs():
    config = load_config(None, ["batch_size=4"])
    records = [record("epoch", 1, images_per_second=20.0), record("epoch", 2, images_per_second=40.0)]
    found = results.throughput(config, records)
    assert found == {"epochs": 2, "seconds": 3.0, "images": 80.0, "images_per_second": pytest.approx(80 / 3)}
    assert results.throughput(config, []) is None


def test_only_differing_settings_are_compared():
    one, other = load_config(None, ["seed=1"]), load_config(None, ["seed=2", "augment.flip=0.25"])
    assert comparison.differences([one, other]) == [("seed", ["1", "2"]), ("augment.flip", ["0.0", "0.25"])]
