"""Groups of class and attribute: numbered, counted, balanced and assigned exactly; objects on backgrounds."""

import numpy as np
import pytest
import torch
from PIL import Image

from nuisance.data.compositing import composite, fit_background
from nuisance.data.groups import (
    alternating_order,
    assign_attributes,
    balanced_order,
    counts,
    group_of,
    require_groups,
)
from nuisance.data.images import Images
from nuisance.errors import DataError, InputError, ParameterError
from nuisance.seeding import generator


def images(labels, attribute):
    pixels = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    return Images(pixels, torch.tensor(labels), {"attribute": torch.tensor(attribute)})


# groups


def test_a_group_is_twice_the_class_plus_the_attribute():
    some = images([0, 0, 1, 1, 1, 0], [0, 1, 0, 1, 1, 0])
    assert group_of(some).tolist() == [0, 1, 2, 3, 3, 0]
    assert group_of(some).dtype == torch.int64
    assert counts(some).tolist() == [2, 1, 1, 2]
    assert counts(some[:1]).tolist() == [1, 0, 0, 0]


def test_only_two_classes_and_two_attributes_make_groups():
    with pytest.raises(InputError, match=r"The class of 2 images is neither 0 nor 1, first 2; "):
        group_of(images([0, 2, 3], [0, 1, 1]))
    with pytest.raises(InputError, match=r"The attribute of 1 images is neither 0 nor 1, first -1; "):
        group_of(images([0, 1], [0, -1]))
    bare = Images(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), torch.tensor([0]))
    with pytest.raises(InputError, match="no attribute named 'attribute'; add it"):
        group_of(bare)


def test_values_take_turns_so_that_no_batch_lacks_one():
    of = torch.tensor([7, 3, 3, 3, 3, 3, 3, 7, 3])
    order = alternating_order(of, generator(0))
    assert of[order].tolist() == [3, 7, 3, 7, 3, 7, 3, 7, 3]
    drawn = torch.cat([alternating_order(of, generator(seed)) for seed in range(2000)])
    for value, members in ((3, [1, 2, 3, 4, 5, 6, 8]), (7, [0, 7])):
        own = drawn[of[drawn] == value]
        shares = [(own == member).double().mean().item() for member in members]
        assert shares == pytest.approx([1 / len(members)] * len(members), abs=0.02)
    with pytest.raises(InputError, match="Balancing needs integers"):
        alternating_order(torch.empty(0, dtype=torch.int64), generator(0))


@pytest.mark.parametrize(
    ("labels", "attribute", "missing"),
    [
        ([0, 0], [0, 1], "class 1;"),
        ([1, 1], [0, 1], "class 0;"),
        ([0, 1], [1, 1], "attribute 0;"),
        ([0, 1], [0, 0], "attribute 1;"),
        ([0, 0, 1], [0, 1, 1], r"group \(class 1, attribute 0\);"),
        ([0, 1], [1, 0], r"group \(class 0, attribute 0\) or \(class 1, attribute 1\);"),
    ],
)
def test_what_is_missing_is_named(labels, attribute, missing):
    with pytest.raises(DataError, match=f"^validation: no image (has|of) {missing} take"):
        require_groups(images(labels, attribute), "validation")


def test_four_groups_are_enough():
    require_groups(images([0, 0, 1, 1], [0, 1, 0, 1]), "training")


# the balanced sampler


def test_every_group_is_equally_likely_and_every_image_of_a_group():
    groups = torch.tensor([0] * 70 + [1] * 4 + [2] * 2 + [3] * 24)
    draws = torch.cat([balanced_order(groups, generator(0, i)) for i in range(1000)])
    n = len(draws)
    assert n == 100_000
    for group, share in enumerate(torch.bincount(groups[draws]) / n):
        assert share.item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / n) ** 0.5), (
            group
        )  # 5 standard errors
    size = torch.bincount(groups)[groups]
    expected = n / (4 * size)
    found = torch.bincount(draws, minlength=100)
    assert ((found - expected).abs() < 5 * expected.sqrt()).all()


def test_an_order_is_its_seeds_and_has_as_many_draws_as_images():
    groups = torch.tensor([0, 0, 0, 1])
    order = balanced_order(groups, generator(1))
    assert torch.equal(order, balanced_order(groups, generator(1)))
    assert len(order) == 4
    assert order.dtype == torch.int64


def test_any_integers_are_balanced_over_the_values_that_occur():
    draws = torch.cat([balanced_order(torch.tensor([-3, 7, 7, 7]), generator(i)) for i in range(2500)])
    assert (draws == 0).double().mean().item() == pytest.approx(0.5, abs=0.025)  # 5 standard errors


def test_nothing_and_no_integers_are_not_balanced():
    for wrong in (torch.empty(0, dtype=torch.int64), torch.tensor([0.5]), torch.zeros(2, 2).long()):
        with pytest.raises(InputError, match="Balancing needs integers"):
            balanced_order(wrong, generator(0))


# attributes assigned


