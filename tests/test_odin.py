"""What every score checks, the two baselines, and ODIN: closed forms and refusals."""

import math

import pytest
import torch
from torch import nn

from nuisance.errors import InputError, ParameterError
from nuisance.ood.gradient_norm import GradientNorm
from nuisance.ood.odin import ODIN, loss_slope, perturb
from nuisance.ood.score import score_all
from nuisance.ood.softmax import MSP, MaxLogit

SCORES = (MSP, MaxLogit, ODIN, GradientNorm)
DOUBLE = torch.float64


def linear(weight, bias=None):
    """Logits ``weight x + bias`` in float64."""
    weight = torch.tensor(weight, dtype=DOUBLE)
    model = nn.Linear(weight.shape[1], len(weight)).double().eval()
    model.weight.data = weight
    model.bias.data = (
        torch.zeros(len(weight), dtype=DOUBLE) if bias is None else torch.tensor(bias, dtype=DOUBLE)
    )
    return model


def identity(classes=3):
    """A network whose logits are its input."""
    return linear(torch.eye(classes).tolist())


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def test_baselines_by_hand():
    x = torch.tensor([[math.log(2), 0.0, 0.0], [0.0, math.log(6), 0.0]], dtype=DOUBLE)
    assert MSP(identity()).scores(x).tolist() == pytest.approx([-0.5, -0.75], rel=1e-15)
    assert MaxLogit(identity()).scores(x).tolist() == pytest.approx([-math.log(2), -math.log(6)], rel=1e-15)
    assert ODIN(identity(), temperature=1.0).scores(x).tolist() == pytest.approx([-0.5, -0.75], rel=1e-15)
    # at T = 2 the odds are the roots: sqrt(2) to 1 to 1
    odds = [math.sqrt(2), math.sqrt(6)]
    expected = [-o / (o + 2) for o in odds]
    assert ODIN(identity(), temperature=2.0).scores(x).tolist() == pytest.approx(expected, rel=1e-15)


def test_sure_images_are_not_tied():
    """float32 has no number between 1 - 6e-8 and 1, where all these confidences lie."""
    model, gaps = identity(2).float(), (20.0, 25.0, 30.0)
    found = MSP(model).scores(torch.tensor([[gap, 0.0] for gap in gaps]))
    assert found.dtype == DOUBLE
    assert [1 + score for score in found.tolist()] == pytest.approx([math.exp(-g) for g in gaps], rel=1e-2)
    # nor are ordinary ones at ODIN's temperature
    near = ODIN(model, temperature=1e6).scores(torch.tensor([[1.0, 0.0], [1.01, 0.0]]))
    assert near[0] - near[1] == pytest.approx(0.01 / 4e6, rel=1e-4)


def test_odin_by_hand():
    """Two classes with h = (x_1 - 2 x_2, 0): the step raises x_1 and lowers x_2, whatever their values."""
    model = linear([[1.0, -2.0], [0.0, 0.0]])
    x = torch.tensor([[2.0, 0.5], [0.5, 2.0]], dtype=DOUBLE)  # gaps 1 and -3.5: classes 0 and 1
    found = ODIN(model, temperature=10.0, epsilon=0.3, std=0.5).scores(x)
    step = 0.3 / 0.5
    expected = [-sigmoid((1 + 3 * step) / 10), -sigmoid((3.5 + 3 * step) / 10)]
    assert found.tolist() == pytest.approx(expected, rel=1e-14)
    by_channel = ODIN(model, temperature=10.0, epsilon=0.3, std=(0.5, 0.25)).scores(x)
    expected = [-sigmoid((1 + step + 4 * step) / 10), -sigmoid((3.5 + step + 4 * step) / 10)]
    assert by_channel.tolist() == pytest.approx(expected, rel=1e-14)
    as_tensor = ODIN(model, temperature=10.0, epsilon=0.3, std=torch.tensor([0.5, 0.25])).scores(x)
    assert torch.equal(as_tensor, by_channel)


