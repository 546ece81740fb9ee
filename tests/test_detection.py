"""Detection metrics: against hand-made cases, slow references, scikit-learn and closed forms."""

import math
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from nuisance.errors import InputError, ParameterError
from nuisance.metrics.detection import (
    METRICS,
    auroc,
    bootstrap,
    bootstrap_difference,
    detection_metrics,
    threshold_sweep,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tied(n, shift, seed):
    """Scores on a coarse grid, so that many are tied."""
    return (torch.randn(n, generator=seeded(seed)) * 3 + shift).round() / 3


def average_precision(positives, negatives):
    """Sum over the thresholds, from above, of precision times the recall that the threshold adds."""
    total, before = 0.0, 0.0
    for threshold in sorted({*positives, *negatives}, reverse=True):
        true, false = sum(s >= threshold for s in positives), sum(s >= threshold for s in negatives)
        total += true / (true + false) * (true / len(positives) - before)
        before = true / len(positives)
    return total


def test_a_case_by_hand():
    found = detection_metrics(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0]))
    # pairs: 1 > 0, 1 = 1, 1 < 2, and 3 above all: 1 + 0.5 + 0 + 3 of 6
    assert found["auroc"] == pytest.approx(4.5 / 6)
    # both outliers are flagged from 1 on, and so are the inliers 1 and 2
    assert found["fpr95"] == pytest.approx(2 / 3)
    # at 3: precision 1, recall 1/2; at 1: precision 2/4, recall 1
    assert found["aupr_out"] == pytest.approx(0.5 + 0.5 * 0.5)
    # from below, at 0: 1, recall 1/3; at 1: 2/3, recall 2/3; at 2: 3/4, recall 1
    assert found["aupr_in"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert tuple(found) == METRICS


@pytest.mark.parametrize("seed", range(4))
def test_exact_metrics_equal_the_slow_references(seed):
    inliers, outliers = tied(50, 0, seed), tied(37, 2, seed + 100)
    found = detection_metrics(inliers, outliers)
    low, high = inliers.tolist(), outliers.tolist()
    pairs = [(o > i) + 0.5 * (o == i) for o in high for i in low]
    assert found["auroc"] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc(inliers, outliers) == found["auroc"]
    truth = [0] * len(low) + [1] * len(high)
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, low + high), abs=1e-12)
    first = max(t for t in high if np.mean([o >= t for o in high]) >= 0.95)
    assert found["fpr95"] == pytest.approx(np.mean([i >= first for i in low]))
    assert found["aupr_out"] == pytest.approx(average_precision(high, low))
    assert found["aupr_in"] == pytest.approx(average_precision([-s for s in low], [-s for s in high]))


def test_ninety_five_per_cent_is_enough():
    outliers = torch.arange(20.0)  # from 1 on, exactly 95 % are flagged
    assert detection_metrics(torch.tensor([0.5, 1.5]), outliers)["fpr95"] == 0.5
    # no threshold on a straight part of the curve is passed over
    assert detection_metrics(outliers, outliers)["fpr95"] == 0.95


def test_tied_scores_are_defined():
    found = detection_metrics(torch.ones(6), np.ones(2))
    assert found == {"auroc": 0.5, "fpr95": 1.0, "aupr_out": 0.25, "aupr_in": 0.75}


def test_the_metrics_change_sides_with_the_sets():
    inliers, outliers = tied(40, 0, 1), tied(30, 1, 2)
    here, there = detection_metrics(inliers, outliers), detection_metrics(-outliers, -inliers)
    assert here["auroc"] == pytest.approx(there["auroc"])
    assert here["aupr_in"] == pytest.approx(there["aupr_out"])


def test_half_precision_and_gradients_are_taken():
    outliers = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    assert auroc(torch.tensor([0.0, 1.0], requires_grad=True), outliers) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("metric", [auroc, detection_metrics, threshold_sweep])
def test_what_has_no_metric_is_refused(metric):
    good = torch.rand(5)
    with pytest.raises(InputError, match=r"inliers has the shape \[0\]"):
        metric(torch.tensor([]), good)
    with pytest.raises(InputError, match=r"outliers has the shape \[0\]"):
        metric(good, np.array([]))
    with pytest.raises(InputError, match=r"outliers has the shape \[5, 1\]"):
        metric(good, good[:, None])
    with pytest.raises(InputError, match="2 of 3 values of inliers are not finite"):
        metric(torch.tensor([0.0, math.nan, math.inf]), good)


def test_a_fine_sweep_of_scores_without_ties_is_nearly_exact():
    inliers = torch.randn(2000, generator=seeded(1))
    outliers = torch.randn(2000, generator=seeded(2)) + 1.5
    exact, swept = detection_metrics(inliers, outliers), threshold_sweep(inliers, outliers)
    for name in ("auroc", "aupr_out", "aupr_in"):
        assert swept[name] == pytest.approx(exact[name], abs=0.001)
    assert swept["fpr95"] == pytest.approx(exact["fpr95"], abs=0.01)  # a mean over a band around 95 %


def test_a_sweep_by_hand():
    # thresholds 0, 1, 2, 3; inliers flagged 2, 1, 0, 0 of 2; outliers 2, 2, 1, 1 of 2
    swept = threshold_sweep(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]), thresholds=4)
    assert swept["auroc"] == pytest.approx(0.5 * 1 + 0.5 * (1 + 0.5) / 2)
    # recall 1, 1, 1/2, 1/2 with precision 2/4, 2/3, 1, 1
    assert swept["aupr_out"] == pytest.approx(0.5 * (2 / 3 + 1) / 2)
    # of inliers: recall 0, 1/2, 1, 1 with precision 1 (none chosen), 1, 2/3, 2/3
    assert swept["aupr_in"] == pytest.approx(0.5 * 1 + 0.5 * (1 + 2 / 3) / 2)
    assert math.isnan(swept["fpr95"])  # no threshold has a TPR near 0.95


