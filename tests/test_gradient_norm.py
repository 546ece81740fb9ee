"""The gradient score against the thesis' loop, its layer rules against autograd, and what it does to a model."""

import copy
import random
from collections import OrderedDict
from contextlib import contextmanager, nullcontext

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from nuisance.errors import InputError, ParameterError
from nuisance.models.pretrained import load_pretrained
from nuisance.models.small_cnn import SmallCNN
from nuisance.models.wide_resnet import WideResNet
from nuisance.ood import layer_norms
from nuisance.ood.gradient_norm import GradientNorm, component_norm, total
from nuisance.ood.grid import score_grid
from nuisance.ood.odin import ODIN
from nuisance.ood.score import score_all

EVEN_SAME = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
IMAGE_BY_IMAGE = "goes image by image, which is exact but slower"


def plain_way(model, x, *, temperature=1.0, epsilon=0.0, std=1.0):
    """ODIN's and the gradient score ``[b]``, as the thesis computes them: image by image, all by autograd."""
    model = copy.deepcopy(model).requires_grad_(True)
    std = torch.as_tensor(std, dtype=x.dtype).reshape(-1, 1, 1)

    def loss_at(image):
        logits = model(image)
        return logits, F.cross_entropy(logits / temperature, logits.argmax(1))

    odin, gradient = [], []
    for image in x.split(1):
        image = image.clone().requires_grad_()
        loss_at(image)[1].backward()
        sign = 2 * (image.grad >= 0).to(x.dtype) - 1
        moved = image.detach() - epsilon * sign / std
        model.zero_grad()
        logits, loss = loss_at(moved)
        loss.backward()
        squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
        odin.append(-(logits / temperature).softmax(1).max().detach())
        gradient.append(torch.stack(squares).sum().sqrt())
    return torch.stack(odin), torch.stack(gradient)


def assert_exact(found, expected):
    """Within 1e-12: relative to the score, absolute for scores below 1."""
    assert found.shape == expected.shape
    assert found.isfinite().all()
    assert ((found - expected).abs() <= 1e-12 * expected.abs().clamp(min=1)).all(), (found, expected)


def untrivial(model):
    """In float64 and eval mode, no parameter at 0 or 1 and no running statistic at its start."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1 or not parameter.any():
            parameter.data += 0.2 * torch.randn_like(parameter)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.double().eval()


class Odd(nn.Module):
    """Convolutions of many geometries, and the norms and linear layers that other networks here lack."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 2), padding_mode="reflect"),
            nn.GroupNorm(3, 6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 6, 3, groups=6, padding=1, bias=False),
            nn.Conv2d(6, 6, 5, groups=6, padding=(2, 1), padding_mode="circular"),
            nn.SiLU(inplace=True),
            nn.Conv2d(6, 8, 3, dilation=2, padding=(3, 0), padding_mode="replicate"),
            nn.Conv2d(8, 8, 3, groups=2, stride=(1, 2), padding=(0, 1)),
            nn.ReLU(),
            nn.Conv2d(8, 8, (2, 4), padding="same"),
            nn.Conv2d(8, 8, (4, 2), groups=8, padding="same", padding_mode="circular"),
            nn.Conv2d(8, 16, 3, groups=8, padding="valid"),
        )
        self.norm = nn.LayerNorm(16)
        self.positions = nn.Linear(16, 12)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        tokens = self.norm(self.convolutions(x).permute(0, 2, 3, 1))
        return self.head(F.gelu(self.positions(tokens)).mean((1, 2)))


class Times(nn.Module):
    """Logits of another network, ``factor`` times as large."""

    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x):
        return self.factor * self.network(x)


def small_cnn():
    return SmallCNN(classes=10, in_channels=3, width=4)


def vision_transformer():
    shape = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2}
    return torchvision.models.VisionTransformer(**shape, hidden_dim=16, mlp_dim=32, num_classes=10)


NETWORKS = {
    "small_cnn": (small_cnn, 16),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 32),
    "densenet121": (lambda: torchvision.models.densenet121(num_classes=10), 32),
    "wide_resnet": (lambda: WideResNet(depth=10, width=2), 16),
    "efficientnet_lite0": (None, 64),
    "vision_transformer": (vision_transformer, 32),
    "odd": (Odd, 18),
    "saturated": (lambda: Times(small_cnn(), 1000), 16),
}


