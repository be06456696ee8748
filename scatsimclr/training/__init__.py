"""The training loop, its checkpoints and its metrics."""

from scatsimclr.extras import require

require(__name__, "train", "filelock", "pydantic", "tensorboard", "tqdm")
