"""Latent directions: found where they are known, kept by what they change, named after hand-drawn images."""

import math

import pytest
import torch
from torch import nn

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.methods import directions as module
from nuisance.methods.directions import (
    Directions,
    LearnedDirections,
    describe_direction,
    image_attributes,
    keep_directions,
    sefa,
)
from nuisance.seeding import generator
from nuisance.training import fit


def orthonormal(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=generator(seed), dtype=torch.float64))[0].float()


class Procedural(nn.Module):
    """Latents of four factors -> 8x8 images: the side on which a bar is, its brightness, its length, and nothing."""

    latent = 4

    def forward(self, w):
        images = torch.zeros(len(w), 1, 8, 8)
        for image, (side, light, length, _) in zip(images, w.tolist(), strict=True):
            column = 2 if side < 0 else 5
            image[0, : 4 + round(length), column] = 0.5 + 0.1 * light
        return images


class Linear(nn.Module):
    """Latents -> images that are linear in them."""

    def __init__(self, maps):
        super().__init__()
        self.latent = maps.shape[1]
        self.maps = nn.Parameter(maps)

    def forward(self, w):
        return 0.5 + (w @ self.maps.T).view(len(w), 1, 4, 4)


def side_of_bar(images):
    return (images[:, 0, :, 5].sum(1) > 0).long()


# SeFa


def test_sefa_finds_known_directions_in_their_order():
    axes = orthonormal(5)
    times = [7, 4, 2]  # so many units look along each of three axes, with weights of different lengths
    rows = axes.T[:3].repeat_interleave(torch.tensor(times), 0)
    lengths = torch.linspace(-3, 8.9, len(rows))[:, None]
    assert (lengths != 0).all()
    order = torch.randperm(len(rows), generator=generator(1))
    found = sefa((lengths * rows)[order], 3)
    torch.testing.assert_close(found.strengths, torch.tensor(times).float())
    signs = axes[:, :3].gather(0, axes[:, :3].abs().argmax(0, keepdim=True)).sign()
    torch.testing.assert_close(found.vectors, axes[:, :3] * signs, atol=1e-6, rtol=0)
    assert len(found) == 3
    assert found[1:].strengths.tolist() == found.strengths.tolist()[1:]
    assert torch.equal(found[1:].vectors, found.vectors[:, 1:])


