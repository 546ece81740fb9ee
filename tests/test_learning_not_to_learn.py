"""The methods of the chapter: updates against plain references, resumption, and its printed numbers."""

import copy

import pytest
import torch
import torch.nn.functional as F

from nuisance import published
from nuisance.data.colored_mnist import color_bins, paint, with_colors
from nuisance.data.images import Images
from nuisance.experiments import learning_not_to_learn as lntl
from nuisance.experiments import learning_not_to_learn_settings as chapter
from nuisance.files import Checkpoint
from nuisance.losses import bias_cross_entropy, gradient_reversal, negative_conditional_entropy
from nuisance.models.colored_mnist import BiasNet
from nuisance.seeding import deterministic, generator
from nuisance.training import fit

SMALL = {**chapter.CHOSEN, "width": 4, "epochs": 2, "batch_size": 16, "probe_images": 100, "repaints": 1}


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


@pytest.fixture
def digits():
    pixels = (torch.rand(64, 1, 14, 14, generator=generator(1)) > 0.7).byte() * 200
    grey = Images(pixels, torch.arange(64) % 10)
    return with_colors(grey, 0.02, biased=True, generator=generator(2))


def make(row, **changed):
    torch.manual_seed(0)
    return lntl.make_method(row, steps_per_epoch=4, settings={**SMALL, **changed})


def test_simultaneous_gradients_are_those_of_a_reversal_layer_and_a_frozen_h(digits):
    """The update takes each player's gradient apart; a reversal layer and a frozen copy of h must agree."""
    plain = {"optimizer": "sgd", "gradient_clip": 0.0, "weight_average": 0.0, "reversal_strength": 0.7}
    method = make("unlearn", **plain).double()
    reference = copy.deepcopy(method)
    captured = {}
    method._step = lambda name, module: captured.update(
        {name: [weight.grad.clone() for weight in module.parameters()]}
    )
    method._scale = reference._scale = lambda pixels: pixels.double() / 255
    batch = digits[:16]
    method.update(batch)

    pixels = paint(batch, "flat")
    features = reference.net["features"](pixels.double() / 255)
    frozen = copy.deepcopy(reference.bias).requires_grad_(False)
    entropy = negative_conditional_entropy(F.log_softmax(frozen(features), 1))
    log_q = F.log_softmax(reference.bias(gradient_reversal(features, 0.7)), 1)
    loss = F.cross_entropy(reference.net["labels"](features), batch.labels)
    (loss + SMALL["entropy_weight"] * entropy + bias_cross_entropy(log_q, color_bins(pixels))).backward()
    for name, module in (("net", reference.net), ("bias", reference.bias)):
        for ours, theirs in zip(captured[name], module.parameters(), strict=True):
            assert torch.allclose(ours, theirs.grad, rtol=1e-9, atol=1e-12)


