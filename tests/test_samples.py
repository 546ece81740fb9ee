"""Frechet distance, precision and recall of samples: closed forms, cases by hand and slow references."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from nuisance.errors import InputError, ParameterError
from nuisance.metrics import samples
from nuisance.metrics.samples import frechet_distance, image_features, precision_recall
from nuisance.seeding import generator


def drawn(n, d, seed):
    return torch.randn(n, d, generator=generator(seed), dtype=torch.double)


def with_moments(n, mean, covariance, seed=0):
    """Features whose mean and unbiased covariance are these, exactly."""
    mean, covariance = torch.tensor(mean).double(), torch.tensor(covariance).double()
    z = drawn(n, len(mean), seed)
    z = z - z.mean(0)
    white = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / (n - 1))).T
    return mean + white @ torch.linalg.cholesky(covariance).T


def column(*numbers):
    return torch.tensor(numbers).double()[:, None]


# Frechet distance


def test_on_a_line_it_is_the_squared_differences_of_means_and_deviations():
    # means 1 and 5, deviations sqrt(2) and sqrt(8)
    found = frechet_distance(column(0, 2), column(3, 7))
    assert found == pytest.approx(4**2 + (math.sqrt(8) - math.sqrt(2)) ** 2)


def test_two_gaussians_with_common_axes():
    real = with_moments(50, [1.0, 2.0], [[4.0, 0.0], [0.0, 9.0]])
    fake = with_moments(70, [4.0, -2.0], [[1.0, 0.0], [0.0, 25.0]], seed=1)
    assert frechet_distance(real, fake) == pytest.approx(9 + 16 + (2 - 1) ** 2 + (3 - 5) ** 2)


def test_two_gaussians_with_axes_of_their_own():
    # in two dimensions tr(M^(1/2)) = sqrt(tr M + 2 sqrt(det M)), here of M = C C' with trace 16 and determinant 36
    real = with_moments(50, [0.0, 0.0], [[2.0, 1.0], [1.0, 2.0]])
    fake = with_moments(50, [0.0, 0.0], [[6.0, 0.0], [0.0, 2.0]], seed=1)
    assert frechet_distance(real, fake) == pytest.approx(4 + 8 - 2 * math.sqrt(16 + 2 * 6))
    assert frechet_distance(fake, real) == pytest.approx(frechet_distance(real, fake))


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_the_matrix_square_root_of_the_paper(seed):
    real, fake = drawn(40, 5, seed) @ drawn(5, 5, seed + 10), drawn(60, 5, seed + 20) + 1
    covariances = [np.cov(features.T) for features in (real, fake)]
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum().item()
    expected += np.trace(covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]).real)
    assert frechet_distance(real, fake) == pytest.approx(expected)


def test_moving_and_turning_both_sets_changes_nothing():
    real, fake = drawn(30, 4, 0), 2 * drawn(30, 4, 1)
    turn = torch.linalg.qr(drawn(4, 4, 2)).Q
    assert frechet_distance(real @ turn + 7, fake @ turn + 7) == pytest.approx(frechet_distance(real, fake))
    assert frechet_distance(real, real + 3) == pytest.approx(4 * 9)


def test_equal_sets_are_0_apart_with_fewer_features_than_dimensions_too():
    features = 10 * drawn(5, 20, 0)
    assert 0 <= frechet_distance(features, features.clone()) < 1e-10  # a root of rounding would leave 1e-6
    assert frechet_distance(features, features + 1) == pytest.approx(20, rel=1e-9)


# precision and recall


def test_a_case_by_hand():
    # radii of the real ones, to their nearest: 1, 1, 1, 8; of the fake ones: 2.5, 1, 1, 26
    real, fake = column(0, 1, 2, 10), column(0.5, 3, 4, 30)
    # 0.5 is within 1 of 0, 3 at 1 from 2, 4 at 6 from 10, but 30 at 20 from 10; every real one is within a ball
    assert precision_recall(real, fake, neighbours=1) == (0.75, 1.0)
    # 5 is at 5 from 10; radii of the fake ones are now 2.5, 1, 1, 1, and 10 is in no ball
    assert precision_recall(real, column(0.5, 3, 4, 5), neighbours=1) == (1.0, 0.75)


def test_more_neighbours_are_larger_balls():
    real, fake = column(0, 1, 3), column(5, 6, 7)
    # to the nearest: 1, 1, 2 and 1, 1, 1; to the second nearest: 3, 2, 3 and 2, 1, 2
    assert precision_recall(real, fake, neighbours=1) == (1 / 3, 0.0)
    assert precision_recall(real, fake, neighbours=2) == (2 / 3, 1 / 3)


def test_equal_and_far_sets():
    features = drawn(30, 6, 0).float()
    assert precision_recall(features, features.clone()) == (1.0, 1.0)
    assert precision_recall(features, features + 100) == (0.0, 0.0)
    # samples of one real image are real and cover next to nothing; equal samples have balls without extent
    assert precision_recall(features, features[:1].expand(8, 6)) == (1.0, 1 / 30)


def test_pieces_do_not_show_and_the_slow_reference_agrees(monkeypatch):
    real, fake = drawn(23, 3, 0), drawn(17, 3, 1) + torch.tensor([1.5, 0, 0])

    def inside(points, centres, k):
        found = 0
        for point in points:
            for centre in centres:
                radius = sorted((centre - other).norm().item() for other in centres)[k]
                if (point - centre).norm().item() <= radius:
                    found += 1
                    break
        return found / len(points)

    expected = inside(fake, real, 3), inside(real, fake, 3)
    assert precision_recall(real, fake) == pytest.approx(expected)
    assert 0.1 < expected[0] < 0.9
    assert 0.1 < expected[1] < 0.9
    monkeypatch.setattr(samples, "ROWS", 5)
    assert precision_recall(real, fake) == pytest.approx(expected)


# features and bad input


def test_features_are_those_of_images_in_0_to_1():
    pixels = torch.arange(5 * 4, dtype=torch.uint8).view(5, 1, 2, 2)
    found = image_features(lambda x: x.flatten(1) * 255, pixels, batch_size=2)
    assert torch.allclose(found, torch.arange(20.0).view(5, 4))


@pytest.mark.parametrize("metric", [frechet_distance, precision_recall])
def test_what_cannot_be_judged_is_named(metric):
    good = drawn(9, 3, 0)
    with pytest.raises(InputError, match=r"real features are \[27\] but must be \[n, d\]"):
        metric(good.flatten(), good)
    with pytest.raises(InputError, match=r"fake features are \[1, 3\] .* rows or more; take more images"):
        metric(good, good[:1])
    with pytest.raises(InputError, match="have 3 numbers and the fake ones 2; take both from one network"):
        metric(good, good[:, :2])
    with pytest.raises(InputError, match="fake features are not all finite"):
        metric(good, good / 0)


def test_neighbours_are_fewer_than_features():
    features = drawn(4, 2, 0)
    assert precision_recall(features, features, neighbours=3) == (1.0, 1.0)
    with pytest.raises(InputError, match=r"\[4, 2\] but must be \[n, d\] with 5 rows or more"):
        precision_recall(features, features, neighbours=4)
    with pytest.raises(ParameterError, match="neighbours is 0 but must be 1 or more"):
        precision_recall(features, features, neighbours=0)
