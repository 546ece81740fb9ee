"""The grid of epsilons and temperatures: its cells, its shortcuts, and how it goes on after an interrupt."""

import math

import pytest
import torch
from torch import nn

from nuisance.errors import InputError, ParameterError
from nuisance.files import Checkpoint
from nuisance.models.small_cnn import SmallCNN
from nuisance.ood.gradient_norm import GradientNorm
from nuisance.ood.grid import EPSILONS, TEMPERATURES, score_grid
from nuisance.ood.odin import ODIN

CELLS = {"epsilons": (0, 0.01), "temperatures": (1, 10)}


class Counting(nn.Module):
    """A small network that counts its forward passes, and that is interrupted in one of them."""

    def __init__(self, interrupted_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.inner = SmallCNN(classes=4, in_channels=2, width=4)
        self.inner.fc.weight.data *= 20  # of many a confidence
        self.interrupted_at, self.calls = interrupted_at, 0

    def forward(self, x):
        self.calls += 1
        if self.calls == self.interrupted_at:
            raise KeyboardInterrupt
        return self.inner(x)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.rand(5, 2, 8, 8)


def grid(model, x, **options):
    return score_grid(model.eval(), x, **{**CELLS, "progress": False, **options})


def test_the_thesis_grid():
    assert len(EPSILONS) == 21
    assert (EPSILONS[0], EPSILONS[1], EPSILONS[3], EPSILONS[-1]) == (0.0, 0.0002, 0.0006, 0.004)
    assert TEMPERATURES == (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@pytest.mark.parametrize("layers", [None, ["inner.fc", "inner.layer2"]])
def test_cells_are_the_two_scores(images, layers):
    """Here against the scores themselves; tests/test_gradient_norm.py holds both to the thesis' loop."""
    model, images, std = Counting().double(), images.double(), (0.5, 0.2)
    epsilons, temperatures = (0.004, 0.0, 0.02), (1000.0, 1.0, 3.0)  # in no order
    found = grid(model, images, epsilons=epsilons, temperatures=temperatures, std=std, layers=layers)
    assert (found.epsilons, found.temperatures, found.approximate) == (epsilons, temperatures, False)
    assert found.odin.shape == found.gradient.shape == (5, 3, 3)
    assert found.odin.dtype == found.gradient.dtype == torch.float64
    for e, epsilon in enumerate(epsilons):
        for t, temperature in enumerate(temperatures):
            cell = {"epsilon": epsilon, "temperature": temperature, "std": std}
            odin = ODIN(model, **cell).scores(images)
            gradient = GradientNorm(model, layers=layers, **cell).scores(images)
            torch.testing.assert_close(found.odin[:, e, t], odin, rtol=1e-12, atol=0)
            torch.testing.assert_close(found.gradient[:, e, t], gradient, rtol=1e-12, atol=0)


def test_batches_change_nothing(images):
    model = Counting().double()
    whole = grid(model, images.double())
    for batch_size in (1, 2, 5):
        found = grid(model, images.double(), batch_size=batch_size)
        torch.testing.assert_close(found.odin, whole.odin, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.gradient, whole.gradient, rtol=1e-12, atol=0)


def test_an_interrupted_grid_goes_on_where_it_was(images, tmp_path):
    whole = grid(Counting(), images, batch_size=2)
    calls = Counting()
    grid(calls, images, batch_size=2)
    # two for the comparison on one image; in each of three batches one at the images, one in either stepped cell
    assert calls.calls == 2 + 3 * (1 + 2)

    interrupted = Counting(interrupted_at=2 + 3 + 2)  # in the second batch
    checkpoint = Checkpoint(tmp_path / "grid", every_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        grid(interrupted, images, batch_size=2, checkpoint=checkpoint)
    assert len(checkpoint.load()["scores"]) == 2
    for missing in (2, 0):  # batches still to be done; in the end none is
        resumed = Counting()
        found = grid(resumed, images, batch_size=2, checkpoint=checkpoint)
        assert resumed.calls == 2 + missing * (1 + 2)
        assert torch.equal(found.odin, whole.odin)
        assert torch.equal(found.gradient, whole.gradient)


def test_a_checkpoint_of_another_grid_is_refused(images, tmp_path):
    checkpoint = Checkpoint(tmp_path / "grid", every_seconds=0)
    options = {"batch_size": 5, "checkpoint": checkpoint, "temperatures": (1, 100, 1000)}
    grid(Counting(), images, **options)
    grid(Counting(), images, **options)
    brighter, retrained = images.clone(), Counting()
    brighter[4, 1, 7, 7] += 1e-3
    retrained.inner.layer1[1].running_mean[0] += 1e-3
    for model, x, other in (
        (Counting(), brighter, {}),
        (retrained, images, {}),
        (Counting(), images, {"epsilons": (0, 0.02)}),
        (Counting(), images, {"temperatures": (1, 100, 500)}),
        (Counting(), images, {"merge_from": 100}),
        (Counting(), images, {"layers": ["inner.fc"]}),
        (Counting(), images, {"std": 0.5}),
    ):
        with pytest.raises(
            InputError, match="belongs to a grid of another network, other inputs or other cells"
        ):
            grid(model, x, **{**options, **other})


def test_merged_temperatures_are_near_and_say_so(images):
    model, temperatures = Counting().double(), (1, 100, 1000, 500)
    exact = grid(model, images.double(), temperatures=temperatures)
    before = model.calls
    merged = grid(model, images.double(), temperatures=temperatures, merge_from=100)
    assert model.calls - before == 2 + 1 + 2  # directions at 1 and 100 alone
    assert merged.approximate
    assert not exact.approximate
    for name in ("odin", "gradient"):
        ours, true = getattr(merged, name), getattr(exact, name)
        assert torch.equal(ours[..., :2], true[..., :2])
        torch.testing.assert_close(ours[..., 2:], true[..., 2:], rtol=5e-3, atol=0)
    assert not torch.equal(merged.gradient, exact.gradient)
    # T times the score is shared
    torch.testing.assert_close(
        merged.gradient[..., 2:] * torch.tensor([1000.0, 500.0]),
        100 * merged.gradient[..., [1, 1]],
        rtol=1e-12,
        atol=0,
    )
    # where the step is none, ODIN's score needs no approximation
    assert torch.equal(merged.odin[:, 0], exact.odin[:, 0])


@pytest.mark.parametrize("merge_from", [10, 11])
def test_a_merge_of_fewer_than_two_is_exact(images, merge_from):
    model = Counting()
    merged, exact = grid(model, images, merge_from=merge_from), grid(model, images)
    assert not merged.approximate
    assert torch.equal(merged.gradient, exact.gradient)


def test_impossible_grids_are_refused(images):
    model = Counting()
    for wrong in ({"epsilons": []}, {"temperatures": ()}):
        with pytest.raises(ParameterError, match="The grid has no cell"):
            grid(model, images, **wrong)
    with pytest.raises(ParameterError, match=r"epsilon is -0\.1 but must be 0 or greater"):
        grid(model, images, epsilons=[0, -0.1])
    for temperature in (0, math.nan):
        with pytest.raises(ParameterError, match=r"temperature is .* but must be above 0"):
            grid(model, images, temperatures=[1, temperature])
    with pytest.raises(ParameterError, match="batch_size is 0 but must be 1 or greater"):
        grid(model, images, batch_size=0)
    with pytest.raises(
        ParameterError, match=r"std is .* but must be one number, or one for each of 2 channels"
    ):
        grid(model, images, std=(1.0, 1.0, 1.0))
    with pytest.raises(ParameterError, match="train mode"):
        score_grid(Counting(), images, **CELLS)
    assert model.calls <= 3  # nothing was scored before the refusal


def test_impossible_inputs_are_refused(images):
    for wrong, message in (
        (images[:0], "at least one"),
        (images / 0, "not finite"),
        (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), "must be a tensor of floats"),
    ):
        with pytest.raises(InputError, match=message):
            grid(Counting(), wrong)


def test_running_out_of_memory_names_a_batch_size(images):
    model = Counting()

    def takes_two(module, inputs):
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    model.register_forward_pre_hook(takes_two)
    with pytest.raises(InputError, match="Memory ran out with a batch of 5 inputs; try batches of 2"):
        grid(model, images)
    assert len(grid(model, images, batch_size=2).odin) == 5