def test_sefa_does_not_depend_on_the_sign_of_a_unit_nor_on_units_that_are_off():
    weight = torch.randn(12, 5, generator=generator(2))
    found = sefa(weight, 5)
    changed = torch.cat([-weight, torch.zeros(3, 5)])
    torch.testing.assert_close(sefa(changed, 5).vectors, found.vectors)
    assert (found.vectors.gather(0, found.vectors.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(5), atol=1e-6, rtol=0)
    assert (found.strengths.diff() < 0).all()
    assert found.strengths.sum().item() == pytest.approx(12)  # the trace: each unit has length 1


def test_sefa_of_what_it_cannot_take():
    weight = torch.randn(12, 5, generator=generator(2))
    for count in (0, 6):
        with pytest.raises(
            ParameterError, match=f"count is {count} but must be from 1 to the latent size, 5"
        ):
            sefa(weight, count)
    for wrong in (weight[0], weight.log()):
        with pytest.raises(InputError, match=r"must be a matrix \[out, d\] of finite numbers"):
            sefa(wrong, 1)


# learned directions


def encoded(n, d):
    pixels = torch.zeros(n, 1, 4, 4, dtype=torch.uint8)
    latents = torch.randn(n, d, generator=generator(4))
    return Images(pixels, torch.zeros(n, dtype=torch.int64), {"latent": latents})


def learner(maps, *, seed=0, count=2, **settings):
    torch.manual_seed(7)
    reconstructor = nn.Sequential(nn.Flatten(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, count + 1))
    return LearnedDirections(Linear(maps), reconstructor, count=count, seed=seed, **settings)


def test_learned_directions_are_orthonormal_at_every_step_and_those_that_the_images_show():
    # of four latent numbers only the first two show
    maps = torch.zeros(16, 4)
    maps[:, :2] = 0.3 * orthonormal(16)[:, :2]
    method = learner(maps, learning_rate=0.05)
    seen_before = method.directions().vectors[:2].square().sum()
    history = fit(method, encoded(320, 4), epochs=30, batch_size=32, generator=generator(5))
    found = method.directions().vectors
    torch.testing.assert_close(found.T @ found, torch.eye(2), atol=1e-5, rtol=0)
    assert seen_before < 1.5
    assert found[:2].square().sum() > 1.9  # of 2, were both within the two numbers that show
    assert history["hit_rate"][-1] > 0.9
    assert history["size_loss"][-1] < history["size_loss"][0] / 2
    assert method._outside[0].maps.grad is None


def test_sizes_are_within_their_range_and_losses_are_the_papers(monkeypatch):
    method = learner(torch.randn(16, 4, generator=generator(6)), largest=6.0, smallest=0.5)
    images = encoded(2000, 4)
    shifted = []
    monkeypatch.setattr(Linear, "forward", lambda self, w: shifted.append(w) or w.new_zeros(len(w), 1, 4, 4))
    with torch.no_grad():
        method.reconstructor[3].weight.zero_()
        method.reconstructor[3].bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    before = method.directions().vectors
    watched = method.update(images)
    first, second = shifted
    sizes = ((second - first) @ before).detach()
    assert torch.equal(first, images.attributes["latent"])
    assert ((sizes.abs() > 1e-4).sum(1) == 1).all()  # along one direction each
    sizes = sizes.sum(1)
    assert sizes.abs().min().item() == pytest.approx(0.5, abs=1e-4)
    assert 5.9 < sizes.abs().max() <= 6 + 1e-4
    assert (sizes.abs() < 0.5 + 1e-4).float().mean().item() == pytest.approx(0.5 / 6, abs=0.025)
    assert abs((sizes > 0).float().mean() - 0.5) < 0.045
    assert watched["direction_loss"].item() == pytest.approx(math.log(2), abs=1e-6)
    assert watched["size_loss"].item() == pytest.approx((1 - sizes).abs().mean().item(), abs=1e-4)
    # the size's bias sees a quarter of the sign of its error, through Adam's first average
    gradient = method.optimizers["both"].state[method.reconstructor[3].bias]["exp_avg"][2] / 0.1
    assert gradient.item() == pytest.approx(0.25 * (1 - sizes).sign().mean().item(), abs=1e-5)


def test_a_resumed_training_goes_on_as_if_it_had_not_stopped():
    maps, images = torch.randn(16, 4, generator=generator(6)), encoded(8, 4)
    whole, halted, resumed = learner(maps), learner(maps), learner(maps, seed=0)
    for _ in range(4):
        whole.update(images)
    for _ in range(2):
        halted.update(images)
    state = halted.training_state()
    assert not any("maps" in name for name in state["method"])
    resumed.load_training_state(state)
    for _ in range(2):
        resumed.update(images)
    assert torch.equal(whole.directions().vectors, resumed.directions().vectors)
    assert not torch.equal(whole.directions().vectors, learner(maps, seed=1).directions().vectors)


def test_learning_that_cannot_be_is_refused():
    maps = torch.randn(16, 4, generator=generator(6))
    for count in (0, 5):
        with pytest.raises(
            ParameterError, match=f"count is {count} but must be from 1 to the latent size, 4"
        ):
            learner(maps, count=count)
    with pytest.raises(ParameterError, match="smallest is 7 and largest 6"):
        learner(maps, smallest=7)
    images = encoded(8, 4)
    with pytest.raises(InputError, match="no attribute 'latent'; encode them first"):
        learner(maps).update(Images(images.pixels, images.labels))
    with pytest.raises(InputError, match=r"latents are \[8, 3\] but the generator takes \[n, 4\]"):
        learner(maps).update(images.with_attributes(latent=torch.zeros(8, 3)))


def test_a_loss_that_is_not_finite_stops_with_its_step_and_term():
    method = learner(torch.full((16, 4), 1e38))  # the images are infinite
    method.update(encoded(8, 4))
    with pytest.raises(
        ParameterError, match=r"direction_loss is not finite at step 0 .*smaller learning_rate"
    ):
        method.end_epoch(0)


# the filter

PLACES = torch.tensor([[-0.5, 0, 0, 0], [-2.5, 0, 0, 0], [0.5, 0, 0, 0], [1.5, 0, 0, 0]])


def keep(latents=PLACES, vectors=None, **settings):
    vectors = torch.eye(4) if vectors is None else vectors
    settings = {"amplitudes": [2.0], "smallest_change": 0.01, "classify": side_of_bar} | settings
    return keep_directions(Procedural(), Directions(vectors), latents, **settings)


def test_the_filter_keeps_what_changes_the_picture_and_not_the_class():
    result = keep()
    # 4 of 8 edits change the side: -0.5 and 0.5 and 1.5 the one way each, -2.5 not by 2, and none the other way
    assert result.flips.tolist() == [3 / 8, 0, 0, 0]
    moved_bar = 8 * 0.5 / 64  # a bar of four pixels goes and one comes
    light = 4 * 0.2 / 64
    length = 2 * 0.5 / 64
    expected = torch.tensor([moved_bar * 3 / 8, light, length, 0])
    torch.testing.assert_close(result.changes, expected)
    assert result.kept.tolist() == [False, True, True, False]
    assert torch.equal(result.directions.vectors, 2 * torch.eye(4)[:, 1:3])
    assert result.amplitudes.tolist() == [2, 2, 2, 2]
    assert result.note() is None


def test_each_direction_is_followed_as_far_as_the_class_is_left():
    # of the places -0.5, -2.5, 0.5 and 1.5 the first and the third cross 0 at 1 and the others later
    result = keep(amplitudes=[0.25, 0.4, 1.0, 0.4 + 2])
    assert result.amplitudes.tolist() == [pytest.approx(0.4), *[pytest.approx(2.4)] * 3]
    assert result.flips.tolist() == [0, 0, 0, 0]
    # so far the first changes nothing, and the last never
    assert result.kept.tolist() == [False, True, True, False]
    torch.testing.assert_close(result.directions.vectors, torch.eye(4)[:, 1:3] * 2.4)
    # a larger amplitude that would pass again is not looked for behind one that fails
    assert keep(amplitudes=[1.0, 100.0], largest_flip=0.01).amplitudes[0] == 1


def test_with_what_the_latents_leave_the_images_themselves_are_compared():
    places = PLACES[:1]  # its bar lies to the left; the image's own lies to the right
    image = Procedural()(-places)
    residual = image - Procedural()(places)
    with_residual = keep(places, residual=residual, amplitudes=[2.0])
    expected = (Procedural()(places + 2 * torch.eye(4)[:1]) + residual).clamp(0, 1) - image
    back = (Procedural()(places - 2 * torch.eye(4)[:1]) + residual).clamp(0, 1) - image
    assert with_residual.changes[0].item() == pytest.approx((expected.abs() + back.abs()).mean().item() / 2)
    assert with_residual.changes[0] != keep(places, amplitudes=[2.0]).changes[0]


def test_the_bounds_of_the_filter_are_at_least_and_below():
    assert keep(largest_flip=3 / 8).kept.tolist() == [False, True, True, False]
    assert keep(largest_flip=3 / 8 + 1e-6).kept.tolist() == [True, True, True, False]
    length = 2 * 0.5 / 64  # exact in float32
    assert keep(smallest_change=length).kept.tolist() == [False, False, True, False]
    assert keep(smallest_change=length + 1e-6).kept.tolist() == [False, False, False, False]


def test_no_direction_kept_is_said_with_the_numbers():
    result = keep(vectors=torch.eye(4)[:, [0, 3]])
    assert len(result.directions) == 0
    assert result.note() == (
        "No direction is kept: pixels change by 0.023, 0.000, where 0.01 is asked, and another class is seen in "
        "0.375, 0.000 of the images, where less than 0.05 is; try other amplitudes."
    )


def test_the_filter_works_in_pieces_of_any_size(monkeypatch):
    whole = keep()
    monkeypatch.setattr(module, "PIECE", 3)
    pieces = keep()
    torch.testing.assert_close(pieces.changes, whole.changes)
    assert torch.equal(pieces.flips, whole.flips)


def test_what_does_not_fit_the_generator_is_named():
    with pytest.raises(InputError, match=r"directions are \[3, 3\] but the generator takes latents of 4"):
        keep(vectors=torch.eye(3))
    with pytest.raises(InputError, match=r"latents are \[4, 3\] but the generator takes \[n, 4\]"):
        keep(latents=PLACES[:, :3])
    with pytest.raises(InputError, match=r"latents are \[0, 4\]"):
        keep(latents=PLACES[:0])
    for amplitudes in ([], [0.0], [math.inf], [math.nan], [2.0, 1.0], [1.0, 1.0]):
        with pytest.raises(ParameterError, match=r"amplitudes is .* but must rise from above 0"):
            keep(amplitudes=amplitudes)
    with pytest.raises(InputError, match="residuals are"):
        keep(residual=torch.zeros(4, 1, 3, 3))


# what a direction changes


def draw(*rows):
    """An image of which each character is a pixel, in ninths."""
    return torch.tensor([[[int(pixel) / 9 for pixel in row] for row in rows]])


def measure(*rows):
    return {name: values.item() for name, values in image_attributes(draw(*rows)[None]).items()}


def test_a_rectangle_has_its_measures():
    image = torch.zeros(2, 1, 10, 12)
    image[0, 0, 3:7, 1:4] = 0.6  # 4 rows, 3 columns
    image[1, 0, :5, 4:] = 0.3  # 5 rows, 8 columns
    found = image_attributes(image)
    expected = {
        "brightness": [0.6, 0.3],
        "thickness": [12 / 120, 40 / 120],
        "slant": [0.0, 0.0],
        "width": [math.sqrt((3**2 - 1) / 12), math.sqrt((8**2 - 1) / 12)],
        "height": [math.sqrt((4**2 - 1) / 12), math.sqrt((5**2 - 1) / 12)],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values), atol=1e-6, rtol=1e-5)