@EVEN_SAME
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_the_thesis_loop(name, tmp_path):
    build, side = NETWORKS[name]
    torch.manual_seed(0)
    model = untrivial(build()) if build else load_pretrained(name, tmp_path).double()
    x = torch.rand(2, 3, side, side, dtype=torch.float64)
    by_image = name == "vision_transformer"
    said = pytest.warns(UserWarning, match=IMAGE_BY_IMAGE) if by_image else nullcontext()
    epsilons, temperatures, std = (0.0, 0.01), (1.0, 1000.0), (0.2, 0.5, 1.0)
    with said:
        grid = score_grid(
            model, x, epsilons=epsilons, temperatures=temperatures, std=std, batch_size=2, progress=False
        )
    for e, epsilon in enumerate(epsilons):
        for t, temperature in enumerate(temperatures):
            cell = {"temperature": temperature, "epsilon": epsilon, "std": std}
            odin, gradient = plain_way(model, x, **cell)
            assert_exact(grid.odin[:, e, t], odin)
            assert_exact(grid.gradient[:, e, t], gradient)
            if e == t:
                assert_exact(ODIN(model, **cell).scores(x), odin)
                with said:
                    score = GradientNorm(model, **cell)
                    assert_exact(score.scores(x), gradient)
                assert score.by_image == by_image  # elsewhere the two ways agreed on the first image
    if name == "saturated":
        assert (grid.gradient[:, 0, 0] < 1e-12).all()
        assert (grid.gradient[:, 0, 0] > 0).all()


@pytest.fixture
def small():
    """A small network in float64, and images."""
    torch.manual_seed(0)
    model = untrivial(SmallCNN(classes=4, in_channels=1, width=4))
    return model, torch.rand(3, 1, 8, 8, dtype=torch.float64)


def test_a_linear_model_by_hand():
    """||(S - e_c) (x, 1)'|| / T = |S - e_c| sqrt(|x|^2 + 1) / T."""
    model = nn.Linear(2, 3).double().eval()
    model.weight.data = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    model.bias.data.zero_()
    x = torch.tensor([[3.0, 1.0], [0.5, 4.0]], dtype=torch.float64)
    s = (torch.tensor([[3.0, 2.0, 0.0], [0.5, 8.0, 0.0]], dtype=torch.float64) / 2).softmax(1)
    pull = s - torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    expected = pull.norm(dim=1) * (x.square().sum(1) + 1).sqrt() / 2
    found = GradientNorm(model, temperature=2.0).scores(x)
    assert_exact(found, expected)
    # without the confidence and the temperature: |sum_{j != c} exp((h_j - h_c) / T) (e_j - e_c)| sqrt(...)
    confidence = s.amax(1)
    assert_exact(component_norm(found, confidence, 2.0), 2 * expected / confidence)


def test_the_class_is_picked_again_at_the_perturbed_input():
    """The step runs from class 2 faster than from class 1, which it makes the predicted one."""
    model = nn.Linear(1, 3).double().eval()
    model.weight.data = torch.tensor([[0.0], [1.0], [-10.0]], dtype=torch.float64)
    model.bias.data = torch.tensor([0.001, 0.0, 0.0], dtype=torch.float64)
    x = torch.zeros(1, 1, dtype=torch.float64)
    s = torch.tensor([0.001, 0.01, -0.1], dtype=torch.float64).softmax(0)  # at x + 0.01
    of_class_1 = (s - torch.tensor([0.0, 1.0, 0.0])).norm() * (1 + 0.01**2) ** 0.5
    of_class_0 = (s - torch.tensor([1.0, 0.0, 0.0])).norm() * (1 + 0.01**2) ** 0.5
    found = GradientNorm(model, epsilon=0.01).scores(x)
    assert_exact(found, of_class_1[None])
    assert abs(found - of_class_0) > 1e-3


