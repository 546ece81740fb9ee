"""Generated landscapes: told apart by how they are built, not by the colour of a pixel."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from nuisance.data.landscapes import land, water
from nuisance.errors import ParameterError
from nuisance.seeding import generator

N = 800


@pytest.fixture(scope="module")
def pictures():
    """``N`` of land, then ``N`` of water."""
    drawn = generator(0)
    return torch.cat([family(N, size=32, generator=drawn) for family in (land, water)])


def uprightness(pixels):
    """Share of the brightness's change that happens from left to right."""
    grey = pixels.float().mean(1)
    across, down = grey.diff(dim=2).abs().mean((1, 2)), grey.diff(dim=1).abs().mean((1, 2))
    return across / (across + down)


def test_pictures_are_bytes_that_the_seed_determines():
    for family in (land, water):
        first = family(3, size=32, generator=generator(7))
        assert first.dtype == torch.uint8
        assert first.shape == (3, 3, 32, 32)
        assert torch.equal(first, family(3, size=32, generator=generator(7)))
        assert len(first.flatten(1).unique(dim=0)) == 3
        assert not torch.equal(first, family(3, size=32, generator=generator(8)))


def test_land_stands_upright_and_water_lies_flat(pictures):
    upright = uprightness(pictures) > 0.5
    assert upright[:N].float().mean() > 0.9
    assert upright[N:].float().mean() < 0.1


@pytest.mark.parametrize("size", [8, 13, 64])
def test_every_size_shows_the_same_scenes(size):
    trees, sea = (family(100, size=size, generator=generator(1)) for family in (land, water))
    assert trees.shape == sea.shape == (100, 3, size, size)
    right = (uprightness(trees) > uprightness(sea).median()).float().mean()
    assert right > 0.9
    for pixels, small in ((trees, land), (sea, water)):
        level = small(100, size=32, generator=generator(2)).float().mean()
        assert pixels.float().mean() == pytest.approx(level.item(), abs=20)


def test_no_pixel_tells_the_place(pictures):
    values = pictures.flatten(1).long()
    for columns in values.split(256, dim=1):
        below = torch.zeros(2, 256, columns.shape[1])  # share of either place below each threshold
        for family, part in enumerate((columns[:N], columns[N:])):
            below[family].scatter_add_(0, part, torch.ones(part.shape))
        below = below.cumsum(1) / N
        accuracy = 0.5 + (below[0] - below[1]).abs() / 2
        assert accuracy.max() < 0.85


def test_coarse_colours_tell_the_place_to_a_linear_classifier(pictures):
    coarse = torch.nn.functional.avg_pool2d(pictures.float() / 255, 4).flatten(1)
    labels = torch.arange(2).repeat_interleave(N)
    even, odd = slice(0, None, 2), slice(1, None, 2)
    classifier = LogisticRegression(C=0.1, max_iter=500).fit(coarse[even], labels[even])
    assert classifier.score(coarse[odd], labels[odd]) > 0.85


def test_colours_and_light_vary_more_within_a_place_than_between_places(pictures):
    means = pictures.float().mean((2, 3))
    between = (means[:N].mean(0) - means[N:].mean(0)).abs()
    for family in (means[:N], means[N:]):
        assert (family.std(0) > 30).all()
        assert (between < family.std(0)).all()
        assert (family.argmax(1).bincount(minlength=3) > N / 25).all()  # reddish, greenish and bluish ones


def test_waves_widen_towards_the_viewer():
    sea = water(300, size=96, generator=generator(3)).float().mean(1)[:, 58:]  # all horizons are above row 58

    def roughness(rows):
        """How different rows 1/32 of the side apart are, beside rows four times as far apart."""
        near, far = ((rows[:, lag:] - rows[:, :-lag]).square().mean() for lag in (3, 12))
        return near / far

    assert roughness(sea[:, -19:]) < 0.95 * roughness(sea[:, :19])


@pytest.mark.parametrize(("n", "size"), [(0, 32), (-1, 32), (1, 7)])
@pytest.mark.parametrize("family", [land, water])
def test_nothing_to_draw_is_refused(family, n, size):
    with pytest.raises(
        ParameterError, match=f"{n} landscapes of {size} pixels are wanted; ask for 1 or more"
    ):
        family(n, size=size, generator=generator(0))
