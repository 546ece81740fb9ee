"""The generator of progressive growing: against the paper's equations, and from files as torch.hub has them."""

import math
import pickle
import sys
import types
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nuisance.errors import DataError, InputError, ParameterError
from nuisance.models.pretrained_generator import load_pretrained_generator
from nuisance.models.progressive_generator import (
    EqualisedConv2d,
    EqualisedLinear,
    ProgressiveGenerator,
    pixel_norm,
)
from nuisance.seeding import deterministic, generator

LATENT, WIDTHS = 5, (8, 6, 4)
# what lies in a released file of these sizes
SHAPES = {
    "formatLayer": (16 * 8, 5),
    "groupScale0.0": (8, 8, 3, 3),
    "scaleLayers.0.0": (6, 8, 3, 3),
    "scaleLayers.0.1": (6, 6, 3, 3),
    "scaleLayers.1.0": (4, 6, 3, 3),
    "scaleLayers.1.1": (4, 4, 3, 3),
    "toRGBLayers.0": (3, 8, 1, 1),
    "toRGBLayers.1": (3, 6, 1, 1),
    "toRGBLayers.2": (3, 4, 1, 1),
}


@pytest.fixture(autouse=True)
def _deterministic():
    deterministic()


def released(seed=0, wrapper=".module", shapes=SHAPES):
    """Random weights by the names of the release; the biases are large enough to be missed."""
    random = generator(seed)
    weights = OrderedDict()
    for name, shape in shapes.items():
        size = 0.3 if name.startswith("toRGB") else 1.0  # so that most pixels are inside the range
        weights[f"{name}{wrapper}.weight"] = size * torch.randn(shape, generator=random)
        weights[f"{name}{wrapper}.bias"] = size * torch.randn(shape[0], generator=random)
    return weights


def built(seed=0):
    network = ProgressiveGenerator(latent=LATENT, widths=WIDTHS)
    network.load_state_dict(released(seed, wrapper=""))
    return network.double()


def latents(n=4):
    return torch.randn(n, LATENT, generator=generator(9), dtype=torch.double)


# the equations


def normed(a):
    """Every pixel's features, one pixel at a time."""
    out = torch.empty_like(a)
    for image in range(a.shape[0]):
        for y in range(a.shape[2]):
            for x in range(a.shape[3]):
                features = a[image, :, y, x]
                out[image, :, y, x] = features / ((features**2).sum() / len(features) + 1e-8).sqrt()
    return out


