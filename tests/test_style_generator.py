"""The generator of StyleGAN2: against the paper's equations one image at a time, and from files by both codes."""

import argparse
import math
import re
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F

from nuisance.errors import DataError, InputError, ParameterError
from nuisance.methods.directions import sefa
from nuisance.methods.inversion import expand_latents, shift_latents
from nuisance.models.generator import ImageEncoder, draw_weights
from nuisance.models.pretrained_generator import load_pretrained_generator
from nuisance.models.style_generator import StyleGenerator, StyleLayer, double, smooth
from nuisance.seeding import deterministic, generator

NORMAL, LATENT, MAPPINGS, WIDTHS = 4, 6, 2, (5, 4, 3)
LAYERS = ["b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"]
INPUTS = [5, 5, 4, 4, 3]


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


def nvidias(seed=0):
    """Random weights by the names and shapes of NVIDIA's code, and what else lies in its files."""
    random = generator(seed)

    def draw(*shape, size=1.0):
        return size * torch.randn(shape, generator=random)

    row = torch.tensor([1.0, 3, 3, 1]) / 8
    weights = OrderedDict({"synthesis.b4.const": draw(5, 4, 4)})
    for place, inputs in zip(LAYERS, INPUTS, strict=True):
        block, _ = place.split(".")
        side, outputs = int(block[1:]), {"b4": 5, "b8": 4, "b16": 3}[block]
        weights |= {
            f"synthesis.{place}.affine.weight": draw(inputs, LATENT),
            f"synthesis.{place}.affine.bias": 1 + draw(inputs, size=0.3),
            f"synthesis.{place}.weight": draw(outputs, inputs, 3, 3),
            f"synthesis.{place}.noise_const": draw(side, side),
            f"synthesis.{place}.noise_strength": draw(size=0.3),
            f"synthesis.{place}.bias": draw(outputs, size=0.3),
            f"synthesis.{place}.resample_filter": row[:, None] * row,
        }
        if place.endswith("conv1"):
            weights |= {
                f"synthesis.{block}.torgb.affine.weight": draw(outputs, LATENT),
                f"synthesis.{block}.torgb.affine.bias": 1 + draw(outputs, size=0.3),
                f"synthesis.{block}.torgb.weight": draw(3, outputs, 1, 1, size=0.3),
                f"synthesis.{block}.torgb.bias": draw(3, size=0.2),
                f"synthesis.{block}.resample_filter": row[:, None] * row,
            }
    for n, inputs in enumerate((NORMAL, LATENT)):
        weights[f"mapping.fc{n}.weight"] = draw(LATENT, inputs, size=100.0)
        weights[f"mapping.fc{n}.bias"] = draw(LATENT, size=50.0)
    return weights | {"mapping.w_avg": draw(LATENT)}


def rosinalitys(weights):
    """The same by the names and shapes of the other code."""
    found = OrderedDict({"input.input": weights["synthesis.b4.const"][None]})
    row = torch.tensor([1.0, 3, 3, 1]) / 4
    for n in range(MAPPINGS):
        found |= {f"style.{n + 1}.{part}": weights[f"mapping.fc{n}.{part}"] for part in ("weight", "bias")}

    def convolution(old, new):
        found[f"{new}.conv.weight"] = weights[f"synthesis.{old}.weight"][None]
        for part in ("weight", "bias"):
            found[f"{new}.conv.modulation.{part}"] = weights[f"synthesis.{old}.affine.{part}"]

    for number, old in enumerate(LAYERS):
        new = f"convs.{number - 1}" if number else "conv1"
        convolution(old, new)
        found[f"{new}.noise.weight"] = weights[f"synthesis.{old}.noise_strength"][None]
        found[f"{new}.activate.bias"] = weights[f"synthesis.{old}.bias"]
        found[f"noises.noise_{number}"] = weights[f"synthesis.{old}.noise_const"][None, None]
        if old.endswith("conv0"):
            found[f"{new}.conv.blur.kernel"] = row[:, None] * row
    for number, block in enumerate(("b4", "b8", "b16")):
        new = f"to_rgbs.{number - 1}" if number else "to_rgb1"
        convolution(f"{block}.torgb", new)
        found[f"{new}.bias"] = weights[f"synthesis.{block}.torgb.bias"][None, :, None, None]
        if number:
            found[f"{new}.upsample.kernel"] = row[:, None] * row
    return found


