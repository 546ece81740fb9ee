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


def group_means(losses: Tensor, groups: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean loss of every group, and which groups are in the batch.

    Parameters
    ----------
    losses : floats ``[b]``.
    groups : int64 ``[b]``, from 0 to ``count - 1``.
    count : number of groups.

    Returns
    -------
    Floats ``[count]``, 0 for a group that is not in the batch, and bool ``[count]``. Nothing waits for the device, as
    ``bincount`` would, whose result's length depends on the numbers.
    """
    sums = losses.new_zeros(count).index_add(0, groups, losses)
    sizes = losses.new_zeros(count).index_add(0, groups, torch.ones_like(losses))
    return sums / sizes.clamp(min=1), sizes > 0


def dro_weights(q: Tensor, means: Tensor, *, step: float, adjustment: Tensor | None = None) -> Tensor:
    """One step up of group DRO's weights: q_g exp(step * (L_g + adjustment_g)), scaled to sum to 1, detached.

    Sagawa et al. (2020), algorithm 1; the adjustment is theirs, too. Computed from logarithms, since the exponential
    of a large loss is infinite and infinity over infinity NaN.

    Parameters
    ----------
    q : weights ``[count]``, which sum to 1.
    means : mean losses ``[count]``.
    step : the weights' learning rate.
    adjustment : ``[count]``, C / sqrt(n_g) with n_g training images in group g; None for none.
    """
    means = means.detach()
    if adjustment is not None:
        # Out of place. The released code (kohpangwei/group_DRO, loss.py) adds it to the losses themselves, so that
        # the loss that it returns and the group losses that it logs contain the adjustment; gradients do not change.
        means = means + adjustment
    return torch.softmax(q.log() + step * means, 0)


def group_dro(
    losses: Tensor, groups: Tensor, q: Tensor, *, step: float, adjustment: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Group DRO's loss on a batch, sum_g q_g L_g, and the weights q in it, already updated by `dro_weights`.

    Sagawa et al. (2020), algorithm 1, as released: there, too, a group that is not in the batch has the loss 0. Its
    weight then changes only by the adjustment and by scaling. One difference: the released code adjusts no
    group unless all adjustments are positive, here what is given is added.

    Parameters
    ----------
    losses, groups : floats and int64 ``[b]``.
    q, step, adjustment : as `dro_weights`.

    Returns
    -------
    A scalar, whose gradient leaves q out, and the new q ``[count]``.
    """
    means, _ = group_means(losses, groups, len(q))
    q = dro_weights(q, means, step=step, adjustment=adjustment)
    return q @ means, q
