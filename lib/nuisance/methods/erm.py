"""Empirical risk minimisation: cross-entropy, and nothing done about the bias.

The baseline of chapter `sec-learning-not-to-learn`, and with ``gray=True`` its Gray row: the same net on
the same pictures without their hues.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nuisance.data.colored_mnist import Paint, paint, to_gray
from nuisance.data.images import Images
from nuisance.models.colored_mnist import FeatureNet, LabelNet
from nuisance.training import Method

State = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a net is trained; the same for every method that is compared.

    Attributes
    ----------
    epochs, steps_per_epoch : length of training.
    optimizer : ``"sgd"`` with momentum 0.9 and weight decay 5e-4, as published, or ``"adam"``.
    learning_rate, bias_learning_rate : of f and g, and of the bias net h.
    bias_momentum : SGD's momentum, or Adam's beta_1, of h; that of f and g is 0.9. A net that chases a moving
        opponent is better off with a short memory.
    decay_every : epochs after which the rates are divided by ten, again and again; 0 for never.
    gradient_clip : largest norm of a step's gradient, for (f, g) and for h; 0 for none.
    weight_average : decay a step of the running mean of the weights of f and g that `predict` uses; 0 to
        use the last weights. The iterates of a game circle, their mean is calmer.
    """

    epochs: int
    steps_per_epoch: int
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    bias_learning_rate: float
    bias_momentum: float = 0.9
    decay_every: int = 0
    gradient_clip: float = 0.0
    weight_average: float = 0.0

    def make_optimizer(
        self, module: nn.Module, learning_rate: float, momentum: float = 0.9
    ) -> torch.optim.Optimizer:
        """The optimiser of one player."""
        weights = module.parameters()
        if self.optimizer == "adam":
            return torch.optim.Adam(weights, learning_rate, betas=(momentum, 0.999), fused=True)
        return torch.optim.SGD(weights, learning_rate, momentum=momentum, weight_decay=5e-4, fused=True)


class Classifier(Method):
    """f and g, trained by cross-entropy.

    Parameters
    ----------
    width : channels of f.
    schedule : how it is trained.
    painting : how the batch's digits are painted, see `nuisance.data.colored_mnist.paint`.
    gray : whether f sees the luminance alone.
    """

    def __init__(self, *, width: int, schedule: Schedule, painting: Paint, gray: bool = False) -> None:
        super().__init__()
        self.schedule, self.painting, self.gray = schedule, painting, gray
        self.net = nn.ModuleDict({"features": FeatureNet(width), "labels": LabelNet(width)})
        self.average: AveragedModel | None = None
        self.optimizers = {"net": schedule.make_optimizer(self.net, schedule.learning_rate)}
        if schedule.weight_average:
            average = get_ema_multi_avg_fn(schedule.weight_average)
            self.average = AveragedModel(self.net, multi_avg_fn=average, use_buffers=True)
        self.to(memory_format=torch.channels_last)

    def extract(self, pixels: Tensor) -> Tensor:
        """f: bytes ``[b, 3, h, w]`` -> features ``[b, width, h/2, w/2]``."""
        return self._used()["features"](self._scale(pixels))

    def extract_last(self, pixels: Tensor) -> Tensor:
        """As `extract`, by the last weights instead of their running mean: the f that h played against."""
        return self.net["features"](self._scale(pixels))

    def predict(self, pixels: Tensor) -> Tensor:
        """g(f(x)): bytes ``[b, 3, h, w]`` -> logits ``[b, 10]``."""
        return self._used()["labels"](self.extract(pixels))

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step of cross-entropy."""
        pixels = paint(batch, self.painting)
        logits = self.net["labels"](self.net["features"](self._scale(pixels)))
        loss = F.cross_entropy(logits, batch.labels)
        self.optimizers["net"].zero_grad()
        loss.backward()
        self._step("net", self.net)
        self._count_step()
        return {"class_loss": loss}

    def end_epoch(self, epoch: int) -> None:
        """Divide the learning rates by ten where the schedule says so."""
        every = self.schedule.decay_every
        if every and (epoch + 1) % every == 0:
            for optimizer in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] /= 10

    def net_state(self) -> State:
        """The weights that `predict` uses, to start another method from."""
        return {name: dict(part.state_dict()) for name, part in self._used().items()}

    def load_net_state(self, state: State) -> None:
        """Start from the weights of another method's `net_state`."""
        for name, part in self.net.items():
            part.load_state_dict(state[name])

    def _used(self) -> nn.ModuleDict:
        if self.average is not None and not self.training:
            return self.average.module  # type: ignore[return-value]
        return self.net

    def _scale(self, pixels: Tensor) -> Tensor:
        # To [0, 1] only: the batch norm that f begins with makes any further affine map idle.
        images = pixels.to(torch.float32, memory_format=torch.channels_last).div_(255)
        return to_gray(images) if self.gray else images

    def _step(self, name: str, module: nn.Module) -> None:
        if self.schedule.gradient_clip:
            nn.utils.clip_grad_norm_(module.parameters(), self.schedule.gradient_clip)
        self.optimizers[name].step()

    def _count_step(self) -> None:
        self.steps_done += 1
        if self.average is not None:
            self.average.update_parameters(self.net)
