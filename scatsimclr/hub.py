"""Encoders on the Hugging Face Hub, by huggingface_hub's own mixin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scatsimclr.encoder import Encoder
from scatsimclr.errors import UserError
from scatsimclr.extras import require

require("the Hugging Face Hub", "hub", "huggingface_hub")

from huggingface_hub import ModelHubMixin, snapshot_download

FILES = ["*.json", "*.safetensors"]


class HubEncoder(
    ModelHubMixin,
    library_name="scatsimclr",
    pipeline_tag="image-feature-extraction",
    tags=["scattering", "contrastive-learning"],
):
    """What the mixin saves and loads: an encoder."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder

    def _save_pretrained(self, save_directory: Path) -> None:
        self.encoder.save_pretrained(save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> HubEncoder:
        kept = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        folder = model_id
        if not Path(model_id).is_dir():
            chosen = {name: options[name] for name in kept if options.get(name) is not None}
            folder = snapshot_download(model_id, allow_patterns=FILES, **chosen)
        return cls(Encoder.load(folder, changes=("fused=true",)))


def from_hub(name: str, **options: Any) -> Encoder:
    """See `Encoder.from_pretrained`.

    Raises:
        UserError: There is neither such a folder nor such a repository, or it holds no encoder.
    """
    try:
        loaded: HubEncoder = HubEncoder.from_pretrained(name, **options)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # the network's, the Hub's, and of names that are none
        raise UserError(
            f"{name} is no folder, and the Hub does not give it: {type(error).__name__}: {error}"
        ) from None
    return loaded.encoder


def push(encoder: Encoder, name: str, **options: Any) -> str:
    """See `Encoder.push_to_hub`."""
    return str(HubEncoder(encoder).push_to_hub(name, **options))
