"""Labels for all images from ten for each class, with the accuracy to expect, and the images to label next.

python examples/few_labels.py
"""

import torch
from sklearn.datasets import load_digits

from scatsimclr import Scattering2D
from scatsimclr.labelling import Space, label, suggest

digits = load_digits()
images = torch.from_numpy(digits.images).float() / 16
images = torch.nn.functional.interpolate(images[:, None], size=(32, 32), mode="bilinear")[:, 0]
truth = torch.from_numpy(digits.target).long()

# Any features will do that are similar for similar images, such as those of a trained encoder.
features = Scattering2D(J=3, shape=(32, 32), L=8)(images).flatten(1)
space = Space(features, seed=0)

labels = torch.full_like(truth, -1)  # -1: no label
shuffled = torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))
for digit in range(10):
    labels[shuffled[truth[shuffled] == digit][:10]] = digit

found = label(space, labels)
unlabelled = labels < 0
right = (found.labels == truth)[unlabelled].float().mean()
low, high = found.interval
print(
    f"{100 * right:.1f} % of {int(unlabelled.sum()):,} labels are right; "
    f"{100 * found.accuracy:.1f} % were expected ({100 * low:.1f} to {100 * high:.1f})"
)
sure = unlabelled & (found.confidence > 0.99)
right = (found.labels == truth)[sure].float().mean()
print(f"{100 * right:.1f} % of the {int(sure.sum()):,} with a confidence above 0.99 are right")

for suggestion in suggest(space, labels, 5, probabilities=found.probabilities):
    print(f"label next: image {suggestion.index} ({suggestion.reason})")
