"""Garments on landscapes: groups, masks, tints, and what stays the same on black."""

import pytest
import torch
from scipy import ndimage

from nuisance.data.embedded import load_embedded
from nuisance.data.garments_outdoors import CLASSES, cut_out, load_garments_outdoors, load_other_garments
from nuisance.data.groups import counts
from nuisance.data.landscapes import land, water
from nuisance.errors import ParameterError
from nuisance.seeding import generator

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def originals():
    return load_embedded("fashion_mnist20k")


@pytest.fixture(scope="module")
def outdoors():
    return load_garments_outdoors(seed=3)


@pytest.fixture(scope="module")
def on_black():
    return load_garments_outdoors(seed=3, on_black=True)


def placed(images, originals):
    """Masks and grey garments at the positions that the images on black show."""
    grey = originals.pixels[images.attributes["original"], 0]
    garment = torch.stack([cut_out(grey), grey.float() / 255], 1)
    shown = images.pixels.amax(1) > 0
    best, fewest = torch.zeros(len(grey), 2, 32, 32), torch.full((len(grey),), 32 * 32)
    for top in range(5):
        for left in range(5):
            canvas = torch.zeros_like(best)
            canvas[..., top : top + 28, left : left + 28] = garment
            wrong = ((canvas[:, 0] > 0.05) != shown).sum((1, 2))
            best[wrong < fewest] = canvas[wrong < fewest]
            fewest = torch.minimum(wrong, fewest)
    return best[:, 0], best[:, 1]


def test_groups_have_the_proportions_of_waterbirds(outdoors):
    assert counts(outdoors["train"]).tolist() == [1422, 75, 23, 430]
    assert counts(outdoors["validation"]).tolist() == [200] * 4
    assert counts(outdoors["test"]).tolist() == [300] * 4


def test_images_come_from_the_garments_that_they_name(outdoors, originals):
    for name in SPLITS:
        images, original = outdoors[name], outdoors[name].attributes["original"]
        assert torch.equal(originals[name].labels[original], torch.tensor(CLASSES)[images.labels])
        times = original.unique(return_counts=True)[1]
        assert times.unique().tolist() == ([1] if name == "train" else [2])
        if name != "train":  # once on land and once on water
            keys = 2 * original + images.attributes["attribute"]
            assert len(keys.unique()) == len(images)


@pytest.mark.parametrize("name", SPLITS)
def test_every_pixel_is_composed_by_the_mask(outdoors, on_black, originals, name):
    images, black = outdoors[name], on_black[name]
    mask, _ = placed(black, originals[name])
    place = images.attributes["attribute"]
    drawn = generator(3, SPLITS.index(name), 1)
    background = torch.zeros_like(images.pixels)
    background[place == 0] = land(int((place == 0).sum()), size=32, generator=drawn)
    background[place == 1] = water(int((place == 1).sum()), size=32, generator=drawn)
    around = (background * (1 - mask.unsqueeze(1))).round()
    assert torch.equal(images.pixels.float(), (black.pixels + around).clamp(max=255))
    inside, outside = ((mask == value).unsqueeze(1).expand_as(black.pixels) for value in (1, 0))
    assert inside.float().mean() > 0.3
    assert outside.float().mean() > 0.3
    assert torch.equal(images.pixels[inside], black.pixels[inside])
    assert torch.equal(images.pixels[outside], background[outside])
    assert not black.pixels[outside].any()


def test_a_garment_has_one_colour_in_the_shades_of_its_picture(on_black, originals):
    for name in ("validation", "test"):
        mask, grey = placed(on_black[name], originals[name])
        shading = 0.15 + 0.85 * grey
        inside = mask == 1
        for image, shade, where in zip(on_black[name].pixels[:100], shading, inside, strict=False):
            seen = image[:, where].float()
            tint = (seen * shade[where]).sum(1) / (shade[where] ** 2).sum()  # least squares
            assert (seen - tint[:, None] * shade[where]).abs().max() <= 1
            assert 0.4 * 255 - 1 <= tint.max() <= 256


def test_the_pairs_of_testing_differ_by_the_place_alone(outdoors, on_black):
    for name in ("validation", "test"):
        half = len(on_black[name]) // 2
        assert torch.equal(on_black[name].pixels[:half], on_black[name].pixels[half:])
        assert outdoors[name].attributes["attribute"].tolist() == [0] * half + [1] * half


def test_what_is_not_pixels_is_the_same_on_black(outdoors, on_black):
    for name in SPLITS:
        assert torch.equal(outdoors[name].labels, on_black[name].labels)
        for key in ("attribute", "original"):
            assert torch.equal(outdoors[name].attributes[key], on_black[name].attributes[key])


