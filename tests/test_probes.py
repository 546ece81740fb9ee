"""Probes and their bits against closed forms."""

import math

import pytest
import torch
from torch import nn

from nuisance.losses import IGNORED
from nuisance.metrics.probes import entropy_bits, fresh_probe, judge
from nuisance.seeding import generator


def test_entropy_of_known_frequencies():
    assert entropy_bits(torch.tensor([0, 1, 2, 3])) == pytest.approx(2.0)
    assert entropy_bits(torch.tensor([5, 5, 5])) == pytest.approx(0.0)
    assert entropy_bits(torch.tensor([0, 0, 0, 1])) == pytest.approx(0.811278, abs=1e-6)


def test_certain_answers_are_worth_the_labels_entropy_and_blind_ones_nothing():
    labels = torch.arange(4).repeat(10)
    sure = 100.0 * nn.functional.one_hot(labels, 4)
    assert judge(sure, labels).bits == pytest.approx(2.0)
    assert judge(sure, labels).accuracy == 1.0
    assert judge(torch.zeros(40, 4), labels).bits == pytest.approx(0.0, abs=1e-6)


def test_bits_are_averaged_over_channels_and_ignored_positions_do_not_count():
    labels = torch.arange(8).view(8, 1, 1, 1).expand(8, 3, 1, 2).clone()
    labels[:, :, :, 1] = IGNORED
    logits = torch.zeros(8, 8, 3, 1, 2)
    logits[torch.arange(8), torch.arange(8), 0] = 100.0  # sure of the first channel, blind for the others
    result = judge(logits, labels)
    assert result.bits == pytest.approx(1.0)  # (3 + 0 + 0) / 3
    assert result.accuracy == pytest.approx((8 + 1 + 1) / 24)


def test_a_probe_approaches_the_information_of_a_noisy_channel():
    """A bit that is flipped with probability 0.11 tells 1 - H(0.11) = 0.5001 bits."""
    stream = generator(0)
    bits = torch.randint(0, 2, (20_000,), generator=stream)
    flipped = torch.rand(20_000, generator=stream) < 0.11
    features = (bits ^ flipped.long()).float()[:, None]
    torch.manual_seed(0)
    found = fresh_probe(
        nn.Linear(1, 2),
        (features[:10_000], bits[:10_000]),
        (features[10_000:], bits[10_000:]),
        epochs=5,
        learning_rate=0.05,
        batch_size=100,
        generator=generator(1),
    )
    assert len(found) == 5
    expected = 1 + 0.11 * math.log2(0.11) + 0.89 * math.log2(0.89)
    assert found[-1].bits == pytest.approx(expected, abs=0.03)
    assert found[-1].accuracy == pytest.approx(0.89, abs=0.01)
