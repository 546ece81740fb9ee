"""The game between an encoder and a bias net, which unlearning and BlindEye share.

h descends its own loss; f and g descend cross-entropy plus a term that is better for them the less
h can tell. The two differ in that term alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nuisance.data.colored_mnist import Paint, color_bins, paint
from nuisance.data.images import Images
from nuisance.losses import IGNORED, bias_cross_entropy, negative_conditional_entropy
from nuisance.methods.erm import Classifier, Schedule
from nuisance.models.colored_mnist import BiasNet


class BiasGame(Classifier):
    """f and g against h; a subclass says by `encoder_term` what f gains."""

    def __init__(self, *, width: int, schedule: Schedule, painting: Paint) -> None:
        super().__init__(width=width, schedule=schedule, painting=painting)
        self.bias = BiasNet(width).to(memory_format=torch.channels_last)
        self.optimizers["bias"] = schedule.make_optimizer(
            self.bias, schedule.bias_learning_rate, schedule.bias_momentum
        )

    def encoder_term(self, log_q: Tensor, bias_loss: Tensor) -> Tensor:
        """What f minimises beside cross-entropy, from h's log-probabilities and its loss; h is held fixed."""
        raise NotImplementedError

    def update(self, batch: Images) -> dict[str, Tensor]:
        """The simultaneous update of the paper's text: one forward pass, then each player its own gradient.

        The gradient of h's loss that reaches f is the one that a gradient-reversal layer would hand on. It
        is taken apart from h's own because the entropy term, too, passes through h but must not move it.
        """
        pixels = paint(batch, self.painting)
        features = self.net["features"](self._scale(pixels))
        log_q = F.log_softmax(self.bias(features), dim=1)
        class_loss = F.cross_entropy(self.net["labels"](features), batch.labels)
        bins = color_bins(pixels)
        bias_loss = bias_cross_entropy(log_q, bins)
        encoder_loss = class_loss + self.encoder_term(log_q, bias_loss)
        bias_weights, net_weights = list(self.bias.parameters()), list(self.net.parameters())
        bias_gradients = torch.autograd.grad(bias_loss, bias_weights, retain_graph=True)
        self.optimizers["net"].zero_grad()
        encoder_loss.backward(inputs=net_weights)
        for weight, gradient in zip(bias_weights, bias_gradients, strict=True):
            weight.grad = gradient
        self._step("net", self.net)
        self._step("bias", self.bias)
        self._count_step()
        return {"class_loss": class_loss, **watch_bias(log_q, bias_loss, bins)}


def watch_bias(log_q: Tensor, bias_loss: Tensor, bins: Tensor) -> dict[str, Tensor]:
    """h's accuracy where there is a colour, its mean entropy (nats), and its cross-entropy a channel (nats)."""
    with torch.no_grad():
        counted = bins != IGNORED
        # argmax over a strided place costs a tenth of a step; the largest logarithm is the label's own
        # exactly where the answer is right.
        chosen = log_q.gather(1, bins.where(counted, 0).unsqueeze(1)).squeeze(1)
        right = (chosen == log_q.amax(1)) & counted
        return {
            "bias_accuracy": right.sum() / counted.sum().clamp(min=1),
            "bias_entropy": -negative_conditional_entropy(log_q),
            "bias_loss": bias_loss / bins.shape[1],
        }
