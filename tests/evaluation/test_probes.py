import math

import pytest
import torch

from scatsimclr.evaluation.knn import knn_accuracy, knn_predict
from scatsimclr.evaluation.logistic import logistic_fit
from scatsimclr.evaluation.probe import accuracy, few_labels, linear_predict


def blobs(n, spread, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = torch.eye(3, 8) * 4
    return centres[labels] + spread * torch.randn(n, 8, generator=generator), labels


def test_knn_votes_are_the_definition():
    bank = torch.tensor([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 1]])
    labels = torch.tensor([0, 1, 1, 0])
    query = torch.tensor([[1.0, 0.05]])
    cosine = torch.nn.functional.cosine_similarity(query, bank)
    votes = [
        sum(math.exp(s / 0.1) for s, label in zip(cosine, labels, strict=True) if label == c) for c in (0, 1)
    ]
    assert knn_predict(bank, labels, query, k=4).item() == votes.index(max(votes))
    assert knn_predict(bank, labels, query, k=1).item() == 0


def test_knn_takes_a_bank_smaller_than_k_and_refuses_an_empty_one():
    bank, labels = blobs(9, 0.1)
    assert knn_accuracy(bank, labels, bank, labels, k=200) == 1.0
    with pytest.raises(ValueError, match="bank must hold"):
        knn_predict(bank[:0], labels[:0], bank, k=1)


def logistic_predict(train, labels, test):
    return logistic_fit(train, labels).predict(test)


@pytest.mark.parametrize("predict", [linear_predict, logistic_predict])
def test_linear_probes_learn_what_is_separable_and_nothing_from_noise(predict):
    train, (test, labels) = blobs(300, 0.5), blobs(200, 0.5, seed=1)
    assert accuracy(predict(*train, test), labels) > 0.95
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 8, generator=generator), torch.arange(300) % 3
    assert accuracy(predict(*noise, torch.randn(300, 8, generator=generator)), torch.arange(300) % 3) < 0.5


def test_linear_probe_repeats_and_takes_constant_features():
    (train, labels), (test, test_labels) = blobs(60, 2.0), blobs(60, 2.0, seed=1)
    train[:, 7] = test[:, 7] = 3.0
    scores = {accuracy(linear_predict(train, labels, test, seed=3), test_labels) for _ in range(2)}
    assert len(scores) == 1
    assert 0.5 < scores.pop() < 1


def test_few_labels_takes_the_same_number_of_each_class():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 4)
    chosen = few_labels(labels, 10, seed=0)
    assert labels[chosen].bincount().tolist() == [10, 10, 4]
    assert torch.equal(chosen, few_labels(labels, 10, seed=0))
    assert not torch.equal(chosen, few_labels(labels, 10, seed=1))
