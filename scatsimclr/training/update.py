"""One update of the weights: a batch's losses, their gradients, the optimizer.

On CUDA a whole update can be recorded once and replayed as a CUDA graph, see scatsimclr.training.graphs.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.config import Config
from scatsimclr.data.loader import Batch
from scatsimclr.loss import NTXentLoss
from scatsimclr.training.graphs import GraphedUpdate
from scatsimclr.training.profile import Parts


@dataclass(frozen=True)
class Losses:
    """One batch's figures, still on the device. total: what is minimised, contrastive + λ · pretext."""

    total: Tensor
    parts: dict[str, Tensor]  # with a pretext task: contrastive_loss, pretext_loss, pretext_accuracy


class Update:
    """The encoder and the pretext head with their loss, precision and optimizer.

    Nothing here waits for the device: figures stay there until somebody reads them.
    """

    def __init__(self, config: Config, model: nn.Module, head: nn.Module | None, device: torch.device):
        self.config, self.model, self.head, self.device = config, model, head, device
        self.criterion = NTXentLoss(
            temperature=config.loss.temperature,
            use_cosine_similarity=config.loss.use_cosine_similarity,
            backend="auto" if config.fused else "reference",
        )
        self.amp = config.resolved_amp(device.type)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        graphs = config.resolved_graphs(device.type)
        self.optimizer = torch.optim.Adam(
            [parameter for parameter in self.modules().parameters() if parameter.requires_grad],
            # A recorded update reads the rate from the device: a number would be recorded as it is.
            torch.tensor(config.lr, device=device) if graphs else config.lr,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=graphs,
        )
        self.attempts = 0
        self.part = Parts(device)
        self._graphed = GraphedUpdate(self._eager) if graphs else None

    def modules(self) -> nn.ModuleList:
        """Everything that is trained."""
        return nn.ModuleList([self.model] if self.head is None else [self.model, self.head])

    @property
    def rate(self) -> float:
        """The learning rate; setting it does not wait for the device."""
        return float(self.optimizer.param_groups[0]["lr"])

    @rate.setter
    def rate(self, value: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value

    @property
    def skipped(self) -> int:
        """Updates that were left out because float16 gradients overflowed: Adam did not count them."""
        state = next(iter(self.optimizer.state.values()), None)
        return self.attempts - int(state["step"]) if state else self.attempts

    def __call__(self, batch: Batch, *, share: float = 1.0, last: bool = True) -> Losses:
        """Adds the gradients of share · loss; with `last` the weights change by all since they last did."""
        self.attempts += last
        if self._graphed is not None:
            with self.part("recorded step"):
                return self._graphed(batch)
        return self._eager(batch, share, last)

    def _eager(self, batch: Batch, share: float = 1.0, last: bool = True) -> Losses:
        losses = self.losses(batch)
        with self.part("backward"):
            self.scaler.scale(losses.total * share).backward()
        if last:
            with self.part("optimizer"):
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
        return losses

    def losses(self, batch: Batch) -> Losses:
        """The figures of a batch, with the pretext task's where the batch has its pictures."""
        contrastive = self.contrastive(batch)
        if batch.pretext is None:
            return Losses(contrastive, {})
        pictures, labels = batch.pretext
        with self._autocast():
            h = self._encode(pictures)
            with self.part("loss"):
                logits = self.head(h)
        pretext = F.cross_entropy(logits.float(), labels)
        parts = {
            "contrastive_loss": contrastive.detach(),
            "pretext_loss": pretext.detach(),
            "pretext_accuracy": (logits.argmax(1) == labels).double().mean(),
        }
        return Losses(contrastive + self.config.pretext.lambda_ * pretext, parts)

    def contrastive(self, batch: Batch) -> Tensor:
        """NT-Xent of the two views."""
        together = self.config.views == "concatenated"
        with self._autocast():
            h = [self._encode(x) for x in ([torch.cat(batch.views)] if together else batch.views)]
            with self.part("loss"):
                z_i, z_j = self.model.project(h[0]).chunk(2) if together else map(self.model.project, h)
        with self.part("loss"):
            return self.criterion(z_i.float(), z_j.float())

    def _encode(self, x: Tensor) -> Tensor:
        if not self.config.model.scattering:
            with self.part("network"):
                return self.model.encode(x)
        with self.part("scattering"):
            coefficients = self.model.scatter(x)
        with self.part("adapter"):
            return self.model.adapt(coefficients)

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, self.amp) if self.amp else contextlib.nullcontext()

    def state_dict(self) -> dict:
        """Of optimizer and loss scaling, for a checkpoint."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "attempts": self.attempts,
        }

    def load_state_dict(self, state: dict) -> None:
        kept = [{name: group[name] for name in ("lr", "capturable")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        # Whether updates are recorded is this run's affair; the rate is set anew in every epoch.
        for group, own in zip(self.optimizer.param_groups, kept, strict=True):
            group.update(own)
        self.scaler.load_state_dict(state["scaler"])
        self.attempts = state["attempts"]
