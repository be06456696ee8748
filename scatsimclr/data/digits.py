"""scikit-learn's digits: 1,797 handwritten digits of 8×8 pixels, which need no download."""

from __future__ import annotations

import numpy as np
import torch

from scatsimclr.data.decode import pack
from scatsimclr.data.imageset import ImageSet, Request
from scatsimclr.data.splitting import stratified_split

CLASSES = tuple("0123456789")


def read(request: Request) -> ImageSet:
    """Reads the split train (80 %, also pretrain) or test (20 %) of `sklearn.datasets.load_digits`.

    Grey values 0..16 become 0..255. The split is `stratified_split` over the images' positions.
    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (test part), UCI, 1998.
    """
    from sklearn.datasets import load_digits  # a second of import that other data sets do not need

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    train, test = stratified_split(labels.tolist(), [str(i) for i in range(len(labels))])
    index = test if request.split == "test" else train
    grey = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
    images = pack([grey[..., None]], len(grey), request.size, request.channels, request.progress)
    return ImageSet(images, torch.from_numpy(labels[index]), CLASSES)
