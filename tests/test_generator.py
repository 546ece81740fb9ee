"""The small generator: its networks against plain arithmetic, its files, and the VAE-GAN that trains it."""

import copy
import math
from collections import defaultdict

import pytest
import torch
import torch.nn.functional as F

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.files import Checkpoint
from nuisance.methods import vae_gan
from nuisance.methods.vae_gan import (
    BETAS,
    VAEGAN,
    adversarial_loss,
    discriminator_loss,
    gaussian_like,
    kl_from_standard,
)
from nuisance.models.generator import (
    ImageDiscriminator,
    ImageEncoder,
    LatentGenerator,
    draw_weights,
)
from nuisance.seeding import deterministic, generator
from nuisance.training import fit

SMALL = {"latent": 5, "width": 2, "channels": 3, "side": 8}


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


def drawn(kind, **settings):
    network = kind(**settings)
    draw_weights(network, generator(0))
    return network


def random_images(n=8, channels=1, side=8):
    pixels = torch.randint(256, (n, channels, side, side), generator=generator(0), dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 3)


def make(**changed):
    return VAEGAN(**{"latent": 3, "width": 2, "side": 8, "steps": 100, "seed": 0, **changed})


# the networks


def norm(x):
    """Every image with mean 0 and variance 1."""
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) / (x.var((1, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


def grown(x, conv):
    """A convolution, four of whose channels at a time are the pixels of a 2 x 2 square; norm and ReLU."""
    x = F.conv2d(x, conv.weight, conv.bias, padding=1)
    b, c, h, w = x.shape
    large = torch.empty(b, c // 4, 2 * h, 2 * w, dtype=x.dtype)
    for channel in range(c):
        corner = channel % 4
        large[:, channel // 4, corner // 2 :: 2, corner % 2 :: 2] = x[:, channel]
    return norm(large).relu()


def test_the_generator_is_a_linear_layer_and_two_upsamplings():
    network = drawn(LatentGenerator, **SMALL).double()
    w = torch.randn(4, 5, generator=generator(1), dtype=torch.double)
    x = (w @ network.first_weight.T + network.first.bias).relu().view(4, 8, 2, 2)
    half = grown(x, network.to_half[0])
    out = F.conv2d(grown(half, network.to_full[0]), network.out.weight, network.out.bias, padding=1)
    assert torch.allclose(network.early(w), half)
    assert network.early(w).shape == (4, 4, 4, 4)
    assert torch.allclose(network.late(half), 1 / (1 + (-out).exp()))
    assert torch.equal(network(w), network.late(network.early(w)))
    assert network(w).shape == (4, 3, 8, 8)


def test_a_latent_enters_by_the_first_weights_alone():
    network = drawn(LatentGenerator, latent=12, width=1, channels=1, side=4)
    weight = network.first_weight
    assert weight.shape == (4, 12)
    invisible = torch.linalg.svd(weight).Vh[4:]  # eight directions that these weights do not see
    w = torch.randn(3, 12, generator=generator(1))
    assert torch.allclose(network(w + 5 * invisible[[0, 3, 7]]), network(w), atol=1e-5)
    assert not torch.allclose(network(w + 5 * weight[:3]), network(w), atol=1e-3)


@pytest.mark.parametrize("kind", [ImageEncoder, ImageDiscriminator])
def test_what_reads_images_is_three_convolutions_and_a_linear_layer(kind):
    given = {"width": 2, "channels": 3, "side": 8}
    network = drawn(kind, **given, **({"latent": 5} if kind is ImageEncoder else {})).double()
    x = torch.rand(4, 3, 8, 8, generator=generator(1), dtype=torch.double)
    first, second, third = [layer for layer in network.layers if isinstance(layer, torch.nn.Conv2d)]
    maps = F.leaky_relu(F.conv2d(x, first.weight, stride=2, padding=1), 0.2)
    maps = F.leaky_relu(norm(F.conv2d(maps, second.weight, stride=2, padding=1)), 0.2)
    maps = F.leaky_relu(norm(F.conv2d(maps, third.weight, padding=1)), 0.2)
    out = maps.flatten(1) @ network.out.weight.T
    if kind is ImageEncoder:
        mean, log_variance = network.posterior(x)
        assert torch.allclose(mean, out[:, :5])
        assert torch.allclose(log_variance, out[:, 5:])
        assert torch.equal(network(x), mean)
    else:
        assert torch.allclose(network.features(x), maps)
        assert network.features(x).shape == (4, 8, 2, 2)
        assert torch.allclose(network(x), out[:, 0])
        assert torch.equal(network(x), network.judge(network.features(x)))


@pytest.mark.parametrize(("side", "small", "convolutions"), [(64, 16, 3), (68, 8, 4), (256, 16, 5)])
def test_larger_images_are_halved_until_their_maps_are_small(side, small, convolutions):
    network = drawn(ImageDiscriminator, width=1, channels=1, side=side)
    assert network.features(torch.rand(1, 1, side, side)).shape == (1, 4, small, small)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in network.layers) == convolutions
    assert drawn(ImageEncoder, latent=3, width=1, channels=1, side=side).out.weight.shape == (6, 4 * small**2)


def test_no_image_sees_the_others_of_its_batch_in_training_either():
    encoder, decoder = drawn(ImageEncoder, **SMALL).train(), drawn(LatentGenerator, **SMALL).train()
    x = torch.rand(4, 3, 8, 8, generator=generator(1))
    alone = torch.cat([decoder(encoder(one[None])) for one in x])
    assert torch.allclose(decoder(encoder(x)), alone, atol=1e-5)


def test_weights_are_drawn_with_two_over_the_inputs():
    network = drawn(LatentGenerator)
    assert network.first_weight.var().item() == pytest.approx(2 / 32, rel=0.02)
    assert network.to_half[0].weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.02)
    assert not network.to_half[0].bias.any()
    assert network.to_half[2].weight.eq(1).all()
    encoder = drawn(ImageEncoder)  # its latents start as noise
    assert encoder.layers[0].weight.var().item() == pytest.approx(2 / 16, rel=0.1)
    assert encoder.out.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 49)) / 20, rel=0.02)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"side": 30}, "side is 30 but must be a multiple of 4; crop, pad or resize"),
        ({"latent": 0}, "latent is 0 but must be a whole number, 1 or more"),
        ({"width": 1.5}, "width is 1.5 but must be a whole number"),
    ],
)
@pytest.mark.parametrize("kind", [LatentGenerator, ImageEncoder, make])
def test_sizes_that_cannot_be_built_are_named(kind, wrong, match):
    with pytest.raises(ParameterError, match=match):
        kind(**wrong)