@pytest.mark.parametrize(
    ("landbirds", "waterbirds", "share", "expected"),
    [
        (3682, 1113, 0.95, (3498, 184, 56, 1057)),
        (933, 266, 0.5, (467, 466, 133, 133)),
        (4510, 1284, 0.5, (2255, 2255, 642, 642)),
    ],
)
def test_the_recipe_gives_the_published_counts(landbirds, waterbirds, share, expected):
    labels = torch.tensor([0] * landbirds + [1] * waterbirds).roll(1000)
    for seed in range(3):
        attribute = assign_attributes(labels, share=share, generator=generator(seed))
        assert tuple(torch.bincount(2 * labels + attribute).tolist()) == expected
    other = assign_attributes(labels, share=share, generator=generator(3))
    assert not torch.equal(other, attribute)


def test_the_ends_of_the_share_are_the_class_and_its_opposite():
    labels = torch.tensor([0, 1, 1, 0, 1])
    assert torch.equal(assign_attributes(labels, share=1, generator=generator(0)), labels)
    assert torch.equal(assign_attributes(labels, share=0, generator=generator(0)), 1 - labels)


def test_a_share_beyond_the_whole_and_a_third_class_are_refused():
    for share in (-0.1, 95):
        with pytest.raises(ParameterError, match=f"share is {share} but must be between 0 and 1"):
            assign_attributes(torch.tensor([0, 1]), share=share, generator=generator(0))
    with pytest.raises(InputError, match="The class of 1 images"):
        assign_attributes(torch.tensor([0, 1, 2]), share=0.5, generator=generator(0))


# compositing


def noise(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def test_composites_are_those_of_a_loop_that_rounds_each_product():
    bird, place = noise(3, 5, 4, seed=0), noise(3, 5, 4, seed=1)
    alpha = noise(5, 4, seed=2)
    made = composite(bird, alpha / 255, place)
    assert made.dtype == torch.uint8
    rounded_apart = truncated = 0
    for c in range(3):
        for y in range(5):
            for x in range(4):
                m = alpha[y, x].item() / 255
                parts = (bird[c, y, x].item() * m, place[c, y, x].item() * (1 - m))
                assert made[c, y, x].item() == round(parts[0]) + round(parts[1])
                rounded_apart += made[c, y, x].item() != round(sum(parts))
                truncated += made[c, y, x].item() != int(sum(parts))
    assert rounded_apart  # so that the test can tell the ways of rounding from each other
    assert truncated


def test_the_ends_of_the_mask_are_the_object_and_the_background():
    bird, place = noise(3, 6, 5, seed=0), noise(3, 6, 5, seed=1)
    mask = torch.zeros(6, 5)
    mask[2:4, 1:3] = 1
    made = composite(bird, mask, place)
    assert torch.equal(made[:, mask == 1], bird[:, mask == 1])
    assert torch.equal(made[:, mask == 0], place[:, mask == 0])


def test_a_bird_on_black_and_an_empty_background_add_up():
    bird, place, mask = noise(3, 9, 9, seed=0), noise(3, 9, 9, seed=1), noise(9, 9, seed=2) / 255
    nothing = torch.zeros_like(bird)
    assert torch.equal(
        composite(bird, mask, place), composite(bird, mask, nothing) + composite(nothing, mask, place)
    )


def test_two_halves_of_white_stay_white():
    white = torch.full((3, 1, 1), 255, dtype=torch.uint8)
    assert composite(white, torch.full((1, 1), 0.5), white).flatten().tolist() == [255] * 3


def test_a_batch_is_its_images():
    bird, place, mask = noise(3, 3, 4, 5, seed=0), noise(3, 3, 4, 5, seed=1), noise(3, 4, 5, seed=2) / 255
    alone = [composite(bird[i], mask[i], place[i]) for i in range(3)]
    assert torch.equal(composite(bird, mask, place), torch.stack(alone))


def test_sizes_and_kinds_that_do_not_fit_are_named():
    bird, mask = noise(3, 4, 5), torch.ones(4, 5)
    with pytest.raises(InputError, match=r"foreground is \[3, 4, 5\] but the background \[3, 5, 4\]; bring"):
        composite(bird, mask, noise(3, 5, 4))
    with pytest.raises(InputError, match=r"foreground is \[3, 4, 5\] but the mask \[5, 4\]; give"):
        composite(bird, mask.T, bird)
    with pytest.raises(InputError, match=r"background is torch\.float32 but must be bytes"):
        composite(bird, mask, bird.float())
    for wrong in (mask * 255, mask - 2, mask.bool()):
        with pytest.raises(InputError, match="floats between 0 and 1; divide"):
            composite(bird, wrong, bird)


@pytest.mark.parametrize("scale", [1, 3])
def test_a_background_is_cropped_about_its_centre_and_resized(scale):
    striped = np.zeros((30 * scale, 60 * scale, 3), np.uint8)
    striped[:, 15 * scale : 45 * scale] = (10, 200, 30)  # the middle half is what a square keeps
    fitted = np.array(fit_background(Image.fromarray(striped), (40, 40)))
    assert fitted.shape == (40, 40, 3)
    assert (fitted[:, 3:37] == (10, 200, 30)).all()
    assert (
        np.array(fit_background(Image.fromarray(striped.transpose(1, 0, 2)), (40, 40)))[3:37] == (10, 200, 30)
    ).all()


def test_a_background_of_the_right_shape_is_kept_and_one_without_size_refused():
    image = Image.fromarray(noise(7, 5, 3).numpy())
    assert np.array_equal(np.array(fit_background(image, (5, 7))), np.array(image))
    with pytest.raises(InputError, match=r"size \(0, 7\) has no pixel"):
        fit_background(image, (0, 7))
