"""How right a classifier is in every group of class and attribute, and rules that choose an epoch by it.

Chapter `sec-attribute-adversary`. A group is ``2 * class + attribute``. The study's "robust accuracy" is that of one
group chosen beforehand (``hard``), not the smallest (``worst``); and some printed "overall" accuracies weigh the groups
as they are in training (``train_weighted``), others as they are in the test set (``overall``). So all are reported.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nuisance.errors import InputError, ParameterError
from nuisance.metrics.intervals import Interval

GROUPS = 4
"""Two classes times two values of the attribute; a group's number is ``2 * class + attribute``."""


def group_metrics(right: Tensor, groups: Tensor, *, train_counts: Tensor, hard: int = 2) -> dict[str, float]:
    """All accuracies of a study of groups, from 0 to 1.

    Parameters
    ----------
    right : bool ``[n]``, whether an image was classified rightly.
    groups : int64 ``[n]``, as `nuisance.data.groups.group_of` gives them.
    train_counts : training images in each of the four groups, int64 ``[4]``.
    hard : the group that the study reports as hard: 2, waterbirds on land; for CelebA 3, blond men.

    Returns
    -------
    ``group_0`` to ``group_3``; ``overall``, the plain mean over the images; ``train_weighted``, the mean over the groups
    weighed as in training (what Sagawa et al. 2020 call average accuracy); ``group_mean``, weighed equally; ``hard``;
    and ``worst``, the smallest of the four.

    Raises
    ------
    InputError
        If the two differ in length, a group is not one of the four, or one has no image.
    ParameterError
        If ``hard`` or ``train_counts`` do not fit four groups.
    """
    correct, sizes = _count(right, groups)
    return {name: float(value) for name, value in _metrics(correct, sizes, train_counts, hard).items()}


def bootstrap_groups(
    right: Tensor,
    groups: Tensor,
    *,
    train_counts: Tensor,
    hard: int = 2,
    resamples: int = 1000,
    generator: torch.Generator,
) -> dict[str, Interval]:
    """Every metric of `group_metrics` with its 2.5 and 97.5 percentiles over images resampled within their groups.

    A group's right answers among n_g images drawn with replacement follow the binomial distribution of n_g and the
    group's accuracy, so that their number is drawn and no image is. A group without a mistake, or without a right
    answer, has an interval of no width. The interval of ``worst`` lies low: the smallest of four resampled
    accuracies is on average below the smallest of the four.

    Parameters
    ----------
    right, groups, train_counts, hard : as `group_metrics`.
    resamples : how many, 2 or more.

    Raises
    ------
    ParameterError
        If there are fewer than two resamples; else errors as `group_metrics`.
    """
    if resamples < 2:
        raise ParameterError(f"resamples is {resamples} but must be 2 or more, to span an interval.")
    correct, sizes = _count(right, groups)
    exact = _metrics(correct, sizes, train_counts, hard)
    trials = torch.from_numpy(sizes).double().expand(resamples, GROUPS).contiguous()
    shares = torch.from_numpy(correct / sizes).expand(resamples, GROUPS).contiguous()
    drawn = _metrics(torch.binomial(trials, shares, generator=generator).numpy(), sizes, train_counts, hard)
    ends = {name: np.percentile(values, [2.5, 97.5]) for name, values in drawn.items()}
    return {name: Interval(float(exact[name]), *map(float, ends[name])) for name in exact}


def above_gate_then_hard(gate: float = 0.9) -> Callable[[dict[str, float]], tuple[float, ...]]:
    """The study's rule for `nuisance.training.Selection`: of the epochs with overall > gate the best on ``hard``.

    It does not say what happens if no epoch passes; here the best ``overall`` is taken then.

    Raises
    ------
    ParameterError
        If the gate is not from 0 to 1.
    """
    if not 0 <= gate <= 1:
        raise ParameterError(f"gate is {gate:g} but must be an accuracy from 0 to 1.")

    def rank(judged: dict[str, float]) -> tuple[float, ...]:
        return (1.0, judged["hard"]) if judged["overall"] > gate else (0.0, judged["overall"])

    return rank


def worst_group(judged: dict[str, float]) -> tuple[float, ...]:
    """The rule that takes the epoch with the best accuracy in its worst group."""
    return (judged["worst"],)


def _count(right: Tensor, groups: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and images of each group, int64 ``[4]``."""
    if right.dtype != torch.bool or right.ndim != 1 or groups.shape != right.shape:
        raise InputError(
            f"right is {right.dtype} {list(right.shape)} and groups {list(groups.shape)}; "
            "give a bool and a group for each image."
        )
    if len(groups) and not 0 <= int(groups.min()) <= int(groups.max()) < GROUPS:
        raise InputError(
            f"Groups must be from 0 to {GROUPS - 1}; make them with nuisance.data.groups.group_of."
        )
    sizes = torch.bincount(groups, minlength=GROUPS)
    if empty := [group for group, size in enumerate(sizes.tolist()) if not size]:
        raise InputError(f"Group {empty[0]} has no image, so no accuracy; judge on images of every group.")
    return torch.bincount(groups[right], minlength=GROUPS).cpu().numpy(), sizes.cpu().numpy()


def _metrics(
    correct: np.ndarray, sizes: np.ndarray, train_counts: Tensor, hard: int
) -> dict[str, np.ndarray]:
    """The metrics of right answers ``[..., 4]`` among ``sizes`` ``[4]``, each ``[...]``."""
    if train_counts.shape != (GROUPS,) or (train_counts < 0).any() or not train_counts.any():
        raise ParameterError(
            f"train_counts is {train_counts.tolist()} but must be the images in each of {GROUPS} groups."
        )
    if hard not in range(GROUPS):
        raise ParameterError(f"hard is {hard} but must be a group from 0 to {GROUPS - 1}.")
    by_group = correct / sizes
    return {
        **{f"group_{group}": by_group[..., group] for group in range(GROUPS)},
        # From the counts: as a mean of by_group, k / n could pass a gate at k / n by rounding.
        "overall": correct.sum(-1) / sizes.sum(),
        "train_weighted": by_group @ (train_counts.double() / train_counts.sum()).cpu().numpy(),
        "group_mean": by_group.mean(-1),
        "hard": by_group[..., hard],
        "worst": by_group.min(-1),
    }
