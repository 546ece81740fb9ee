"""The distortions of the test: pixel by pixel where they are exact, against closed forms where they are not."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from nuisance.data.distortions import DISTORTIONS, SEVERITIES, distort
from nuisance.data.nuisance_transforms import dilate_by, erode_by
from nuisance.errors import InputError, ParameterError
from nuisance.seeding import generator

SIDE = 20


def noise(n=40, channels=1, side=SIDE):
    return torch.randint(256, (n, channels, side, side), generator=generator(0), dtype=torch.uint8)


def change(name, pixels, amount, seed=1):
    return DISTORTIONS[name].change(pixels, amount, generator(seed))


def is_one_of(changed, *versions):
    """Every image is one of its versions, and no version is left out."""
    matches = torch.stack([(changed == version).flatten(1).all(1) for version in versions])
    return bool((matches.sum(0) == 1).all() and matches.any(1).all())


@pytest.mark.parametrize("name", DISTORTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_severity_0_changes_nothing_and_each_further_one_more(name, channels):
    rows = torch.arange(28.0)
    # smooth, off the centre
    hill = 200 * torch.exp(-((rows[:, None] - 12) ** 2 / 18 + (rows - 16) ** 2 / 40))
    pixels = hill.byte().expand(16, channels, 28, 28).contiguous()
    before, distances = pixels.clone(), []
    for severity in range(SEVERITIES + 1):
        changed = distort(pixels, name, severity, generator=generator(3))
        assert changed.dtype == torch.uint8
        assert changed.shape == pixels.shape
        distances.append((changed.float() - pixels).abs().mean().item())
    assert torch.equal(pixels, before)
    assert distances[0] == 0
    assert all(near < far for near, far in itertools.pairwise(distances))


def test_what_is_natural_is_written_down():
    natural = [name for name, distortion in DISTORTIONS.items() if distortion.natural]
    assert natural == ["rotation", "scale", "shear", "translation", "thickness", "brightness", "contrast"]
    assert all(list(d.amounts) == sorted(set(d.amounts)) for d in DISTORTIONS.values())


def test_right_angles_move_pixels():
    pixels = noise(channels=3)
    turned = change("rotation", pixels, 90.0)
    assert is_one_of(turned, pixels.rot90(1, (2, 3)), pixels.rot90(-1, (2, 3)))


def test_moves_are_of_whole_pixels_in_four_directions():
    pixels = noise(channels=3)
    moved = change("translation", pixels, 0.14)  # 2.8 pixels
    right, down = torch.zeros_like(pixels), torch.zeros_like(pixels)
    left, up = torch.zeros_like(pixels), torch.zeros_like(pixels)
    right[..., 3:], left[..., :-3] = pixels[..., :-3], pixels[..., 3:]
    down[..., 3:, :], up[..., :-3, :] = pixels[..., :-3, :], pixels[..., 3:, :]
    assert is_one_of(moved, right, left, down, up)


def moments(pixels):
    """Of each image ``[n, 1, h, w]``: mean column, variance of the columns, covariance of rows and columns."""
    light = pixels[:, 0].double() / pixels.double().sum((1, 2, 3))[:, None, None]
    places = torch.arange(pixels.shape[-1]).double() - (pixels.shape[-1] - 1) / 2
    across, both = light.sum(1), torch.einsum("nhw,h,w->n", light, places, places)
    return across @ places, across @ places**2, both


@pytest.fixture
def hills():
    """A round Gaussian hill with a deviation of 5 pixels in an image of 61, twelve times."""
    rows = torch.arange(61.0) - 30
    hill = 255 * torch.exp(-(rows[:, None] ** 2 + rows**2) / 50)
    return hill.round().byte().expand(12, 1, 61, 61).contiguous()


def test_scale_multiplies_deviations_about_the_centre(hills):
    column, variance, _ = moments(change("scale", hills, 0.5))
    assert column.abs().max() < 0.05
    larger = variance > 25
    assert set(larger.tolist()) == {True, False}
    expected = torch.where(larger, 25 * 1.5**2, 25 / 1.5**2).double()
    torch.testing.assert_close(variance, expected, rtol=0.03, atol=0)


def test_shear_leans_columns_by_the_tangent(hills):
    column, variance, covariance = moments(change("shear", hills, 30.0))  # x' = x +- y tan 30
    tangent = 1 / 3**0.5
    assert column.abs().max() < 0.05
    assert set(covariance.sign().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(covariance.abs(), torch.full_like(covariance, 25 * tangent), rtol=0.03, atol=0)
    torch.testing.assert_close(variance, torch.full_like(variance, 25 * (1 + tangent**2)), rtol=0.03, atol=0)


def test_brightness_is_added_and_cut_off():
    pixels = torch.tensor([0, 50, 51, 204, 205, 255], dtype=torch.uint8).view(1, 1, 1, 6).repeat(20, 1, 1, 1)
    brighter = torch.tensor([51, 101, 102, 255, 255, 255], dtype=torch.uint8).expand_as(pixels)
    darker = torch.tensor([0, 0, 0, 153, 154, 204], dtype=torch.uint8).expand_as(pixels)
    assert is_one_of(distort(pixels, "brightness", 2, generator=generator(0)), brighter, darker)


def test_contrast_moves_towards_the_mean_of_the_grey_image():
    grey = torch.tensor([0, 100, 200, 100], dtype=torch.uint8).view(1, 1, 2, 2)
    assert change("contrast", grey, 0.25).flatten().tolist() == [25, 100, 175, 100]
    colored = noise(5, channels=3)
    weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)  # ITU-R BT.601
    mean = (colored * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    expected = mean + 0.4 * (colored - mean)
    assert (change("contrast", colored, 0.6) - expected).abs().max() < 0.6


def test_blur_is_that_of_scipy():
    pixels = noise(3)
    blurred = change("blur", pixels, 0.1)  # 2 pixels
    for before, after in zip(pixels, blurred, strict=True):
        slow = ndimage.gaussian_filter(before[0].double().numpy(), 2.0, truncate=3.0, mode="mirror")
        assert np.abs(after[0].numpy() - slow).max() < 0.51


def test_noise_has_its_deviation_and_depends_on_the_seed_alone():
    pixels = torch.full((50, 1, SIDE, SIDE), 128, dtype=torch.uint8)
    noisy = change("noise", pixels, 0.1)
    difference = noisy.double() - 128
    # 20,000 values: four standard errors; rounding adds 1/12 to the variance of 25.5^2
    assert abs(difference.mean()) < 4 * 25.5 / 20_000**0.5
    assert difference.std().item() == pytest.approx(25.5, rel=4 / 40_000**0.5)
    assert torch.equal(change("noise", pixels, 0.1), noisy)
    assert not torch.equal(change("noise", pixels, 0.1, seed=2), noisy)


@pytest.mark.parametrize(("amount", "more", "less"), [(3 / SIDE, 3, 2), (2 / SIDE, 2, 1), (0.01, 1, 1)])
def test_thickness_grows_and_shrinks_by_half(amount, more, less):
    pixels = noise(channels=3)
    planes = pixels.flatten(0, 1)[:, None]
    kernels = torch.ones(len(planes), dtype=torch.int64)
    grown, shrunk = dilate_by(planes, (1 + more) * kernels), erode_by(planes, (1 + less) * kernels)
    assert is_one_of(change("thickness", pixels, amount), grown.view_as(pixels), shrunk.view_as(pixels))


@pytest.mark.parametrize("name", DISTORTIONS)
def test_a_seed_means_the_same(name):
    pixels = noise(8)
    state = torch.get_rng_state()
    changed = distort(pixels, name, 3, generator=generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(distort(pixels, name, 3, generator=generator(5)), changed)


def test_an_image_goes_the_same_way_at_every_severity():
    grey = torch.full((30, 1, 2, 2), 128, dtype=torch.uint8)

    def brighter(severity):
        return distort(grey, "brightness", severity, generator=generator(5)) > 128

    assert torch.equal(brighter(1), brighter(5))
    assert set(brighter(1).flatten(1).float().mean(1).tolist()) == {0.0, 1.0}


def test_what_is_no_distortion_is_named():
    pixels = noise(2)
    with pytest.raises(ParameterError, match=r"no distortion 'rotate'; take one of rotation, scale"):
        distort(pixels, "rotate", 1, generator=generator(0))
    for severity in (-1, 6):
        with pytest.raises(ParameterError, match=f"severity is {severity} but must be one of 0"):
            distort(pixels, "blur", severity, generator=generator(0))
    for wrong in (pixels.float(), pixels[0], pixels.expand(2, 2, SIDE, SIDE)):
        with pytest.raises(InputError, match=r"must be uint8 \[n, 1 or 3, h, w\]"):
            distort(wrong, "blur", 1, generator=generator(0))