@pytest.mark.parametrize("kind", ["layer by layer", "image by image"])
def test_each_image_may_have_a_temperature_of_its_own(kind, small):
    model, x = small
    temperatures = (1.0, 5.0, 100.0)
    score = GradientNorm(model)
    score.by_image = kind == "image by image"
    norms, logits = score.norms_at(x, torch.tensor(temperatures, dtype=x.dtype)[:, None])
    expected = [plain_way(model, x, temperature=t)[1][i] for i, t in enumerate(temperatures)]
    assert_exact(total(norms), torch.stack(expected))
    assert_exact(logits, model(x).detach())


def test_float32_is_as_near_as_it_can_be():
    torch.manual_seed(0)
    model = untrivial(torchvision.models.resnet18(num_classes=10))
    x = torch.rand(8, 3, 64, 64)
    exact = GradientNorm(model).scores(x.double())
    found = GradientNorm(model.float()).scores(x)
    assert found.dtype == torch.float32
    assert ((found.double() - exact) / exact).abs().median() < 2e-6


# The rules, layer by layer


def by_autograd(layer, a, g):
    """Squared norms ``[b]`` of the gradients of a layer's parameters, from a backward pass for every image."""
    squared = []
    for image, of_image in zip(a.split(1), g.split(1), strict=True):
        found = torch.autograd.grad(layer(image), list(layer.parameters()), of_image)
        squared.append(sum(gradient.square().sum() for gradient in found))
    return torch.stack(squared)


def check_rule(layer, a, **memory):
    layer, a = untrivial(layer), a.to(torch.float64, **memory)
    g = torch.randn_like(layer(a)).to(**memory) if memory else torch.randn_like(layer(a))
    rule = layer_norms.rule_of(layer)
    torch.testing.assert_close(rule(layer, a, g), by_autograd(layer, a, g), rtol=1e-12, atol=0)


def random_convolution(seed):
    """A convolution of a random geometry that fits its random input, and that input."""
    chance = random.Random(seed)
    pair = lambda low, high: (chance.randint(low, high), chance.randint(low, high))  # noqa: E731
    while True:
        kernel = chance.choice([pair(1, 6), pair(1, 6), (1, 1)])
        dilation, (height, width) = pair(1, 3), pair(5, 11)
        padding = chance.choice([pair(0, 4), pair(0, 4), "same", "valid"])
        groups, per_group, outputs = chance.choice([(1, 3, 5), (1, 7, 2), (2, 2, 3), (6, 1, 1), (4, 1, 2)])
        around = padding if isinstance(padding, tuple) else (0, 0)
        sides = [
            side + 2 * p - d * (k - 1)
            for side, p, d, k in zip((height, width), around, dilation, kernel, strict=True)
        ]
        if padding != "same" and min(sides) < 1:
            continue
        mode = chance.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
        of_same = max(d * (k - 1) for d, k in zip(dilation, kernel, strict=True)) / 2 + 1
        if mode in ("reflect", "circular") and (of_same if padding == "same" else max(around)) >= min(
            height, width
        ):
            continue
        layer = nn.Conv2d(
            groups * per_group,
            groups * outputs,
            kernel,
            stride=(1, 1) if padding == "same" else pair(1, 3),
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=chance.random() < 0.5,
            padding_mode=mode,
        )
        return layer, torch.randn(chance.randint(1, 3), groups * per_group, height, width)


@EVEN_SAME
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("form", ["as chosen", "direct", "Gram"])
def test_convolutions_of_sixty_geometries(form, memory_format, monkeypatch):
    if form != "as chosen":  # the Gram form is for one group alone
        monkeypatch.setattr(
            layer_norms, "_gram_is_cheaper", lambda layer, *_: form == "Gram" and layer.groups == 1
        )
    for seed in range(60):
        torch.manual_seed(seed)
        layer, a = random_convolution(seed)
        check_rule(layer, a, memory_format=memory_format)


def test_both_forms_of_a_convolution_are_chosen():
    few_positions, many_positions = torch.zeros(1, 256, 2, 2), torch.zeros(1, 3, 30, 30)
    deep, shallow = nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
    assert layer_norms._gram_is_cheaper(deep, few_positions, few_positions)
    assert not layer_norms._gram_is_cheaper(shallow, many_positions, torch.zeros(1, 8, 30, 30))


