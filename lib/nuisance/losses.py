"""Losses and layers of the five studies, as pure functions of tensors."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255
"""Label of a position that has no bias to predict: background, or a channel at exactly zero."""


class _GradientReversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grad_outputs[0], None


def gradient_reversal(x: Tensor, strength: float) -> Tensor:
    """The identity, whose gradient is multiplied by ``-strength`` (Ganin & Lempitsky 2015).

    Put between an encoder and its adversary: the adversary descends its loss, the encoder climbs it.
    """
    return _GradientReversal.apply(x, strength)


def reversal_ramp(gamma: float) -> float:
    """2 / (1 + exp(-gamma)) - 1, which rises from 0 to 1; equal to tanh(gamma / 2).

    In the reproduction of Learning Not to Learn (its eq. 10) gamma is the epoch's number; in
    Ganin & Lempitsky (2015) it is ten times the fraction of training that is done.
    """
    return math.tanh(gamma / 2)


def negative_conditional_entropy(log_q: Tensor) -> Tensor:
    """E[ sum_b q(b|f) log q(b|f) ], the part of the mutual information that f can lower.

    Kim et al. (2019), eq. 5: I(b; f) = H(b) - H(b|f) with the posterior replaced by the bias net's
    prediction q. In nats: 0 when every prediction is certain, -log(bins) when every one is uniform.

    Parameters
    ----------
    log_q : log-probabilities ``[b, bins, ...]``; the mean is over all other places. Logarithms, since
        softmax first and log after is NaN where q underflows.
    """
    return (log_q.exp() * log_q).sum(1).mean()


def confusion_loss(log_q: Tensor) -> Tensor:
    """Cross-entropy of the uniform distribution and the prediction (Alvi et al. 2018).

    In nats; smallest, log(bins), when the prediction is uniform everywhere.

    Parameters
    ----------
    log_q : log-probabilities ``[b, bins, ...]``; the mean is over all places.
    """
    return -log_q.mean()


def bias_cross_entropy(log_q: Tensor, bins: Tensor) -> Tensor:
    """The bias net's loss L_B: cross-entropy a channel, summed over the channels, in nats.

    Parameters
    ----------
    log_q : log-probabilities ``[b, bins, channels, h, w]``.
    bins : int64 ``[b, channels, h, w]``; positions labelled ``IGNORED`` do not count. A channel
        without any position that counts adds nothing (the mean of nothing would be NaN).
    """
    losses = F.nll_loss(log_q, bins, ignore_index=IGNORED, reduction="none")
    counts = (bins != IGNORED).sum((0, 2, 3)).clamp(min=1)
    return (losses.sum((0, 2, 3)) / counts).sum()
