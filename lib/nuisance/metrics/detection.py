"""How well an anomaly score tells outliers from inliers: exact metrics, the thesis' sweep, bootstraps.

Outliers are the positive class, a larger score is more anomalous, and an image is flagged if its score
reaches the threshold. Scores are 1-d tensors or arrays. Chapter `sec-gradient-ood`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.metrics import auc, average_precision_score, roc_curve
from torch import Tensor

from nuisance.errors import InputError, ParameterError
from nuisance.metrics.intervals import Interval

Scores = Tensor | np.ndarray

METRICS = ("auroc", "fpr95", "aupr_out", "aupr_in")


@dataclass(frozen=True)
class Bootstrap:
    """Mean, standard deviation, and the 2.5 and 97.5 percentiles of a metric over resampled scores."""

    mean: float
    std: float
    low: float
    high: float


def detection_metrics(inliers: Scores, outliers: Scores) -> dict[str, float]:
    """The four metrics of ``METRICS``, exact.

    Parameters
    ----------
    inliers, outliers : scores ``[n]`` and ``[m]``.

    Returns
    -------
    ``auroc``: chance that an outlier scores above an inlier, ties counting one half. ``fpr95``: share of
    inliers flagged at the first threshold, from above, that flags 95 % of the outliers or more.
    ``aupr_out``, ``aupr_in``: average precision with outliers, or inliers (scores negated), as positives.

    All are defined when every score is the same: AUROC 0.5, FPR95 1, and for the precisions the shares
    of outliers and of inliers.

    Raises
    ------
    InputError
        If either set is empty, not one-dimensional or not finite.
    """
    return _all(_checked(inliers, "inliers"), _checked(outliers, "outliers"))


def auroc(inliers: Scores, outliers: Scores) -> float:
    """AUROC alone, from the rank sum of the outliers (Mann-Whitney): the fast one, for heat maps.

    Parameters and errors are those of `detection_metrics`.
    """
    return _auroc(_checked(inliers, "inliers"), _checked(outliers, "outliers"))


def threshold_sweep(inliers: Scores, outliers: Scores, *, thresholds: int = 10_000) -> dict[str, float]:
    """The metrics of ``METRICS`` as the thesis' code computes them, to compare with its printed numbers.

    Thresholds are evenly spaced from the smallest inlier to the largest outlier (one of the author's helpers
    stops at the largest inlier). The three areas follow the trapezoid rule over these points, without end
    points: outliers below all inliers are never flagged, and if all scores are equal the AUROC is 0. Where
    nothing is flagged, precision counts as 1. ``fpr95`` is the mean FPR over the thresholds with a TPR in
    [0.945, 0.955], and NaN where there is none: that is the author's result, for example if many scores are
    tied or outliers are few.

    Parameters
    ----------
    thresholds : how many, 2 or more.

    Raises
    ------
    ParameterError
        If there are fewer than two thresholds.
    InputError
        As `detection_metrics`.
    """
    if thresholds < 2:
        raise ParameterError(
            f"thresholds is {thresholds} but must be 2 or more, from the smallest to the largest."
        )
    low, high = _checked(inliers, "inliers"), _checked(outliers, "outliers")
    sweep = np.linspace(low.min(), high.max(), thresholds)
    false = len(low) - np.searchsorted(np.sort(low), sweep)  # inliers that are flagged, score >= threshold
    true = len(high) - np.searchsorted(np.sort(high), sweep)
    fpr, tpr = false / len(low), true / len(high)
    passed, missed = len(low) - false, len(high) - true
    band = (tpr >= 0.945) & (tpr <= 0.955)
    return {
        "auroc": float(auc(fpr, tpr)),
        "fpr95": float(fpr[band].mean()) if band.any() else float("nan"),
        "aupr_out": float(auc(tpr, _precision(true, false))),
        "aupr_in": float(auc(1 - fpr, _precision(passed, missed))),
    }


def bootstrap(
    inliers: Scores, outliers: Scores, *, resamples: int = 100, generator: torch.Generator
) -> dict[str, Bootstrap]:
    """Spread of the exact metrics over resampled scores: inliers and outliers apart, as in the thesis.

    It is the spread over images alone, of one trained network: no network is retrained.

    Parameters
    ----------
    resamples : how many, 2 or more.

    Raises
    ------
    ParameterError
        If there are fewer than two resamples.
    InputError
        As `detection_metrics`.
    """
    _check_resamples(resamples)
    low, high = _checked(inliers, "inliers"), _checked(outliers, "outliers")
    draws = [_all(low[_draw(low, generator)], high[_draw(high, generator)]) for _ in range(resamples)]
    return {name: _summary(np.array([draw[name] for draw in draws])) for name in METRICS}


def bootstrap_difference(
    inliers: tuple[Scores, Scores],
    outliers: tuple[Scores, Scores],
    *,
    metric: str,
    resamples: int = 1000,
    generator: torch.Generator,
) -> Interval:
    """Difference of a metric between two scores of the same images, score 0 minus score 1, paired.

    Every resample draws the images once and takes both scores of them, so that what makes an image hard
    for both cancels.

    Parameters
    ----------
    inliers, outliers : the two scores of the same inliers, in the same order, and of the same outliers.
    metric : one of ``METRICS``.
    resamples : how many, 2 or more.

    Returns
    -------
    The difference on all images, with the 2.5 and 97.5 percentiles over the resamples.

    Raises
    ------
    ParameterError
        If the metric is unknown or there are fewer than two resamples.
    InputError
        If the two scores of a set differ in number, else as `detection_metrics`.
    """
    if metric not in METRICS:
        raise ParameterError(f"There is no metric {metric!r}; there are {', '.join(METRICS)}.")
    _check_resamples(resamples)
    measure = _MEASURE[metric]
    low, high = _checked_pair(inliers, "inliers"), _checked_pair(outliers, "outliers")
    differences = []
    for _ in range(resamples):
        i, o = _draw(low[0], generator), _draw(high[0], generator)
        differences.append(measure(low[0][i], high[0][o]) - measure(low[1][i], high[1][o]))
    ends = np.percentile(differences, [2.5, 97.5])
    return Interval(measure(low[0], high[0]) - measure(low[1], high[1]), float(ends[0]), float(ends[1]))


def _all(inliers: np.ndarray, outliers: np.ndarray) -> dict[str, float]:
    return {name: _MEASURE[name](inliers, outliers) for name in METRICS}


def _auroc(inliers: np.ndarray, outliers: np.ndarray) -> float:
    n, m = len(inliers), len(outliers)
    rank_sum = rankdata(np.concatenate([inliers, outliers]))[n:].sum()
    return float((rank_sum - m * (m + 1) / 2) / (n * m))


def _fpr95(inliers: np.ndarray, outliers: np.ndarray) -> float:
    fpr, tpr, _ = roc_curve(*_labelled(inliers, outliers), drop_intermediate=False)
    return float(fpr[np.argmax(tpr >= 0.95)])


def _aupr_out(inliers: np.ndarray, outliers: np.ndarray) -> float:
    return float(average_precision_score(*_labelled(inliers, outliers)))


def _aupr_in(inliers: np.ndarray, outliers: np.ndarray) -> float:
    return float(average_precision_score(*_labelled(-outliers, -inliers)))


_MEASURE: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "auroc": _auroc,
    "fpr95": _fpr95,
    "aupr_out": _aupr_out,
    "aupr_in": _aupr_in,
}


def _labelled(negatives: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    truth = np.repeat([0, 1], [len(negatives), len(positives)])
    return truth, np.concatenate([negatives, positives])


def _precision(right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    chosen = right + wrong
    return np.where(chosen > 0, right / np.maximum(chosen, 1), 1.0)


def _draw(scores: np.ndarray, generator: torch.Generator) -> np.ndarray:
    drawn = torch.randint(len(scores), (len(scores),), generator=generator, device=generator.device)
    return drawn.cpu().numpy()


def _summary(values: np.ndarray) -> Bootstrap:
    low, high = np.percentile(values, [2.5, 97.5])
    return Bootstrap(float(values.mean()), float(values.std(ddof=1)), float(low), float(high))


def _check_resamples(resamples: int) -> None:
    if resamples < 2:
        raise ParameterError(f"resamples is {resamples} but must be 2 or more: one draw has no spread.")


def _checked(scores: Scores, what: str) -> np.ndarray:
    """Scores as float64 ``[n]`` on the CPU."""
    host = scores.detach().cpu().double().numpy() if isinstance(scores, Tensor) else scores
    values = np.asarray(host, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(
            f"{what} has the shape {list(values.shape)} but must be [n] with at least one image."
        )
    strange = int((~np.isfinite(values)).sum())
    if strange:
        raise InputError(
            f"{strange} of {len(values)} values of {what} are not finite; look at the images they belong to."
        )
    return values


def _checked_pair(pair: tuple[Scores, Scores], what: str) -> tuple[np.ndarray, np.ndarray]:
    first, second = (_checked(scores, what) for scores in pair)
    if len(first) != len(second):
        raise InputError(
            f"The {what} have {len(first)} scores of one kind and {len(second)} of the other, but must be the same images."
        )
    return first, second
