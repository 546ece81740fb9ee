"""ODIN: the confidence at a temperature, after one step that raises it.

Source: Liang, Li & Srikant 2018, https://arxiv.org/abs/1706.02690, equations 1-3. Chapter `sec-gradient-ood`.

As in the thesis' code, a gradient of exactly zero counts as positive, the step is divided by the standard
deviation of the network's preprocessing, so that epsilon is in raw pixels between 0 and 1, and the perturbed
image is not clipped. Unlike there, the slope of a saturated softmax does not round to zero, see `loss_slope`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nuisance.errors import ParameterError
from nuisance.ood.score import Score, channel_std, logits_of
from nuisance.ood.softmax import confidence

Std = float | Sequence[float] | Tensor


def perturb(model: nn.Module, x: Tensor, *, epsilon: float, temperature: float, std: Std = 1.0) -> Tensor:
    """``x - epsilon * sign(-grad_x log S_c(x; T)) / std``, c the predicted class: a step towards confidence.

    One forward pass, and one backward pass through the activations alone.
    """
    with gradients(model):
        x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        logits = logits_of(model, x)
        (slope,) = torch.autograd.grad(logits, x, loss_slope(logits.detach(), temperature))
        return stepped(x.detach(), ascends(slope), epsilon, std)


def loss_slope(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """``T * d(-log S_c) / dh`` at logits h ``[b, classes]``, c the largest: S_j at j, and minus their sum at c.

    Scaled by T so that 1/T underflows nowhere, and written as minus the sum of the others because
    ``S_c - 1`` rounds to zero as soon as the network is sure.
    """
    largest = logits.argmax(1, keepdim=True)
    others = (logits / temperature).softmax(1).scatter(1, largest, 0.0)
    return others.scatter(1, largest, -others.sum(1, keepdim=True))


def ascends(slope: Tensor) -> Tensor:
    """Where the loss does not fall with the pixel, as booleans: ``sign(0)`` counts as +1."""
    return slope >= 0


def stepped(x: Tensor, ascending: Tensor, epsilon: float | Tensor, std: Std) -> Tensor:
    """``x`` one step of ``epsilon`` down the loss."""
    step = epsilon / channel_std(std, x)
    return torch.where(ascending, x - step, x + step)


class ODIN(Score):
    """ODIN: score ``-max_c softmax(h(x_p) / T)_c`` at the perturbed input ``x_p``.

    Parameters
    ----------
    model : see `nuisance.ood.score.Score`.
    temperature : T, above 0.
    epsilon : length of the step in raw pixels between 0 and 1, 0 or greater.
    std : what the network's preprocessing divides raw pixels by, one number or one a channel; 1 for a network
        that takes raw pixels.
    """

    def __init__(
        self, model: nn.Module, *, temperature: float = 1000.0, epsilon: float = 0.0, std: Std = 1.0
    ) -> None:
        super().__init__(model)
        check_temperature(temperature)
        check_epsilon(epsilon)
        self.temperature, self.epsilon, self.std = temperature, epsilon, std

    def _scores(self, x: Tensor) -> Tensor:
        if self.epsilon:
            x = perturb(self.model, x, epsilon=self.epsilon, temperature=self.temperature, std=self.std)
        with torch.no_grad():
            return -confidence(logits_of(self.model, x), self.temperature)


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ParameterError(f"temperature is {temperature!r} but must be above 0.")


def check_epsilon(epsilon: float) -> None:
    """Refuse a step that is below 0."""
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ParameterError(f"epsilon is {epsilon!r} but must be 0 or greater.")


@contextmanager
def gradients(model: nn.Module) -> Iterator[None]:
    """Gradients of activations, whatever the caller has switched off; none of weights, which are left as they were."""
    required = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in required:
            weight.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for weight in required:
            weight.requires_grad_(True)
