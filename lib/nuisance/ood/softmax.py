"""Maximum softmax probability and maximum logit, the baselines of chapter `sec-gradient-ood`.

Sources: Hendrycks & Gimpel 2017 (MSP), https://arxiv.org/abs/1610.02136; Hendrycks et al. 2022
(MaxLogit), https://arxiv.org/abs/1911.11132.
"""

import torch
from torch import Tensor

from nuisance.ood.score import Score, logits_of


def confidence(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Largest softmax probability ``[b]`` of ``logits / temperature``, logits ``[b, classes]``.

    In float64, whatever the logits are: in float32 all images of which a network is surer than
    1 - 6e-8 would be tied at 1, and at a temperature of 1000 all others nearly so.
    """
    exact = logits if logits.device.type == "mps" else logits.double()  # MPS has no float64
    return (exact / temperature).softmax(1).amax(1)


class MSP(Score):
    """Maximum softmax probability: score ``-max_c S_c(x)``."""

    @torch.no_grad()
    def _scores(self, x: Tensor) -> Tensor:
        return -confidence(logits_of(self.model, x))


class MaxLogit(Score):
    """Maximum logit: score ``-max_c h_c(x)``."""

    @torch.no_grad()
    def _scores(self, x: Tensor) -> Tensor:
        return -logits_of(self.model, x).amax(1)
