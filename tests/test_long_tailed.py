"""Losses for long tails by hand, the schedule, and trainings that are forked."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nuisance.data.groups import balanced_order
from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.losses import effective_number_weights, focal_loss, ldam_loss, ldam_margins
from nuisance.methods.long_tailed import CropAndFlip, LongTailedClassifier, RandAugmentation, StepSchedule
from nuisance.models.heads import CosineHead
from nuisance.models.resnet import CifarResNet
from nuisance.seeding import deterministic, generator
from nuisance.training import fit

SIZES = torch.tensor([24, 6, 2])


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


def images(channels=1):
    labels = torch.repeat_interleave(torch.arange(3), SIZES)
    pixels = torch.randint(256, (len(labels), channels, 8, 8), generator=generator(0), dtype=torch.uint8)
    return Images(pixels, labels, {"place": torch.arange(len(labels))})


def net(cosine=False, seed=1):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = CifarResNet(blocks=1, widths=(4, 4, 4), in_channels=1, classes=3)
        if cosine:
            made.linear = CosineHead(4, 3)
    return made


def classifier(network=None, **settings):
    settings = {"schedule": StepSchedule(steps_per_epoch=4, warm_up=2, milestones=((3, 0.01),)), **settings}
    network = network or net(settings.get("loss") == "ldam")
    return LongTailedClassifier(
        network, normalization=((0.5,), (0.25,)), **{"class_sizes": SIZES, **settings}
    )


# losses


def test_weights_of_effective_numbers_by_hand():
    # beta = 1/2: 1 - beta^n is 1/2, 3/4, 7/8, so the weights go as 2 : 4/3 : 8/7 = 42 : 28 : 24, scaled to sum to 3
    weights = effective_number_weights(torch.tensor([1, 2, 3]), beta=0.5)
    assert weights.tolist() == pytest.approx([3 * part / 94 for part in (42, 28, 24)])
    assert effective_number_weights(torch.tensor([5, 1]), beta=0.0).tolist() == [1, 1]
    nearly = effective_number_weights(torch.tensor([100, 1]), beta=1 - 1e-9)  # 1 / n
    assert nearly.tolist() == pytest.approx([2 / 101, 200 / 101], rel=1e-5)
    rare, common = effective_number_weights(torch.tensor([1, 5000]), beta=0.9999).tolist()
    assert rare / common == pytest.approx((1 - 0.9999**5000) / (1 - 0.9999), rel=1e-5)


def test_margins_by_hand():
    assert ldam_margins(torch.tensor([625, 16, 1])).tolist() == pytest.approx([0.1, 0.25, 0.5])
    assert ldam_margins(torch.tensor([16 * 5, 5]), largest=0.4).tolist() == pytest.approx([0.2, 0.4])


@pytest.mark.parametrize("counts", [[3, 0], [], [[1, 2]], [-1, 2]])
def test_classes_without_images_have_neither_margin_nor_weight(counts):
    for function in (ldam_margins, lambda counts: effective_number_weights(counts, beta=0.9)):
        with pytest.raises(ParameterError, match="one image or more each"):
            function(torch.tensor(counts))
    for beta in (1.0, -0.1):
        with pytest.raises(ParameterError, match="below 1"):
            effective_number_weights(torch.tensor([1]), beta=beta)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.2, 1.0, 1.8])])
def test_focal_loss_with_gamma_zero_is_cross_entropy_with_its_weighted_mean(weights):
    logits = torch.randn(7, 3, generator=generator(1))
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 0])
    loss = focal_loss(logits, labels, gamma=0.0, weights=weights)
    assert loss.item() == pytest.approx(F.cross_entropy(logits, labels, weight=weights).item())


def test_focal_loss_by_hand():
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    labels, weights = torch.tensor([0, 1]), torch.tensor([3.0, 1.0])
    first, second = 0.75**2 * math.log(4), 0.5**2 * math.log(2)
    assert focal_loss(logits, labels, gamma=2.0).item() == pytest.approx((first + second) / 2)
    weighted = focal_loss(logits, labels, gamma=2.0, weights=weights).item()
    assert weighted == pytest.approx((3 * first + second) / 4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_has_a_gradient_where_the_prediction_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([0, 0]), gamma=gamma)
    loss.backward()
    assert loss.item() == pytest.approx(100)  # 0 and 200
    assert logits.grad[0].tolist() == [0, 0]
    assert logits.grad[1].tolist() == pytest.approx([-0.5, 0.5])


def test_ldam_loss_by_hand():
    cosines, margins = torch.tensor([[0.5, 0.2], [0.1, 0.6]]), torch.tensor([0.1, 0.5])
    # own minus other, times 10: (0.5 - 0.1) - 0.2 = 0.2 -> 2; (0.6 - 0.5) - 0.1 = 0 -> 0
    first, second = math.log1p(math.exp(-2)), math.log(2)
    labels = torch.tensor([0, 1])
    assert ldam_loss(cosines, labels, margins=margins, scale=10.0).item() == pytest.approx(
        (first + second) / 2
    )
    weighted = ldam_loss(cosines, labels, margins=margins, scale=10.0, weights=torch.tensor([1.0, 4.0]))
    assert weighted.item() == pytest.approx((first + 4 * second) / 5)
    plain = F.cross_entropy(30 * cosines, labels)
    assert ldam_loss(cosines, labels, margins=torch.zeros(2)).item() == pytest.approx(plain.item())


def test_the_cosine_head_sees_directions_only():
    head = CosineHead(2, 3)
    assert head.weight.norm(dim=1).tolist() == pytest.approx([1, 1, 1])
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.5], [-3.0, -3.0]]))
    half = math.sqrt(0.5)
    assert head(torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, 0.0]])).flatten().tolist() == pytest.approx(
        [1, 0, -half, half, half, -1, 0, 0, 0], abs=1e-6
    )


# the schedule


def test_the_published_schedules_by_hand():
    characters = StepSchedule(steps_per_epoch=10)
    at = {0: 0.02, 9: 0.02, 10: 0.04, 40: 0.1, 49: 0.1, 299: 0.1, 300: 1e-3, 399: 1e-3, 400: 1e-5, 499: 1e-5}
    assert {step: characters.rate(step) for step in at} == pytest.approx(at)
    cifar = StepSchedule(steps_per_epoch=1, milestones=((160, 0.01), (180, 0.0001)))
    assert [cifar.rate(epoch) for epoch in (159, 160, 180)] == pytest.approx([0.1, 1e-3, 1e-5])
    assert StepSchedule(steps_per_epoch=1, warm_up=0, milestones=()).rate(0) == 0.1


def test_schedules_that_cannot_be():
    with pytest.raises(ParameterError, match="steps_per_epoch is 0"):
        StepSchedule(steps_per_epoch=0)
    with pytest.raises(ParameterError, match="each must be later"):
        StepSchedule(steps_per_epoch=1, milestones=((40, 0.1), (30, 0.01)))


# the classifier


@pytest.mark.parametrize("reweight", [None, 0.9])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "ldam"])
def test_two_steps_are_those_of_sgd_written_out(loss, reweight):
    torch.manual_seed(0)
    head = CosineHead(64, 3) if loss == "ldam" else nn.Linear(64, 3)
    network, data = nn.Sequential(nn.Flatten(), head), images()
    method = classifier(network, loss=loss, reweight=reweight, gamma=2.0, largest_margin=0.3, scale=4.0)
    params = [value.detach().clone().requires_grad_() for value in network.parameters()]
    momenta = [torch.zeros_like(value) for value in params]
    weights = None if reweight is None else effective_number_weights(SIZES, beta=reweight)
    for rate in (0.05, 0.05):  # the first of two epochs of warm-up
        x = (data.pixels.double() / 255 - 0.5).flatten(1).float() / 0.25
        if loss == "ldam":
            cosines = F.normalize(x) @ F.normalize(params[0]).T
            expected = ldam_loss(
                cosines, data.labels, margins=ldam_margins(SIZES, largest=0.3), scale=4.0, weights=weights
            )
        elif loss == "focal":
            expected = focal_loss(F.linear(x, *params), data.labels, gamma=2.0, weights=weights)
        else:
            expected = F.cross_entropy(F.linear(x, *params), data.labels, weight=weights)
        grads = torch.autograd.grad(expected, params)
        assert method.update(data)["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
        with torch.no_grad():
            for value, momentum, grad in zip(params, momenta, grads, strict=True):
                momentum.mul_(0.9).add_(grad + 2e-4 * value)
                value.sub_(rate * momentum)
    for value, ours in zip(params, network.parameters(), strict=True):
        assert torch.allclose(value, ours, atol=1e-5)


def test_ldam_predicts_by_the_logits_that_it_was_trained_by():
    method, data = classifier(loss="ldam", scale=7.0).eval(), images()
    cosines = method.net((data.pixels / 255 - 0.5) / 0.25)
    assert cosines.abs().max() <= 1
    assert torch.allclose(method.predict(data.pixels), 7 * cosines, atol=1e-5)


def test_the_augmenter_sees_every_batch_and_the_steps_done():
    seen = []

    def blank(batch, step):
        seen.append((step, batch.labels.tolist()))
        return Images(torch.zeros_like(batch.pixels), batch.labels)

    method, data = classifier(augment=blank), images()
    losses = [method.update(data[:8])["loss"].item() for _ in range(2)]
    assert seen == [(0, [0] * 8), (1, [0] * 8)]
    plain = classifier()
    blanks = Images(torch.zeros_like(data.pixels[:8]), data.labels[:8])
    assert losses == [plain.update(blanks)["loss"].item() for _ in range(2)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": "hinge"}, "must be one of cross_entropy, focal, ldam"),
        ({"loss": "ldam", "network": net()}, "CosineHead for ldam"),
        ({"loss": "focal", "network": net(cosine=True)}, "CosineHead for ldam"),
        ({"gamma": -1.0}, "gamma is -1"),
        ({"scale": 0.0}, "scale 0"),
        ({"class_sizes": torch.tensor([3, 0, 1])}, "one image or more each"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(ParameterError, match=message):
        classifier(**wrong)


# forks


def train(method, epochs, order, **others):
    return fit(method, images(), epochs=epochs, batch_size=8, generator=order, **others)


def weights_of(method):
    return torch.cat([value.flatten().double() for value in method.state_dict().values()])


def settings():
    return {"loss": "ldam", "reweight": 0.99, "augment": RandAugmentation(seed=4)}


def test_a_fork_with_the_same_settings_ends_at_the_bits_of_one_training():
    whole, order = classifier(**settings()), generator(7)
    history = train(whole, 5, order)
    first, order = classifier(**settings()), generator(7)
    head = train(first, 2, order)
    state = first.training_state()
    train(first, 1, copy.deepcopy(generator(8)))  # the state is a copy: the first part may go on
    for _ in range(2):  # nor does one fork change what the next one starts from
        fork, stream = classifier(net(cosine=True, seed=2), **settings()), generator(0)
        stream.set_state(order.get_state())
        fork.load_training_state(state)
        tail = train(fork, 3, stream)
        assert fork.steps_done == whole.steps_done == 20
        assert torch.equal(weights_of(fork), weights_of(whole))
        assert head["loss"] + tail["loss"] == history["loss"]


def test_a_fork_keeps_its_own_settings_and_goes_on_in_the_schedule():
    first = classifier()
    train(first, 3, generator(0))
    assert first.optimizers["net"].param_groups[0]["lr"] == pytest.approx(0.1)
    steps = []
    fork = classifier(reweight=0.9999, augment=lambda batch, step: (steps.append(step), batch)[1])
    fork.load_training_state(first.training_state())
    assert torch.equal(fork.weights, effective_number_weights(SIZES, beta=0.9999))
    train(fork, 1, generator(1))
    assert steps == [12, 13, 14, 15]
    assert fork.optimizers["net"].param_groups[0]["lr"] == pytest.approx(1e-3)
    assert first.weights is None


def test_sampling_is_of_images_before_the_deferral_and_of_classes_after_it():
    data, counts = images(), [torch.zeros(3), torch.zeros(3)]

    def count(phase):
        def augment(batch, step):
            counts[phase] += torch.bincount(batch.labels, minlength=3)
            return batch

        return augment

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    first = classifier(network, augment=count(0))
    order = generator(3)
    train(first, 5, order)
    fork = classifier(copy.deepcopy(network), augment=count(1))
    fork.load_training_state(first.training_state())
    train(fork, 100, order, sampler=lambda stream: balanced_order(data.labels, stream))
    assert counts[0].tolist() == (5 * SIZES).tolist()  # every image once an epoch
    n = 100 * len(data)
    assert counts[1].sum() == n
    # binomial, p = 1/3: four standard deviations
    assert (counts[1] - n / 3).abs().max() < 4 * math.sqrt(n * 2 / 9)


# RandAugment


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_depends_on_seed_and_step_alone(channels):
    data, augment = images(channels), RandAugmentation(operations=3, magnitude=9, seed=5)
    before = torch.get_rng_state()
    made = augment(data, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    augment(data, 4)
    assert torch.equal(augment(data, 3).pixels, made.pixels)
    assert not torch.equal(augment(data, 4).pixels, made.pixels)
    assert not torch.equal(RandAugmentation(operations=3, magnitude=9, seed=6)(data, 3).pixels, made.pixels)
    assert made.pixels.dtype == torch.uint8
    assert torch.equal(made.labels, data.labels)
    assert torch.equal(made.attributes["place"], data.attributes["place"])


def test_rand_augment_draws_for_every_image_from_all_that_torchvision_has():
    one = images()[:1].pixels
    copies = Images(one.repeat(1000, 1, 1, 1), torch.zeros(1000, dtype=torch.int64))
    made = RandAugmentation(operations=1, magnitude=9, seed=0)(copies, 0).pixels
    kinds, counts = made.unique(dim=0, return_counts=True)
    # 14 kinds, of which 8 have a sign; some do nothing to this image: noise of all levels, in grey
    assert 10 <= len(kinds) <= 22
    still = counts[(kinds == one).flatten(1).all(1)].item() / 1000
    # nothing is done by: identity, colour (grey images have none), posterize with 7 or 8 bits at most, autocontrast
    assert 2 / 14 - 0.04 < still < 5 / 14 + 0.05


def test_rand_augment_of_what_it_cannot_take():
    with pytest.raises(InputError, match="1 or 3 channels, not 2"):
        RandAugmentation(seed=0)(images(2), 0)
    for wrong in ({"operations": 0}, {"magnitude": 31}, {"magnitude": -1}):
        with pytest.raises(ParameterError, match="0 to 30"):
            RandAugmentation(**wrong, seed=0)


# crops and flips


def windows(image, padding):
    """All that a crop of an image ``[c, h, w]`` can be, a pixel at a time, by (down, right, mirrored)."""
    height, width = image.shape[1:]
    found = {}
    for down in range(-padding, padding + 1):
        for right in range(-padding, padding + 1):
            window = torch.zeros_like(image)
            for row in range(height):
                for column in range(width):
                    if 0 <= row + down < height and 0 <= column + right < width:
                        window[:, row, column] = image[:, row + down, column + right]
            found[down, right, False], found[down, right, True] = window, window.flip(2)
    return found


def test_crops_are_those_of_a_loop_and_each_is_as_frequent():
    padding, shape = 1, (3, 4, 6)
    kinds = torch.randint(1, 256, (3, *shape), generator=generator(0), dtype=torch.uint8)
    number = 600
    data = Images(kinds.repeat_interleave(number, 0), torch.arange(3).repeat_interleave(number))
    made = CropAndFlip(padding=padding, seed=5)(data, 3)
    assert made.pixels.dtype == torch.uint8
    for kind, versions in zip(kinds, made.pixels.split(number), strict=True):
        counts = [(versions == window).flatten(1).all(1).sum() for window in windows(kind, padding).values()]
        assert len(counts) == 18
        assert sum(counts) == number  # nothing else
        # binomial, p = 1/18: four standard deviations
        assert max(abs(found - number / 18) for found in counts) < 4 * math.sqrt(number * 17) / 18


def test_crops_depend_on_seed_and_step_alone_and_leave_the_rest():
    data, augment = images(3), CropAndFlip(seed=5)
    before = torch.get_rng_state()
    made = augment(data, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    augment(data, 4)
    assert torch.equal(augment(data, 3).pixels, made.pixels)
    assert not torch.equal(augment(data, 4).pixels, made.pixels)
    assert not torch.equal(CropAndFlip(seed=6)(data, 3).pixels, made.pixels)
    assert torch.equal(data.pixels, images(3).pixels)
    assert torch.equal(made.labels, data.labels)
    assert torch.equal(made.attributes["place"], data.attributes["place"])