def test_inputs_of_other_sizes_are_named():
    method = make()
    with pytest.raises(InputError, match=r"latents are \[2, 4\] but this generator takes \[b, 3\]; use the"):
        method.decode(torch.zeros(2, 4))
    with pytest.raises(InputError, match=r"latents are \[3\] but"):
        method.generator(torch.zeros(3))
    for shape in ((2, 1, 12, 8), (2, 3, 8, 8)):
        with pytest.raises(InputError, match=r"but this network takes \[b, 1, 8, 8\]; build it with"):
            method.encode(torch.zeros(shape, dtype=torch.uint8))
        with pytest.raises(InputError, match=r"but this network takes \[b, 1, 8, 8\]"):
            method.discriminator(torch.zeros(shape))


# the losses


def test_kl_is_that_of_torchs_own_gaussians():
    mean, log_variance = torch.randn(2, 6, 4, generator=generator(0), dtype=torch.double)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(1)
    assert torch.allclose(kl_from_standard(mean, log_variance), expected)
    assert kl_from_standard(torch.zeros(1, 9), torch.zeros(1, 9)).item() == 0
    # near the prior, delta^2 / 4, which the formula as it is printed would lose in float32
    assert kl_from_standard(torch.zeros(1, 1), torch.full((1, 1), 1e-3)).item() == pytest.approx(
        2.5e-7, rel=0.01
    )


def test_adversarial_losses_by_hand():
    three, fair = torch.tensor([math.log(3)]), torch.zeros(2)  # probabilities 3/4 and 1/2
    assert discriminator_loss(three, fair).item() == pytest.approx(-math.log(3 / 4) - math.log(1 / 2))
    assert discriminator_loss(fair, three).item() == pytest.approx(-math.log(1 / 2) - math.log(1 / 4))
    assert adversarial_loss(torch.cat([three, -three])).item() == pytest.approx(
        -(math.log(3 / 4) + math.log(1 / 4)) / 2
    )


def test_the_other_latents_are_gaussian_with_the_moments_of_the_first():
    latents = torch.randn(5, 3, generator=generator(0), dtype=torch.double) * torch.tensor([1.0, 2, 3]) + 4
    assert torch.allclose(gaussian_like(latents, torch.zeros(2, 5).double()), latents.mean(0).expand(2, 3))
    # linear in the noise, so what it does to unit vectors is its covariance
    steps = gaussian_like(latents, torch.eye(5).double()) - latents.mean(0)
    assert torch.allclose(steps.T @ steps, torch.cov(latents.T, correction=0))


# a step


def plain_adam(method):
    autoencoder = [*method.encoder.parameters(), *method.generator.parameters()]
    return [
        torch.optim.Adam(players, method.learning_rate, betas=BETAS)
        for players in (autoencoder, method.discriminator.parameters())
    ]