def written(path, weights):
    torch.save(weights, path)
    return path


def loaded(folder, weights):
    return load_pretrained_generator(written(folder / "weights.pt", weights))


# the equations, one image at a time


def active(a):
    return torch.where(a > 0, a, a / 5) * 2**0.5


def latent_of(weights, z):
    a = z / ((z**2).sum() / NORMAL + 1e-8).sqrt()
    for n, inputs in enumerate((NORMAL, LATENT)):
        weight, bias = (weights[f"mapping.fc{n}.{part}"].double() for part in ("weight", "bias"))
        a = active(0.01 * weight @ a / inputs**0.5 + 0.01 * bias)
    return a


def style(weights, place, w):
    weight, bias = (weights[f"synthesis.{place}.affine.{part}"].double() for part in ("weight", "bias"))
    return weight @ w / LATENT**0.5 + bias


def between_zeros(a):
    """Maps with zeros behind every pixel, along both axes."""
    wide = a.new_zeros(a.shape[0], 2 * a.shape[1], 2 * a.shape[2])
    wide[:, ::2, ::2] = a
    return wide


def filtered(a, before, after):
    """The filter along columns, then rows, of maps with zeros around; where the sum of its numbers is 2."""
    for axis in (1, 2):
        a = a.movedim(axis, 2)
        a = F.pad(a, (before, after))
        a = sum(tap / 4 * a[..., n : a.shape[2] - 3 + n] for n, tap in enumerate((1, 3, 3, 1)))
        a = a.movedim(2, axis)
    return a