def test_a_convolution_of_large_images():
    for groups in (1, 2):
        check_rule(nn.Conv2d(2, 4, 3, stride=4, groups=groups), torch.randn(2, 2, 230, 230))


LAYERS = {
    "linear": (nn.Linear(5, 3), (4, 5)),
    "linear without bias": (nn.Linear(5, 3, bias=False), (4, 5)),
    "linear, few positions": (nn.Linear(40, 30), (3, 2, 40)),
    "linear, many positions": (nn.Linear(3, 2, bias=False), (3, 4, 5, 3)),
    "batch norm": (nn.BatchNorm1d(6, eps=0.1), (3, 6)),
    "batch norm over time": (nn.BatchNorm1d(6), (3, 6, 4)),
    "batch norm of images": (nn.BatchNorm2d(6, eps=0.1), (3, 6, 4, 5)),
    "batch norm of films": (nn.BatchNorm3d(6), (3, 6, 2, 3, 4)),
    "group norm": (nn.GroupNorm(2, 6, eps=0.1), (3, 6, 4, 5)),
    "group norm over time": (nn.GroupNorm(3, 6), (3, 6, 4)),
    "layer norm": (nn.LayerNorm(6, eps=0.1), (3, 6)),
    "layer norm of positions": (nn.LayerNorm(6), (3, 4, 5, 6)),
    "layer norm without bias": (nn.LayerNorm((5, 6), bias=False), (3, 4, 5, 6)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_rules_are_what_autograd_says(name):
    torch.manual_seed(0)
    layer, shape = LAYERS[name]
    check_rule(layer, 2 + 3 * torch.randn(shape))
    if len(shape) == 4:
        check_rule(layer, 2 + 3 * torch.randn(shape), memory_format=torch.channels_last)


def test_a_gradient_in_another_memory_format_than_the_input():
    # As behind a pooling of channels last. The library's own kernel does not look, and is off by a factor.
    torch.manual_seed(0)
    layer, a = nn.BatchNorm2d(6, eps=0.1).double().eval(), torch.randn(2, 6, 4, 4, dtype=torch.float64)
    layer.running_mean.normal_()
    g, last = torch.randn(2, 6, 4, 4, dtype=torch.float64), torch.channels_last
    for rule in (layer_norms.batch_norm, layer_norms.group_norm):
        of = layer if rule is layer_norms.batch_norm else nn.GroupNorm(2, 6).double()
        expected = rule(of, a, g)
        for mixed in ((a.contiguous(memory_format=last), g), (a, g.contiguous(memory_format=last))):
            torch.testing.assert_close(rule(of, *mixed), expected, rtol=1e-12, atol=0)
    layer = nn.Conv2d(6, 6, 3, padding=1, groups=3).double()
    expected = layer_norms.convolution(layer, a, g)
    for mixed in ((a.contiguous(memory_format=last), g), (a, g.contiguous(memory_format=last))):
        torch.testing.assert_close(layer_norms.convolution(layer, *mixed), expected, rtol=1e-12, atol=0)


def test_a_layer_that_computes_in_its_own_way_has_no_rule():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class Same(nn.Linear):
        pass

    assert layer_norms.rule_of(Doubled(2, 2)) is None
    assert layer_norms.rule_of(Same(2, 2)) is layer_norms.linear
    assert layer_norms.rule_of(nn.BatchNorm2d(2, track_running_stats=False)) is None
    extra = nn.Linear(2, 2)
    extra.scale = nn.Parameter(torch.ones(1))
    assert layer_norms.rule_of(extra) is None


# Layers by name


def test_by_layer_is_each_layer_s_own_gradient(small):
    model, x = small
    found = GradientNorm(model, temperature=2.0).by_layer(x)
    assert list(found) == ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "fc"]
    for i, image in enumerate(x.split(1)):
        logits = model(image) / 2
        model.zero_grad()
        F.cross_entropy(logits, logits.argmax(1)).backward()
        for name, norms in found.items():
            squares = [p.grad.square().sum() for p in model.get_submodule(name).parameters()]
            assert_exact(norms[i], sum(squares).sqrt())


def test_squares_of_parts_sum_to_the_square_of_the_whole(small):
    model, x = small
    whole = GradientNorm(model).scores(x)
    parts = [GradientNorm(model, layers=[name]) for name, _ in model.named_children()]
    assert list(parts[0].layers) == ["layer1.0", "layer1.1"]
    assert_exact(sum(part.scores(x).square() for part in parts).sqrt(), whole)
    two = GradientNorm(model, layers=["fc", "layer2.0"]).by_layer(x)
    assert set(two) == {"fc", "layer2.0"}
    assert_exact(two["fc"], parts[-1].scores(x))


def test_a_prefix_ends_at_a_dot():
    parts = [("layer1", nn.Linear(4, 3)), ("layer10", nn.Linear(3, 2))]
    model = nn.Sequential(OrderedDict(parts)).eval()
    assert list(GradientNorm(model, layers=["layer1"]).layers) == ["layer1"]


def test_layers_that_do_not_exist_are_refused(small):
    model, _ = small
    with pytest.raises(ParameterError, match=r"no module 'layr2'\. Did you mean 'layer2'\?"):
        GradientNorm(model, layers=["layr2"])
    with pytest.raises(ParameterError, match=r"'layer1\.2' has no weights"):
        GradientNorm(model, layers=["layer1.2"])
    for wrong in ("fc", []):
        with pytest.raises(ParameterError, match="must be a list of names"):
            GradientNorm(model, layers=wrong)


# What a score does to a model


class Fails(nn.Module):
    """Raises at its given call, and lets all others pass."""

    def __init__(self, at, error):
        super().__init__()
        self.at, self.error, self.calls = at, error, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return x


@contextmanager
def left_as_it_was(model):
    """Give the weights gradients and freeze some; afterwards nothing about the model may be different."""
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.full_like(parameter, float(i))

    def state():
        hooks = [
            (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks, m._backward_pre_hooks)
            for m in model.modules()
        ]
        return [p.requires_grad for p in model.parameters()], [list(map(dict, four)) for four in hooks]

    values = copy.deepcopy(model.state_dict())
    before = state()
    yield
    assert state() == before
    for i, parameter in enumerate(model.parameters()):
        assert torch.equal(parameter.grad, torch.full_like(parameter, float(i)))
    assert all(torch.equal(values[name], value) for name, value in model.state_dict().items())


def score_in_every_way(model, x):
    """Scores that need a step and such that need none; all cells of a grid."""
    grid = score_grid(model, x, epsilons=[0, 0.01], temperatures=[1, 10], progress=False)
    found = [kind(model, epsilon=e).scores(x) for kind in (ODIN, GradientNorm) for e in (0, 0.01)]
    return [grid.odin, grid.gradient, *found]


def test_the_model_is_left_as_it_was(small):
    model, x = small
    with left_as_it_was(model):
        before = score_in_every_way(model, x)
    # frozen weights count like all others
    assert_exact(before[4], plain_way(model, x)[1])
    for mode in (torch.no_grad, torch.inference_mode):
        with left_as_it_was(model), mode():
            found = score_in_every_way(model, x)
        assert all(map(torch.equal, found, before))
    assert not any(scores.requires_grad for scores in before)


def test_the_model_is_left_as_it_was_image_by_image(small):
    _, x = small
    model = Scaled().double().eval()
    with left_as_it_was(model), pytest.warns(UserWarning, match=IMAGE_BY_IMAGE):
        score_in_every_way(model, x)


@pytest.mark.parametrize("at", range(1, 16))
def test_the_model_is_left_as_it_was_after_an_error(small, at):
    """At each of these scores' fifteen forward passes, in a module and in a hook of the caller's."""
    model, x = small
    for error in (KeyboardInterrupt(), KeyError("a mistake")):
        failing = nn.Sequential(model, Fails(at, error)).eval()
        with left_as_it_was(failing), pytest.raises(type(error)):
            score_in_every_way(failing, x)
    fails = Fails(at, ZeroDivisionError()).eval()
    model.layer2[0].register_forward_hook(lambda module, inputs, output: fails(output))
    with left_as_it_was(model), pytest.raises(ZeroDivisionError):
        score_in_every_way(model, x)
    score_in_every_way(model, x)
    assert fails.calls == at + 15


def test_the_model_is_left_as_it_was_after_an_error_on_the_way_back(small):
    model, x = small

    def hook(module, inputs, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: 1 // 0)

    model.layer2[0].register_forward_hook(hook)
    for way in (GradientNorm(model).scores, ODIN(model, epsilon=0.01).scores):
        with left_as_it_was(model), pytest.raises(ZeroDivisionError):
            way(x)


# Networks that go image by image


class Scaled(nn.Module):
    """A weight of its own kind between two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 5), nn.Linear(5, 3)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0]))

    def forward(self, x):
        return self.last(torch.tanh(self.scale * self.first(x.flatten(1))))


class Functional(nn.Module):
    """Uses the weights of a layer that it never calls."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 5), nn.Linear(5, 3)

    def forward(self, x):
        return F.linear(torch.tanh(self.first(x.flatten(1))), self.last.weight, self.last.bias)


class Windows(nn.Module):
    """Merges the rows of all images into the first dimension."""

    def __init__(self):
        super().__init__()
        self.rows, self.last = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.rows(x.reshape(-1, 8))).view(len(x), -1, 5).mean(1))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Scaled, "there is no rule for Scaled"),
        (Functional, "does not use the weights of"),
        (Windows, "the first dimension of the input of 'rows' is not the images"),
    ],
)
def test_networks_that_no_rule_fits_are_scored_image_by_image(kind, reason):
    torch.manual_seed(0)
    model, x = kind().double().eval(), torch.rand(3, 1, 8, 8, dtype=torch.float64)

    def in_every_way():
        score = GradientNorm(model, temperature=2.0, epsilon=0.05)
        layers = total(score.by_layer(x))
        return score, [score.scores(x), score_all(score, [x[:2], x[2:]]), layers]

    with pytest.warns(UserWarning, match=reason) as said:
        score, found = in_every_way()
    assert len(said) == 1
    assert score.by_image
    expected = plain_way(model, x, temperature=2.0, epsilon=0.05)[1]
    for scores in found:
        assert_exact(scores, expected)
    with pytest.warns(UserWarning, match=reason):
        grid = score_grid(model, x, epsilons=[0.05], temperatures=[2.0], progress=False)
    assert_exact(grid.gradient[:, 0, 0], expected)