def plain_step(method, pixels, noise, mixing):
    """A step from the equations, an image at a time and a loss at a time; changes ``method``."""
    optimizers = plain_adam(method)
    found = defaultdict(float)
    count, numbers = len(pixels), pixels[0].numel()
    judge = method.discriminator
    mean, log_variance = method.encoder.posterior(pixels.double() / 255)
    latents = (mean + log_variance.exp().sqrt() * noise).detach()
    away = latents - latents.mean(0)
    others = [latents.mean(0) + sum(numbers[:, None] * away) / math.sqrt(count) for numbers in mixing]
    for optimizer, whose in zip(optimizers, ("autoencoder", "discriminator"), strict=True):
        optimizer.zero_grad()
        total = 0
        for image, own, other in zip(pixels.double() / 255, noise, others, strict=True):
            x = image[None]
            mean, log_variance = method.encoder.posterior(x)
            deviation = log_variance.exp().sqrt()
            copied, sample = method.generator(mean + deviation * own), method.generator(other[None])
            real, fakes = judge(x).sigmoid(), torch.cat([judge(copied), judge(sample)]).sigmoid()
            terms = {
                "pixel_loss": ((copied - x) ** 2).mean(),
                "kl": ((mean**2 + deviation**2 - log_variance - 1) / 2).sum(),
                "feature_loss": ((judge.features(copied) - judge.features(x)) ** 2).mean(),
                "adversarial_loss": -fakes.log().sum() / 2,
                "discriminator_loss": -real.log().sum() - (1 - fakes).log().sum() / 2,
            }
            if whose == "autoencoder":
                loss = terms["pixel_loss"] + 2 * 0.5 / numbers * terms["kl"]
                loss = loss + 3 * terms["feature_loss"] + 0.7 * terms["adversarial_loss"]
                found = {name: found[name] + value.item() / count for name, value in terms.items()}
            else:
                loss = terms["discriminator_loss"]
            total = total + loss / count
        own_weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = torch.autograd.grad(total, own_weights)
        for weight, gradient in zip(own_weights, gradients, strict=True):
            weight.grad = gradient
    for optimizer in optimizers:  # together: neither has seen the other's step
        optimizer.step()
    return found


def test_a_step_is_that_of_the_equations(monkeypatch):
    settings = {"pixel_variance": 0.5, "feature_weight": 3, "adversarial_weight": 0.7, "learning_rate": 1e-3}
    method = make(channels=2, **settings).double()
    method.optimizers = dict(zip(method.optimizers, plain_adam(method), strict=True))
    plain = copy.deepcopy(method)
    draws = [torch.randn(4, n, generator=generator(7, n), dtype=torch.double) for n in (3, 4)]
    monkeypatch.setattr(method, "_noise", lambda count: draws if count == 4 else None)
    batch = random_images(4, channels=2)
    expected = plain_step(plain, batch.pixels, *draws)
    before = copy.deepcopy(method.state_dict())
    found = method.update(batch)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)
    for name, weight in plain.state_dict().items():
        assert torch.allclose(method.state_dict()[name], weight, atol=1e-7), name
        # Adam's first step is the learning rate along every gradient that is not 0
        assert (weight - before[name]).abs().max().item() == pytest.approx(1e-3, rel=0.01), name


def test_some_steps_reconstruct_better_than_none():
    images = random_images(4)
    method = make(width=4, latent=8, steps=80, pixel_variance=1e-4, learning_rate=1e-2)
    losses = [method.update(images) for _ in range(80)]
    assert losses[-1]["pixel_loss"] < 0.5 * losses[0]["pixel_loss"]
    copies = method.decode(method.encode(images.pixels))
    error = ((copies.float() - images.pixels.float()) / 255).square().mean()
    assert error.item() == pytest.approx(losses[-1]["pixel_loss"].item(), rel=0.5)


def test_without_a_word_from_the_pixels_posteriors_become_the_prior():
    method = make(pixel_variance=1e3, feature_weight=0, adversarial_weight=0, learning_rate=1e-2)
    divergences = [method.update(random_images(8))["kl"].item() for _ in range(100)]
    assert divergences[-1] < 0.1 * divergences[0]


def test_the_learning_rate_falls_to_zero_and_the_steps_end():
    method, rates = make(steps=4, learning_rate=0.1), []
    for _ in range(4):
        method.update(random_images(2))
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in method.optimizers.values()])
    assert rates == [[pytest.approx(rate)] * 2 for rate in (0.1, 0.075, 0.05, 0.025)]
    with pytest.raises(ParameterError, match="steps is 4 and they are done; for a longer training"):
        method.update(random_images(2))


def test_a_seed_decides_the_weights_and_the_latents():
    torch.manual_seed(1)
    one = make()
    torch.manual_seed(2)
    again, other = make(), make(seed=1)
    losses = [method.update(random_images(4))["pixel_loss"].item() for method in (one, again, other)]
    assert losses[0] == losses[1] != losses[2]


