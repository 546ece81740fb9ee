"""The training loop: the order of images, and the choice of an epoch."""

import pytest
import torch

from nuisance.data.images import Images
from nuisance.errors import ParameterError
from nuisance.files import Checkpoint
from nuisance.seeding import deterministic, generator, seed_weights
from nuisance.training import LossWatch, Method, Selection, fit, in_parts


class Recorder(Method):
    """Counts its steps in a weight, and notes which images it saw and in which mode."""

    def __init__(self):
        super().__init__()
        self.optimizers = {}
        self.register_buffer("seen", torch.zeros(()))
        self.batches, self.modes = [], []

    def update(self, batch):
        self.seen += 1
        self.batches.append(batch.labels.tolist())
        self.modes.append(self.training)
        return {"mean_label": batch.labels.float().mean()}


def images(n=10):
    return Images(torch.zeros(n, 3, 1, 1, dtype=torch.uint8), torch.arange(n))


def run(method, epochs=2, **others):
    return fit(method, images(), epochs=epochs, batch_size=4, generator=generator(5), **others)


def judge_by(values):
    """A judge that gives an epoch's value, two steps an epoch."""
    return lambda method: {"score": values[int(method.seen) // 2 - 1]}


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


def test_by_default_every_epoch_is_a_permutation_without_its_incomplete_batch():
    method = Recorder()
    history = run(method)
    stream = generator(5)
    orders = [torch.randperm(10, generator=stream).tolist() for _ in range(2)]
    assert method.batches == [order[i : i + 4] for order in orders for i in (0, 4)]
    assert history["mean_label"] == pytest.approx([sum(order[:8]) / 8 for order in orders])


def test_a_sampler_decides_the_order_and_the_length_of_an_epoch():
    method = Recorder()
    run(method, sampler=lambda stream: torch.randint(3, (13,), generator=stream))
    stream = generator(5)
    orders = [torch.randint(3, (13,), generator=stream).tolist() for _ in range(2)]
    assert method.batches == [order[i : i + 4] for order in orders for i in (0, 4, 8)]


def test_an_epoch_without_a_whole_batch_is_refused():
    with pytest.raises(ParameterError, match="batch_size is 4 but an epoch has only 3 training images"):
        run(Recorder(), sampler=lambda stream: torch.arange(3))


def test_rules_keep_the_first_best_epoch_and_a_copy_of_its_weights():
    values = [0.1, 0.7, 0.3, 0.7, 0.2]
    rules = {"high": lambda judged: (judged["score"],), "low": lambda judged: (-judged["score"],)}
    method, selection = Recorder(), Selection(judge_by(values), rules)
    history = run(method, epochs=5, selection=selection)
    assert history["score"] == values
    epoch, weights = selection.best("high")
    assert (epoch, weights["seen"].item()) == (1, 4)
    epoch, weights = selection.best("low")
    assert (epoch, weights["seen"].item()) == (0, 2)
    assert method.seen == 10
    assert selection.judged == {"high": {"score": 0.7}, "low": {"score": 0.1}}


def test_a_rule_ranks_by_its_first_number_then_by_the_next_and_nan_last():
    ranks = [(1.0, float("nan")), (0.0, 9.0), (1.0, 2.0), (1.0, float("nan")), (1.0, 1.0)]
    for upto, chosen in ((1, 0), (2, 0), (5, 2)):
        selection = Selection(judge_by(range(5)), {"rule": lambda judged: ranks[judged["score"]]})
        run(Recorder(), epochs=upto, selection=selection)
        assert selection.best("rule")[0] == chosen


def test_the_judge_meets_eval_mode_without_gradients_and_training_goes_on_in_train_mode():
    met = []

    def judge(method):
        met.append((method.training, torch.is_grad_enabled()))
        return {"score": 0.0}

    method = Recorder()
    run(method, selection=Selection(judge, {}))
    assert met == [(False, False)] * 2
    assert method.modes == [True] * 4
    assert not method.training


def test_a_judge_may_not_use_a_name_of_the_training():
    with pytest.raises(ParameterError, match=r"judge's mean_label would mix"):
        run(Recorder(), selection=Selection(lambda method: {"mean_label": 0.0}, {}))


def test_a_rule_that_is_not_there_is_named():
    selection = Selection(judge_by([0, 1]), {"high": lambda judged: (judged["score"],)})
    with pytest.raises(ParameterError, match="none, since no epoch"):
        selection.best("high")
    run(Recorder(), selection=selection)
    with pytest.raises(ParameterError, match=r"no selection by 'hihg'; there is high\."):
        selection.best("hihg")


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_an_interrupted_training_goes_on_selecting(stop, tmp_path):
    values = [0.1, 0.7, 0.3, 0.9, 0.2]

    def train(epochs, path):
        selection = Selection(
            judge_by(values), {"high": lambda j: (j["score"],), "low": lambda j: (-j["score"],)}
        )
        checkpoint = Checkpoint(path, every_seconds=0)
        history = run(
            Recorder(),
            epochs,
            checkpoint=checkpoint,
            selection=selection,
            sampler=lambda stream: torch.randint(10, (8,), generator=stream),
        )
        return history, [selection.best(rule) for rule in ("high", "low")], selection.judged

    train(stop, tmp_path / "stopped")
    resumed, whole = train(5, tmp_path / "stopped"), train(5, tmp_path / "whole")
    assert resumed == whole
    assert [epoch for epoch, _ in resumed[1]] == [3, 0]


def test_a_purpose_of_a_seed_decides_the_first_weights():
    drawn = []
    for seed, purpose in ((3, 0), (3, 0), (3, 1), (4, 0)):
        seed_weights(seed, purpose)
        drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])


def test_in_parts_is_the_whole_without_gradients():
    weight = torch.arange(7.0, requires_grad=True)
    sizes = []

    def double(part):
        sizes.append(len(part))
        return 2 * part

    found = in_parts(double, weight, 3)
    assert found.tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert sizes == [3, 3, 1]
    assert not found.requires_grad


def test_losses_are_looked_at_together_and_the_first_that_is_not_finite_is_named(monkeypatch):
    monkeypatch.setattr("nuisance.training.CHECK_EVERY", 3)

    def losses(a, b):
        return {"a": torch.tensor(a), "b": torch.tensor(b)}

    watch = LossWatch()
    watch.add(5, losses(1.0, 2.0))
    watch.check()
    watch.check()
    watch.add(6, losses(1.0, 2.0))
    watch.add(7, losses(1.0, float("inf")))
    with pytest.raises(ParameterError, match=r"The b is not finite at step 7 .*; train with a smaller"):
        watch.add(8, losses(float("nan"), 2.0))
    watch.add(9, losses(float("-inf"), float("nan")))
    with pytest.raises(ParameterError, match="The a is not finite at step 9"):
        watch.check()
