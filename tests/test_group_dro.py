"""Group DRO: its losses against cases worked by hand and a plain loop, and the method that uses them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nuisance.data.images import Images
from nuisance.errors import ParameterError
from nuisance.files import Checkpoint
from nuisance.losses import dro_weights, group_dro, group_means
from nuisance.methods.group_dro import GroupDRO
from nuisance.seeding import deterministic, generator
from nuisance.training import fit

COUNTS = torch.tensor([1750, 92, 28, 530])


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


def random_images(n=32):
    stream = generator(0)
    labels, attribute = torch.randint(2, (2, n), generator=stream)
    pixels = torch.randint(256, (n, 3, 4, 4), generator=stream, dtype=torch.uint8)
    return Images(pixels, labels, {"attribute": attribute})


def make(**changed):
    torch.manual_seed(0)
    settings = {"learning_rate": 0.01, "weight_decay": 0.1, "group_counts": COUNTS, **changed}
    embed = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Tanh())
    return GroupDRO(embed, dimensions=5, **settings)


def plain_step(losses, groups, q, step, adjustment):
    """Algorithm 1 as written: one group after the other, exponentials and all, in Python floats."""
    means = []
    for group in range(len(q)):
        of_group = [loss for loss, g in zip(losses.tolist(), groups.tolist(), strict=True) if g == group]
        means.append(sum(of_group) / len(of_group) if of_group else 0.0)
    q = [w * math.exp(step * (m + a)) for w, m, a in zip(q, means, adjustment, strict=True)]
    q = [w / sum(q) for w in q]
    return sum(w * m for w, m in zip(q, means, strict=True)), q


def test_means_of_groups_by_hand_with_one_absent():
    losses = torch.tensor([1.0, 5.0, 2.0, 4.0], requires_grad=True)
    means = group_means(losses, torch.tensor([0, 3, 0, 1]), 4)
    assert means.tolist() == [1.5, 4.0, 0.0, 5.0]
    (means * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    assert losses.grad.tolist() == [0.5, 1000.0, 0.5, 10.0]


def test_nothing_waits_for_the_device():
    """On the meta device there are shapes and no numbers, so that whatever needs one fails."""
    losses, q = torch.ones(8, device="meta"), torch.ones(4, device="meta")
    groups = torch.zeros(8, dtype=torch.int64, device="meta")
    loss, new = group_dro(losses, groups, q, step=0.01, adjustment=q)
    assert loss.shape == ()
    assert new.shape == (4,)


def test_three_steps_worked_by_hand():
    """With step ln 2 a group of loss L gets 2^L times its weight."""
    q = torch.full((4,), 0.25, dtype=torch.float64)
    batches = [
        ([1.0, 2.0, 0.0, 0.0], [2 / 8, 4 / 8, 1 / 8, 1 / 8], 10 / 8),
        ([1.0, 0.0, 0.0, 3.0], [4 / 17, 4 / 17, 1 / 17, 8 / 17], 28 / 17),
        ([0.0, 0.0, 4.0, 1.0], [4 / 40, 4 / 40, 16 / 40, 16 / 40], 80 / 40),
    ]
    for losses, weights, expected in batches:
        losses = torch.tensor(losses, dtype=torch.float64)
        loss, q = group_dro(losses, torch.arange(4), q, step=math.log(2))
        assert q.tolist() == pytest.approx(weights)
        assert loss.item() == pytest.approx(expected)


def test_an_adjustment_moves_the_weights_and_not_the_loss():
    q, means = torch.full((2,), 0.5), torch.tensor([3.0, 1.0])
    adjustment = torch.tensor([0.0, 3.0])
    loss, new = group_dro(means, torch.arange(2), q, step=math.log(2), adjustment=adjustment)
    assert new.tolist() == pytest.approx([8 / 24, 16 / 24])
    assert loss.item() == pytest.approx(3 / 3 + 2 / 3)
    assert means.tolist() == [3.0, 1.0]  # neither argument is changed in place
    assert q.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("c", [0.0, 2.0])
def test_random_batches_against_a_plain_loop(c):
    stream = generator(1)
    q = torch.full((4,), 0.25, dtype=torch.float64)
    plain = q.tolist()
    adjustment = c / COUNTS.double().sqrt()
    for _ in range(50):
        losses = 5 * torch.rand(6, dtype=torch.float64, generator=stream)  # some lack a group
        groups = torch.randint(4, (6,), generator=stream)
        loss, q = group_dro(losses, groups, q, step=0.3, adjustment=adjustment)
        expected, plain = plain_step(losses, groups, plain, 0.3, adjustment.tolist())
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        assert q.tolist() == pytest.approx(plain, rel=1e-6)


def test_the_gradient_takes_the_new_weights_as_constants():
    losses = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    loss, q = group_dro(losses, torch.tensor([0, 0, 1]), torch.tensor([0.5, 0.5]).double(), step=0.7)
    loss.backward()
    assert not q.requires_grad
    assert losses.grad.tolist() == pytest.approx([q[0].item() / 2, q[0].item() / 2, q[1].item()])


def test_large_losses_and_weights_of_zero_give_numbers():
    q = dro_weights(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([1e4, 1e4 + 2, 9e4]), step=1.0)
    assert q.tolist() == pytest.approx([1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2)), 0.0], rel=1e-4)


def test_a_step_of_the_method_against_plain_adam():
    data = random_images()
    method, plain = make(adjustment=2.0, dro_step=0.5), make()
    optimizer = torch.optim.Adam(plain.parameters(), 0.01, weight_decay=0.1)
    q = torch.full((4,), 0.25)
    for start in (0, 16):
        batch = data[start : start + 16]
        watched = method.update(batch)

        losses = F.cross_entropy(plain.predict(batch.pixels), batch.labels, reduction="none")
        groups = 2 * batch.labels + batch.attributes["attribute"]
        _, weights = plain_step(losses.detach(), groups, q.tolist(), 0.5, (2 / COUNTS.sqrt()).tolist())
        q = torch.tensor(weights)
        sizes = torch.bincount(groups, minlength=4)
        loss = (q[groups] / sizes[groups] * losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.allclose(method.q, q, atol=1e-6)
        assert watched["dro_loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert watched["class_loss"].item() == pytest.approx(losses.mean().item(), rel=1e-5)
        assert [watched[f"weight_{group}"].item() for group in range(4)] == pytest.approx(weights, rel=1e-5)
    for ours, theirs in zip(method.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_the_weights_of_groups_are_resumed(tmp_path):
    def train(epochs, path):
        method = make(dro_step=1.0)
        checkpoint = Checkpoint(path, every_seconds=0)
        settings = {"epochs": epochs, "batch_size": 8, "generator": generator(5)}
        return fit(method, random_images(), **settings, checkpoint=checkpoint), method.state_dict()

    train(1, tmp_path / "stopped")
    history, state = train(3, tmp_path / "stopped")
    whole, whole_state = train(3, tmp_path / "whole")
    assert history == whole
    assert state["q"].max() > 0.3
    for one, other in zip(state.values(), whole_state.values(), strict=True):
        assert torch.equal(one, other)


def test_groups_that_cannot_be_adjusted_for_are_refused():
    for counts in ([5, 5, 0, 5], [5, 5, 5]):
        with pytest.raises(ParameterError, match="group_counts is"):
            make(group_counts=torch.tensor(counts))
    with pytest.raises(ParameterError, match="adjustment is -1"):
        make(adjustment=-1.0)