def test_every_step_has_draws_of_its_own():
    method = make()
    first = method._noise(4)
    method.update(random_images(4))
    second = method._noise(4)
    assert [numbers.shape for numbers in first] == [(4, 3), (4, 4)]
    assert all((one - two).abs().min() > 1e-3 for one, two in zip(first, second, strict=True))
    assert (first[0] - first[1][:, :3]).abs().max() > 1e-3


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    def trained(epochs, path):
        method, checkpoint = make(), Checkpoint(path, every_seconds=0)
        order = generator(1)
        history = fit(
            method, random_images(), epochs=epochs, batch_size=4, generator=order, checkpoint=checkpoint
        )
        return method.state_dict(), history

    whole, history = trained(3, tmp_path / "whole")
    trained(1, tmp_path / "stopped")
    again, history_again = trained(3, tmp_path / "stopped")
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())
    assert history == history_again


def test_a_term_that_is_not_finite_is_named_with_its_step(monkeypatch):
    stopped, method, images = make(), make(), random_images(4)
    stopped.update(images)
    stopped.end_epoch(0)
    method.load_training_state(stopped.training_state())  # a training that goes on counts on
    method.update(images)
    with torch.no_grad():  # the variances alone, which are not the first term either
        method.encoder.out.bias[3:].fill_(-math.inf)
    method.update(images)
    with pytest.raises(ParameterError, match=r"kl is not finite at step 2 .*smaller learning_rate"):
        method.end_epoch(1)

    monkeypatch.setattr("nuisance.training.CHECK_EVERY", 2)
    with torch.no_grad():
        method.encoder.out.bias[:3].fill_(math.nan)
    method.update(images)
    with pytest.raises(ParameterError, match="pixel_loss is not finite at step 3"):
        method.update(images)


# what is made of images and latents


def test_latents_are_the_means_and_images_come_in_bytes_and_in_pieces(monkeypatch):
    method, pixels = make(), random_images(7).pixels
    latents = method.encode(pixels)
    assert torch.allclose(latents, method.encoder.posterior(pixels / 255)[0])
    expected = method.generator(latents) * 255
    images = method.decode(latents)
    assert images.dtype == torch.uint8
    assert (images - expected).abs().max() <= 0.5001
    monkeypatch.setattr(vae_gan, "PIECE", 3)
    assert torch.allclose(method.encode(pixels), latents, atol=1e-6)
    assert (method.decode(latents).int() - images.int()).abs().max() <= 1  # halves may round either way
    assert not latents.requires_grad


def test_standardised_draws_have_the_moments_of_the_prior_and_images_stay():
    method, pixels = make(latent=4, steps=10, learning_rate=0.05), random_images(50).pixels
    for _ in range(10):
        method.update(random_images(50))
    method.double()
    mean, log_variance = method.encoder.posterior(pixels.double() / 255)
    method.standardise(pixels)
    new, new_log_variance = method.encoder.posterior(pixels.double() / 255)
    # the change of coordinates, found from the means
    away = mean - mean.mean(0)
    change = torch.linalg.lstsq(away, new).solution.T
    assert torch.allclose(away @ change.T, new)
    noise = change @ log_variance.exp().mean(0).diag() @ change.T
    assert torch.allclose(noise, new_log_variance[0].exp().diag(), atol=1e-9)
    assert torch.allclose(new.T @ new / 50 + noise, torch.eye(4).double(), atol=1e-9)
    assert new_log_variance[0].tolist() == sorted(new_log_variance[0].tolist())
    assert torch.equal(new_log_variance, new_log_variance[:1].expand(50, 4))


def test_standardising_leaves_reconstructions_and_a_second_time_all():
    method, pixels = make(latent=4).double(), random_images(50).pixels
    with torch.no_grad():
        method.encoder.out.weight.mul_(50)  # latents that differ
        method.encoder.out.bias.add_(1)
    x = pixels.double() / 255
    before = method.generator(method.encoder(x))
    method.standardise(pixels)
    once = method.encoder(x)
    assert torch.allclose(method.generator(once), before)
    assert before.std(0).mean() > 0.01
    method.standardise(pixels)
    assert torch.allclose(method.encoder(x).abs(), once.abs())  # a direction may be turned about
    assert torch.allclose(method.generator(method.encoder(x)), before)


def test_samples_are_images_of_the_prior():
    method = make()
    latents = torch.randn(5, 3, generator=generator(2))
    assert torch.equal(method.sample(5, generator=generator(2)), method.decode(latents))
    assert not torch.equal(method.sample(5, generator=generator(2)), method.sample(5, generator=generator(3)))
