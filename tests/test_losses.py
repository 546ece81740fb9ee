"""Losses against closed forms and cases worked by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from nuisance.losses import (
    IGNORED,
    bias_cross_entropy,
    confusion_loss,
    gradient_reversal,
    negative_conditional_entropy,
    reversal_ramp,
)


def test_gradient_reversal_is_identity_forwards_and_scaled_negation_backwards():
    x = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    y = gradient_reversal(x, 0.7)
    assert torch.equal(y, x)
    (y * torch.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert torch.allclose(x.grad, torch.tensor([-0.7, -7.0, -70.0]))


def test_gradient_reversal_of_strength_zero_stops_the_gradient():
    x = torch.ones(2, requires_grad=True)
    gradient_reversal(x, 0.0).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2))


@pytest.mark.parametrize(
    ("gamma", "value"), [(0, 0.0), (1, 0.462117), (2, 0.761594), (3, 0.905148), (5, 0.986614), (10, 0.999909)]
)
def test_ramp_has_the_values_of_its_formula(gamma, value):
    assert reversal_ramp(gamma) == pytest.approx(value, abs=1e-6)
    assert reversal_ramp(gamma) == pytest.approx(2 / (1 + math.exp(-gamma)) - 1, abs=1e-12)


def test_negative_entropy_of_a_case_worked_by_hand():
    # two images: q = (1/2, 1/4, 1/4) and q = (1, 0, 0) but for 1e-9
    q = torch.tensor([[0.5, 0.25, 0.25], [1 - 2e-9, 1e-9, 1e-9]], dtype=torch.float64)
    by_hand = (0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)) / 2
    assert negative_conditional_entropy(q.log()).item() == pytest.approx(by_hand, abs=1e-7)


def test_negative_entropy_is_lowest_when_uniform_and_zero_when_certain():
    assert negative_conditional_entropy(torch.full((2, 8, 3), -math.log(8))).item() == pytest.approx(
        -math.log(8)
    )
    certain = F.log_softmax(torch.tensor([[200.0, 0.0, 0.0]]), dim=1)
    assert negative_conditional_entropy(certain).item() == 0.0  # and not NaN, as q * log(softmax) would be


def test_negative_entropy_averages_over_positions():
    log_q = F.log_softmax(torch.randn(3, 8, 2, 5, 4, dtype=torch.float64), dim=1)
    one_by_one = [
        (log_q[i, :, c, y, x].exp() * log_q[i, :, c, y, x]).sum().item()
        for i in range(3)
        for c in range(2)
        for y in range(5)
        for x in range(4)
    ]
    assert negative_conditional_entropy(log_q).item() == pytest.approx(sum(one_by_one) / len(one_by_one))


def test_confusion_is_cross_entropy_to_the_uniform_distribution():
    q = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    by_hand = -(math.log(0.7) + math.log(0.2) + math.log(0.1)) / 3
    assert confusion_loss(q.log()).item() == pytest.approx(by_hand)
    assert confusion_loss(torch.full((1, 8), -math.log(8))).item() == pytest.approx(math.log(8))


def test_bias_cross_entropy_sums_channels_and_ignores_background():
    log_q = F.log_softmax(torch.randn(2, 8, 3, 2, 2, dtype=torch.float64), dim=1)
    bins = torch.randint(0, 8, (2, 3, 2, 2))
    bins[0, 0, 0, 0] = IGNORED
    bins[:, 2] = IGNORED  # a channel without any colour adds nothing
    expected = 0.0
    for c in range(2):
        losses = [
            -log_q[i, bins[i, c, y, x], c, y, x].item()
            for i in range(2)
            for y in range(2)
            for x in range(2)
            if bins[i, c, y, x] != IGNORED
        ]
        expected += sum(losses) / len(losses)
    assert bias_cross_entropy(log_q, bins).item() == pytest.approx(expected)