# What is refused


class Overwrites(nn.Module):
    """Adds to a layer's input after the layer has seen it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = self.first(x.flatten(1))
        y = self.second(x)
        x += 1
        return self.last(x + y)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(64, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.last(self.inner(torch.tanh(self.inner(self.first(x.flatten(1))))))


def test_weights_that_are_used_twice_are_refused(small):
    _, x = small
    tied = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)).double().eval()
    tied[2].weight = tied[1].weight
    with pytest.raises(ParameterError, match=r"1\.weight and 2\.weight are one shared weight"):
        GradientNorm(tied)
    model = Twice().double().eval()
    with left_as_it_was(model), pytest.raises(ParameterError, match="uses the weights of 'inner' twice"):
        GradientNorm(model).scores(x)


def test_an_overwritten_input_is_refused(small):
    _, x = small
    model = Overwrites().double().eval()
    with left_as_it_was(model), pytest.raises(InputError, match="overwrites the input of 'second' in place"):
        GradientNorm(model).norms_at(x, 1.0)
    with left_as_it_was(model), pytest.raises(InputError, match="overwrites the input of 'second' in place"):
        GradientNorm(model).scores(x)


def test_networks_without_weights_and_train_mode_are_refused(small):
    model, x = small
    with pytest.raises(ParameterError, match="has no weights"):
        GradientNorm(nn.Flatten().eval())
    score = GradientNorm(model)
    model.layer2[1].train()
    for build in (lambda: GradientNorm(model), lambda: score.scores(x), lambda: score.by_layer(x)):
        with pytest.raises(ParameterError, match=r"train mode \(layer2\.1\)"):
            build()


def test_impossible_inputs_are_refused(small):
    model, x = small
    score = GradientNorm(model)
    with pytest.raises(InputError, match=r"does not take inputs of the shape \[3, 2, 8, 8\]"):
        score.by_layer(x.expand(-1, 2, -1, -1))
    for way in (score.scores, score.by_layer):
        with pytest.raises(InputError, match="must be a tensor of floats"):
            way(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