def test_the_swept_fpr_is_a_mean_over_the_band():
    # TPR is 0.96, 0.95, 0.94 from the thresholds 4, 5, 6 on; thresholds are 0, 0.5, 1, ..., so two lie in (4, 5]
    outliers, inliers = torch.arange(100.0), torch.tensor([0.0, 4.75, 99.0])
    swept = threshold_sweep(inliers, outliers, thresholds=199)
    assert swept["fpr95"] == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_the_sweep_of_saturated_scores_is_not_exact():
    """Facts sheet 2.7.5: most scores lie closer to -1 than the sweep's first step, and it sees them as tied."""
    inliers = -1 + 10 ** -(torch.rand(400, generator=seeded(3), dtype=torch.float64) * 10 + 1)
    outliers = -1 + 10 ** -(torch.rand(300, generator=seeded(4), dtype=torch.float64) * 8)
    inliers[:100], outliers[:30] = -1, -1
    exact, swept = detection_metrics(inliers, outliers), threshold_sweep(inliers, outliers)
    assert 0.02 < exact["auroc"] - swept["auroc"] < 0.2
    assert 0 <= exact["fpr95"] <= 1
    assert math.isnan(swept["fpr95"])


def test_constant_scores_have_no_area_under_the_sweep():
    assert threshold_sweep(torch.ones(4), torch.ones(4))["auroc"] == 0
    with pytest.raises(ParameterError, match="thresholds is 1 but must be 2"):
        threshold_sweep(torch.rand(4), torch.rand(4), thresholds=1)


def test_the_bootstrap_spread_is_that_of_theory():
    inliers = torch.randn(500, generator=seeded(5))
    outliers = torch.randn(200, generator=seeded(6)) + 1
    found = bootstrap(inliers, outliers, resamples=300, generator=seeded())
    exact = detection_metrics(inliers, outliers)
    above = (outliers[:, None] > inliers[None]).double()
    # DeLong: the variance of the AUROC is that of the placements of each set, over its size
    theory = math.sqrt(above.mean(1).var() / 200 + above.mean(0).var() / 500)
    assert found["auroc"].std == pytest.approx(theory, rel=0.15)
    for name in METRICS:
        spread = found[name]
        assert spread.low < spread.mean < spread.high
        assert spread.mean == pytest.approx(exact[name], abs=spread.std)
    assert found["auroc"].high - found["auroc"].low == pytest.approx(2 * 1.96 * theory, rel=0.2)
    assert bootstrap(inliers, outliers, resamples=300, generator=seeded()) == found


def test_the_bootstrap_takes_inliers_and_outliers_apart():
    # one inlier and one outlier: every resample is the sample itself; drawn together, some would be one-sided
    found = bootstrap(torch.tensor([0.0]), torch.tensor([1.0]), resamples=5, generator=seeded())
    assert (found["auroc"].mean, found["auroc"].std, found["fpr95"].high) == (1, 0, 0)
    with pytest.raises(ParameterError, match="resamples is 1"):
        bootstrap(torch.rand(3), torch.rand(3), resamples=1, generator=seeded())


def test_a_score_does_not_differ_from_its_own_rescaling():
    inliers, outliers = torch.randn(60, generator=seeded(7)), torch.randn(40, generator=seeded(8))
    for metric in METRICS:
        same = bootstrap_difference(
            (inliers, inliers.exp()),
            (outliers, outliers.exp()),
            metric=metric,
            resamples=20,
            generator=seeded(),
        )
        assert same.value == pytest.approx(0, abs=1e-12)
        assert (same.low, same.high) == pytest.approx((0, 0), abs=1e-12)  # unpaired, they would differ


@pytest.mark.parametrize("metric", METRICS)
def test_a_difference_is_the_first_minus_the_second(metric):
    inliers, outliers = torch.randn(300, generator=seeded(9)), torch.randn(300, generator=seeded(10)) + 2
    noisy = (
        inliers + 2 * torch.randn(300, generator=seeded(11)),
        outliers + 2 * torch.randn(300, generator=seeded(12)),
    )
    found = bootstrap_difference(
        (inliers, noisy[0]), (outliers, noisy[1]), metric=metric, resamples=100, generator=seeded()
    )
    exact = detection_metrics(inliers, outliers)[metric] - detection_metrics(*noisy)[metric]
    assert found.value == pytest.approx(exact)
    assert found.low < found.value < found.high
    assert found.high < 0 if metric == "fpr95" else found.low > 0


def test_a_thousand_paired_resamples_are_fast():
    low, high = torch.rand(2, 500, generator=seeded(13)), torch.rand(2, 500, generator=seeded(14))
    start = time.process_time()
    bootstrap_difference((low[0], low[1]), (high[0], high[1]), metric="auroc", generator=seeded())
    assert time.process_time() - start < 2


def test_a_difference_needs_the_same_images_and_a_known_metric():
    a, b = torch.rand(5), torch.rand(6)
    with pytest.raises(InputError, match="5 scores of one kind and 6 of the other"):
        bootstrap_difference((a, b), (a, a), metric="auroc", generator=seeded())
    with pytest.raises(ParameterError, match="no metric 'auc'; there are auroc, fpr95"):
        bootstrap_difference((a, a), (a, a), metric="auc", generator=seeded())
    with pytest.raises(ParameterError, match="resamples is 0"):
        bootstrap_difference((a, a), (a, a), metric="auroc", resamples=0, generator=seeded())
