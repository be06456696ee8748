"""Training on a folder of one's own images, and their features. Here the folder is made of scikit-learn's digits.

python examples/own_folder.py
"""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import scatsimclr

folder = Path("my/images")
for index, digit in enumerate(load_digits().images[:200]):
    path = folder / f"{index:03}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (digit * (255 / 16)).astype(np.uint8)
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR).save(path)

# Labels are not needed. A real run takes minutes=15 or more, and a larger network.
run = scatsimclr.fit(folder, epochs=1, model={"L": 4}, batch_size=50, verbose=False, report=False)
features = run.encoder.embed(folder)
print(f"{run.encoder} gives {features.shape[1]:,} features for each of {len(features)} images")

# Later, or in another program: the images most like one file, by cosine.
new = scatsimclr.load(run.folder).embed(folder / "007.png")[0]
similarity = features @ new / np.linalg.norm(features, axis=1)
nearest = similarity.argsort()[::-1][:4]
print("nearest to 007.png:", ", ".join(f"{index:03}.png" for index in nearest))
