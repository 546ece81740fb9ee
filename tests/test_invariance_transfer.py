"""GIT's share, threshold and ramp by counting, and the Oracle."""

import math

import pytest
import torch

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.methods.invariance_transfer import InvarianceTransfer, Oracle
from nuisance.seeding import generator

SIZES = torch.tensor([100, 30, 5])


def batch(n=8, labels=None):
    """Images whose only pixel is their place, 0 to n - 1."""
    pixels = torch.arange(n, dtype=torch.uint8)[:, None, None, None]
    labels = torch.arange(n) % 3 if labels is None else torch.tensor(labels)
    return Images(pixels, labels, {"source": torch.arange(n).flip(0)})


def add_100(pixels, *, generator):
    return pixels + 100


def git(generate=add_100, sizes=SIZES, **settings):
    return InvarianceTransfer(generate, sizes, **{"threshold": None, "seed": 1, **settings})


def values(images):
    return images.pixels.flatten().tolist()


def test_without_a_threshold_the_share_of_a_batch_is_replaced():
    data = batch()
    for share, replaced in ((0, 0), (0.25, 2), (0.5, 4), (0.7, 5), (1, 8)):
        made = git(share=share)(data, 0)
        assert values(made) == [*range(8 - replaced), *range(108 - replaced, 108)]
    assert torch.equal(made.labels, data.labels)
    assert torch.equal(made.attributes["source"], data.attributes["source"])
    assert values(data) == list(range(8))  # what is given is left alone


def test_only_classes_below_the_threshold_are_replaced_and_only_they_are_generated():
    given = []

    def generate(pixels, *, generator):
        given.append(pixels.flatten().tolist())
        return pixels + 100

    made = git(generate, threshold=31)(batch(), 0)  # classes 1 and 2; labels 0 1 2 0 | 1 2 0 1
    assert values(made) == [0, 1, 2, 3, 104, 105, 6, 107]
    assert given == [[4, 5, 7]]
    assert values(git(threshold=30)(batch(), 0)) == [0, 1, 2, 3, 4, 105, 6, 7]  # 30 is not below 30
    git(generate, threshold=30)(batch(4, [0, 1, 0, 1]), 0)
    assert len(given) == 1  # nothing to replace: the generator rests


def test_the_ramp_has_its_probabilities_and_no_others():
    sizes = torch.tensor([100, 80, 60, 30, 20, 0])
    # K = 80: (80 - n) / (80 - 20)
    expected = [0, 0, 1 / 3, 5 / 6, 1]
    transfer = git(sizes=sizes, threshold=80, ramp=True, share=1.0)
    n = 6000
    data = Images(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), torch.arange(n) % 5)
    replaced = transfer(data, 0).pixels.flatten() == 100
    for label, p in enumerate(expected):
        share = replaced[data.labels == label].double().mean().item()
        assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / (n / 5))


@pytest.mark.parametrize("ramp", [False, True])
def test_a_threshold_at_the_smallest_class_does_nothing_and_says_so(ramp):
    for threshold in (5, 3, 0):
        transfer = git(threshold=threshold, ramp=ramp, share=1.0)
        assert values(transfer(batch(), 0)) == list(range(8))
        assert "K is %d and the smallest class has 5 images" % threshold in transfer.note()  # noqa: UP031
    for threshold in (6, None):
        assert git(threshold=threshold).note() is None


def test_random_numbers_depend_on_seed_and_step_alone():
    def noise(pixels, *, generator):
        return torch.randint(256, pixels.shape, generator=generator, dtype=torch.uint8)

    data = batch(60)
    made = values(git(noise, threshold=101, ramp=True)(data, 3))
    other = git(noise, threshold=101, ramp=True)
    other(data, 2)
    assert values(other(data, 3)) == made
    assert values(other(data, 4)) != made
    assert values(git(noise, threshold=101, ramp=True, seed=2)(data, 3)) != made


def test_settings_that_cannot_be():
    for share in (-0.1, 1.1):
        with pytest.raises(ParameterError, match="between 0 and 1"):
            git(share=share)
    with pytest.raises(ParameterError, match="some class must have an image"):
        git(sizes=torch.zeros(3))
    with pytest.raises(ParameterError, match="A ramp needs a threshold"):
        git(ramp=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: p.repeat(1, 3, 1, 1), r"\[4, 3, 1, 1\].*\[4, 1, 1, 1\]"),
        (lambda p: p.repeat(1, 1, 2, 2), r"\[4, 1, 2, 2\].*\[4, 1, 1, 1\]"),
        (lambda p: p[:2], r"\[2, 1, 1, 1\].*\[4, 1, 1, 1\]"),
        (lambda p: p / 255, r"float32.*uint8"),
    ],
)
def test_a_generator_of_other_images_is_refused(change, named):
    with pytest.raises(InputError, match=named):
        git(lambda pixels, *, generator: change(pixels))(batch(), 0)


def test_a_class_without_a_size_is_refused():
    with pytest.raises(InputError, match="label 3 but there are sizes of 3 classes"):
        git()(batch(2, [0, 3]), 0)


def test_the_oracle_transforms_the_clean_image_of_every_image_anew():
    def noisy(pixels, *, generator):
        return pixels + torch.randint(100, (len(pixels), 1, 1, 1), generator=generator, dtype=torch.uint8)

    clean = torch.arange(100, 110, dtype=torch.uint8)[:, None, None, None]
    assert values(Oracle(clean, add_100, seed=0)(batch(4), 0)) == [203, 202, 201, 200]
    oracle, data = Oracle(clean, noisy, seed=0), batch(4)
    made = oracle(data, 5)
    assert torch.equal(made.labels, data.labels)
    assert values(oracle(data, 6)) != values(made)
    assert values(Oracle(clean, noisy, seed=0)(data, 5)) == values(made)
    assert values(Oracle(clean, noisy, seed=1)(data, 5)) != values(made)


def test_an_oracle_without_sources_or_of_other_images_is_refused():
    clean = torch.zeros(8, 3, 1, 1, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"\[8, 3, 1, 1\].*\[8, 1, 1, 1\]"):
        Oracle(clean, add_100, seed=0)(batch(), 0)
    with pytest.raises(InputError, match="no attribute named 'source'"):
        Oracle(clean, add_100, seed=0)(Images(batch().pixels, batch().labels), 0)


def test_purposes_have_streams_of_their_own():
    from nuisance.methods.invariance_transfer import _ORACLE, _TRANSFER
    from nuisance.methods.long_tailed import _RAND_AUGMENT

    streams = [generator(0, purpose, 0).initial_seed() for purpose in (_RAND_AUGMENT, _TRANSFER, _ORACLE)]
    assert len(set(streams)) == 3
