"""Long tails: the published sizes, and which image of which class is drawn."""

import math

import pytest
import torch

from nuisance.data.images import Images
from nuisance.data.long_tail import draw_long_tail, exponential_sizes, zipf_sizes
from nuisance.errors import DataError, InputError, ParameterError
from nuisance.seeding import generator


@pytest.fixture
def images():
    """Class 0 has 4 images, class 1 has 2, class 2 has 6, in mixed order; each pixel tells its place."""
    labels = torch.tensor([2, 0, 2, 1, 0, 2, 2, 0, 1, 2, 0, 2])
    return Images(
        torch.arange(12, dtype=torch.uint8).view(12, 1, 1, 1), labels, {"angle": torch.arange(12) * 0.5}
    )


# sizes


def test_zipf_gives_the_published_sizes():
    sizes = zipf_sizes(49, largest=4828)
    assert sizes[:10] == [4828, 1207, 536, 301, 193, 134, 98, 75, 59, 48]
    assert sizes == [max(4828 // rank**2, 5) for rank in range(1, 50)]
    assert sum(sizes) == 7_864
    assert sizes.count(5) == 21
    assert sum(zipf_sizes(49, largest=4800)) == 7_822


def test_zipf_has_an_exponent_and_a_floor_of_ones_own():
    assert zipf_sizes(4, largest=100, exponent=0) == [100] * 4
    assert zipf_sizes(4, largest=100, exponent=1, smallest=30) == [100, 50, 33, 30]
    assert zipf_sizes(3, largest=1, exponent=300.0, smallest=1) == [1, 1, 1]


def test_sizes_that_are_whole_numbers_are_not_rounded_down():
    # 32^1.8 = 2^9: every one of these is whole by algebra, and many are a hair less in floats.
    assert [zipf_sizes(32, largest=512 * n, exponent=1.8, smallest=1)[31] for n in range(1, 60)] == list(
        range(1, 60)
    )
    # (1 / n^3)^(1/3) = 1 / n, likewise
    for n in range(2, 60):
        assert exponential_sizes(4, largest=n**3, imbalance=n**3) == [n**3, n**2, n, 1]


def test_exponential_gives_the_published_sizes():
    cifar10 = exponential_sizes(10, largest=5_000, imbalance=100)
    assert cifar10 == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert sum(cifar10) == 12_406
    cifar100 = exponential_sizes(100, largest=500, imbalance=100)
    assert (cifar100[0], cifar100[-1], sum(cifar100)) == (500, 5, 10_847)
    assert exponential_sizes(3, largest=7, imbalance=1) == [7, 7, 7]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zipf_sizes(0, largest=10), "classes is 0 but must be at least 1"),
        (lambda: zipf_sizes(3, largest=10, exponent=-1), "exponent is -1"),
        (lambda: zipf_sizes(3, largest=10, exponent=math.nan), "exponent is nan"),
        (lambda: zipf_sizes(3, largest=4), "smallest is 5 and largest 4"),
        (lambda: zipf_sizes(3, largest=4, smallest=0), "smallest is 0"),
        (lambda: exponential_sizes(1, largest=10, imbalance=2), "classes is 1 but must be at least 2"),
        (lambda: exponential_sizes(3, largest=10, imbalance=0.5), "imbalance is 0.5"),
        (
            lambda: exponential_sizes(3, largest=10, imbalance=11),
            "imbalance is 11 but must be from 1 to largest, 10",
        ),
    ],
)
def test_sizes_that_no_set_can_have(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


# drawing


def test_first_images_of_each_class_in_turn_again_if_too_few(images):
    drawn = draw_long_tail(images, [5, 5, 2], generator=generator(0), shuffle=False)
    source = [1, 4, 7, 10, 1, 3, 8, 3, 8, 3, 0, 2]
    assert drawn.images.attributes["source"].tolist() == source
    assert drawn.images.attributes["source"].dtype == torch.int64
    assert drawn.images.pixels.flatten().tolist() == source
    assert drawn.images.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 2
    assert drawn.images.attributes["angle"].tolist() == [0.5 * place for place in source]
    assert drawn.order == [0, 1, 2]
    assert drawn.class_sizes.tolist() == [5, 5, 2]
    assert drawn.distinct.tolist() == [4, 2, 2]
    assert drawn.repeated == [0, 1]
    assert drawn.note == (
        "Some classes have fewer different images than asked and repeat them in turn: "
        "class 0 (4 for 5), class 1 (2 for 5)."
    )


def test_sizes_by_label_follow_the_shuffled_order(images):
    drawn = draw_long_tail(images, [3, 2, 1], generator=generator(6))
    assert drawn.order == torch.randperm(3, generator=generator(6)).tolist() == [2, 0, 1]
    assert drawn.class_sizes.tolist() == [2, 1, 3]
    assert torch.equal(torch.bincount(drawn.images.labels), drawn.class_sizes)
    assert drawn.images.labels.unique_consecutive().tolist() == drawn.order
    assert torch.equal(images.labels[drawn.images.attributes["source"]], drawn.images.labels)
    assert drawn.repeated == []
    assert drawn.note == "No class repeats an image."


def test_a_seed_is_a_set_and_seeds_give_every_order(images):
    orders = [draw_long_tail(images, [3, 2, 1], generator=generator(seed)).order for seed in range(60)]
    assert len({tuple(order) for order in orders}) == 6
    again = [draw_long_tail(images, [3, 2, 1], generator=generator(seed)).order for seed in range(60)]
    assert again == orders


def test_few_different_images_are_drawn_without_replacement_and_cycled(images):
    chosen = set()
    for seed in range(30):
        drawn = draw_long_tail(images, [7, 3, 1], generator=generator(seed), shuffle=False, most_distinct=2)
        source = drawn.images.attributes["source"].tolist()
        assert source[:7] == (source[:2] * 4)[:7]
        assert source[7:10] == [source[7], source[8], source[7]]
        assert len(set(source[:7])) == len(set(source[7:10])) == 2
        assert drawn.distinct.tolist() == [2, 2, 1]
        assert drawn.repeated == [0, 1]
        chosen |= {*source[:7]}
    assert chosen == {1, 4, 7, 10}  # not the first two alone
    again = draw_long_tail(images, [7, 3, 1], generator=generator(29), shuffle=False, most_distinct=2)
    assert again.images.attributes["source"].tolist() == source


def test_the_note_names_few_of_many_classes():
    images = Images(torch.zeros(8, 1, 1, 1, dtype=torch.uint8), torch.arange(8))
    note = draw_long_tail(images, [1_200, *[2] * 7], generator=generator(0), shuffle=False).note
    assert "class 0 (1 for 1,200), class 1" in note
    assert note.endswith("class 4 (1 for 2), 3 more.")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([3, 2], "have 3 classes, 0 to 2, but there are 2 sizes"),
        ([3, 2, 1, 1], "have 3 classes, 0 to 2, but there are 4 sizes"),
        ([], "there are 0 sizes"),
        ([3, 2, 0], "at rank 2 is 0; give each class at least 1"),
        ([3, 1, 2], "at rank 2, 2, is above the one before it; give the sizes from head to tail"),
    ],
)
def test_sizes_that_do_not_fit_the_images(images, sizes, message):
    with pytest.raises(InputError, match=message):
        draw_long_tail(images, sizes, generator=generator(0))


def test_classes_without_an_image_are_named(images):
    with pytest.raises(DataError, match="No image has class 0 or 1;"):
        draw_long_tail(images[images.labels == 2], [3, 2, 1], generator=generator(0))
    with pytest.raises(InputError, match="no class or a negative one"):
        draw_long_tail(images[:0], [3, 2, 1], generator=generator(0))
    with pytest.raises(InputError, match="no class or a negative one"):
        draw_long_tail(Images(images.pixels, images.labels - 1), [3, 2], generator=generator(0))
    with pytest.raises(ParameterError, match="most_distinct is 0"):
        draw_long_tail(images, [3, 2, 1], generator=generator(0), most_distinct=0)