def layer(weights, name, a):
    weight, bias = weights[f"{name}.module.weight"].double(), weights[f"{name}.module.bias"].double()
    inputs = weight.shape[1] * weight.shape[2] * weight.shape[3]
    weight, bias = weight * (2 / inputs) ** 0.5, bias * (2 / inputs) ** 0.5
    return F.conv2d(a, weight, bias, padding=weight.shape[2] // 2)


def leaky(a):
    return torch.where(a > 0, a, a / 5)


def by_the_equations(weights, w):
    """The feature maps at 4, 8 and 16 pixels, and the image on the scale [-1, 1]."""
    w = w / ((w**2).sum(1, keepdim=True) / LATENT + 1e-8).sqrt()
    weight, bias = (weights[f"formatLayer.module.{part}"].double() for part in ("weight", "bias"))
    first = (2 / LATENT) ** 0.5 * (w @ weight.T + bias)
    a = torch.empty(len(w), 8, 4, 4, dtype=torch.double)
    for unit in range(first.shape[1]):
        a[:, unit // 16, unit // 4 % 4, unit % 4] = first[:, unit]
    maps = [normed(leaky(layer(weights, "groupScale0.0", normed(leaky(a)))))]
    for stage in range(2):
        a = maps[-1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        for each in range(2):
            a = normed(leaky(layer(weights, f"scaleLayers.{stage}.{each}", a)))
        maps.append(a)
    return maps, layer(weights, "toRGBLayers.2", a)


def test_the_network_is_that_of_the_equations():
    network, w = built(), latents()
    maps, image = by_the_equations(released(), w)
    assert torch.allclose(network.early(w), maps[1], rtol=0, atol=1e-12)
    inside = image.abs() < 1
    assert 0.6 < inside.double().mean() < 0.99  # the range is tried, and cut
    expected = torch.where(inside, image / 2 + 0.5, (image > 0).double())
    assert torch.allclose(network(w), expected, rtol=0, atol=1e-12)
    assert network(w).shape == (4, 3, network.side, network.side)


def test_weights_and_biases_are_scaled_by_the_inputs():
    linear = EqualisedLinear(8, 1)
    linear.load_state_dict({"weight": torch.ones(1, 8), "bias": torch.tensor([4.0])})
    assert linear(torch.ones(1, 8)).item() == pytest.approx((8 + 4) / 2)  # sqrt(2 / 8)
    conv = EqualisedConv2d(2, 1, 3)
    conv.load_state_dict({"weight": torch.ones(1, 2, 3, 3), "bias": torch.tensor([3.0])})
    assert conv(torch.ones(1, 2, 3, 3)).item() == pytest.approx((18 + 3) / 3)  # sqrt(2 / 18)


def test_a_pixels_features_have_the_mean_square_1():
    a = torch.tensor([[3.0, 0], [4, 1e-4]])[None, :, None]
    root = math.sqrt(12.5)
    assert pixel_norm(a)[0, :, 0, 0].tolist() == pytest.approx([3 / root, 4 / root])
    # near 0 the small number counts: 1e-4 / sqrt(1e-8 / 2 + 1e-8)
    assert pixel_norm(a)[0, 1, 0, 1].item() == pytest.approx(1 / math.sqrt(1.5))


def test_the_length_of_a_latent_makes_no_difference():
    network, w = built(), latents()
    assert torch.allclose(network(5 * w), network(w))
    assert (network(w) - network(-w)).abs().mean() > 0.05


def test_it_is_its_two_parts_and_gradients_come_through():
    network, w = built(), latents().requires_grad_()
    images = network(w)
    assert torch.equal(network.late(network.early(w)), images)
    aim = torch.rand(images.shape, generator=generator(3), dtype=torch.double)
    (gradient,) = torch.autograd.grad((images - aim).square().sum(), w)
    assert gradient.norm(dim=1).min() > 1e-3
    # none along the latent itself, whose length makes no difference
    assert torch.allclose((gradient * w).sum(1), torch.zeros(4).double(), atol=1e-6)
    step = 1e-6 * gradient / gradient.norm()
    change = (network(w + step) - aim).square().sum() - (network(w - step) - aim).square().sum()
    assert change.item() == pytest.approx(2e-6 * gradient.norm().item(), rel=1e-3)


@pytest.mark.parametrize(("widths", "side"), [((3,), 4), ((3, 2), 8), ((3, 2, 2, 1), 32)])
def test_every_width_but_the_first_doubles_the_side(widths, side):
    network = ProgressiveGenerator(latent=2, widths=widths, channels=1)
    assert (network.side, network.latent, network.first_weight.shape) == (side, 2, (48, 2))
    assert network(torch.randn(2, 2, generator=generator(0))).shape == (2, 1, side, side)


def test_sizes_that_cannot_be_are_named():
    for sizes in ({"latent": 0}, {"widths": ()}, {"widths": (3, 1.5)}, {"channels": -1}):
        with pytest.raises(ParameterError, match="all must be whole numbers, 1 or more, and one width"):
            ProgressiveGenerator(**{"latent": 2, "widths": (3,), **sizes})
    with pytest.raises(InputError, match=r"latents are \[4, 6\] but this generator takes \[b, 5\]; use the"):
        built()(torch.zeros(4, 6).double())


# files


def hub_file(path, monkeypatch, *, settings=None, zipped=False, **networks):
    """A file as the hub's: its settings are of a class that is not there when the file is loaded."""
    config = types.ModuleType("models.utils.config")
    config.BaseConfig = type("BaseConfig", (), {"__module__": "models.utils.config"})
    stated = config.BaseConfig()
    vars(stated).update(
        alpha=0.0, categoryVectorDim=0, equalizedlR=True, leakyReluLeak=0.2, perChannelNormalization=True
    )
    vars(stated).update(lossCriterion="WGANGP", depthOtherScales=[6, 4], attribKeysOrder=None)
    vars(stated).update(settings or {})
    parents = {"models": types.ModuleType("models"), "models.utils": types.ModuleType("models.utils")}
    with monkeypatch.context() as patch:
        for name, module in {**parents, "models.utils.config": config}.items():
            patch.setitem(sys.modules, name, module)
        # the released files are older than PyTorch's zip format
        torch.save({"config": stated, **networks}, path, _use_new_zipfile_serialization=zipped)
    assert "models.utils.config" not in sys.modules
    return path


def assert_is(network, weights):
    assert not network.training
    assert all(weight.requires_grad for weight in network.parameters())
    w = latents()
    _, image = by_the_equations(weights, w)
    assert torch.allclose(network.double()(w), (image / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_hubs_file_gives_its_averaged_generator(tmp_path, monkeypatch, zipped):
    networks = {"netG": released(1), "netD": {"other": torch.zeros(2)}, "avgG": released(2)}
    path = hub_file(tmp_path / "hub.pth", monkeypatch, zipped=zipped, **networks)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    network = load_pretrained_generator(path)
    assert_is(network, released(2))
    assert (network.latent, network.side) == (5, 16)
    with pytest.raises(pickle.UnpicklingError):  # nothing is allowed for good
        torch.load(path, weights_only=True)


def test_without_an_average_it_gives_the_generator(tmp_path, monkeypatch):
    assert_is(
        load_pretrained_generator(hub_file(tmp_path / "hub.pth", monkeypatch, netG=released(1))), released(1)
    )


@pytest.mark.parametrize(
    "weights",
    [
        released(3),
        released(3, wrapper=""),
        {name: nn.Parameter(weight) for name, weight in released(3).items()},
    ],
)
def test_bare_weights_with_and_without_their_wrappers_names(tmp_path, weights):
    torch.save(weights, tmp_path / "bare.pth")
    assert_is(load_pretrained_generator(tmp_path / "bare.pth"), released(3))


class Code:
    """A pickle that would run."""

    def __reduce__(self):
        return (pytest.fail, ("the file's code has run",))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(pickle.dumps(Code())),
        lambda path: torch.save({"netG": released(), "config": Code()}, path),
        lambda path: torch.save(built(), path),
        lambda path: (torch.save(released(), path), path.write_bytes(path.read_bytes()[:-100])),
    ],
)
def test_a_file_that_cannot_be_unpacked_is_refused_and_none_of_its_code_runs(tmp_path, write):
    write(tmp_path / "weights.pth")
    with pytest.raises(DataError, match=r"weights\.pth is damaged or holds more than weights; .*state_dict"):
        load_pretrained_generator(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.5},
        {"categoryVectorDim": 4},
        {"equalizedlR": False},
        {"leakyReluLeak": 0.1},
        {"lossCriterion": "DCGAN"},
        {"perChannelNormalization": False},
    ],
)
def test_settings_of_another_network_are_named(tmp_path, monkeypatch, settings):
    path = hub_file(tmp_path / "hub.pth", monkeypatch, settings=settings, netG=released())
    ((name, value),) = settings.items()
    with pytest.raises(DataError, match=rf"hub\.pth is of a generator whose {name} is {value!r}; give the"):
        load_pretrained_generator(path)


def without(*names):
    return {name: weight for name, weight in released().items() if name not in names}


def having(name, value):
    return {**released(), name: value}


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        (torch.zeros(3), "does not hold tensors by name"),
        (having("formatLayer.module.bias", 3), "does not hold tensors by name"),
        ({}, "lacks formatLayer.bias, formatLayer.weight, groupScale0.0.bias"),
        (without("formatLayer.module.weight"), "lacks formatLayer.weight;"),
        (without("toRGBLayers.2.module.weight"), "lacks toRGBLayers.2.weight;"),
        (
            without("toRGBLayers.0.module.weight", "toRGBLayers.0.module.bias"),
            "lacks toRGBLayers.0.bias, toRGB",
        ),
        (having("more", torch.zeros(1)), "it has more too;"),
        (
            having("scaleLayers.0.1.module.weight", torch.zeros(6, 5, 3, 3)),
            r"its scaleLayers.0.1.weight is \[6, 5, 3, 3\] where its other tensors ask for \[6, 6, 3, 3\];",
        ),
        (having("formatLayer.module.weight", torch.tensor(1.0)), r"its formatLayer.weight is \[\] where"),
        (
            having("formatLayer.module.weight", torch.zeros(128, 0)),
            r"its formatLayer.weight is \[128, 0\] where",
        ),
        (
            having("toRGBLayers.2.module.bias", torch.full((3,), math.nan)),
            "toRGBLayers.2.bias has numbers that are not finite",
        ),
        (
            having("toRGBLayers.2.module.bias", torch.zeros(3).double()),
            "toRGBLayers.2.bias is torch.float64 and not torch.float32",
        ),
        (
            having("toRGBLayers.2.module.bias", torch.zeros(3, dtype=torch.int64)),
            "is torch.int64 and not torch.float32",
        ),
    ],
)
def test_weights_of_something_else_are_refused_by_name(tmp_path, weights, fault):
    torch.save(weights, tmp_path / "weights.pth")
    with pytest.raises(DataError, match=rf"weights\.pth .*{fault}.* give the file of torch\.hub's PGAN"):
        load_pretrained_generator(tmp_path / "weights.pth")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file of weights .*none\.pth; download it, or mend the path"):
        load_pretrained_generator(tmp_path / "none.pth")