def test_slant_is_columns_a_row_to_the_right_and_does_not_widen():
    right = measure("00009", "00090", "00900", "09000")
    assert right["slant"] == pytest.approx(1)
    assert right["width"] == pytest.approx(0, abs=1e-3)
    left = measure("99000000", "00990000", "00009900", "00000099")
    assert left["slant"] == pytest.approx(-2)
    assert left["width"] == pytest.approx(0.5, abs=1e-5)
    assert left["height"] == pytest.approx(math.sqrt(15 / 12), abs=1e-5)


def test_thickness_is_what_has_half_the_largest_value():
    faint = measure("0000", "4590", "0000")
    assert faint["thickness"] == pytest.approx(2 / 12)
    assert faint["brightness"] == pytest.approx(7 / 9)


def test_nothing_has_no_measures_and_colours_are_averaged():
    assert set(measure("000", "000").values()) == {0.0}
    flat = measure("000", "999", "000")
    assert flat["slant"] == 0
    assert flat["height"] == 0
    grey = draw("0369", "0099")
    colored = torch.cat([grey, 0 * grey, 2 * grey])[None]
    for name, value in image_attributes(colored).items():
        torch.testing.assert_close(value, image_attributes(grey[None])[name])


class Shapes(nn.Module):
    """Latents of six numbers -> rectangles with a brightness, columns, rows, lean and place, and nothing."""

    latent = 6

    def forward(self, w):
        rows = torch.arange(24.0) - 11.5
        light, wide, high, lean, place, _ = (0.1 * w.T)[:, :, None, None]
        x = rows - place + (2 * lean) * rows[:, None]
        inside = (1 - (x / (4 + 10 * wide)) ** 4 - (rows[:, None] / (6 + 10 * high)) ** 4).clamp(0, 0.5)
        return (inside * (1 + light))[:, None]


