import numpy as np
import pytest
from PIL import Image

# A small net on small images: seconds for a whole run.
TINY = [
    "dataset.dataset=folder",
    "dataset.input_shape=(16, 16, 3)",
    "dataset.valid_size=0.2",
    "model.L=2",
    "model.out_dim=16",
    "model.base_model=scatsimclr8",
    "batch_size=8",
    "epochs=2",
    "flat_epochs=1",
    "log_every_n_steps=1",
    "eval_every_n_epochs=2",
    "evaluation.labels_per_class=[2]",
    "evaluation.seeds=2",
    "evaluation.probe_epochs=2",
]


def write_images(folder, count, seed=0):
    """Noise with a bright bar: vertical for one class, horizontal for the other."""
    generator = np.random.default_rng(seed)
    for index in range(count):
        for name, axis in (("across", 0), ("down", 1)):
            image = generator.integers(0, 80, (16, 16, 3), dtype=np.uint8)
            position = generator.integers(2, 12)
            np.moveaxis(image, axis, 0)[position : position + 3] += 150
            path = folder / name / f"{index:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 20)
