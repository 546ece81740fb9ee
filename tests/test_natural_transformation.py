"""Training on edits along latent directions, and its peers that change pixels: boxes, maxima, losses by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.methods.directions import Directions
from nuisance.methods.inversion import edited, leftover
from nuisance.methods.long_tailed import RandAugmentation
from nuisance.methods.natural_transformation import (
    MixedTraining,
    NaturalTransformation,
    draw_coefficients,
    worst_edits,
)
from nuisance.methods.pixel_attack import Augmented, AugMixAugmentation, PixelAdversary, attack_pixels
from nuisance.methods.supervised import Supervised
from nuisance.seeding import generator
from nuisance.training import fit

D, SIDE = 5, 6


class Waves(nn.Module):
    """Latents -> images in [0, 1], not linear in them."""

    latent = D

    def __init__(self):
        super().__init__()
        self.maps = nn.Parameter(torch.randn(SIDE * SIDE, D, generator=generator(0)))

    def forward(self, w):
        return (0.5 * (w @ self.maps.T)).sin().add(1).div(2).view(len(w), 1, SIDE, SIDE)


def directions(count=3):
    return Directions(torch.linalg.qr(torch.randn(D, count, generator=generator(1)))[0])


def images(n=16, channels=1):
    pixels = torch.randint(256, (n, channels, SIDE, SIDE), generator=generator(2), dtype=torch.uint8)
    latents = torch.randn(n, D, generator=generator(3))
    return Images(pixels, torch.arange(n) % 3, {"latent": latents})


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    )


SETTINGS = {"steps": 10, "learning_rate": 1e-2, "amplitude": 2.0, "seed": 0}


def natural(net=None, count=3, **settings):
    return NaturalTransformation(net or network(), Waves(), directions(count), **SETTINGS | settings)


def losses(net, x, labels):
    """Of images in eval mode, one by one."""
    net = copy.deepcopy(net).eval()
    return F.cross_entropy(net(x), labels, reduction="none").detach()


# edits


def test_coefficients_are_of_one_direction_within_the_box():
    drawn = draw_coefficients(4000, 4, amplitude=2.5, generator=generator(5))
    assert ((drawn != 0).sum(1) == 1).all()
    counts = (drawn != 0).sum(0)
    assert (counts - 1000).abs().max() < 4 * (4000 * 3 / 16) ** 0.5  # binomial: four standard deviations
    sizes = drawn.sum(1)
    assert sizes.abs().max() <= 2.5
    assert sizes.abs().mean().item() == pytest.approx(1.25, abs=4 * 2.5 / 12**0.5 / 4000**0.5)
    assert abs((sizes > 0).float().mean() - 0.5) < 4 * 0.5 / 4000**0.5


def test_an_edit_by_nothing_is_the_image_and_detail_is_kept():
    batch, waves = images(), Waves()
    x, w = batch.pixels / 255, batch.attributes["latent"]
    residual = leftover(waves, w, x)
    torch.testing.assert_close(edited(waves, w, residual), x, atol=1e-6, rtol=0)
    shift = torch.ones(D) / 2
    torch.testing.assert_close(
        edited(waves, w + shift, residual), (waves(w + shift) + x - waves(w)).clamp(0, 1), atol=1e-6, rtol=0
    )


def test_the_random_choice_edits_by_what_is_drawn_for_its_step():
    batch, method = images(), natural(choice="random")
    found = method.changed(batch)
    method.steps_done = 1
    assert not torch.equal(method.changed(batch), found)
    method.steps_done = 0
    assert torch.equal(method.changed(batch), found)
    assert not torch.equal(natural(choice="random", seed=1).changed(batch), found)
    waves, w = Waves(), batch.attributes["latent"]
    method.net = None  # is not asked
    shown, coefficients = method.edits(batch)
    assert torch.equal(shown, found)
    shifts = coefficients @ directions().vectors.T
    expected = (waves(w + shifts) + batch.pixels / 255 - waves(w)).clamp(0, 1)
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=0)


def test_random_steps_go_either_way_in_every_coefficient_as_far_as_steps_of_the_gradient_can():
    batch = images(4000)
    _, drawn = natural(choice="random").edits(batch)
    _, once = natural(choice="random", ascent_steps=1).edits(batch)
    away = once - drawn
    # a draw of 0 goes to a corner; what is drawn goes as far as the box lets it
    assert (once[drawn == 0].abs() == 2).all()
    reach = torch.where(away > 0, 2 - drawn, 2 + drawn).clamp(max=2.0)
    torch.testing.assert_close(away.abs(), reach)
    assert ((away > 0).float().mean(0) - 0.5).abs().max() < 4 * 0.5 / 4000**0.5
    together = ((away[:, 0] > 0) == (away[:, 1] > 0)).float().mean()  # a coin for each
    assert abs(together - 0.5) < 4 * 0.5 / 4000**0.5
    _, often = natural(choice="random", ascent_steps=4).edits(batch)
    at_rest = drawn == 0
    shares = [(often[at_rest] == size).float().mean().item() for size in (-2, -1, 0, 1, 2)]
    assert shares == pytest.approx([1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], abs=0.025)
    _, again = natural(choice="random", ascent_steps=4).edits(batch)
    assert torch.equal(often, again)


def test_a_residual_that_is_given_is_used():
    batch = images()
    given = batch.with_attributes(residual=leftover(Waves(), batch.attributes["latent"], batch.pixels / 255))
    assert torch.equal(natural().changed(given), natural().changed(batch))
    other = batch.with_attributes(residual=torch.zeros_like(given.attributes["residual"]))
    assert not torch.equal(natural().changed(other), natural().changed(batch))


# the inner maximum


def as_images(coefficients):
    """An edit that shows the coefficients, a pixel each."""
    return coefficients[:, None, None]


def of_images(loss):
    """The loss of the coefficients that `as_images` shows."""
    return lambda images: loss(images[:, 0, 0])


def test_the_worst_edits_are_the_best_of_the_candidates_image_by_image():
    candidates = [torch.tensor([[0.1], [0.5], [-1.0]]), torch.tensor([[0.9], [-0.3], [-1.0]])]
    found = worst_edits(
        as_images, of_images(lambda c: 3 * c[:, 0]), candidates, amplitude=1.0, ascent_steps=0
    )
    assert found.coefficients.flatten().tolist() == pytest.approx([0.9, 0.5, -1.0])
    assert found.losses.tolist() == pytest.approx([2.7, 1.5, -3.0])
    assert torch.equal(found.images, as_images(found.coefficients))


def test_ascent_goes_towards_the_corner_where_a_linear_loss_is_largest():
    slopes = torch.tensor([[1.0, -2.0], [-0.1, 3.0]])
    start = torch.tensor([[-0.5, 0.0], [0.25, 1.0]])

    def loss(c):
        return (c * slopes).sum(1)

    found = worst_edits(as_images, of_images(loss), [start], amplitude=1.5, ascent_steps=3)
    expected = torch.tensor([[1.0, -1.5], [-1.25, 1.5]])  # 1.5 further each way, and no further than 1.5
    torch.testing.assert_close(found.coefficients, expected)
    torch.testing.assert_close(found.losses, (expected * slopes).sum(1))
    torch.testing.assert_close(found.images, as_images(expected))
    assert not any(of.requires_grad for of in (found.images, found.coefficients, found.losses, start))


def test_ascent_keeps_the_best_that_it_saw_where_a_step_leads_down():
    # a narrow peak: every step of size 0.5 overshoots
    def loss(c):
        return -(c[:, 0] - 0.1).abs()

    found = worst_edits(as_images, of_images(loss), [torch.tensor([[0.0]])], amplitude=2.0, ascent_steps=4)
    assert found.coefficients.item() == pytest.approx(0.0)
    assert found.losses.item() == pytest.approx(-0.1)
    assert found.images.item() == pytest.approx(0.0)


@pytest.mark.parametrize("order", [1, -1])
def test_a_loss_that_is_not_a_number_is_never_the_largest(order):
    candidates = [torch.tensor([[0.5], [-0.1]]), torch.tensor([[-0.5], [-0.2]])][::order]
    found = worst_edits(
        as_images, of_images(lambda c: c[:, 0].sqrt()), candidates, amplitude=1.0, ascent_steps=0
    )
    assert found.coefficients[0].item() == 0.5
    assert found.losses[0].item() == pytest.approx(0.5**0.5)
    assert found.coefficients[1].item() == candidates[0][1].item()  # none is a number
    assert found.losses[1].item() == -torch.inf


@pytest.mark.parametrize("ascent_steps", [0, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_inner_maximum_is_never_below_the_random_draw_and_never_outside_the_box(ascent_steps, seed):
    batch, net = images(60), network(seed)
    worst = natural(net, choice="worst", draws=4, ascent_steps=ascent_steps, seed=seed)
    shown, coefficients = worst.edits(batch)
    hard = losses(net, shown, batch.labels)
    drawn = losses(net, natural(net, choice="random", seed=seed).changed(batch), batch.labels)
    assert (hard >= drawn - 1e-6).all()
    assert (hard > drawn + 1e-6).float().mean() > 0.5
    assert coefficients.abs().max() <= 2.0
    assert len(coefficients.unique(dim=0)) > 50
    if ascent_steps:
        few = losses(net, natural(net, choice="worst", draws=4, seed=seed).changed(batch), batch.labels)
        assert (hard >= few - 1e-6).all()
        assert hard.mean() > few.mean() + 0.02


def test_one_draw_without_ascent_is_the_random_choice():
    batch = images()
    assert torch.equal(natural(draws=1).changed(batch), natural(choice="random").changed(batch))


def test_the_search_leaves_classifier_and_generator_as_they_were():
    class Normed(Waves):
        """Would move in training mode."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(D)

        def forward(self, w):
            return super().forward(self.norm(w))

    method = NaturalTransformation(network(), Normed(), directions(), ascent_steps=2, **SETTINGS)
    networks = nn.ModuleList([method, *method._outside]).train()
    before = copy.deepcopy(networks.state_dict())
    method.changed(images())
    assert all(part.training for part in networks.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in networks.parameters())
    assert all(torch.equal(value, before[name]) for name, value in networks.state_dict().items())


