"""The recorded recommendation: what it is without labels, how ties are decided, and that it survives the disk."""

import pytest
import torch

from scatsimclr.data.augment import AugmentSpec, center_view
from scatsimclr.errors import UserError
from scatsimclr.evaluation import recommendation
from scatsimclr.evaluation.features import batch_features
from scatsimclr.evaluation.recommendation import Recommendation, simplest_of_the_best, without_labels
from scatsimclr.models.scatsimclr import ScatSimCLR

CPU = torch.device("cpu")
SPEC = AugmentSpec((16, 16))


def unlabelled(joint=True):
    torch.manual_seed(0)
    model = ScatSimCLR(1, 2, (16, 16, 3), 8, 8).eval()
    images = torch.randint(0, 256, (20, 16, 16, 3), generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    return model, images, without_labels(model, images, SPEC, model._scatnet, joint=joint)


def test_ties_within_noise_go_to_the_simpler():
    simple = torch.randn(200, generator=torch.Generator().manual_seed(0)) - 1
    noise = torch.randn(200, generator=torch.Generator().manual_seed(1))
    noise -= noise.mean()
    error = noise.std(correction=0) / 200**0.5
    for factor, expected in ((1.9, "simple"), (2.1, "other"), (-5.0, "simple")):
        assert simplest_of_the_best({"simple": simple, "other": simple + noise + factor * error}) == expected
    assert simplest_of_the_best({"simple": torch.empty(0), "other": torch.empty(0)}) is None


def test_without_labels_it_is_both_by_rule(monkeypatch):
    model, images, found = unlabelled()
    assert found.features == "both"
    x = center_view(images, SPEC)
    with torch.no_grad():
        features = found.standard("both")(batch_features(model, x, "both", None, model._scatnet))
    share = features.var(0, correction=0)
    assert share[: model.h_dim].sum() == pytest.approx(0.5, rel=1e-3)
    assert share[model.h_dim :].sum() == pytest.approx(0.5, rel=1e-3)
    assert unlabelled(joint=False)[2].features == "h"
    monkeypatch.setattr(recommendation, "LARGEST", 100)
    assert unlabelled()[2].features == "both_pooled"


def test_it_survives_the_disk_and_is_found_from_a_checkpoint(tmp_path):
    assert Recommendation.load(tmp_path, CPU) is None
    assert Recommendation.load(tmp_path / "absent" / "model.pth", CPU) is None
    found = unlabelled()[2]
    found.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.safetensors", "recommendation.json"]
    for path in (tmp_path, tmp_path / "checkpoints" / "last.pt"):
        again = Recommendation.load(path, CPU)
        assert (again.features, again.reason) == (found.features, found.reason)
        assert torch.equal(again.standard("both").scale, found.standard("both").scale)
    with pytest.raises(UserError, match="no statistics of z"):
        found.standard("z")


@pytest.mark.parametrize("text", ["{", '{"features": "h"}', '{"features": "huh", "reason": ""}', "[]"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, text):
    unlabelled()[2].save(tmp_path)
    (tmp_path / "recommendation.json").write_text(text)
    with pytest.raises(UserError, match=r"recommendation\.json"):
        Recommendation.load(tmp_path, CPU)
