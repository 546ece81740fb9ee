"""Losses and layers of the five studies, as pure functions of tensors."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nuisance.errors import ParameterError

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


def group_means(losses: Tensor, groups: Tensor, count: int) -> Tensor:
    """Mean loss of every group.

    Parameters
    ----------
    losses : floats ``[b]``.
    groups : int64 ``[b]``, from 0 to ``count - 1``.
    count : number of groups.

    Returns
    -------
    Floats ``[count]``, 0 for a group that is not in the batch. Nothing waits for the device, as ``bincount`` would,
    whose result's length depends on the numbers.
    """
    sums = losses.new_zeros(count).index_add(0, groups, losses)
    sizes = losses.new_zeros(count).index_add(0, groups, torch.ones_like(losses))
    return sums / sizes.clamp(min=1)


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
    means = group_means(losses, groups, len(q))
    q = dro_weights(q, means, step=step, adjustment=adjustment)
    return q @ means, q


def effective_number_weights(counts: Tensor, *, beta: float) -> Tensor:
    """Weights of the classes, in proportion to (1 - beta) / (1 - beta^n), scaled to sum to the number of classes.

    Cui et al. (2019, arXiv 1901.05555): the inverse of a class's effective number of images. beta = 0 weighs all
    classes alike; towards 1 the weights go to 1 / n.

    Parameters
    ----------
    counts : images in each class, n, ``[classes]``.
    beta : from 0 to below 1; 0.9999 is the usual value.

    Returns
    -------
    Floats ``[classes]``.

    Raises
    ------
    ParameterError
        If a class has no image, or beta is outside its range.
    """
    _require_counts(counts)
    if not 0 <= beta < 1:
        raise ParameterError(f"beta is {beta:g} but must be at least 0 and below 1.")
    weights = (1 - beta) / (1 - beta ** counts.double())  # in float32, 1 - 0.9999 has three digits
    return (weights * len(weights) / weights.sum()).float()


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float, weights: Tensor | None = None) -> Tensor:
    """The mean of -(1 - p)^gamma log p, p the probability of the image's own class (Lin et al. 2017).

    gamma = 0 is cross-entropy, with weights too: their mean is the weighted one, sum(w l) / sum(w), as
    ``F.cross_entropy`` takes it, so that weights act alike in every loss of the book. The code released with LDAM
    (kaidic/LDAM-DRW) divides by the number of images instead, and takes p from the weighted cross-entropy, so that
    p^w stands where p should.

    Parameters
    ----------
    logits, labels : floats ``[b, classes]`` and int64 ``[b]``.
    gamma : 0 or more; how fast images that are already right lose their say.
    weights : of the classes, ``[classes]``; None for equal ones.
    """
    log_p = F.log_softmax(logits, 1).gather(1, labels[:, None]).squeeze(1)
    # the slope of x^gamma at 0 is infinite for gamma < 1, and infinity times a loss of 0 NaN
    away = (-log_p.expm1()).clamp(min=torch.finfo(log_p.dtype).tiny)
    losses = -(away**gamma) * log_p
    if weights is None:
        return losses.mean()
    return (weights[labels] * losses).sum() / weights[labels].sum()


def ldam_margins(counts: Tensor, *, largest: float = 0.5) -> Tensor:
    """The margin of every class, in proportion to n^(-1/4), the smallest class's being ``largest``.

    Cao et al. (2019, arXiv 1906.07413): of two classes' margins with a given sum, these bound the balanced error best.

    Parameters
    ----------
    counts : images in each class, n, ``[classes]``.
    largest : in units of the cosine.

    Returns
    -------
    Floats ``[classes]``.

    Raises
    ------
    ParameterError
        If a class has no image.
    """
    _require_counts(counts)
    return (largest * (counts.min() / counts.double()) ** 0.25).float()


def ldam_loss(
    cosines: Tensor, labels: Tensor, *, margins: Tensor, scale: float = 30.0, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of cosines of which the own class's is lowered by its margin (Cao et al. 2019).

    Parameters
    ----------
    cosines : what `nuisance.models.heads.CosineHead` gives, ``[b, classes]``.
    labels : int64 ``[b]``.
    margins : of the classes, ``[classes]``, see `ldam_margins`.
    scale : what the cosines are multiplied by; between -1 and 1 they could not tell many classes apart.
    weights : of the classes, ``[classes]``; the mean is then the weighted one, as in the released code.
    """
    own = F.one_hot(labels, cosines.shape[1])
    return F.cross_entropy(scale * (cosines - margins * own), labels, weight=weights)


def _require_counts(counts: Tensor) -> None:
    if counts.ndim != 1 or not len(counts) or (counts < 1).any():
        raise ParameterError(
            f"The classes have {counts.tolist()} images but must be a row with one image or more each."
        )
