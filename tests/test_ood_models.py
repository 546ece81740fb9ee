"""The networks of Gradient-OOD: their shapes by name, their weights, their preprocessing and their stages."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import nn

from nuisance import paths
from nuisance.errors import DataError, InputError, ParameterError
from nuisance.models import pretrained
from nuisance.models.pretrained import Pretrained, fingerprint, load_pretrained, stages
from nuisance.models.resnet import CifarResNet
from nuisance.models.small_cnn import SmallCNN
from nuisance.models.wide_resnet import WideResNet

LITES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
# the sample's folders in order, as ImageNet's class indices
CLASSES = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)


def sample(*parts):
    path = paths.data_root().joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not in NUISANCE_DATA_ROOT")
    return path


def size(network):
    return sum(p.numel() for p in network.parameters())


def test_parameters_are_as_many_as_published():
    with torch.device("meta"):
        assert size(CifarResNet()) == 269_722
        assert size(CifarResNet(blocks=9)) == 853_018  # ResNet-56
        assert size(WideResNet()) == 36_479_194
        assert size(WideResNet(depth=16, width=4)) == 2_748_890
    # convolutions 9 + 9 * 2 + 9 * 8 times width squared (the first on one channel), batch norms, head
    assert size(SmallCNN(classes=10)) == 9 * 16 * (1 + 32 + 128) + 2 * 16 * 7 + 64 * 10 + 10


@pytest.mark.parametrize(
    ("network", "channels", "side", "width"),
    [
        (SmallCNN(classes=10, in_channels=3, width=4), 3, 28, 16),
        (CifarResNet(blocks=1, widths=(4, 8, 16)), 3, 32, 16),
        (WideResNet(depth=10, width=1), 3, 32, 64),
    ],
)
def test_logits_are_the_head_of_the_features(network, channels, side, width):
    network.eval()
    x = torch.rand(5, channels, side, side)
    head = list(network.children())[-1]
    assert network.features(x).shape == (5, width)
    assert torch.equal(head(network.features(x)), network(x))
    assert network(x).shape == (5, 10)
    sides = []
    network.layer3.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    network(x)
    assert sides == [side // 4]


@pytest.mark.parametrize(("stride", "sides"), [(1, [28, 14, 7]), (2, [14, 7, 4])])
def test_a_resnets_stem_may_halve_the_image(stride, sides):
    network = CifarResNet(blocks=1, widths=(2, 4, 8), in_channels=1, stem_stride=stride).eval()
    shapes = []
    for stage in (network.layer1, network.layer2, network.layer3):
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    x = torch.rand(3, 1, 28, 28)
    assert network(x).shape == (3, 10)
    assert shapes == [(3, width, side, side) for width, side in zip((2, 4, 8), sides, strict=True)]
    plain = CifarResNet(blocks=1, widths=(2, 4, 8), in_channels=1)
    assert size(network) == size(plain)
    plain.load_state_dict(network.state_dict())
    torch.testing.assert_close(network.conv1(x), plain.conv1(x)[:, :, ::stride, ::stride])


def test_a_resnet_block_without_weights_is_its_shortcut():
    network = CifarResNet(blocks=1, widths=(2, 4, 7)).eval()
    for block in (network.layer2[0], network.layer3[0]):
        nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 2, 4, 4)
    out = network.layer3[0](network.layer2[0](x))
    assert out.shape == (1, 7, 1, 1)
    # 2 channels become 4 with one of zeros on each side, then 7 with one before and two behind
    assert out.flatten().tolist() == [0, 0, *x[0, :, 0, 0].tolist(), 0, 0, 0]


def test_a_wide_block_without_weights_is_its_shortcut():
    network = WideResNet(depth=10, width=2).eval()
    stride, same = network.layer2[0], WideResNet(depth=16, width=2).eval().layer2[1]
    for block in (stride, same):
        nn.init.zeros_(block.conv2.weight)
    x = torch.randn(1, 32, 4, 4)
    active = torch.relu(x / (1 + 1e-5) ** 0.5)  # batch norm as it is before training
    expected = torch.einsum("oi,bihw->bohw", stride.shortcut.weight[:, :, 0, 0], active[:, :, ::2, ::2])
    torch.testing.assert_close(stride(x), expected)
    y = torch.randn(1, 64, 4, 4)
    assert torch.equal(same(y), y)


def with_statistics(network):
    """In float64 and eval mode, with batch norms that have seen something."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.copy_(torch.rand(values.shape, generator=generator) + 0.1)
    return network.double().eval()