# training


class Negative(MixedTraining):
    """The changed images are the negatives."""

    def changed(self, batch):
        return 1 - batch.pixels / 255


@pytest.mark.parametrize("rho", [0.25, 1.0])
def test_the_loss_is_the_mixture_and_the_step_adams_with_a_falling_rate(rho):
    batch, net = images(), network()
    slow = copy.deepcopy(net)
    optimizer = torch.optim.Adam(slow.parameters())
    method = Negative(net, steps=4, learning_rate=1e-2, rho=rho)
    method.train()
    clean = batch.pixels / 255
    for step in range(4):
        watched = method.update(batch)
        together = torch.cat([clean, 1 - clean] if rho < 1 else [1 - clean])
        each = F.cross_entropy(slow(together), batch.labels.repeat(len(together) // 16), reduction="none")
        loss = (1 - rho) * each[:16].mean() * (rho < 1) + rho * each[-16:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 4)
        optimizer.step()
        assert watched["changed_loss"].item() == pytest.approx(each[-16:].mean().item(), abs=1e-5)
        assert ("clean_loss" in watched) == (rho < 1)
    assert method.steps_done == 4
    for ours, theirs in zip(net.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_edits_teach_what_plain_training_does_not():
    class Halves(nn.Module):
        """Two latent numbers -> how bright the image is on the left and on the right."""

        latent = 2

        def forward(self, w):
            half = torch.ones(1, 1, SIDE, SIDE // 2)
            left, right = (0.5 + 0.1 * w).clamp(0, 1)[:, :, None, None, None].unbind(1)
            return torch.cat([left * half, right * half], 3)

    n = 64
    labels = torch.arange(n) % 2
    noise = 0.2 * torch.randn(n, 2, generator=generator(8))
    latents = (2.0 * labels - 1)[:, None] + noise  # in training both sides tell the class

    def as_images(w):
        return Images((Halves()(w) * 255).round().byte(), labels, {"latent": w})

    train, test = as_images(latents), as_images(latents * torch.tensor([1.0, -3.0]))

    def accuracy(method):
        fit(method, train, epochs=60, batch_size=32, generator=generator(0))
        return (method.predict(test.pixels).argmax(1) == labels).float().mean().item()

    def linear():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))

    settings = {"steps": 120, "learning_rate": 0.05}
    along = Directions(torch.tensor([[0.0], [1.0]]))
    edits = NaturalTransformation(linear(), Halves(), along, amplitude=5.0, seed=0, **settings)
    assert accuracy(Supervised(linear(), **settings)) < 0.2
    assert accuracy(edits) > 0.8


@pytest.mark.parametrize("kind", ["random", "worst", "pixels", "augmented"])
def test_a_resumed_training_ends_at_the_same_bits(kind):
    def build():
        if kind == "pixels":
            return PixelAdversary(
                network(), steps=10, learning_rate=1e-2, epsilon=0.1, attack_steps=2, seed=0
            )
        if kind == "augmented":
            return Augmented(network(), RandAugmentation(seed=0), steps=10, learning_rate=1e-2)
        return natural(choice=kind, ascent_steps=1)

    batch, whole, halted, resumed = images(), build().train(), build().train(), build().train()
    for _ in range(4):
        whole.update(batch)
    for _ in range(2):
        halted.update(batch)
    state = halted.training_state()
    assert set(state["method"]) == {f"net.{name}" for name in network().state_dict()}
    resumed.load_training_state(state)
    for _ in range(2):
        resumed.update(batch)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_loss_that_is_not_finite_stops_with_its_step_and_term(monkeypatch):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))  # a batch norm would spread what is not finite
    method = natural(linear, choice="random")
    method.update(images())
    broken = images().with_attributes(latent=torch.full((16, D), torch.inf))
    method.update(broken)
    with pytest.raises(
        ParameterError, match=r"The changed_loss is not finite at step 1 \(from 0\); train with"
    ):
        method.end_epoch(0)
    monkeypatch.setattr("nuisance.training.CHECK_EVERY", 2)
    pixels = PixelAdversary(network(), steps=10, learning_rate=1e-2, epsilon=0.1, seed=0)
    pixels.update(images())
    with torch.no_grad():
        pixels.net[4].bias.fill_(torch.nan)
    with pytest.raises(ParameterError, match="The changed_loss is not finite at step 1"):
        pixels.update(images())


