"""The nuisance transformations: pixel by pixel, against slow references, and how often each value is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from nuisance.data import nuisance_transforms
from nuisance.data.embedded import load_embedded
from nuisance.data.nuisance_transforms import (
    TRANSFORMS,
    change_background,
    dilate_by,
    dilate_or_erode,
    erode_by,
    fill_background,
    rotate,
    rotate_by,
)
from nuisance.errors import InputError, ParameterError
from nuisance.seeding import generator


@pytest.fixture(scope="module")
def garments():
    return load_embedded("fashion_mnist20k")["test"].pixels[:200]


def noise(n, height, width):
    return torch.randint(256, (n, 1, height, width), generator=generator(0), dtype=torch.uint8)


def one_image(rows):
    return torch.tensor(rows, dtype=torch.uint8)[None, None]


def drawn_values(monkeypatch, transform, core, n):
    """What ``transform`` draws for ``n`` images and hands to ``core``."""
    seen = []
    original = getattr(nuisance_transforms, core)
    monkeypatch.setattr(nuisance_transforms, core, lambda x, v: seen.append(v) or original(x, v))
    transform(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), generator=generator(0))
    return seen[0]


def share_is_plausible(counts, shares):
    return stats.chisquare(counts, np.array(shares) * sum(counts)).pvalue > 0.01


# rotation


def test_right_angles_move_pixels_counter_clockwise():
    pixels = noise(5, 7, 7)
    turned = rotate_by(pixels, torch.tensor([0.0, 90.0, 180.0, 270.0, -90.0]))
    for k, (before, after) in enumerate(zip(pixels, turned, strict=True)):
        assert torch.equal(torch.rot90(before, [0, 1, 2, 3, 3][k], (1, 2)), after)


def test_what_was_outside_is_zero_and_images_need_not_be_square():
    white = torch.full((1, 1, 20, 20), 255, dtype=torch.uint8)
    corners = rotate_by(white, torch.tensor([45.0]))[0, 0]
    assert corners[0, 0] == corners[0, -1] == corners[-1, 0] == corners[-1, -1] == 0
    assert (corners[6:14, 6:14] == 255).all()
    flat = torch.zeros(1, 1, 3, 9, dtype=torch.uint8)
    flat[0, 0, 1, 3:] = torch.tensor([10, 20, 30, 40, 50, 60])
    upright = rotate_by(flat, torch.tensor([90.0]))[0, 0]
    assert upright[:, 4].tolist() == [30, 20, 10]  # right went up; what does not fit is lost
    assert upright.sum() == 60


def test_rotation_is_pillows_but_for_its_sharper_kernel(garments):
    rows = torch.arange(28) - 13.5
    inside = rows[:, None] ** 2 + rows**2 < 11**2
    smooth = torch.nn.functional.avg_pool2d(garments.float(), 5, 1, 2).byte()
    any_angle = torch.rand(200, generator=generator(1)) * 360 - 180
    right_angle = torch.arange(200.0) % 4 * 90
    for pixels, angles, mean, largest in (
        (garments, any_angle, 2, 25),
        (smooth, any_angle, 1, 8),
        (garments, right_angle, 0, 0),
    ):
        theirs = [
            np.array(Image.fromarray(image[0].numpy()).rotate(angle, resample=Image.Resampling.BICUBIC))
            for image, angle in zip(pixels, angles.tolist(), strict=True)
        ]
        difference = rotate_by(pixels, angles)[:, 0].int() - torch.from_numpy(np.stack(theirs)).int()
        assert difference[:, inside].abs().float().mean() <= mean
        assert difference[:, inside].abs().max() <= largest


def test_angles_are_uniform_over_the_circle(monkeypatch):
    angles = drawn_values(monkeypatch, rotate, "rotate_by", 20_000)
    assert -180 <= angles.min() < -179.9
    assert 179.9 < angles.max() <= 180
    assert stats.kstest(angles.numpy(), stats.uniform(-180, 360).cdf).pvalue > 0.01


# background


def test_only_zeros_become_the_level_of_their_image():
    pixels = torch.tensor([[0, 1, 255, 0], [0, 0, 7, 99], [0, 5, 0, 6]], dtype=torch.uint8).view(3, 1, 2, 2)
    filled = fill_background(pixels, torch.tensor([99, 0, 255]))
    assert filled.flatten(1).tolist() == [[99, 1, 255, 99], [0, 0, 7, 99], [255, 5, 255, 6]]
    for level in (-1, 256):
        with pytest.raises(ParameterError, match="not from 0 to 255"):
            fill_background(pixels, torch.tensor([0, level, 0]))


def test_levels_are_uniform_below_a_hundred():
    levels = change_background(torch.zeros(50_000, 1, 1, 2, dtype=torch.uint8), generator=generator(0))
    assert torch.equal(levels[..., 0], levels[..., 1])  # one level an image
    counts = torch.bincount(levels[..., 0].flatten().long())
    assert len(counts) == 100
    assert share_is_plausible(counts.tolist(), [0.01] * 100)


# dilation and erosion


def test_windows_begin_half_their_side_to_the_upper_left():
    point = torch.zeros(4, 1, 6, 6, dtype=torch.uint8)
    point[:, 0, 2, 2] = 9
    grown = dilate_by(point, torch.tensor([1, 2, 3, 4]))
    spans = [(2, 2), (2, 3), (1, 3), (1, 4)]  # first and last row, and column, that see the point
    for image, (first, last) in zip(grown, spans, strict=True):
        expected = torch.zeros(6, 6, dtype=torch.uint8)
        expected[first : last + 1, first : last + 1] = 9
        assert torch.equal(image[0], expected)
    assert erode_by(one_image([[3, 5, 5], [5, 5, 5], [5, 5, 4]]), torch.tensor([2]))[0, 0].tolist() == [
        [3, 3, 5],
        [3, 3, 5],
        [5, 5, 4],
    ]
    shut = erode_by(one_image([[8, 8], [8, 8]]), torch.tensor([2]))
    assert shut.tolist() == [
        [[[8, 8], [8, 8]]]
    ]  # outside is no part of the window: the border does not erode


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 5)])
def test_windows_are_those_of_a_plain_loop_and_of_scipy(size):
    sides = torch.tensor([4, 1, 2, 3, 2, 5])
    pixels = noise(6, *size)
    largest, smallest = dilate_by(pixels, sides), erode_by(pixels, sides)
    for n, side in enumerate(sides.tolist()):
        image = pixels[n, 0]
        for row in range(size[0]):
            for column in range(size[1]):
                top, left = row - side // 2, column - side // 2
                window = image[max(top, 0) : top + side, max(left, 0) : left + side]
                assert largest[n, 0, row, column] == window.max()
                assert smallest[n, 0, row, column] == window.min()
        origin = side % 2 - 1  # SciPy mirrors the window of a dilation, but not of an erosion
        dilated = ndimage.grey_dilation(image.numpy(), side, mode="constant", cval=0, origin=origin)
        eroded = ndimage.grey_erosion(image.numpy(), side, mode="constant", cval=255)
        assert largest[n, 0].tolist() == dilated.tolist()
        assert smallest[n, 0].tolist() == eroded.tolist()


def test_kernels_are_drawn_as_published():
    n = 30_000
    point = torch.zeros(n, 1, 9, 9, dtype=torch.uint8)
    point[:, 0, 3:6, 3:6] = 200  # a square of side 3 becomes one of 3 + k - 1 or 3 - k + 1
    sides = dilate_or_erode(point, generator=generator(0)).eq(200).flatten(1).sum(1).sqrt()
    counts = [int((sides == side).sum()) for side in (4, 5, 6, 3, 2)]
    assert sum(counts) == n
    assert share_is_plausible(
        counts, [0.2] * 5
    )  # thirds of 0.6, then halves of 0.4: untouched, and eroded by 2


def test_a_kernel_of_nothing_is_refused():
    for transform in (dilate_by, erode_by):
        with pytest.raises(ParameterError, match="kernel is below 1"):
            transform(noise(2, 3, 3), torch.tensor([1, 0]))


# all three


def test_the_transforms_have_the_names_of_the_study():
    assert list(TRANSFORMS) == ["rotation", "background", "dilation"]
    assert list(TRANSFORMS.values()) == [rotate, change_background, dilate_or_erode]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_seed_is_a_transformation_and_the_given_images_stay(name, garments):
    transform, before = TRANSFORMS[name], garments.clone()
    first = transform(garments, generator=generator(3))
    assert torch.equal(garments, before)
    assert first.dtype == torch.uint8
    assert first.shape == garments.shape
    assert torch.equal(transform(garments, generator=generator(3)), first)
    assert not torch.equal(transform(garments, generator=generator(4)), first)
    first.zero_()
    assert torch.equal(garments, before)  # nor is the result a view of them


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 1, 4, 4), noise(2, 4, 4)[:, 0], noise(2, 4, 4).repeat(1, 3, 1, 1)]
)
def test_what_is_no_grey_image_is_refused(name, wrong):
    with pytest.raises(InputError, match=r"must be uint8 \[n, 1, h, w\]"):
        TRANSFORMS[name](wrong, generator=generator(0))


@pytest.mark.parametrize("core", [rotate_by, fill_background, dilate_by, erode_by])
def test_each_image_needs_a_parameter(core):
    for wrong in (torch.ones(3), torch.ones(1), torch.ones(2, 1), torch.tensor(1.0)):
        with pytest.raises(InputError, match=r"2 images but .*; give one an image"):
            core(noise(2, 4, 4), wrong)
