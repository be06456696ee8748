"""One update of the weights: a batch's losses, their gradients, the optimizer.

On CUDA a whole update can be recorded once and replayed as a CUDA graph, see `scatsimclr.training.graphs`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scatsimclr.data.loader import Batch
from scatsimclr.loss import NTXentLoss
from scatsimclr.models.encoder import Encoder
from scatsimclr.models.processes import set_images, share_moments
from scatsimclr.models.resnet import ResNetSimCLR
from scatsimclr.ops.collectives import sum_of_all
from scatsimclr.training.distributed import World
from scatsimclr.training.gradients import GradientSum
from scatsimclr.training.graphs import WARM_UP, GraphedUpdate
from scatsimclr.training.profile import Parts

if (
    TYPE_CHECKING
):  # an update only reads settings: it needs neither their types nor the package that checks them
    from scatsimclr.config import Config


@dataclass(frozen=True)
class Losses:
    """The figures of one batch, still on the device.

    Attributes:
        total: What is minimised, contrastive + λ · pretext.
        parts: With a pretext task, contrastive_loss, pretext_loss and pretext_accuracy.
    """

    total: Tensor
    parts: dict[str, Tensor]


class Update:
    """The encoder and the pretext head with their loss, precision and optimizer.

    Nothing here waits for the device: figures stay there until somebody reads them.

    Args:
        config: The settings of the run.
        model: The encoder, on the device.
        head: The pretext task's head, on the device; None without a task.
        device: Where the weights are.
        world: The processes that share each batch. Gradients are summed over them; moments too, with model.sync_bn.

    Raises:
        UserError: CUDA graphs are required by the settings and cannot be recorded.
    """

    def __init__(
        self,
        config: Config,
        model: Encoder,
        head: nn.Module | None,
        device: torch.device,
        world: World | None = None,
    ):
        self.config, self.model, self.head, self.device = config, model, head, device
        self.world = world or World()
        self.criterion, self.shared_criterion = (
            NTXentLoss(
                temperature=config.loss.temperature,
                use_cosine_similarity=config.loss.use_cosine_similarity,
                gather_distributed=shared,
                gather=config.loss.gather,
                views_dim=0,
                backend="auto" if config.fused else "reference",
            )
            for shared in (False, True)
        )
        self.amp = config.resolved_amp(device.type)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        graphs = config.resolved_graphs(device.type, distributed=bool(self.world.steps))
        self.optimizer = torch.optim.Adam(
            [parameter for parameter in self.modules().parameters() if parameter.requires_grad],
            # A recorded update reads the rate from the device: a number would become part of the recording.
            torch.tensor(config.lr, device=device) if graphs else config.lr,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=graphs,
        )
        self.gradients: GradientSum | None = None
        if self.world.gradients is not None:
            self.gradients = GradientSum(self.modules().parameters(), self.world.gradients)
        share_moments(model, self.world.steps if config.model.sync_bn else "")
        self.attempts = 0
        self.part = Parts(device)
        self._graphed = GraphedUpdate(self._eager) if graphs else None
        # Updates before all further ones are replays: the warm-up, and the one that is recorded.
        self.warm_up = WARM_UP + 1 if graphs else 0

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
        """Updates skipped because float16 gradients overflowed: Adam did not count them."""
        state = next(iter(self.optimizer.state.values()), None)
        return self.attempts - int(state["step"]) if state else self.attempts

    def __call__(self, batch: Batch, *, share: float = 1.0, last: bool = True) -> Losses:
        """Adds the gradients of a batch, and updates the weights.

        Args:
            batch: The batch.
            share: The factor of its loss, where gradients of several batches are accumulated.
            last: Whether the weights are updated now, by all gradients since the last update.

        Returns:
            The batch's figures. Those of a recorded update are overwritten by the next one.
        """
        self.attempts += last
        if self._graphed is not None:
            with self.part("recorded step"):
                return self._graphed(batch)
        return self._eager(batch, share, last)

    def _eager(self, batch: Batch, share: float = 1.0, last: bool = True) -> Losses:
        losses = self.losses(batch)
        with self.part("backward"):
            scaled: Tensor = self.scaler.scale(losses.total * (share / self.world.size))
            if self.gradients is not None and last:
                self.gradients.begin()
            torch.autograd.backward(scaled)
            if self.gradients is not None and last:
                self.gradients.finish()
        if last:
            with self.part("optimizer"):
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad()
        return losses

    def losses(self, batch: Batch) -> Losses:
        """The figures of a batch, with the pretext task's where the batch has its pictures.

        Of a share of a batch, the figures of the whole batch; the gradients of the total, averaged over the processes,
        are those of one process with the whole batch.
        """
        contrastive = self.contrastive(batch)
        if batch.pretext is None:
            return Losses(contrastive, {})
        if self.head is None or self.config.pretext is None:
            raise ValueError("batch.pretext must be None without a pretext task, got pictures")
        pictures, labels = batch.pretext
        share = batch.share
        set_images(self.head, None if share is None else (share.first, share.count, share.total))
        with self._autocast():
            h = self._encode(pictures)
            with self.part("loss"):
                logits = self.head(h)
        pretext, right = F.cross_entropy(_wide(logits), labels), (logits.argmax(1) == labels).double().mean()
        if share is not None:
            weight = share.count / share.total
            pretext, right = sum_of_all(weight * pretext), sum_of_all(weight * right)
        parts = {
            "contrastive_loss": contrastive.detach(),
            "pretext_loss": pretext.detach(),
            "pretext_accuracy": right,
        }
        return Losses(contrastive + self.config.pretext.lambda_ * pretext, parts)

    def contrastive(self, batch: Batch) -> Tensor:
        """NT-Xent of the views, which stay one tensor from the loader to the loss where they are encoded together."""
        together = self.config.views == "concatenated"
        with self._autocast():
            h = [self._encode(x) for x in ([batch.views.flatten(0, 1)] if together else batch.views)]
            with self.part("loss"):
                z = [self.model.project(part) for part in h]
        with self.part("loss"):
            rows = [_wide(part) for part in z]
            criterion = self.criterion if batch.share is None else self.shared_criterion
            loss: Tensor = criterion(torch.unflatten(rows[0], 0, batch.views.shape[:2]) if together else rows)
        return loss

    def _encode(self, x: Tensor) -> Tensor:
        if self.amp is None:  # the views may be of half the precision; nothing else would convert them
            x = x.to(next(self.model.parameters()).dtype)
        if isinstance(self.model, ResNetSimCLR):
            with self.part("network"):
                return self.model.encode(x)
        with self.part("scattering"):
            coefficients = self.model.scatter(x)
        with self.part("adapter"):
            return self.model.adapt(coefficients)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.amp) if self.amp else contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """The state of optimizer and loss scaling, for a checkpoint."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "attempts": self.attempts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a state from `state_dict`.

        Raises:
            ValueError, TypeError, LookupError, AttributeError, RuntimeError: It is not the state of such an update.
        """
        # How weights are updated is up to this run's settings; the rate is set anew in every epoch.
        own = [
            {name: value for name, value in group.items() if name != "params"}
            for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)
        for parameter, moments in self.optimizer.state.items():
            shapes = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            for name, shape in shapes.items():
                if moments[name].shape != shape or moments[name].layout != torch.strided:
                    raise ValueError(
                        f"{name} must have the shape {tuple(shape)}, got {tuple(moments[name].shape)}"
                    )
        scaling = self.scaler.state_dict()  # empty without float16
        self.scaler.load_state_dict(
            {name: type(value)(state["scaler"][name]) for name, value in scaling.items()}
        )
        self.attempts = int(state["attempts"])


def _wide(values: Tensor) -> Tensor:
    """Values in which losses are computed: float32, or float64 as they are."""
    return values if values.dtype == torch.float64 else values.float()
