"""`label` gives all images labels from labels for some; `suggest` says which images to label next."""

from scatsimclr.extras import require

require(__name__, "train", "scipy", "sklearn")


from scatsimclr.labelling.classifier import Labelling, Space, label
from scatsimclr.labelling.suggest import Suggestion, suggest

__all__ = ["Labelling", "Space", "Suggestion", "label", "suggest"]