def test_each_channel_has_its_own_std():
    """Images, where the second dimension is the channels; their pixels are not clipped."""
    model = nn.Sequential(nn.Flatten(), linear([[1.0] * 8, [0.0] * 8])).eval()
    x = torch.full((1, 2, 2, 2), 0.999, dtype=DOUBLE)
    moved = perturb(model, x, epsilon=0.1, temperature=1.0, std=(0.5, 0.25))
    assert (moved - x).flatten().tolist() == pytest.approx([0.2] * 4 + [0.4] * 4)
    assert not moved.requires_grad
    assert x.unique().tolist() == [0.999]  # the caller's images are as they were


def test_a_gradient_of_zero_counts_as_positive():
    """No class sees the second pixel: the loss neither rises nor falls with it, and it goes down."""
    model = linear([[1.0, 0.0], [0.0, 0.0]])
    x = torch.tensor([[3.0, 3.0], [-3.0, 3.0]], dtype=DOUBLE)
    moved = perturb(model, x, epsilon=0.5, temperature=1.0)
    assert moved.tolist() == [[3.5, 2.5], [-3.5, 2.5]]
    class_blind = linear([[1.0, 1.0], [1.0, 1.0]], [1.0, 0.0])  # all pixels move both logits alike
    assert perturb(class_blind, x, epsilon=0.5, temperature=1.0).tolist() == [[2.5, 2.5], [-3.5, 2.5]]


def test_the_class_is_picked_again_at_the_perturbed_input():
    """The step away from class 2 makes class 1 overtake class 0."""
    model = linear([[0.0], [1.0], [-10.0]], [0.001, 0.0, 0.0])
    x = torch.zeros(1, 1, dtype=DOUBLE)
    assert perturb(model, x, epsilon=0.01, temperature=1.0).item() == 0.01
    odds = [math.exp(h) for h in (0.001, 0.01, -0.1)]
    found = ODIN(model, temperature=1.0, epsilon=0.01).scores(x).item()
    assert found == pytest.approx(-odds[1] / sum(odds), rel=1e-14)


