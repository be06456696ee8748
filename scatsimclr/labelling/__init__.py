"""Labels for all images from labels for some: `label`, and `suggest`, which images to label next."""

from scatsimclr.labelling.classifier import Labelling, Space, label

__all__ = ["Labelling", "Space", "label"]