def test_what_cannot_be_trained_is_named():
    batch = images()
    for wrong, words in (
        ({"rho": 0.0}, "rho is 0 but must be above 0"),
        ({"rho": 1.5}, "rho is 1.5 but"),
        ({"amplitude": 0.0}, "amplitude is 0 but"),
        ({"amplitude": torch.inf}, "amplitude is inf but"),
        ({"choice": "hardest"}, "choice is 'hardest' but must be one of random, worst"),
        ({"draws": 0}, "draws is 0 and ascent_steps 0"),
        ({"ascent_steps": -1}, "ascent_steps -1"),
        ({"count": 0}, "There is no direction to edit along"),
    ):
        with pytest.raises(ParameterError, match=words):
            natural(**wrong)
    with pytest.raises(InputError, match=r"directions are \[4, 2\] but the generator takes latents of 5"):
        NaturalTransformation(network(), Waves(), Directions(torch.eye(4)[:, :2]), **SETTINGS)
    with pytest.raises(InputError, match="no attribute 'latent'"):
        natural().update(Images(batch.pixels, batch.labels))
    with pytest.raises(InputError, match=r"latents are \[16, 2\] but the generator takes \[n, 5\]"):
        natural().update(batch.with_attributes(latent=torch.zeros(16, 2)))
    larger = Images(torch.zeros(16, 1, 8, 8, dtype=torch.uint8), batch.labels, batch.attributes)
    with pytest.raises(
        InputError, match=r"images are \[16, 1, 8, 8\] but the generator draws \[16, 1, 6, 6\]"
    ):
        natural().update(larger)
    with pytest.raises(InputError, match="residuals are"):
        natural().update(batch.with_attributes(residual=torch.zeros(16, 1, 1, 1)))