def test_a_sure_network_has_a_slope():
    """S_c - 1 is rounded to 0 here; minus the sum of the others is not."""
    logits = torch.tensor([[60.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=DOUBLE)
    slope = loss_slope(logits, 1.0)
    assert slope[0].tolist() == pytest.approx([-2 * math.exp(-60), math.exp(-60), math.exp(-60)], rel=1e-12)
    e = math.e
    assert slope[1].tolist() == pytest.approx([1 / (2 + e), 1 / (2 + e), -2 / (2 + e)], rel=1e-14)
    moved = perturb(identity(), logits[:1], epsilon=1.0, temperature=1.0)
    assert moved.tolist() == [[61.0, -1.0, -1.0]]


def test_score_all_joins_batches_on_the_cpu():
    x = torch.arange(15, dtype=DOUBLE).reshape(5, 3)
    score = MaxLogit(identity())
    expected = [-2.0, -5.0, -8.0, -11.0, -14.0]
    assert score_all(score, [x[:2], x[2:]]).tolist() == expected
    assert score_all(score, [(x[:4], torch.zeros(4)), (x[4:], torch.zeros(1))]).tolist() == expected
    with pytest.raises(InputError, match="no image to score: the loader is empty"):
        score_all(score, [])


@pytest.mark.parametrize("kind", SCORES)
def test_train_mode_is_refused(kind):
    with pytest.raises(ParameterError, match=r"train mode \(the model\)"):
        kind(identity().train())
    model = nn.Sequential(identity(), nn.Dropout()).eval()
    score = kind(model)
    model[1].train()  # after the score was made
    with pytest.raises(ParameterError, match=r"train mode \(1\)"):
        score.scores(torch.rand(2, 3, dtype=DOUBLE))


class Returns(nn.Module):
    """A linear layer whose output is given another form."""

    def __init__(self, form):
        super().__init__()
        self.form, self.inner = form, identity()

    def forward(self, x):
        return self.form(self.inner(x))


@pytest.mark.parametrize("kind", SCORES)
def test_impossible_inputs_and_networks_are_refused(kind):
    score, x = kind(identity()), torch.rand(3, 3, dtype=DOUBLE)
    for wrong, message in (
        (torch.zeros(2, 3, dtype=torch.uint8), r"are torch\.uint8 but must be a tensor of floats"),
        ([[0.0] * 3], "are list but must be a tensor of floats"),
        (x[:0], r"have the shape \[0, 3\]"),
        (x[0], r"have the shape \[3\]"),
        (
            x.where(torch.eye(3) + torch.eye(3).flip(0) < 1, math.nan),
            r"Input 0 of the batch.*\(3 inputs in all\)",
        ),
        (torch.cat([x, x / 0]), r"Input 3 of the batch.*\(3 inputs in all\)"),
        (torch.rand(2, 4, dtype=DOUBLE), r"does not take inputs of the shape \[2, 4\] "),
        (x.float(), r"does not take inputs of the shape \[3, 3\] "),
    ):
        with pytest.raises(InputError, match=message):
            score.scores(wrong)
    for form, message in (
        (lambda h: h[:, :1], "has a single class"),
        (lambda h: h[:, :, None], r"must return logits \[\d, classes\] but returned \[\d, 3, 1\]"),
        (
            lambda h: h.sum(0, keepdim=True).expand(4, 3),
            r"must return logits \[\d, classes\] but returned \[4, 3\]",
        ),
        (lambda h: (h,), "but returned tuple"),
    ):
        with pytest.raises(InputError, match=message):
            kind(Returns(form).eval()).scores(x)


class TakesFew(nn.Module):
    """Runs out of memory with more than so many inputs."""

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error, self.inner = most, error, identity()

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        return self.inner(x)


OUT_OF_MEMORY = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
)


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_running_out_of_memory_names_a_batch_size(kind, error):
    score, x = kind(TakesFew(4, error).eval()), torch.rand(9, 3, dtype=DOUBLE)
    with pytest.raises(InputError, match="Memory ran out with a batch of 9 inputs; try batches of 4"):
        score.scores(x)
    assert len(score.scores(x[:4])) == 4
    with pytest.raises(InputError, match="batch of 1 inputs; a single image is too much for this device"):
        kind(TakesFew(0, error).eval()).scores(x[:1])


def test_a_mistake_in_the_network_is_shown_as_it_is():
    for error in (RuntimeError("a mistake"), KeyError("a mistake")):
        with pytest.raises(type(error), match="a mistake"):
            MSP(TakesFew(0, error).eval()).scores(torch.rand(1, 3, dtype=DOUBLE))


@pytest.mark.parametrize("kind", [ODIN, GradientNorm])
def test_impossible_parameters_are_refused(kind):
    for temperature in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ParameterError, match=r"temperature is .* but must be above 0"):
            kind(identity(), temperature=temperature)
    for epsilon in (-1e-9, math.inf, math.nan):
        with pytest.raises(ParameterError, match=r"epsilon is .* but must be 0 or greater"):
            kind(identity(), epsilon=epsilon)
    x = torch.rand(2, 3, dtype=DOUBLE)
    for std in (0, -1.0, math.nan, (1.0, 1.0, 0.0)):
        with pytest.raises(ParameterError, match=r"std is .* but must be above 0"):
            kind(identity(), epsilon=0.1, std=std).scores(x)
    for std in ((1.0, 1.0), [[1.0] * 3]):
        with pytest.raises(ParameterError, match="one number, or one for each of 3 channels"):
            kind(identity(), epsilon=0.1, std=std).scores(x)
