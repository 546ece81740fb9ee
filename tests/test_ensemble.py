"""The six measures of an ensemble: closed forms, their definitions in float64, and the score around them."""

import math

import pytest
import torch
from torch import nn

from nuisance.errors import InputError, ParameterError
from nuisance.ood.ensemble import MEASURES, Ensemble, measures
from nuisance.ood.score import score_all


def entropy(p):
    return -(p * p.log()).sum(-1)


def linear(seed, classes=3):
    torch.manual_seed(seed)
    return nn.Linear(4, classes).eval()


def test_the_measures_equal_their_definitions():
    torch.manual_seed(0)
    log_p = torch.randn(4, 6, 5, dtype=torch.float64).mul(2).log_softmax(2)
    p, mean = log_p.exp(), log_p.exp().mean(0)
    expected = entropy(p).mean(0)
    cross = -(mean * log_p.mean(0)).sum(1)
    definitions = {
        "confidence": -mean.amax(1),
        "entropy_of_expected": entropy(mean),
        "expected_entropy": expected,
        "mutual_information": entropy(mean) - expected,
        "epkl": cross - expected,
        "mkl": cross - entropy(mean),
    }
    found = measures(log_p)
    assert tuple(found) == MEASURES == tuple(definitions)
    for name in MEASURES:
        torch.testing.assert_close(found[name], definitions[name], rtol=1e-12, atol=1e-12)
    # the expected pairwise KL is what its name says, a member's with itself being zero
    pairs = torch.stack([(p[i] * (log_p[i] - log_p[j])).sum(1) for i in range(4) for j in range(4)])
    torch.testing.assert_close(found["epkl"], pairs.mean(0))


def test_two_opposite_members_by_hand():
    p = torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]], dtype=torch.float64)
    found = {name: value.item() for name, value in measures(p.log()).items()}
    one = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert found["confidence"] == pytest.approx(-0.5)
    assert found["entropy_of_expected"] == pytest.approx(math.log(2))
    assert found["expected_entropy"] == pytest.approx(one)
    assert found["mutual_information"] == pytest.approx(math.log(2) - one)
    assert found["mkl"] == pytest.approx(-0.5 * math.log(4 * 0.9 * 0.1))
    assert found["epkl"] == pytest.approx(0.4 * math.log(9))  # half of (0.9 - 0.1) log(0.9 / 0.1)


def test_a_probability_of_zero_adds_nothing():
    certain = torch.tensor([[[0.0, -math.inf]], [[0.0, -math.inf]]])
    assert {name: value.item() for name, value in measures(certain).items()} == {
        **dict.fromkeys(MEASURES, 0.0),
        "confidence": -1.0,
    }
    opposed = measures(torch.tensor([[[0.0, -math.inf]], [[-math.inf, 0.0]]]))
    assert opposed["mutual_information"].item() == pytest.approx(math.log(2))
    assert opposed["mkl"].item() == opposed["epkl"].item() == math.inf


def test_sure_members_still_disagree_a_little():
    """Logits 30 and 31 ahead: float32 rounds both to a probability of 1 and their disagreement away."""
    heads = [nn.Linear(1, 2, bias=False).eval() for _ in range(2)]
    for head, gap in zip(heads, (30.0, 31.0), strict=True):
        head.weight.data = torch.tensor([[gap], [0.0]])
    found = Ensemble(heads, measure="mkl").all_measures(torch.ones(1, 1))
    p, q = math.exp(-30), math.exp(-31)
    mean = (p + q) / 2
    # KL of nearly sure ones: q log(q / p) - q + p, to first order
    mkl = sum(mean * math.log(mean / other) - mean + other for other in (p, q)) / 2
    assert found["mkl"].item() == pytest.approx(mkl, abs=1e-15)
    assert found["expected_entropy"].item() == pytest.approx((31 * p + 32 * q) / 2, rel=1e-3)


def test_a_measure_is_picked_and_all_come_from_one_pass():
    members, x = [linear(0), linear(1), linear(2)], torch.randn(7, 4)
    probabilities = torch.stack([member(x).double().log_softmax(1) for member in members])
    expected = measures(probabilities.detach())
    calls = []
    members[1].register_forward_hook(lambda *_: calls.append(1))
    found = Ensemble(members, measure="epkl").all_measures(x)
    assert calls == [1]
    for name in MEASURES:
        torch.testing.assert_close(found[name], expected[name])
        score = Ensemble(members, measure=name)
        assert torch.equal(score.scores(x), found[name])
        assert torch.equal(score_all(score, [x[:3], x[3:]]), found[name])


def test_a_member_given_twice_counts_twice():
    a, b, x = linear(0), linear(1), torch.randn(5, 4)
    mean = (2 * a(x).softmax(1) + b(x).softmax(1)) / 3
    found = Ensemble([a, a, b], measure="confidence").scores(x)
    torch.testing.assert_close(found.float(), -mean.amax(1).detach())


def test_disagreement_is_larger_away_from_the_data():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(200, 2) + 3, torch.randn(200, 2) - 3])
    y = torch.arange(2).repeat_interleave(200)
    members = []
    for seed in range(4):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        members.append(net.eval())
    between = torch.tensor([[6.0, -6.0], [-6.0, 6.0], [0.0, 0.0]])
    for measure in MEASURES:
        score = Ensemble(members, measure=measure)
        assert score.scores(between).min() > score.scores(x).median()


def test_what_is_no_ensemble_is_refused():
    with pytest.raises(ParameterError, match="two models or more but was given 1"):
        Ensemble([linear(0)], measure="epkl")
    with pytest.raises(
        ParameterError, match=r"no measure 'eplk'\. Did you mean 'epkl'\? There are confidence, "
    ):
        Ensemble([linear(0), linear(1)], measure="eplk")
    with pytest.raises(ParameterError, match=r"train mode \(1\)"):
        Ensemble([linear(0), linear(1).train()], measure="epkl")
    with pytest.raises(InputError, match=r"The models have \[3, 4\] classes"):
        Ensemble([linear(0), linear(1, classes=4)], measure="epkl").scores(torch.rand(2, 4))


def test_a_member_back_in_train_mode_is_refused():
    score = Ensemble([linear(0), linear(1)], measure="epkl")
    score.model[1].train()
    for scores in (score.scores, score.all_measures):
        with pytest.raises(ParameterError, match=r"train mode \(1\)"):
            scores(torch.rand(2, 4))
    with pytest.raises(InputError, match="floats"):
        score.all_measures(torch.zeros(2, 4, dtype=torch.uint8))
