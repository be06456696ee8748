"""Scattering as fixed features: the drop-in for kymatio, and logistic regression with ten labels per digit.

python examples/scattering_digits.py
"""

import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scatsimclr import Scattering2D  # instead of: from kymatio.torch import Scattering2D

digits = load_digits()
images = torch.from_numpy(digits.images).float() / 16  # (1797, 8, 8) in [0, 1]
images = torch.nn.functional.interpolate(images[:, None], size=(32, 32), mode="bilinear")[:, 0]

scattering = Scattering2D(J=3, shape=(32, 32), L=8)
features = scattering(images).flatten(1).numpy()  # (1797, 217, 4, 4), flattened

for name, x in {"pixels": digits.data, "scattering": features}.items():
    few, rest, few_labels, rest_labels = train_test_split(
        x, digits.target, train_size=100, stratify=digits.target, random_state=0
    )
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    accuracy = classifier.fit(few, few_labels).score(rest, rest_labels)
    print(f"{name:10} {100 * accuracy:.1f} % of {len(rest):,} digits are right, with 10 labels for each")
