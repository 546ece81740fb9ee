"""The MUNIT: its networks' sizes and norms, its losses, one generator and two, and what tells that it has collapsed."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.files import Checkpoint
from nuisance.methods import munit
from nuisance.methods.munit import (
    BETAS,
    WEIGHT_DECAY,
    InvarianceGenerator,
    adversarial_loss,
    discriminator_loss,
    generator_report,
    pixel_variation,
)
from nuisance.models.munit import (
    AutoEncoder,
    ContentEncoder,
    Decoder,
    PatchDiscriminator,
    StyleEncoder,
    adain,
    draw_weights,
)
from nuisance.seeding import deterministic, generator
from nuisance.training import fit


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


def random_images(n=8, channels=1, side=16):
    pixels = torch.randint(256, (n, channels, side, side), generator=generator(0), dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 3)


def make(**changed):
    small = {"in_channels": 1, "width": 4, "residual_blocks": 1, "learning_rate": 1e-3, "seed": 0}
    return InvarianceGenerator(**{**small, **changed})


def small_network():
    network = AutoEncoder(in_channels=1, width=4, residual_blocks=2)
    draw_weights(network, generator(0))
    return network


def count(network):
    return sum(weight.numel() for weight in network.parameters())


# the networks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("width", "blocks", "dimensions", "extra", "stages"), [(64, 4, 8, 2, 4), (8, 1, 2, 0, 3)]
)
def test_networks_have_as_many_weights_as_their_layers_by_hand(
    channels, width, blocks, dimensions, extra, stages
):
    def conv(kernel, inputs, outputs):
        return kernel**2 * inputs * outputs + outputs

    wide = 4 * width
    down = conv(7, channels, width) + conv(4, width, 2 * width) + conv(4, 2 * width, wide)
    residual = blocks * 2 * conv(3, wide, wide)
    style = down + extra * conv(4, wide, wide) + conv(1, wide, dimensions)
    perceptron = conv(1, dimensions, wide) + conv(1, wide, wide) + conv(1, wide, blocks * 4 * wide)
    up = conv(5, wide, 2 * width) + 2 * 2 * width + conv(5, 2 * width, width) + 2 * width
    decoder = residual + perceptron + up + conv(7, width, channels)
    judge = conv(4, channels, width) + sum(
        conv(4, width * 2**i, width * 2 ** (i + 1)) for i in range(stages - 1)
    )
    judge += conv(1, width * 2 ** (stages - 1), 1)

    common = {"in_channels": channels, "width": width}
    with torch.device("meta"):  # counted, never drawn
        assert count(StyleEncoder(**common, dimensions=dimensions, extra_stages=extra)) == style
        assert count(ContentEncoder(**common, residual_blocks=blocks)) == down + residual
        assert (
            count(Decoder(**common, residual_blocks=blocks, style_dimensions=dimensions, hidden=wide))
            == decoder
        )
        assert count(PatchDiscriminator(**common, stages=stages)) == judge
        whole = AutoEncoder(**common, residual_blocks=blocks, style_dimensions=dimensions, style_stages=extra)
        assert count(whole) == style + down + residual + decoder


def test_the_published_networks_are_the_defaults():
    with torch.device("meta"):
        assert count(AutoEncoder()) == 15_026_187
        assert count(PatchDiscriminator()) == 2_757_057


def test_adain_gives_every_channel_of_every_image_its_mean_and_deviation():
    x = torch.randn(3, 5, 8, 8, generator=generator(0), dtype=torch.double) * 7 + 20
    shift, scale = torch.randn(2, 3, 5, 1, 1, generator=generator(1), dtype=torch.double)
    y = adain(x, shift, scale)
    assert torch.allclose(y.mean((2, 3)), shift[..., 0, 0])
    assert torch.allclose(y.std((2, 3), correction=0), scale[..., 0, 0].abs(), rtol=1e-5)
    # and it is the image as it was: only scaled and shifted
    standard = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True, correction=0)
    assert torch.allclose(y, scale * standard + shift, rtol=1e-4)


def test_content_does_not_see_brightness_or_contrast_and_style_does():
    network = small_network().double()
    x = torch.rand(2, 1, 16, 16, generator=generator(0), dtype=torch.double)
    assert torch.allclose(network.content(x), network.content(0.5 * x + 0.3), atol=1e-3)
    assert (network.style(x) - network.style(0.5 * x + 0.3)).abs().mean() > 0.01


def test_every_block_is_steered_by_its_own_part_of_the_perceptrons_numbers():
    decoder = small_network().decoder
    content, style = torch.randn(1, 16, 4, 4, generator=generator(1)), torch.zeros(1, 8)
    with torch.no_grad():
        decoder.perceptron[-1].bias.copy_(torch.tensor([5.0, 0.0]).repeat_interleave(16).repeat(4))
        decoder.perceptron[-1].bias[64:].zero_()  # the first block shifts by 5 twice, the second not at all
        seen = []
        decoder.blocks[1].register_forward_hook(lambda _, given, result: seen.extend([given[0], result]))
        decoder(content, style)
    assert torch.allclose(seen[0], content + 5)  # scale 0: the shift alone
    assert torch.allclose(seen[1], seen[0])


def test_a_mirrored_image_has_the_mirrored_content_and_the_same_style_of_mirrored_weights():
    """Reflection pads both sides alike, and nothing but the kernels knows left from right."""
    network = small_network().double()
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 4:
                weight.copy_((weight + weight.flip(3)) / 2)
    x = torch.rand(2, 1, 16, 16, generator=generator(0), dtype=torch.double)
    content, style = network.encode(x)
    mirrored, same = network.encode(x.flip(3))
    assert torch.allclose(mirrored, content.flip(3))
    assert torch.allclose(same, style)
    assert torch.allclose(network.decode(mirrored, same), network.decode(content, style).flip(3))


def test_weights_are_drawn_as_published():
    network, judge = AutoEncoder(in_channels=1, width=16), PatchDiscriminator(in_channels=1, width=16)
    for part in (network, judge):
        draw_weights(part, generator(0))
    block = network.decoder.blocks[0].conv1
    assert block.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)
    assert network.decoder.perceptron[2].weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.03)
    assert judge.layers[4].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not block.bias.any()
    scale = network.decoder.grow[2].weight
    assert 0 <= scale.min() < scale.max() <= 1


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((1, 3, 16, 16), r"\[1, 3, 16, 16\] but must be \[b, 1, h, w\]; build"),
        ((1, 1, 16, 18), "16 x 18 but the sides must be multiples of 4 .*; crop"),
        ((1, 1, 12, 16), "12 x 16 .* at least 16; crop"),
    ],
)
def test_images_that_the_networks_cannot_take_are_named(shape, match):
    images = Images(torch.zeros(shape, dtype=torch.uint8), torch.zeros(len(torch.zeros(shape))).long())
    method = make()
    with pytest.raises(InputError, match=match):
        method.reconstruct(images.pixels)
    with pytest.raises(InputError, match=match):
        method.discriminators[0](images.pixels.float())
    with pytest.raises(InputError, match=match):
        method.update(Images(images.pixels.repeat(2, 1, 1, 1), torch.zeros(2).long()))


def test_the_smallest_side_is_what_the_stages_leave():
    x = torch.zeros(1, 1, 8, 8)
    network = AutoEncoder(in_channels=1, width=4, residual_blocks=1, style_stages=1)
    assert network.decode(*network.encode(x)).shape == x.shape
    assert PatchDiscriminator(in_channels=1, width=4, stages=3)(x).shape == (1, 1, 1, 1)


@pytest.mark.parametrize(("halvings", "content"), [(1, (8, 8, 14)), (2, (16, 4, 7))])
def test_every_halving_doubles_the_contents_width(halvings, content):
    x = torch.zeros(2, 1, 16, 28)
    network = AutoEncoder(in_channels=1, width=4, residual_blocks=2, halvings=halvings)
    made, style = network.encode(x)
    assert made.shape == (2, *content)
    assert network.decode(made, style).shape == x.shape
    generator_network = make(halvings=halvings).generators[0]
    assert generator_network.content(x).shape == (2, *content)
    # the style's stages and the discriminator's are their own
    assert count(generator_network.style) == count(make().generators[0].style)


def test_contents_halved_once_take_sides_that_the_style_does_not():
    network, x = AutoEncoder(in_channels=1, width=4, residual_blocks=1, halvings=1), torch.zeros(1, 1, 18, 16)
    assert network.content(x).shape == (1, 8, 9, 8)
    with pytest.raises(InputError, match="18 x 16 but the sides must be multiples of 4 and at least 16"):
        network.encode(x)
    with pytest.raises(InputError, match="17 x 16 but the sides must be multiples of 2 and at least 4"):
        network.content(torch.zeros(1, 1, 17, 16))
    assert network.content(torch.zeros(1, 1, 4, 4)).shape == (1, 8, 2, 2)
    with pytest.raises(InputError, match="4 x 2 but the sides must be multiples of 2 and at least 4"):
        network.content(torch.zeros(1, 1, 4, 2))
    with pytest.raises(InputError, match="18 x 16 but the sides must be multiples of 4 and at least 8"):
        ContentEncoder(in_channels=1, width=4, residual_blocks=1)(x)


def test_without_residual_blocks_the_style_has_no_way_in():
    with pytest.raises(ParameterError, match="residual_blocks is 0, but the style enters"):
        Decoder(residual_blocks=0)


# the losses and a step


def test_adversarial_losses_by_hand():
    fake, real = torch.tensor([0.5, -1.0]), torch.tensor([1.0, 3.0])
    assert discriminator_loss(fake, real).item() == pytest.approx((0.25 + 1) / 2 + (0 + 4) / 2)
    assert adversarial_loss(fake).item() == pytest.approx((0.25 + 4) / 2)
    assert discriminator_loss(torch.zeros(3), torch.ones(3)).item() == 0


def plain_adam(method):
    return {
        players: torch.optim.Adam(
            getattr(method, players).parameters(), 1e-3, betas=BETAS, weight_decay=WEIGHT_DECAY
        )
        for players in ("generators", "discriminators")
    }


def plain_step(method, pixels, styles):
    """A step from the equations: every image on its own way, a loss at a time, plain Adam; changes ``method``."""
    first, second = (pixels.double() / 127.5 - 1).chunk(2)
    pairs = list(zip(method.generators, method.discriminators, strict=True))
    if len(pairs) == 1:
        ways = [(*pairs[0], pairs[0][0], first, first, second)]
    else:
        ways = [
            (*pairs[0], pairs[1][0], first, second, first),
            (*pairs[1], pairs[0][0], second, first, second),
        ]
    optimizers = plain_adam(method)
    shares = []
    for (own, judge, other, _, whence, real), style in zip(ways, styles, strict=True):
        fake = own.decode(other.content(whence), style).detach()
        shares.append((judge(fake) ** 2).mean() + ((judge(real) - 1) ** 2).mean())
    sum(shares).backward()
    optimizers["discriminators"].step()
    found = {"discriminator_loss": shares}
    total = 0
    for (own, judge, other, x, whence, _), style in zip(ways, styles, strict=True):
        content = other.content(whence)
        fake = own.decode(content, style)
        terms = {
            "adversarial_loss": ((judge(fake) - 1) ** 2).mean(),
            "image_loss": (own.decode(own.content(x), own.style(x)) - x).abs().mean(),
            "style_loss": (own.style(fake) - style).abs().mean(),
            "content_loss": (own.content(fake) - content).abs().mean(),
        }
        total = total + terms["adversarial_loss"] + 7 * terms["image_loss"]
        total = total + 2 * terms["style_loss"] + 3 * terms["content_loss"]
        for name, value in terms.items():
            found.setdefault(name, []).append(value)
    optimizers["generators"].zero_grad()
    total.backward()
    optimizers["generators"].step()
    return {name: sum(values).item() / len(values) for name, values in found.items()}


@pytest.mark.parametrize("two", [False, True])
def test_a_step_is_that_of_the_equations(two, monkeypatch):
    method = make(two_generators=two, image_weight=7, style_weight=2, content_weight=3).double()
    method.optimizers = plain_adam(method)
    plain = copy.deepcopy(method)
    batch = random_images(6)
    styles = torch.randn(3 * (1 + two), 8, generator=generator(4), dtype=torch.double)
    monkeypatch.setattr(method, "_styles", lambda number, _: styles if number == len(styles) else None)
    monkeypatch.setattr(
        InvarianceGenerator, "_scale", staticmethod(lambda pixels: pixels.double() / 127.5 - 1)
    )
    expected = plain_step(plain, batch.pixels, styles.chunk(1 + two))
    found = method.update(batch)
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-5)
    for name, weight in plain.state_dict().items():
        # where a loss has no gradient Adam divides rounding by rounding: biases that a norm takes away
        if name.endswith("bias") and ("content" in name or "blocks" in name):
            continue
        assert torch.allclose(method.state_dict()[name], weight, atol=1e-6), name


def test_one_generator_has_half_the_weights_and_two_use_the_first():
    one, two = make(), make(two_generators=True)
    assert 2 * count(one) == count(two)
    pixels = random_images().pixels
    drawn = two.generate(pixels, generator=generator(1))
    with torch.no_grad():
        for weight in two.generators[1].parameters():
            weight.zero_()
    assert torch.equal(two.generate(pixels, generator=generator(1)), drawn)


@pytest.mark.parametrize("two", [False, True])
def test_some_steps_reconstruct_better_than_none(two):
    method, images = make(two_generators=two, learning_rate=5e-3), random_images(8)
    losses = [method.update(images) for _ in range(25)]
    assert losses[-1]["image_loss"] < 0.9 * losses[0]["image_loss"]
    assert method.steps_done == 25


def test_the_learning_rate_is_halved_on_its_steps():
    method, images = make(halve_every=2), random_images(4)
    rates = []
    for _ in range(5):
        method.update(images)
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in method.optimizers.values()])
    assert rates == [[1e-3] * 2, [1e-3] * 2, [5e-4] * 2, [5e-4] * 2, [2.5e-4] * 2]


def test_a_seed_decides_the_weights_and_the_styles():
    torch.manual_seed(1)
    one = make()
    torch.manual_seed(2)
    again, other = make(), make(seed=1)
    images = random_images(4)
    losses = [method.update(images)["style_loss"].item() for method in (one, again, other)]
    assert losses[0] == losses[1] != losses[2]


def test_every_step_has_styles_of_its_own(monkeypatch):
    method, drawn = make(), []
    draw = method._styles
    monkeypatch.setattr(method, "_styles", lambda *given: drawn.append(draw(*given)) or drawn[-1])
    for _ in range(2):
        method.update(random_images(4))
    assert [styles.shape for styles in drawn] == [(2, 8)] * 2
    assert (drawn[0] - drawn[1]).abs().min() > 1e-3


@pytest.mark.parametrize("two", [False, True])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, two):
    def trained(epochs, path):
        method, checkpoint = make(two_generators=two), Checkpoint(path, every_seconds=0)
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


@pytest.mark.parametrize("number", [0, 3])
def test_a_batch_that_cannot_be_halved_is_refused(number):
    with pytest.raises(InputError, match=f"The batch has {number} images but is cut into halves"):
        make().update(random_images(8)[:number])


def test_a_loss_that_is_not_finite_is_named_with_its_step(monkeypatch):
    stopped, method, images = make(), make(), random_images(4)
    stopped.update(images)
    stopped.end_epoch(0)
    method.load_training_state(stopped.training_state())  # a training that goes on counts on
    method.update(images)
    with torch.no_grad():  # only the reconstruction uses an image's own style
        method.generators[0].style.out.bias.fill_(math.nan)
    method.update(images)
    with pytest.raises(ParameterError, match=r"image_loss is not finite at step 2 .*smaller learning_rate"):
        method.end_epoch(1)

    monkeypatch.setattr("nuisance.training.CHECK_EVERY", 2)
    method.update(images)  # by now all weights are
    with pytest.raises(ParameterError, match="discriminator_loss is not finite at step 3"):
        method.update(images)


# what is drawn


def test_what_is_drawn_follows_the_random_numbers_and_not_the_pieces(monkeypatch):
    method, pixels = make(), random_images(7).pixels
    drawn = method.generate(pixels, generator=generator(1))
    assert drawn.dtype == torch.uint8
    assert drawn.shape == pixels.shape
    assert not torch.equal(drawn, method.generate(pixels, generator=generator(2)))
    copies = method.reconstruct(pixels)
    monkeypatch.setattr(munit, "PIECE", 3)
    again, copies_again = method.generate(pixels, generator=generator(1)), method.reconstruct(pixels)
    assert (drawn.int() - again.int()).abs().max() <= 1  # another size of batch may round another way
    assert (copies.int() - copies_again.int()).abs().max() <= 1
    assert method.generate(pixels[:0], generator=generator(1)).shape == (0, 1, 16, 16)


def test_what_is_drawn_is_the_decoding_of_content_and_style():
    method, pixels = make(), random_images(3).pixels
    own, x = method.generators[0], pixels.float() / 127.5 - 1
    style = torch.randn(3, 8, generator=generator(1))
    with torch.no_grad():
        expected = (own.decode(own.content(x), style) + 1) * 127.5
        copies = (own.decode(own.content(x), own.style(x)) + 1) * 127.5
    assert (method.generate(pixels, generator=generator(1)) - expected).abs().max() <= 0.51
    assert (method.reconstruct(pixels) - copies).abs().max() <= 0.51


def test_pixel_variation_by_hand():
    assert pixel_variation(torch.tensor([[0, 7], [51, 7]], dtype=torch.uint8)) == pytest.approx(
        0.2 / math.sqrt(2) / 2
    )


class AddsBackground:
    """The ideal generator of a data set whose nuisance is one number added to all pixels; 0 or 51 in turn."""

    turn = 0

    def generate(self, pixels, *, generator):
        self.turn += 1
        return pixels + 51 * (self.turn % 2)

    def reconstruct(self, pixels):
        return pixels


def test_the_report_on_an_ideal_generator():
    images = Images(torch.arange(3).to(torch.uint8)[:, None, None, None].expand(3, 1, 4, 4), torch.arange(3))
    report = generator_report(
        AddsBackground(), images, classify=lambda x: x[:, 0, 0, 0] % 51, random=generator(0), draws=2
    )
    assert report == pytest.approx(
        {
            "style_variation": 0.2 / math.sqrt(2),
            "real_variation": 1 / 255,
            "kept": 1,
            "reconstruction": 0,
        }
    )
    report = generator_report(
        AddsBackground(), images, classify=lambda x: x[:, 0, 0, 0], random=generator(0), draws=2
    )
    assert report["kept"] == 0.5


def test_the_report_on_a_generator_that_ignores_the_style_or_the_content():
    images = random_images(6)
    method = make()
    sound = generator_report(
        method, images, classify=lambda x: torch.zeros(len(x)), random=generator(0), draws=3
    )
    assert sound["style_variation"] > 0.01
    assert sound["kept"] == pytest.approx(1 / 3)
    with torch.no_grad():
        method.generators[0].decoder.perceptron[-1].weight.zero_()
    collapsed = generator_report(
        method, images, classify=lambda x: torch.zeros(len(x)), random=generator(0), draws=3
    )
    assert collapsed["style_variation"] == 0
    with torch.no_grad():
        method.generators[0].decoder.grow[-2].weight.zero_()  # every image grey, 127.5 rounded to even
    collapsed = generator_report(
        method, images, classify=lambda x: x[:, 0, 0, 0] - 127, random=generator(0), draws=2
    )
    assert collapsed["kept"] == pytest.approx(1 / 3)
    assert collapsed["reconstruction"] == pytest.approx(
        F.l1_loss(images.pixels.float(), torch.tensor(128.0).expand(6, 1, 16, 16)).item() / 255
    )


@pytest.mark.parametrize(("number", "draws"), [(1, 2), (4, 1)])
def test_a_report_on_too_little_is_refused(number, draws):
    with pytest.raises(InputError, match=f"There are {number} images and {draws} draws"):
        generator_report(
            make(), random_images(number), classify=lambda x: x, random=generator(0), draws=draws
        )
