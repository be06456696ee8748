"""Data sets as resident uint8 arrays, and the augmentation pipelines that read them."""

from scatsimclr.extras import require

require(__name__, "train", "PIL", "pooch", "requests", "tqdm")
