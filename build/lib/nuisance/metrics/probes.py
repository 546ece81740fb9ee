"""Fresh probes: how much of an attribute a frozen representation still tells.

The bias net of an adversarial game is a poor witness of its own defeat: near chance, it may have met features that
tell nothing, or it may just be badly trained. A probe that is trained afterwards, on frozen features and
without an adversary, is the fair one; and its held-out cross-entropy bounds the mutual information from
below (Barber & Agakov 2003): I(b; f) >= H(b) - CE.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.losses import IGNORED


@dataclass(frozen=True)
class ProbeResult:
    """What a fresh probe found on held-out data.

    Attributes
    ----------
    accuracy : share of right predictions among those that count.
    bits : lower bound of the mutual information, H(b) - CE in bits, averaged over the channels if the
        labels have channels. Below zero means that the probe does worse than the frequencies alone.
    """

    accuracy: float
    bits: float


def fresh_probe(
    probe: nn.Module,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    generator: torch.Generator,
) -> list[ProbeResult]:
    """Train ``probe`` from its present weights on frozen features by Adam; judge it on held-out ones.

    Parameters
    ----------
    train, held_out : features ``[n, ...]`` and labels, int64 ``[n]`` or ``[n, channels, h, w]``; a label
        ``IGNORED`` does not count. The probe returns logits ``[n, classes]`` or ``[n, classes, channels, h, w]``.

    Returns
    -------
    The judgement after every epoch; the last one is the probe's. Each is a valid lower bound, so a curve that
    still rises says that the bias is better hidden than gone.
    """
    features, labels = train
    optimizer = torch.optim.Adam(probe.parameters(), learning_rate, fused=True)
    results = []
    for _ in range(epochs):
        probe.train()
        order = torch.randperm(len(features), generator=generator).to(labels.device)
        for chosen in order.split(batch_size):
            loss = F.cross_entropy(probe(features[chosen]), labels[chosen], ignore_index=IGNORED)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        probe.eval()
        with torch.no_grad():
            logits = torch.cat([probe(part) for part in held_out[0].split(500)])
        results.append(judge(logits, held_out[1]))
    return results


def judge(logits: Tensor, labels: Tensor) -> ProbeResult:
    """Accuracy and bits of predictions, see `ProbeResult`."""
    counted = labels != IGNORED
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    right = (logits.argmax(1) == labels) & counted
    channels = range(labels.shape[1]) if labels.ndim > 1 else [slice(None)]
    bits = []
    for channel in channels:
        at = (slice(None), channel) if isinstance(channel, int) else channel
        mask = counted[at]
        entropy = entropy_bits(labels[at][mask])
        bits.append(entropy - losses[at][mask].double().mean().item() / math.log(2))
    return ProbeResult(right.sum().item() / counted.sum().item(), sum(bits) / len(bits))


def entropy_bits(labels: Tensor) -> float:
    """Entropy of the labels' frequencies, in bits."""
    frequencies = torch.unique(labels, return_counts=True)[1].double() / labels.numel()
    return -(frequencies * frequencies.log2()).sum().item()
