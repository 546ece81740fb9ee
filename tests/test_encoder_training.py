"""The encoder of a given generator: a step by hand, and an inverse that is known."""

import copy

import pytest
import torch
from torch import nn

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.files import Checkpoint
from nuisance.methods.encoder_training import _LATENTS, EncoderTraining
from nuisance.models.generator import ImageEncoder, draw_weights
from nuisance.models.progressive_generator import ProgressiveGenerator
from nuisance.seeding import deterministic, generator
from nuisance.training import fit


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


class Linear(nn.Module):
    """Latents -> images 8 x 8 that are linear in them, about grey."""

    def __init__(self, latent=3, size=0.1):
        super().__init__()
        self.latent = latent
        self.maps = nn.Parameter(size * torch.randn(latent, 64, generator=generator(4)))
        self.dropout = nn.Dropout()  # would show in training mode

    def draw(self, count, random):
        return torch.randn(count, self.latent, generator=random)

    def forward(self, w):
        return self.dropout(0.5 + (w @ self.maps)).view(-1, 1, 8, 8)


def images_of(network, n=256, seed=5):
    """Images whose latents are known."""
    w = torch.randn(n, network.latent, generator=generator(seed))
    with torch.no_grad():
        pixels = (copy.deepcopy(network).eval()(w) * 255).round().clamp(0, 255).to(torch.uint8)
    return Images(pixels, torch.zeros(n, dtype=torch.long)).with_attributes(w=w)


def make(network=None, **changed):
    network = Linear() if network is None else network
    encoder = ImageEncoder(latent=network.latent, width=2, side=8)
    draw_weights(encoder, generator(0))
    settings = {"steps": 10, "learning_rate": 1e-2, "seed": 0}
    return EncoderTraining(encoder, network, **{**settings, **changed})


def test_a_step_is_that_of_the_equation_an_image_at_a_time():
    network = Linear()
    method, batch = make(network, pixel_weight=3.0), images_of(network, n=4)
    encoder = copy.deepcopy(method.encoder)
    w = torch.randn(4, 3, generator=generator(0, _LATENTS, 0))
    of_latents = of_pixels = 0.0
    maps = network.maps.detach()
    for code, pixels in zip(w, batch.pixels, strict=True):
        drawn = (0.5 + code @ maps).view(1, 1, 8, 8)
        of_latents = of_latents + sum((encoder(drawn)[0, j] - code[j]) ** 2 for j in range(3)) / (4 * 3)
        again = 0.5 + encoder(pixels[None] / 255)[0] @ maps
        of_pixels = of_pixels + ((again - pixels.flatten() / 255) ** 2).sum() / (4 * 64)
    loss = of_latents + 3 * of_pixels
    gradients = torch.autograd.grad(loss, list(encoder.parameters()))
    losses = method.update(batch)
    assert losses["latent_loss"].item() == pytest.approx(of_latents.item(), rel=1e-5)
    assert losses["pixel_loss"].item() == pytest.approx(of_pixels.item(), rel=1e-5)
    for now, before, gradient in zip(
        method.encoder.parameters(), encoder.parameters(), gradients, strict=True
    ):
        torch.testing.assert_close(now.grad, gradient, rtol=1e-3, atol=1e-6)
        # Adam's first step is the learning rate along every gradient
        clear = gradient.abs() > 1e-4
        assert clear.any()
        torch.testing.assert_close((before - now)[clear], 1e-2 * gradient.sign()[clear], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("pixel_weight", [0.0, 1.0])
def test_a_linear_generator_is_inverted(pixel_weight):
    network = Linear()
    method = make(network, steps=300, pixel_weight=pixel_weight)
    data = images_of(network)
    order = torch.randint(256, (300, 32), generator=generator(1))
    for index in order:
        method.update(data[index])
    unseen = images_of(network, seed=6)
    found = method.encoder(unseen.pixels / 255)
    known = (unseen.pixels.flatten(1) / 255 - 0.5) @ torch.linalg.pinv(network.maps)
    w = unseen.attributes["w"]
    assert (known - w).square().mean() < 0.01  # bytes and their ends cost a little
    assert (found - w).square().mean() < 0.1 * w.var(0).mean()


def test_the_generator_stays_as_it_is_and_out_of_the_state():
    network = Linear()
    network.train()
    before = copy.deepcopy(network.state_dict())
    method = make(network)
    method.update(images_of(network, n=4))
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())
    assert network.training
    assert network.dropout.training
    assert network.maps.requires_grad
    assert network.maps.grad is None
    assert method.state_dict().keys() == {f"encoder.{name}" for name in method.encoder.state_dict()}