def test_small_and_wide_networks_are_their_papers_formulas():
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64) - 0.5

    def conv(values, layer, stride=1):
        return F.conv2d(values, layer.weight, stride=stride, padding=layer.weight.shape[-1] // 2)

    def active(values, norm):
        statistics = [s.view(-1, 1, 1) for s in (norm.running_mean, norm.running_var, norm.weight, norm.bias)]
        mean, variance, scale, shift = statistics
        return ((values - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)

    small = with_statistics(SmallCNN(classes=3, width=2))
    out = x
    for stage, stride in ((small.layer1, 1), (small.layer2, 2), (small.layer3, 2)):
        out = active(conv(out, stage[0], stride), stage[1])
    torch.testing.assert_close(small(x), out.mean((2, 3)) @ small.fc.weight.T + small.fc.bias)

    wide = with_statistics(WideResNet(depth=10, width=2, classes=3, in_channels=1))
    out = conv(x, wide.conv1)
    for stage, stride in ((wide.layer1, 1), (wide.layer2, 2), (wide.layer3, 2)):
        (block,) = stage
        before = active(out, block.bn1)
        out = conv(active(conv(before, block.conv1, stride), block.bn2), block.conv2)
        out = out + conv(before, block.shortcut, stride)
    out = active(out, wide.bn).mean((2, 3))
    torch.testing.assert_close(wide(x), out @ wide.fc.weight.T + wide.fc.bias)


def test_impossible_sizes_are_refused():
    with pytest.raises(ParameterError, match="depth is 27 but must be 6 n"):
        WideResNet(depth=27)
    with pytest.raises(ParameterError, match="none below"):
        CifarResNet(widths=(16, 32, 16))


def test_raw_pixels_are_normalised_and_bytes_refused():
    model = Pretrained(nn.Flatten(), mean=(0, 0.5, 1), std=(1, 0.5, 0.25), resize=None, crop=1)
    assert model(torch.ones(1, 3, 1, 1)).tolist() == [[1, 1, 0]]
    assert model(torch.zeros(1, 3, 1, 1)).tolist() == [[0, -1, -4]]
    assert not model.state_dict()
    with pytest.raises(InputError, match="divide bytes by 255"):
        model(torch.ones(1, 3, 1, 1, dtype=torch.uint8))


def test_the_shorter_side_is_resized_and_the_middle_cut():
    model = Pretrained(nn.Flatten(), mean=(0,) * 3, std=(1,) * 3, resize=4, crop=2)
    # each pixel of 8 x 16 doubled: halving gives the columns 0..7, of which the middle two are 3 and 4
    columns = np.tile(np.repeat(np.arange(8, dtype=np.uint8) * 30, 2), (8, 1))
    grey = model.prepare(Image.fromarray(columns))
    assert grey.dtype == torch.uint8
    assert grey.shape == (3, 2, 2)
    assert (grey[:, :, 0] - 90).abs().max() <= 8  # bilinear with antialiasing reaches into the neighbours
    assert (grey[:, :, 1] - 120).abs().max() <= 8
    assert torch.equal(model.prepare(Image.fromarray(columns.T)), grey.mT)
    model.interpolation = pretrained.InterpolationMode.NEAREST
    assert model.prepare(Image.fromarray(columns))[:, 0].tolist() == [[90, 120]] * 3


def test_an_image_of_another_size_is_refused_where_nothing_is_resized():
    model = Pretrained(nn.Flatten(), mean=(0,) * 3, std=(1,) * 3, resize=None, crop=2)
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert torch.equal(model.prepare(Image.fromarray(pixels)), torch.from_numpy(pixels).permute(2, 0, 1))
    with pytest.raises(InputError, match="2 x 3 pixels but this network takes 2 x 2"):
        model.prepare(Image.new("RGB", (2, 3)))


@pytest.mark.parametrize("name", LITES)
def test_plain_convolutions_give_the_same_logits(name, tmp_path):
    path, _ = pretrained._weights(name, tmp_path)
    before = EfficientNet.from_name(name.replace("_", "-")).eval()
    before.load_state_dict(torch.load(path, weights_only=True))
    model = load_pretrained(name, tmp_path)
    crop = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}[name]
    assert (model.crop, model.resize, model.interpolation.value) == (crop, crop + 32, "bicubic")
    x = torch.rand(2, 3, crop, crop, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = before((x - model.mean) / model.std)
        assert torch.equal(model(x), expected)
        torch.testing.assert_close(before((255 * x - 127) / 128), expected, rtol=1e-3, atol=1e-4)
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())


def test_every_weighted_module_and_activation_is_torchs_own(tmp_path):
    model = load_pretrained("efficientnet_lite0", tmp_path)
    weighted = {type(m) for m in model.modules() if any(True for _ in m.parameters(recurse=False))}
    assert weighted == {nn.Conv2d, nn.BatchNorm2d, nn.Linear}
    leaves = {type(m) for m in model.modules() if not list(m.children())} - weighted
    assert leaves == {nn.ZeroPad2d, nn.ReLU6, nn.AdaptiveAvgPool2d, nn.Dropout}


def test_plain_convolutions_hold_the_same_parameters():
    network = EfficientNet.from_name("efficientnet-lite0")
    before = list(network.parameters())
    pretrained._make_convolutions_plain(network)
    after = list(network.parameters())
    assert len(before) == len(after)
    assert all(one is other for one, other in zip(before, after, strict=True))


STAGED = {
    "small_cnn": (lambda: SmallCNN(classes=2), 3),
    "cifar": (CifarResNet, 3),
    "wide": (lambda: WideResNet(depth=16, width=1), 3),
    "resnet18": (lambda: torchvision.models.get_model("resnet18"), 4),
    "densenet161": (lambda: torchvision.models.get_model("densenet161"), 4),
    "lite2": (lambda: EfficientNet.from_name("efficientnet-lite2"), 4),
}


@pytest.mark.parametrize("kind", STAGED)
@pytest.mark.parametrize("wrapped", [False, True])
def test_each_parameter_is_in_one_stage_in_order(kind, wrapped):
    build, count = STAGED[kind]
    with torch.device("meta"):
        network = build()
    model = Pretrained(network, mean=(0,) * 3, std=(1,) * 3, resize=None, crop=32) if wrapped else network
    parts = stages(model)
    stem = [] if kind == "small_cnn" else ["stem"]
    assert list(parts) == [*stem, *(f"stage{i + 1}" for i in range(count)), "head"]
    listed = [p for names in parts.values() for n in names for p in model.get_submodule(n).parameters()]
    assert [id(p) for p in listed] == [id(p) for p in model.parameters()]
    assert [type(model.get_submodule(name)) for name in parts["head"]] == [nn.Linear]


def test_stages_part_where_the_resolution_falls():
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    sides = {}
    for number, block in enumerate(network._blocks):
        block.register_forward_hook(lambda m, i, out, number=number: sides.update({number: out.shape[-1]}))
    with torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    parts = stages(network)
    assert parts["stem"] == ("_conv_stem", "_bn0")
    assert parts["stage4"][-2:] == ("_conv_head", "_bn1")
    assert parts["head"] == ("_fc",)
    seen = [
        sorted({sides[int(name[8:])] for name in parts[f"stage{i}"] if name.startswith("_blocks.")})
        for i in range(1, 5)
    ]
    assert seen == [[56, 112], [28], [14], [7]]
    with torch.device("meta"):
        dense = stages(torchvision.models.get_model("densenet161"))
    assert dense["stage3"] == ("features.denseblock3", "features.transition3")
    assert dense["stage4"] == ("features.denseblock4", "features.norm5")


def test_a_network_without_stages_is_refused():
    with pytest.raises(ParameterError, match="Sequential has no stages"):
        stages(nn.Sequential(nn.Linear(2, 2)))


def test_an_unknown_name_names_the_nearest(tmp_path):
    for call in (load_pretrained, fingerprint):
        with pytest.raises(ParameterError, match="Did you mean 'resnet50'"):
            call("resnet_50", tmp_path)


def test_missing_and_damaged_weights_are_named_with_their_mend(tmp_path):
    with pytest.raises(DataError, match=r"missing.*resnet20-12fca82f\.th of https://github\.com/akamaster/"):
        load_pretrained("resnet20_cifar10", tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "cifar10_resnet20.th").write_bytes(b"not weights")
    with pytest.raises(DataError, match=r"cifar10_resnet20\.th are damaged .SHA-256 .*expected 12fca82f"):
        load_pretrained("resnet20_cifar10", tmp_path)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server (a folder) with a checkpoint of a small ResNet-18, named as torchvision names its own."""
    torch.manual_seed(0)
    network = torchvision.models.get_model("resnet18", num_classes=3)
    (tmp_path / "server").mkdir()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    digest = hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()
    path = (tmp_path / "weights.pth").rename(tmp_path / "server" / f"resnet18-{digest[:8]}.pth")
    weights = {"IMAGENET1K_V1": SimpleNamespace(url=path.as_uri())}
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: weights)
    recipe = pretrained._Recipe(
        build=lambda: torchvision.models.get_model("resnet18", num_classes=3), resize=256, crop=224
    )
    monkeypatch.setitem(pretrained._RECIPES, "resnet18", recipe)
    return SimpleNamespace(path=path, digest=digest, network=network.eval(), root=tmp_path / "root")


def test_weights_are_downloaded_once_and_recognised(served):
    model = load_pretrained("resnet18", served.root)
    x = torch.rand(2, 3, 64, 64)
    normalised = torchvision.transforms.functional.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(model(x), served.network(normalised))
    served.path.unlink()
    assert fingerprint("resnet18", served.root) == {served.path.name: served.digest}
    (served.root / "weights" / served.path.name).write_bytes(b"half")
    with pytest.raises(DataError, match=r"damaged.*delete it"):
        load_pretrained("resnet18", served.root)


def test_a_failed_download_is_one_sentence_and_leaves_nothing(served):
    served.path.unlink()
    with pytest.raises(DataError, match=r"Could not download file:.*by hand to") as caught:
        load_pretrained("resnet18", served.root)
    assert "\n" not in str(caught.value)
    assert not list((served.root / "weights").iterdir())


def test_densenets_published_names_are_todays():
    with torch.device("meta"):
        today = torchvision.models.get_model("densenet161").state_dict()
    published = {key.replace("norm1.", "norm.1.").replace("norm2.", "norm.2."): 0 for key in today}
    published = {key.replace("conv1.", "conv.1.").replace("conv2.", "conv.2."): 0 for key in published}
    assert "features.denseblock4.denselayer24.conv.2.weight" in published
    assert list(pretrained._renamed(published)) == list(today)


def test_resnet20_knows_the_sample_of_cifar10():
    arrays = np.load(sample("cifar10_sample", "test.npz"))
    sample("weights", "cifar10_resnet20.th")
    model = load_pretrained("resnet20_cifar10", paths.data_root())
    assert model.resize is None
    # every eighth: the file is sorted by class
    images, labels = arrays["images"][::8], torch.from_numpy(arrays["labels"][::8].astype(np.int64))
    prepared = torch.stack([model.prepare(Image.fromarray(image)) for image in images])
    assert torch.equal(prepared, torch.from_numpy(images).permute(0, 3, 1, 2))
    with torch.no_grad():
        accuracy = (model(prepared / 255).argmax(1) == labels).float().mean()
    assert 0.76 < accuracy < 0.86  # 81 % of the whole sample, which JPEG has damaged; 91.8 % of the original
    digest = "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"
    assert fingerprint("resnet20_cifar10", paths.data_root()) == {"cifar10_resnet20.th": digest}


def test_efficientnet_knows_the_sample_of_imagenet(tmp_path):
    folders = sorted(sample("imagenet", "val").iterdir())
    model = load_pretrained("efficientnet_lite0", tmp_path)
    labels = torch.tensor(CLASSES).repeat_interleave(4)
    assert len(folders) == len(CLASSES)
    files = [path for folder in folders for path in sorted(folder.iterdir())[:4]]
    images = torch.stack([model.prepare(Image.open(path)) for path in files])
    assert images.shape == (40, 3, 224, 224)
    with torch.no_grad():
        guessed = model(images / 255).argmax(1)
    assert (guessed == labels).float().mean() > 0.55
