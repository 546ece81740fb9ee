"""Accuracies by group against closed forms, and the rules that choose an epoch by them."""

import pytest
import torch

from nuisance.errors import InputError, ParameterError
from nuisance.metrics.groups import (
    above_gate_then_hard,
    bootstrap_groups,
    group_metrics,
    worst_group,
)
from nuisance.seeding import generator

SIZES, CORRECT = (40, 30, 10, 20), (36, 15, 7, 20)
TRAIN = torch.tensor([3498, 184, 56, 1057])
SETTINGS = {"train_counts": TRAIN}


def answers(correct=CORRECT, sizes=SIZES):
    """Shuffled answers with so many right ones in each group."""
    groups = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes))
    right = torch.cat([torch.arange(size) < number for number, size in zip(correct, sizes, strict=True)])
    order = torch.randperm(len(groups), generator=generator(0))
    return right[order], groups[order]


def test_metrics_of_a_case_worked_by_hand():
    found = group_metrics(*answers(), **SETTINGS)
    assert found == pytest.approx(
        {
            "group_0": 0.9,
            "group_1": 0.5,
            "group_2": 0.7,
            "group_3": 1.0,
            "overall": 78 / 100,
            "train_weighted": (3498 * 0.9 + 184 * 0.5 + 56 * 0.7 + 1057) / 4795,
            "group_mean": 0.775,
            "hard": 0.7,
            "worst": 0.5,
        }
    )
    assert group_metrics(*answers(), **SETTINGS, hard=3)["hard"] == 1.0


def test_overall_at_the_gate_does_not_pass_by_rounding():
    """As a weighted mean of the groups' accuracies nine of ten would now and then come out as 0.9 and a bit."""
    for size in range(10, 400, 10):
        correct = (size * 9 // 10 - 2 * (size // 4), size // 4, 0, size // 4)
        right, groups = answers(correct, (size - 2 * (size // 4) - 1, size // 4, 1, size // 4))
        assert group_metrics(right, groups, **SETTINGS)["overall"] == 0.9


def test_bootstrap_agrees_with_resampled_images():
    right, groups = answers()
    found = bootstrap_groups(right, groups, **SETTINGS, resamples=20_000, generator=generator(1))
    members = [(groups == group).nonzero().flatten() for group in range(4)]
    draws = []
    for seed in range(2_000):
        stream = generator(seed)
        chosen = torch.cat([m[torch.randint(len(m), (len(m),), generator=stream)] for m in members])
        draws.append(group_metrics(right[chosen], groups[chosen], **SETTINGS))
    exact = group_metrics(right, groups, **SETTINGS)
    assert found.keys() == exact.keys()
    for name, interval in found.items():
        values = torch.tensor([draw[name] for draw in draws], dtype=torch.float64)
        assert interval.value == exact[name]
        # the ends are quantiles of a discrete distribution: one image of the smallest group is 0.1
        step = 0.1001 if name in ("group_2", "hard") else 0.034 if name in ("group_1", "worst") else 0.026
        assert interval.low == pytest.approx(values.quantile(0.025).item(), abs=step)
        assert interval.high == pytest.approx(values.quantile(0.975).item(), abs=step)


def test_bootstrap_has_the_width_of_the_normal_approximation():
    sizes = (10_000, 10_000, 10_000, 10_000)
    correct = (9_000, 5_000, 8_000, 7_000)
    found = bootstrap_groups(*answers(correct, sizes), **SETTINGS, resamples=20_000, generator=generator(1))
    variances = [p * (1 - p) / 10_000 for p in (0.9, 0.5, 0.8, 0.7)]
    for name, variance in (
        ("hard", variances[2]),
        ("worst", variances[1]),
        ("overall", sum(variances) / 16),
        ("group_mean", sum(variances) / 16),
        ("train_weighted", sum(v * (n / 4795) ** 2 for v, n in zip(variances, TRAIN.tolist(), strict=True))),
    ):
        interval = found[name]
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.04)
        assert interval.high + interval.low == pytest.approx(2 * interval.value, abs=0.1 * variance**0.5)


def test_bootstrap_repeats_by_its_seed_and_is_certain_without_mistakes():
    one, other = (
        bootstrap_groups(*answers(), **SETTINGS, resamples=50, generator=generator(3)) for _ in range(2)
    )
    assert one == other
    assert one != bootstrap_groups(*answers(), **SETTINGS, resamples=50, generator=generator(4))
    assert one["group_3"].low == one["group_3"].high == 1.0
    none = bootstrap_groups(*answers((0, 0, 0, 0)), **SETTINGS, resamples=50, generator=generator(3))
    assert none["overall"].low == none["overall"].high == 0.0


def test_the_studys_rule_takes_the_hard_group_above_the_gate_only():
    rule = above_gate_then_hard(0.9)
    epochs = [
        {"overall": 0.89, "hard": 0.99},
        {"overall": 0.91, "hard": 0.40},
        {"overall": 0.92, "hard": 0.30},
        {"overall": 0.90, "hard": 1.00},
    ]
    assert max(epochs, key=rule) == epochs[1]
    assert max(epochs[::3], key=rule) == epochs[3]  # none passes: a gate has to be exceeded
    assert max(({"worst": 0.3}, {"worst": 0.4}), key=worst_group) == {"worst": 0.4}
    with pytest.raises(ParameterError, match="gate is 90 but must be an accuracy"):
        above_gate_then_hard(90)


def test_what_cannot_be_judged_is_refused():
    right, groups = answers()
    with pytest.raises(InputError, match="Group 2 has no image"):
        group_metrics(right[groups != 2], groups[groups != 2], **SETTINGS)
    with pytest.raises(InputError, match="Group 0 has no image"):
        group_metrics(right[:0], groups[:0], **SETTINGS)
    for wrong in (groups + 1, groups - 1):
        with pytest.raises(InputError, match="Groups must be from 0 to 3"):
            group_metrics(right, wrong, **SETTINGS)
    for wrong in (right[1:], right.long(), right[:, None]):
        with pytest.raises(InputError, match="give a bool and a group for each image"):
            group_metrics(wrong, groups, **SETTINGS)
    for counts in ([1, 2, 3], [0, 0, 0, 0], [1, 1, 1, -1]):
        with pytest.raises(ParameterError, match="train_counts is"):
            group_metrics(right, groups, train_counts=torch.tensor(counts))
    with pytest.raises(ParameterError, match="hard is 4"):
        group_metrics(right, groups, **SETTINGS, hard=4)
    with pytest.raises(ParameterError, match="resamples is 1"):
        bootstrap_groups(right, groups, **SETTINGS, resamples=1, generator=generator(0))
