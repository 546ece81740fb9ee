"""How good a generator's samples are, judged against real images that it was not trained on.

Chapter: `sec-natural-transformation`. All is measured in features of a classifier, which see what pixels do not. The
numbers of one classifier cannot be compared with those of another, nor with published ones, which are taken in
Inception's features.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nuisance.errors import InputError, ParameterError

ROWS = 1024
"""The distances of so many features to all others are held at once, which bounds the memory."""


@torch.no_grad()
def image_features(features: Callable[[Tensor], Tensor], pixels: Tensor, *, batch_size: int = 500) -> Tensor:
    """A classifier's features of images, batch by batch.

    Parameters
    ----------
    features : images ``[b, c, h, w]`` in [0, 1] -> ``[b, d]``, of a network in eval mode.
    pixels : uint8 ``[n, c, h, w]``.

    Returns
    -------
    ``[n, d]``.
    """
    return torch.cat([features(batch.float() / 255) for batch in pixels.split(batch_size)])


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Squared Frechet distance of the Gaussians with the features' moments (Heusel et al. 2017, eq. 6).

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), in float64; covariances are the unbiased ones. Of few images it comes out
    too large, so compare numbers from equally many.

    With C = R^T R the eigenvalues of C C' are the squares of the singular values of R R'^T, whose sum is the last
    trace. No root of a rounding error is drawn: features that are singular, or fewer than their dimensions, keep all
    their digits, and those of one set are 0 apart to within 1e-12 of their variance.

    Parameters
    ----------
    real, fake : floats ``[n, d]`` and ``[m, d]``.

    Raises
    ------
    InputError
        If there are fewer than two features of a kind, they are of different length, or one is not finite.
    """
    real, fake = _checked(real, fake, least=2)
    root, fake_root = _covariance_root(real), _covariance_root(fake)
    means = (real.mean(0) - fake.mean(0)).square().sum()
    mixed = torch.linalg.svdvals(root @ fake_root.T).sum()
    return max(0.0, (means + root.square().sum() + fake_root.square().sum() - 2 * mixed).item())


def precision_recall(real: Tensor, fake: Tensor, *, neighbours: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, eqs. 1-2).

    A set's manifold is the union of balls about its features, each of which reaches to its feature's ``neighbours``-th
    nearest other one. Distances are taken in float64, and not by way of products, so that equal features are 0 apart.

    Parameters
    ----------
    real, fake : floats ``[n, d]`` and ``[m, d]``; equally many, since more of a kind make its balls smaller.
    neighbours : k; the paper's is 3.

    Returns
    -------
    Precision, the share of samples in the real images' manifold (how real they are), and recall, the share of real
    images in the samples' manifold (how much of reality is covered).

    Raises
    ------
    ParameterError
        If ``neighbours`` is below 1.
    InputError
        If there are not more features of a kind than neighbours, they are of different length, or one is not finite.
    """
    if neighbours < 1:
        raise ParameterError(f"neighbours is {neighbours} but must be 1 or more.")
    real, fake = _checked(real, fake, least=neighbours + 1)
    return _share_inside(fake, real, neighbours), _share_inside(real, fake, neighbours)


def _share_inside(points: Tensor, centres: Tensor, neighbours: int) -> float:
    """The share of ``points`` that are in a ball about one of ``centres``."""
    # the nearest is the feature itself, at 0
    radii = torch.cat(
        [_distances(rows, centres).kthvalue(neighbours + 1).values for rows in centres.split(ROWS)]
    )
    inside = [(_distances(rows, centres) <= radii).any(1) for rows in points.split(ROWS)]
    return torch.cat(inside).double().mean().item()


def _distances(rows: Tensor, columns: Tensor) -> Tensor:
    return torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")


def _covariance_root(features: Tensor) -> Tensor:
    """R with R^T R the unbiased covariance of features ``[n, d]``."""
    centred = (features - features.mean(0)) / (len(features) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r").R


def _checked(real: Tensor, fake: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    for kind, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or len(features) < least:
            raise InputError(
                f"The {kind} features are {list(features.shape)} but must be [n, d] with {least} rows or more; "
                "take more images."
            )
        if not features.isfinite().all():
            raise InputError(f"The {kind} features are not all finite; look at the network that made them.")
    if real.shape[1] != fake.shape[1]:
        raise InputError(
            f"The real features have {real.shape[1]} numbers and the fake ones {fake.shape[1]}; "
            "take both from one network."
        )
    return real.double(), fake.double()