def image_of(weights, w):
    """The image of one latent w, on the scale [-1, 1], and the features of 8 x 8 pixels."""
    a, image, at_eight = weights["synthesis.b4.const"].double(), None, None
    for place in LAYERS:
        block, layer = place.split(".")
        kernel = weights[f"synthesis.{place}.weight"].double() * style(weights, place, w)[:, None, None]
        kernel = kernel / ((kernel**2).sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer == "conv0":
            # a transposed convolution is one of the image with zeros in between, by the kernel turned round
            a = F.conv2d(F.pad(between_zeros(a), (2, 1, 2, 1)), kernel.flip((2, 3)))
            a = filtered(a, 1, 1)
        else:
            a = F.conv2d(a, kernel, padding=1)
        strength, noise, bias = (
            weights[f"synthesis.{place}.{part}"].double()
            for part in ("noise_strength", "noise_const", "bias")
        )
        a = active(a + strength * noise + bias[:, None, None])
        if layer == "conv1":
            kernel = weights[f"synthesis.{block}.torgb.weight"].double()[..., 0, 0]
            kernel = kernel * style(weights, f"{block}.torgb", w) / kernel.shape[1] ** 0.5
            added = torch.einsum("oc,chw->ohw", kernel, a)
            added = added + weights[f"synthesis.{block}.torgb.bias"].double()[:, None, None]
            image = added if image is None else filtered(between_zeros(image), 2, 1) + added
            at_eight = a if block == "b8" else at_eight
    return image, at_eight


def test_the_network_is_that_of_the_equations(tmp_path):
    weights = nvidias()
    network = loaded(tmp_path, weights).double()
    assert not network.training
    assert (network.normal, network.latent, network.side, network.channels) == (4, 6, 16, 3)
    z = torch.randn(3, NORMAL, generator=generator(9), dtype=torch.double)
    w = torch.stack([latent_of(weights, each) for each in z])
    assert torch.allclose(network.map(z), w, rtol=0, atol=1e-12)
    u = (w - network.mean) / network.spread
    images, features = zip(*(image_of(weights, each) for each in w), strict=True)
    image = torch.stack(images)
    assert torch.allclose(network.early(u)[:, :4], torch.stack(features), rtol=0, atol=1e-10)
    inside = image.abs() < 1
    assert 0.3 < inside.double().mean() < 0.99  # the range is tried, and cut
    assert torch.allclose(network(u), ((image + 1) / 2).clamp(0, 1), rtol=0, atol=1e-10)


def test_a_doubled_ramp_is_the_ramp_in_between():
    """The filter interpolates: inside, a plane stays a plane, its pixels at quarters."""
    y, x = torch.arange(6.0)[:, None], torch.arange(6.0)
    twice = double((2 * x + 3 * y)[None, None])[0, 0]
    at = torch.arange(12.0) / 2 - 0.25
    assert torch.allclose(twice[2:-2, 2:-2], (2 * at + 3 * at[:, None])[2:-2, 2:-2])
    # of one pixel in four, spread over its neighbours, the filter makes as much light as there was
    light = torch.zeros(1, 1, 9, 9)
    light[..., 4, 4] = 1
    assert smooth(light).sum().item() == pytest.approx(4)
    assert smooth(light).shape[-1] == 8


def test_a_layer_does_not_care_how_strong_its_styles_are():
    """Demodulation: features of 1 come out as 1 whatever s is, up to the small number."""
    torch.manual_seed(0)
    layer = StyleLayer(2, 3, 4, side=8, up=False)
    a, w = torch.randn(2, 3, 8, 8, generator=generator(1)), torch.randn(2, 2, generator=generator(2))
    before = layer(a, w)
    with torch.no_grad():
        layer.affine.weight *= 7
        layer.affine.bias *= 7
    assert torch.allclose(layer(a, w), before, atol=1e-5)


# latents


def test_latents_are_standardised_and_drawn_as_the_mapping_has_them(tmp_path):
    network = loaded(tmp_path, nvidias())
    drawn = network.draw(4000, generator(5))
    assert drawn.mean(0).abs().max() < 0.1
    assert drawn.var(0).mean().item() == pytest.approx(1, abs=0.05)
    w = network.map(torch.randn(4000, NORMAL, generator=generator(5)))
    assert torch.allclose(network.mean + network.spread * drawn, w, atol=1e-5)
    assert network.spread != 1
    assert torch.equal(network.draw(3, generator(5)), network.draw(3, generator(5)))


def test_its_directions_are_those_of_all_styles(tmp_path):
    network = loaded(tmp_path, nvidias())
    rows = torch.cat([nvidias()[f"synthesis.{place}.affine.weight"] for place in LAYERS])
    assert torch.equal(network.first_weight, rows)
    rows = rows / rows.norm(dim=1, keepdim=True)
    _, vectors = torch.linalg.eigh(rows.T @ rows)
    found = sefa(network.first_weight, 2).vectors
    assert torch.allclose((found * vectors.flip(1)[:, :2]).sum(0).abs(), torch.ones(2), atol=1e-4)


def test_it_is_its_two_parts_and_gradients_come_through(tmp_path):
    network = loaded(tmp_path, nvidias()).double()
    u = network.draw(2, generator(3)).double().requires_grad_()
    images = network(u)
    assert torch.equal(network.late(network.early(u)), images)
    aim = torch.rand(images.shape, generator=generator(4), dtype=torch.double)
    (gradient,) = torch.autograd.grad((images - aim).square().sum(), u)
    step = 1e-6 * gradient / gradient.norm()
    change = (network(u + step) - aim).square().sum() - (network(u - step) - aim).square().sum()
    assert change.item() == pytest.approx(2e-6 * gradient.norm().item(), rel=1e-3)


def test_its_images_are_inverted_and_expanded(tmp_path):
    network = loaded(tmp_path, nvidias())
    encoder = ImageEncoder(latent=LATENT, width=2, channels=3, side=16).eval()
    draw_weights(encoder, generator(2))
    images = network(network.draw(3, generator(3))).detach()
    plain = {"steps": 150, "learning_rate": 0.05, "encoder_weight": 0.0}  # this one was not trained
    shift = shift_latents(images, encoder=encoder, generator=network, **plain)
    assert not shift.left_out.any()
    assert (shift.loss < 0.3 * shift.start_loss).all()
    assert torch.allclose(network(shift.latents), images, atol=1e-3)
    others = images.flip(2)  # which no latent makes
    one = (network(shift.latents) - others).square().mean((1, 2, 3))
    few = {"steps": 60, "learning_rate": 0.03, "feature_weight": 0.0}
    expansion = expand_latents(
        others, start=shift.latents, generator=network, random=generator(6), codes=3, **few
    )
    assert torch.allclose(expansion.start_loss, one, atol=1e-6)  # one code is exact, w included
    several = (expansion.reconstruct() - others).square().mean((1, 2, 3))
    assert (several < 0.7 * one).all()


@pytest.mark.parametrize(("widths", "side"), [((3,), 4), ((3, 2), 8), ((3, 2, 2, 1), 32)])
def test_every_width_but_the_first_doubles_the_side(widths, side):
    network = StyleGenerator(normal=2, latent=3, mappings=1, widths=widths, channels=1)
    assert network.side == side
    assert network(torch.randn(2, 3, generator=generator(0))).shape == (2, 1, side, side)


def test_sizes_that_cannot_be_are_named():
    for sizes in ({"normal": 0}, {"latent": 1.5}, {"mappings": 0}, {"widths": ()}, {"channels": -1}):
        given = {"normal": 2, "latent": 2, "mappings": 1, "widths": (3,), **sizes}
        with pytest.raises(ParameterError, match="all must be whole numbers, 1 or more, and one width"):
            StyleGenerator(**given)
    network = StyleGenerator(normal=2, latent=3, mappings=1, widths=(2,))
    with pytest.raises(InputError, match=r"latents are \[4, 2\] but this generator takes \[b, 3\]; use the"):
        network(torch.zeros(4, 2))


# files


@pytest.mark.parametrize(
    "stored",
    [
        lambda: nvidias(),
        lambda: {"G_ema": nvidias()},
        lambda: rosinalitys(nvidias()),
        lambda: {"g": rosinalitys(nvidias(1)), "g_ema": rosinalitys(nvidias()), "latent_avg": torch.zeros(6)},
        lambda: {"g_ema": rosinalitys(nvidias()), "args": argparse.Namespace(size=16, ckpt=None)},
    ],
)
def test_the_same_network_comes_of_both_codes_files(tmp_path, stored):
    plain = loaded(tmp_path, nvidias())
    network = loaded(tmp_path, stored())
    assert torch.equal(network.mean, plain.mean)
    u = plain.draw(2, generator(1))
    assert torch.equal(network(u), plain(u))
    assert all(weight.requires_grad for weight in network.parameters())


def test_where_a_file_has_no_noise_it_is_drawn_once_and_for_all(tmp_path):
    plain = {name: weight for name, weight in rosinalitys(nvidias()).items() if not name.startswith("noises")}
    network, again = loaded(tmp_path, plain), loaded(tmp_path, plain)
    noises = [of.noise_const for of in network.modules() if isinstance(of, StyleLayer)]
    assert [len(noise) for noise in noises] == [4, 8, 8, 16, 16]
    assert torch.cat([noise.flatten() for noise in noises]).std().item() == pytest.approx(1, abs=0.1)
    u = network.draw(2, generator(1))
    assert torch.equal(network(u), again(u))


def test_what_does_not_lie_in_the_file_is_not_in_the_network(tmp_path):
    """Neither the stored mean of w nor the latents' scale is part of the state."""
    state = loaded(tmp_path, nvidias()).state_dict()
    extra = {name for name in nvidias() if name.endswith((".resample_filter", ".w_avg"))}
    assert state.keys() == nvidias().keys() - extra


def having(name, value, of=nvidias):
    return {**of(), name: value}


def without(*names):
    return {name: weight for name, weight in nvidias().items() if name not in names}


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        ({"g_ema": {"style.1.weight": 3}}, "does not hold tensors by name"),
        (having("mapping.embed.weight", torch.zeros(6, 10)), "is of a generator that is told a class"),
        (
            having("synthesis.b8.conv0.resample_filter", torch.ones(4, 4)),
            "whose synthesis.b8.conv0.resample_filter is not the filter [1, 3, 3, 1]",
        ),
        (
            having("convs.0.conv.blur.kernel", torch.ones(2, 2), lambda: rosinalitys(nvidias())),
            "whose convs.0.conv.blur.kernel is not the filter",
        ),
        (
            without("synthesis.b4.const"),
            "StyleGAN2, by the names of NVIDIA's code: it lacks synthesis.b4.const;",
        ),
        (without("synthesis.b16.conv1.weight"), "it lacks synthesis.b16.conv1.weight;"),
        (without("mapping.fc0.weight"), "it lacks mapping.fc0.weight;"),
        (having("synthesis.b8.skip.weight", torch.zeros(4, 5, 1, 1)), "it has synthesis.b8.skip.weight too;"),
        (having("synthesis.input.freqs", torch.zeros(6, 2)), "it has synthesis.input.freqs too;"),
        (
            having("synthesis.b8.conv1.weight", torch.zeros(4, 3, 3, 3)),
            "its synthesis.b8.conv1.weight is [4, 3, 3, 3] where its other tensors ask for [4, 4, 3, 3];",
        ),
        (
            having("convs.2.conv.weight", torch.zeros(2, 3, 4, 3, 3), lambda: rosinalitys(nvidias())),
            "its synthesis.b16.conv0.weight is [2, 3, 4, 3, 3] where",
        ),
        (
            having("synthesis.b4.torgb.bias", torch.full((3,), math.nan)),
            "b4.torgb.bias has numbers that are not finite",
        ),
        (
            having("synthesis.b4.torgb.bias", torch.zeros(3).half()),
            "b4.torgb.bias is torch.float16 and not torch.float32 (Tensor.float()",
        ),
        (
            nvidias()
            | {f"mapping.fc1.{part}": 0 * nvidias()[f"mapping.fc1.{part}"] for part in ("weight", "bias")},
            "whose latents are all alike or not finite",
        ),
        (nvidias() | rosinalitys(nvidias(1)), "holds synthesis.b4.const twice, by the names of both codes"),
        (having("synthesis.b8.conv0.noise_const", torch.zeros(4, 4)), "b8.conv0.noise_const is [4, 4] where"),
        (without("synthesis.b8.conv0.noise_const"), "it lacks synthesis.b8.conv0.noise_const;"),
        (
            {name: weight.half() for name, weight in nvidias().items()},
            "its synthesis.b4.const is torch.float16 and not torch.float32",
        ),
        # names that ask for sizes that nobody has
        (having("convs.1000000000.conv.weight", torch.zeros(1)), "it has convs.1000000000.conv.weight too;"),
        (having("convs.70.conv.weight", torch.zeros(1)), "it has synthesis.b274877906944.conv0.weight too;"),
        (having("noises.noise_\u0663", torch.zeros(1)), "it has noises.noise_\\u0663 too;"),
        (having("style.0.weight", torch.zeros(1)), "it has style.0.weight too;"),
        (having("synthesis.b32.conv1.weight", torch.zeros(1)), "it lacks synthesis.b32.conv0.affine.bias"),
        ({f"synthesis.b{4 * 2**n}.conv1.weight": torch.zeros(1) for n in range(40)}, "it lacks"),
        (having("y" * 5000, torch.zeros(1)), f"it has {'y' * 80} too;"),
        # tensors whose numbers are not there
        (having("mapping.fc0.weight", torch.zeros(1, 1).expand(6, 10**10)), "does not hold tensors by name"),
        (having("synthesis.b4.const", torch.zeros(5, 4, 4, device="meta")), "does not hold tensors by name"),
    ],
)
def test_weights_of_something_else_are_refused_by_name(tmp_path, weights, fault):
    words = rf"weights\.pt .*{re.escape(fault)}.* give the file of torch\.hub's PGAN, one of rosinality's"
    with pytest.raises(DataError, match=words):
        loaded(tmp_path, weights)


def test_a_long_list_of_what_is_missing_is_cut_short(tmp_path):
    few = {name: weight for name, weight in nvidias().items() if name.startswith("mapping")}
    few["synthesis.b4.const"] = nvidias()["synthesis.b4.const"]
    with pytest.raises(DataError, match=r"it lacks ([\w.]+, ){5}[\w.]+ and \d+ more; give"):
        loaded(tmp_path, few)
