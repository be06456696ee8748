"""Encoders on the Hub, through huggingface_hub's own mixin and with its network calls led to a folder."""

import shutil
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import hub_mixin

import scatsimclr
from scatsimclr import Encoder, hub
from scatsimclr.errors import UserError
from tests.test_api import small
from tests.training.conftest import write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 12)


@pytest.fixture(scope="module")
def encoder(images, tmp_path_factory):
    return scatsimclr.fit(images, run_dir=tmp_path_factory.mktemp("hub") / "run", **small(epochs=1)).encoder


def test_a_folder_is_saved_and_loaded(encoder, images, tmp_path):
    hub.HubEncoder(encoder).save_pretrained(tmp_path / "mine")
    for loaded in (Encoder.from_pretrained(tmp_path / "mine"), hub.from_hub(str(tmp_path / "mine"))):
        np.testing.assert_array_equal(loaded.embed(images), encoder.embed(images))
        np.testing.assert_array_equal(loaded.predict(images), encoder.predict(images))
        assert loaded.features == encoder.features
    assert "library_name: scatsimclr" in (tmp_path / "mine" / "README.md").read_text()


def test_what_is_pushed_comes_back(encoder, images, tmp_path, monkeypatch):
    remote = tmp_path / "remote"

    def upload(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, remote / repo_id)
        return f"commit of {repo_id}"

    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "create_repo",
        lambda self, repo_id, **options: SimpleNamespace(repo_id=repo_id),
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    assert encoder.push_to_hub("me/mine", private=True) == "commit of me/mine"
    assert {path.name for path in (remote / "me" / "mine").iterdir()} == {
        "README.md", "classifier.json", "classifier.safetensors", "config.json", "features.safetensors",
        "model.safetensors", "recommendation.json",
    }  # fmt: skip

    asked = {}
    monkeypatch.setattr(
        hub_mixin, "hf_hub_download", lambda repo_id, filename, **options: str(remote / repo_id / filename)
    )
    monkeypatch.setattr(
        hub, "snapshot_download", lambda name, **options: asked.update(options) or str(remote / name)
    )
    loaded = Encoder.from_pretrained("me/mine", revision="v2")
    np.testing.assert_array_equal(loaded.embed(images), encoder.embed(images))
    assert asked["revision"] == "v2"
    assert asked["allow_patterns"] == ["*.json", "*.safetensors"]


def test_what_is_not_there_is_one_line(monkeypatch):
    def absent(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(hub_mixin, "hf_hub_download", absent)
    with pytest.raises(
        UserError, match="me/none is no folder, and the Hub does not give it: OSError: no network"
    ):
        Encoder.from_pretrained("me/none")
