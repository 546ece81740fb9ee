"""Learning Not to Learn: minimise the mutual information between features and bias.

Kim, Kim, Kim, Kim, Kim (CVPR 2019, arXiv 1812.10352), eqs. 4-9; the ramp is eq. 10 of the reproduction
that this book follows. Chapter: `sec-learning-not-to-learn`. With q = h(f(x)) and L_B the
cross-entropy of h on the bins b of the colour,

    f, g  minimise  CE(y, g(f(x)))  +  lambda E[ sum_b q log q ]  -  mu r(gamma) L_B
    h     minimises L_B

where r is 1, or the ramp. The paper's strengths are lambda = 0.01 and mu = 0.1, L_B summed over the
three channels.

The authors' released code differs from the text: two forward passes and two steps a batch, one for cross-entropy and
entropy, one for the game. `UnlearnBiasTwoPass` is that order; it also steps the optimiser of f and g
twice, so that its momentum and its weight decay act twice.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from nuisance.data.colored_mnist import Paint, color_bins, paint
from nuisance.data.images import Images
from nuisance.losses import (
    bias_cross_entropy,
    gradient_reversal,
    negative_conditional_entropy,
    reversal_ramp,
)
from nuisance.methods.bias_game import BiasGame, watch_bias
from nuisance.methods.erm import Schedule

Ramp = Literal["none", "epoch", "progress"]


class UnlearnBias(BiasGame):
    """The simultaneous update of the paper's text.

    Parameters
    ----------
    entropy_weight : lambda.
    reversal_strength : mu.
    ramp : gamma of the ramp r: ``"epoch"``, the epochs that are done, with fractions (the reproduction);
        ``"progress"``, ten times the fraction of training that is done (Ganin & Lempitsky); ``"none"``, r = 1.
    """

    def __init__(
        self,
        *,
        width: int,
        schedule: Schedule,
        painting: Paint,
        entropy_weight: float,
        reversal_strength: float,
        ramp: Ramp,
    ) -> None:
        super().__init__(width=width, schedule=schedule, painting=painting)
        self.entropy_weight, self.reversal_strength, self.ramp = entropy_weight, reversal_strength, ramp

    def strength(self) -> float:
        """mu r(gamma) at this step."""
        if self.ramp == "none":
            return self.reversal_strength
        epochs = self.steps_done / self.schedule.steps_per_epoch
        gamma = epochs if self.ramp == "epoch" else 10 * epochs / self.schedule.epochs
        return self.reversal_strength * reversal_ramp(gamma)

    def encoder_term(self, log_q: Tensor, bias_loss: Tensor) -> Tensor:
        """lambda E[sum q log q] - mu r L_B."""
        return self.entropy_weight * negative_conditional_entropy(log_q) - self.strength() * bias_loss


class UnlearnBiasTwoPass(UnlearnBias):
    """The order of the authors' released code: two forward passes and two steps a batch."""

    def update(self, batch: Images) -> dict[str, Tensor]:
        """First cross-entropy and entropy move f and g; then, passed anew, L_B moves h, and f the other way."""
        images = self._scale(pixels := paint(batch, self.painting))
        bins = color_bins(pixels)
        net, bias = self.optimizers["net"], self.optimizers["bias"]

        features = self.net["features"](images)
        class_loss = F.cross_entropy(self.net["labels"](features), batch.labels)
        entropy_term = negative_conditional_entropy(F.log_softmax(self.bias(features), dim=1))
        net.zero_grad()
        (class_loss + self.entropy_weight * entropy_term).backward()
        self._step("net", self.net)

        # Zeros, not None: g has no gradient in this pass, yet the released optimiser moves it by its momentum.
        net.zero_grad(set_to_none=False)
        bias.zero_grad()
        reversed_features = gradient_reversal(self.net["features"](images), self.strength())
        log_q = F.log_softmax(self.bias(reversed_features), dim=1)
        bias_loss = bias_cross_entropy(log_q, bins)
        bias_loss.backward()
        self._step("net", self.net)
        self._step("bias", self.bias)
        self._count_step()
        return {"class_loss": class_loss, **watch_bias(log_q, bias_loss, bins)}