# changes of pixels


def attack(net, batch, **settings):
    settings = {"epsilon": 0.1, "steps": 7, "step_size": 0.025, "generator": generator(4)} | settings
    return attack_pixels(net, batch.pixels / 255, batch.labels, **settings)


def test_the_attack_stays_within_epsilon_and_raises_the_loss():
    batch, net = images(40), network()
    x, weights = batch.pixels / 255, copy.deepcopy(net.state_dict())
    found = attack(net, batch)
    assert (found - x).abs().max() <= 0.1 + 1e-6
    assert 0 <= found.min() <= found.max() <= 1
    start = attack(net, batch, steps=0)
    assert 0.09 < (start - x).abs().max() <= 0.1 + 1e-6
    assert (start - x).abs().mean().item() == pytest.approx(0.05, abs=0.005)  # some are cut off at 0 and 1
    assert (start - x).mean().abs() < 0.005
    before, after = losses(net, x, batch.labels), losses(net, found, batch.labels)
    assert (after > before).all()
    assert after.mean() > losses(net, start, batch.labels).mean() + 0.05
    assert net.training
    assert all(weight.grad is None for weight in net.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


def test_the_attack_of_a_linear_network_reaches_the_corner():
    slopes = torch.randn(SIDE * SIDE, generator=generator(9))
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([slopes, -slopes]))
    batch = images(6)
    batch = Images(batch.pixels, torch.arange(6) % 2)
    away = torch.where(batch.labels == 0, -1, 1).view(-1, 1, 1, 1) * slopes.sign().view(1, 1, SIDE, SIDE)
    expected = (batch.pixels / 255 + 0.1 * away).clamp(0, 1)
    torch.testing.assert_close(attack(net, batch, steps=8), expected, atol=1e-6, rtol=0)
    # one step from the start, which the seed decides
    start = attack(net, batch, steps=0)
    once = torch.minimum((start + 0.025 * away).clamp(0, 1), batch.pixels / 255 + 0.1)
    once = torch.maximum(once, batch.pixels / 255 - 0.1)
    torch.testing.assert_close(attack(net, batch, steps=1), once, atol=1e-6, rtol=0)