def test_tints_tell_neither_the_class_nor_the_place(on_black):
    images = on_black["train"]
    colors = images.pixels.float().sum((2, 3))
    share = colors / colors.sum(1, keepdim=True)  # free of the garment's size and brightness
    assert (share.std(0) > 0.1).all()  # of all hues
    place = images.attributes["attribute"]
    pairs = [(images.labels == 0, images.labels == 1)]
    pairs += [((images.labels == y) & (place == 0), (images.labels == y) & (place == 1)) for y in (0, 1)]
    for one, other in pairs:
        error = (share[one].var(0) / one.sum() + share[other].var(0) / other.sum()).sqrt()
        assert ((share[one].mean(0) - share[other].mean(0)).abs() < 3.5 * error).all()


def test_a_print_is_no_window_but_a_notch_is_open():
    ring = torch.zeros(1, 9, 9, dtype=torch.uint8)
    ring[:, 1:8, 1:8] = 200
    ring[:, 4, 4] = 0  # dark print
    ring[:, 3, 4] = 12
    ring[:, 1, 3:6] = 16  # a dim rim, of half the brightness that is wholly cloth
    expected = torch.zeros(9, 9)
    expected[1:8, 1:8] = 1
    expected[1, 3:6] = 0.5
    assert torch.equal(cut_out(ring)[0], expected)
    ring[:, 1:5, 4] = 0  # now open to the outside
    assert cut_out(ring)[0, 4, 4] == 0


def test_a_dark_coat_is_opaque_and_noise_is_not_cloth():
    coat = torch.full((1, 9, 9), 3, dtype=torch.uint8)
    coat[:, 2:7, 2:7] = 12
    mask = cut_out(coat)[0]
    assert (mask[3:6, 3:6] == 1).all()
    assert (mask[0] < 0.05).all()


def test_masks_have_no_holes(originals):
    garments = originals["test"]
    masks = cut_out(garments.pixels[(garments.labels == 4) | (garments.labels == 6), 0]).numpy()
    assert masks.min() == 0
    assert masks.max() == 1
    for mask in masks:
        assert (ndimage.binary_fill_holes(mask == 1) == (mask == 1)).all()


def test_a_seed_gives_the_same_bytes_and_another_seed_others(outdoors):
    again, other = (load_garments_outdoors(seed=seed, train_images=200) for seed in (3, 4))
    # the size of the training set leaves the other splits as they are
    for name in ("validation", "test"):
        assert torch.equal(again[name].pixels, outdoors[name].pixels)
        assert not torch.equal(other[name].pixels, outdoors[name].pixels)
    repeated = load_garments_outdoors(seed=3, train_images=200)["train"]
    assert torch.equal(again["train"].pixels, repeated.pixels)
    assert torch.equal(again["train"].attributes["original"], repeated.attributes["original"])
    assert not torch.equal(again["train"].attributes["original"], other["train"].attributes["original"])


def test_splits_are_drawn_by_streams_of_their_own(on_black):
    """Positions are drawn first: one stream for all would put the same heights into either split."""
    shown = [on_black[name].pixels[:400].amax((1, 3)) > 0 for name in ("validation", "test")]
    tops = torch.stack([rows.float().argmax(1) for rows in shown]).float()
    assert tops.unique().tolist()[:5] == [0, 1, 2, 3, 4]
    assert torch.corrcoef(tops)[0, 1].abs() < 0.2


def test_other_classes_and_sizes():
    splits = load_garments_outdoors(classes=(9, 1), size=28, seed=0, train_images=100, on_black=True)
    assert counts(splits["train"]).tolist() == [73, 4, 1, 22]
    assert splits["train"].pixels.shape == (100, 3, 28, 28)
    labels = load_embedded("fashion_mnist20k")["test"].labels[splits["test"].attributes["original"]]
    assert torch.equal(labels, torch.tensor([9, 1])[splits["test"].labels])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train_images": 1955}, "There cannot be 1955 training images; take 100 to 1954"),
        ({"train_images": 99}, "There cannot be 99 training images; take 100 to 1954"),
        ({"classes": (4, 4)}, "two different labels from 0 to 9"),
        ({"classes": (4, 10)}, "two different labels from 0 to 9"),
        ({"size": 27}, "size is 27 but a garment needs at least 28 pixels"),
    ],
)
def test_what_cannot_be_made_is_refused(wrong, message):
    with pytest.raises(ParameterError, match=message):
        load_garments_outdoors(seed=0, **wrong)


def test_the_other_garments_are_the_eight_other_classes_and_their_places_tell_nothing():
    images = load_other_garments(seed=0)
    assert images.labels.bincount().tolist() == [1500] * 8
    on_water = images.attributes["attribute"].double()
    for label in range(8):  # of 1500 fair coins .05 is nearly four deviations
        assert on_water[images.labels == label].mean().item() == pytest.approx(0.5, abs=0.05)
    again = load_other_garments(seed=0)
    assert torch.equal(images.pixels, again.pixels)