def test_the_learning_rate_falls_to_zero_and_the_steps_end():
    method, rates = make(steps=4, learning_rate=0.1), []
    for _ in range(4):
        method.update(images_of(Linear(), n=2))
        rates.append(method.optimizers["encoder"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])
    with pytest.raises(ParameterError, match="steps is 4 and they are done; for a longer training"):
        method.update(images_of(Linear(), n=2))


def test_the_seed_and_the_step_decide_the_latents():
    batch = images_of(Linear(), n=4)
    one, again, other = make(learning_rate=0.0), make(), make(seed=1)
    losses = [method.update(batch)["latent_loss"].item() for method in (one, again, other)]
    assert losses[0] == losses[1] != losses[2]
    assert one.update(batch)["latent_loss"].item() != losses[0]  # other latents, at the same weights


def test_a_resumed_training_ends_at_the_same_bits(tmp_path):
    data = images_of(Linear(), n=8)

    def trained(epochs, path):
        method, checkpoint = make(), Checkpoint(path, every_seconds=0)
        history = fit(
            method, data, epochs=epochs, batch_size=4, generator=generator(1), checkpoint=checkpoint
        )
        return method.state_dict(), history

    whole, history = trained(3, tmp_path / "whole")
    trained(1, tmp_path / "stopped")
    again, history_again = trained(3, tmp_path / "stopped")
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())
    assert history == history_again


@pytest.mark.parametrize("side", [64, 128])
def test_large_coloured_images_reach_every_weight(side):
    network = ProgressiveGenerator(latent=6, widths=[2] * (side // 4).bit_length())
    assert network.side == side
    encoder = ImageEncoder(latent=6, width=1, channels=3, side=side)
    draw_weights(encoder, generator(0))
    method = EncoderTraining(encoder, network, steps=2, learning_rate=1e-3, seed=0)
    losses = method.update(images_of(network, n=2))
    assert all(0 < loss < 10 for loss in losses.values())
    *inner, last, bias = (weight.grad for weight in encoder.parameters())
    assert all(gradient.abs().sum() > 0 for gradient in inner)
    # the last layer has the variances too, of which no use is made
    assert all(part[:6].abs().sum(-1).min() > 0 and not part[6:].any() for part in (last, bias[:, None]))


def test_what_does_not_fit_is_named():
    encoder = ImageEncoder(latent=4, width=2, side=8)
    with pytest.raises(InputError, match="finds latents of 4 numbers but the generator takes 3; build"):
        EncoderTraining(encoder, Linear(), steps=1, learning_rate=0.1, seed=0)
    for wrong in ({"steps": 0}, {"pixel_weight": -1.0}, {"pixel_weight": float("nan")}):
        with pytest.raises(ParameterError, match="the one must be 1 or more, the other 0 or more"):
            make(**wrong)
    small = Images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2))
    with pytest.raises(
        InputError, match=r"images are \[2, 1, 4, 4\] but the generator draws \[2, 1, 8, 8\]; resize"
    ):
        make().update(small)
    large = ImageEncoder(latent=3, width=2, side=16)
    with pytest.raises(InputError, match=r"this network takes \[b, 1, 16, 16\]"):
        EncoderTraining(large, Linear(), steps=1, learning_rate=0.1, seed=0).update(images_of(Linear(), n=2))


def test_a_loss_that_is_not_finite_is_named_with_its_step():
    method, batch = make(), images_of(Linear(), n=4)
    method.update(batch)
    method.end_epoch(0)
    with torch.no_grad():
        method.encoder.out.bias[0] = float("inf")
    method.update(batch)
    with pytest.raises(ParameterError, match=r"latent_loss is not finite at step 1 .*smaller learning_rate"):
        method.end_epoch(1)