@pytest.mark.parametrize(
    ("number", "name"), [(0, "brightness"), (1, "width"), (2, "height"), (3, "slant"), (4, None), (5, None)]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_direction_is_named_after_what_it_changes(number, name, sign):
    latents = torch.randn(5, 6, generator=generator(3)) / 3
    amplitudes = torch.linspace(-1, 1, 5)
    found = describe_direction(Shapes(), sign * torch.eye(6)[number], latents, amplitudes)
    assert set(found.correlations) == {"brightness", "thickness", "slant", "width", "height"}
    if name is not None:
        assert found.strongest == name
        assert sign * found.correlations[name] > 0.98
    if number == 0:
        assert abs(found.correlations["slant"]) < 0.5
    if number == 5:
        assert found.strongest is None
        assert set(found.correlations.values()) == {0.0}


def test_rounding_is_no_change():
    found = describe_direction(Shapes(), torch.eye(6)[0], torch.zeros(3, 6), torch.linspace(-1, 1, 7))
    assert found.correlations.pop("brightness") == pytest.approx(1)
    assert set(found.correlations.values()) == {0.0}


def test_the_correlation_is_pearsons_within_images():
    # rises by 1, 1, 4 ninths from different starts: the starts do not count
    class Steps(nn.Module):
        latent = 1

        def forward(self, w):
            return ((w + 1) ** 2 / 10)[:, :, None, None].expand(len(w), 1, 4, 4)

    latents, amplitudes = torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, 0.5, 1.0])
    found = describe_direction(Steps(), torch.ones(1), latents, amplitudes)
    values = torch.tensor([[1.0, 2.25, 4.0], [4.0, 6.25, 9.0]]).double()
    moved = (values - values.mean(1, keepdim=True)).flatten()
    steps = (amplitudes - 0.5).double().repeat(2)
    expected = torch.corrcoef(torch.stack([moved, steps]))[0, 1].item()
    assert found.correlations["brightness"] == pytest.approx(expected, abs=1e-6)
    assert found.strongest == "brightness"
    assert found.correlations["thickness"] == 0


def test_amplitudes_that_are_alike_are_refused():
    latents = torch.zeros(2, 6)
    for wrong in (torch.tensor([1.0, 1.0]), torch.tensor(1.0), torch.tensor([1.0])):
        with pytest.raises(ParameterError, match="two or more different ones"):
            describe_direction(Shapes(), torch.eye(6)[0], latents, wrong)
    with pytest.raises(InputError, match="directions are"):
        describe_direction(Shapes(), torch.ones(5), latents, torch.arange(3.0))
