"""The exact NT-Xent loss in a plain training loop, with a network of one's own.

python examples/own_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

from scatsimclr.loss import NTXentLoss


def augment(images):
    """Blanks a quarter of the pixels, other ones in every image, and adds noise."""
    return images * (torch.rand_like(images) > 0.25) + 0.1 * torch.randn_like(images)


def share_of_twins_found(first, second):
    """How often a view is, by cosine, nearest to the other view of its image, among those of all images."""
    similarity = nn.functional.normalize(first) @ nn.functional.normalize(second).T
    return (similarity.argmax(1) == torch.arange(len(first))).float().mean().item()


torch.manual_seed(0)
images = torch.from_numpy(load_digits().images).float()[:, None] / 16  # (1797, 1, 8, 8) in [0, 1]

network = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Flatten(),
)
head = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 64))
criterion = NTXentLoss(temperature=0.2)  # any batch size, also another one in every step
optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=3e-3)

for epoch in range(8):
    total, steps = 0.0, 0
    for batch in torch.randperm(len(images)).split(256):
        z_i, z_j = (head(network(augment(images[batch]))) for _ in range(2))
        loss = criterion(z_i, z_j)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total, steps = total + loss.item(), steps + 1
    with torch.no_grad():
        found = share_of_twins_found(*(head(network(augment(images))) for _ in range(2)))
    print(f"epoch {epoch}: loss {total / steps:.3f}, {100 * found:.1f} % of the views find their twin")