def test_the_pixel_adversary_attacks_its_own_network_anew_in_every_step():
    batch = images()
    method = PixelAdversary(network(), steps=10, learning_rate=1e-2, epsilon=0.08, seed=3)
    assert (method.attack_steps, method.step_size, method.rho) == (7, 0.02, 1.0)
    first = method.changed(batch)
    assert torch.equal(method.changed(batch), first)
    before = losses(method.net, batch.pixels / 255, batch.labels)
    assert (losses(method.net, first, batch.labels) > before).all()
    method.steps_done = 1
    assert not torch.equal(method.changed(batch), first)
    for wrong in ({"epsilon": 0.0}, {"epsilon": 1.1}, {"step_size": 0.0}, {"attack_steps": 0}):
        with pytest.raises(ParameterError, match="but these must be above 0, the first up to 1"):
            PixelAdversary(
                network(), **{"steps": 10, "learning_rate": 1e-2, "epsilon": 0.1, "seed": 0} | wrong
            )


def test_augmented_images_are_what_is_learnt_from():
    steps = []

    def negative(batch, step):
        steps.append(step)
        return Images(255 - batch.pixels, batch.labels)

    batch = images()
    ours = Augmented(network(), negative, steps=4, learning_rate=1e-2).train()
    other = Supervised(network(), steps=4, learning_rate=1e-2).train()
    for _ in range(3):
        ours.update(batch)
        other.update(Images(255 - batch.pixels, batch.labels))
    assert steps == [0, 1, 2]
    for mine, theirs in zip(ours.net.parameters(), other.net.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_aug_mix_depends_on_seed_and_step_alone_and_changes_every_image_in_its_own_way(channels):
    data, augment = images(channels=channels), AugMixAugmentation(seed=5)
    before = torch.get_rng_state()
    made = augment(data, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    augment(data, 4)
    assert torch.equal(augment(data, 3).pixels, made.pixels)
    assert not torch.equal(augment(data, 4).pixels, made.pixels)
    assert not torch.equal(AugMixAugmentation(seed=6)(data, 3).pixels, made.pixels)
    assert made.pixels.dtype == torch.uint8
    assert torch.equal(made.labels, data.labels)
    assert torch.equal(made.attributes["latent"], data.attributes["latent"])
    copies = Images(data.pixels[:1].repeat(40, 1, 1, 1), torch.zeros(40, dtype=torch.int64))
    assert len(augment(copies, 0).pixels.unique(dim=0)) > 30


def test_aug_mix_leaves_out_what_is_in_the_test_and_what_it_cannot_take(monkeypatch):
    used = set()
    original = v2.AugMix._apply_image_or_video_transform
    monkeypatch.setattr(
        v2.AugMix,
        "_apply_image_or_video_transform",
        lambda self, image, name, *rest, **more: used.add(name) or original(self, image, name, *rest, **more),
    )
    AugMixAugmentation(seed=0)(images(60), 0)
    assert used == {
        *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
        *("Posterize", "Solarize", "AutoContrast", "Equalize"),
    }
    with pytest.raises(InputError, match="1 or 3 channels, not 2"):
        AugMixAugmentation(seed=0)(images(channels=2), 0)
    for severity in (0, 11):
        with pytest.raises(ParameterError, match=f"severity is {severity} but must be from 1 to 10"):
            AugMixAugmentation(severity=severity, seed=0)