def test_one_two_pass_step_against_a_plain_reference(digits):
    """Written out as the released code has it, with plain SGD for both players, each with its one optimiser."""
    published_like = {
        "optimizer": "sgd",
        "gradient_clip": 0.0,
        "weight_average": 0.0,
        "ramp": "none",
        "bias_momentum": 0.9,
    }
    method = make("unlearn_two_pass", **published_like)
    reference = copy.deepcopy(method)
    rate, bias_rate = SMALL["game_learning_rate"], SMALL["bias_learning_rate"]
    net = torch.optim.SGD(reference.net.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    bias = torch.optim.SGD(reference.bias.parameters(), bias_rate, momentum=0.9, weight_decay=5e-4)
    for start in (0, 16):
        batch = digits[start : start + 16]
        method.update(batch)

        images, labels = paint(batch, "flat").float() / 255, batch.labels
        bins = color_bins(paint(batch, "flat"))
        features = reference.net["features"](images)
        q = F.softmax(reference.bias(features), 1)
        first = F.cross_entropy(reference.net["labels"](features), labels)
        first = first + SMALL["entropy_weight"] * (q * q.log()).sum(1).mean()
        net.zero_grad()
        first.backward()
        net.step()
        for weight in reference.net.parameters():
            weight.grad = torch.zeros_like(weight)  # the g of the released code moves by momentum alone
        bias.zero_grad()
        features = gradient_reversal(reference.net["features"](images), SMALL["reversal_strength"])
        logits = reference.bias(features)
        losses = [F.cross_entropy(logits[:, :, c], bins[:, c], ignore_index=255) for c in range(3)]
        sum(losses).backward()
        net.step()
        bias.step()
    for ours, theirs in zip(method.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_grouped_bias_net_is_three_separate_predictors():
    net = BiasNet(4).eval()
    features = torch.randn(2, 4, 7, 7)
    first, norm, _, last = net.layers
    together = net(features)
    for c in range(3):
        rows, bins = slice(4 * c, 4 * c + 4), slice(8 * c, 8 * c + 8)
        hidden = F.conv2d(features, first.weight[rows], first.bias[rows], padding=1)
        hidden = F.batch_norm(
            hidden,
            norm.running_mean[rows],
            norm.running_var[rows],
            norm.weight[rows],
            norm.bias[rows],
        )
        alone = F.conv2d(F.relu(hidden), last.weight[bins], last.bias[bins], padding=1)
        assert torch.allclose(together[:, :, c], alone, atol=1e-5)


def test_h_does_not_move_by_the_entropy_term(digits):
    """With entropy alone (mu = 0) h still descends its own loss, by the same step whatever lambda is."""
    steps = []
    for weight in (0.0, 10.0):
        method = make("unlearn", entropy_weight=weight, reversal_strength=0.0, optimizer="sgd")
        method.update(digits[:16])
        steps.append([parameter.clone() for parameter in method.bias.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*steps, strict=True))


def test_ramped_strength_follows_the_steps_taken(digits):
    method = make("unlearn_ramped", ramp="epoch")
    assert method.strength() == 0.0
    for _ in range(4):  # one epoch of four steps: gamma = 1
        method.update(digits[:16])
    assert method.strength() == pytest.approx(SMALL["reversal_strength"] * 0.462117, abs=1e-5)
    progress = make("unlearn_ramped", ramp="progress")
    progress.steps_done = 8  # two epochs of two: gamma = 10
    assert progress.strength() == pytest.approx(SMALL["reversal_strength"] * 0.999909, abs=1e-5)


@pytest.mark.parametrize("row", list(lntl.ROWS))
def test_an_interrupted_training_resumes_to_equal_weights(row, digits, tmp_path):
    def train(method, epochs, checkpoint=None):
        return fit(
            method,
            digits,
            epochs=epochs,
            batch_size=16,
            generator=generator(5),
            checkpoint=checkpoint,
        )

    whole = make(row)
    history = train(whole, 4)
    stopped = make(row)
    train(stopped, 2, Checkpoint(tmp_path / "state", every_seconds=0))
    resumed = make(row)
    torch.rand(100)  # resuming must not depend on torch's global stream
    assert train(resumed, 4, Checkpoint(tmp_path / "state", every_seconds=0)) == history
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("row", list(lntl.ROWS))
def test_every_row_runs_and_reports_shares(row):
    """The whole experiment on embedded digits with tiny settings: the same call twice gives the same numbers."""
    settings = {**SMALL, "epochs": 1, "batch_size": 1_000}
    call = {"dataset": "mnist10k", "data_root": "", "device": "cpu", "settings": settings}
    outcome = lntl.experiment(row, 0.05, 0, **call)
    for name in ("accuracy", "validation_accuracy", "biased_accuracy", "color_accuracy"):
        assert 0 <= outcome[name] <= 1
    assert sum(map(sum, outcome["confusion"])) == 1_000
    assert (outcome["bias_net_accuracy"] is None) == (row in ("baseline", "gray"))
    again = lntl.experiment(row, 0.05, 0, **call)
    assert again["accuracy"] == outcome["accuracy"]
    assert again["history"] == outcome["history"]


def test_gray_sees_no_hue(digits):
    method = make("gray").eval()
    red, green = torch.zeros(2, 1, 3, 14, 14, dtype=torch.uint8)
    red[:, 0] = 100
    green[:, 1] = round(100 * 0.299 / 0.587)
    assert torch.allclose(method.predict(red), method.predict(green), atol=1e-2)


def test_rates_fall_where_the_schedule_says():
    method = make("unlearn", decay_every=2)
    rates = []
    for epoch in range(5):
        method.end_epoch(epoch)
        rates.append(method.optimizers["bias"].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


def test_printed_numbers_are_at_hand_by_row_and_variance():
    assert published.value("learning_not_to_learn", method="baseline", color_variance=0.02) == 0.4055
    assert published.value("learning_not_to_learn", method="unlearn_ramped", color_variance=0.05) == 0.9512
    assert published.value("learning_not_to_learn", method="reversal_only", color_variance=0.02) is None
    with pytest.raises(ValueError, match="name more columns"):
        published.value("learning_not_to_learn", method="gray")
