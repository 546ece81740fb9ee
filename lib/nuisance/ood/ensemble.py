"""Ensembles: six ways to score an image by what several networks say of it.

Source: Malinin & Gales 2021, Uncertainty estimation in autoregressive structured prediction,
https://arxiv.org/abs/2002.07650 (EPKL and the reverse mutual information, MKL). Chapter `sec-gradient-ood`.

The thesis reports the best of the six as found on its test set, which flatters the ensemble.
"""

import difflib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nuisance.errors import InputError, ParameterError
from nuisance.ood.score import Score, check_inputs, explained, logits_of, require_eval

MEASURES = (
    "confidence",
    "entropy_of_expected",
    "expected_entropy",
    "mutual_information",
    "epkl",
    "mkl",
)


def measures(log_probabilities: Tensor) -> dict[str, Tensor]:
    """The six measures of ``MEASURES`` from the members' log-probabilities, each larger for what is more anomalous.

    With p_m a member's probabilities and q their mean: ``confidence`` = -max q, ``entropy_of_expected`` = H[q],
    ``expected_entropy`` = mean_m H[p_m], ``mutual_information`` = H[q] - mean_m H[p_m],
    ``epkl`` = -sum q mean_m log p_m - mean_m H[p_m], ``mkl`` = ``epkl`` - ``mutual_information``.

    The last three are computed as mean_m KL(p_m || q), its sum with the next, and mean_m KL(q || p_m), which are
    equal to these differences and do not cancel where all members are sure.

    Parameters
    ----------
    log_probabilities : ``[m, b, classes]``; a probability of zero is minus infinity, and gives an infinite
        ``epkl`` and ``mkl`` where another member's is above zero.

    Returns
    -------
    ``[b]`` each; entropies and divergences in nats.
    """
    log_mean = log_probabilities.logsumexp(0) - math.log(len(log_probabilities))
    forward = _divergence(log_probabilities, log_mean).mean(0)
    reverse = _divergence(log_mean, log_probabilities).mean(0)
    return {
        "confidence": -log_mean.amax(1).exp(),
        "entropy_of_expected": _entropy(log_mean),
        "expected_entropy": _entropy(log_probabilities).mean(0),
        "mutual_information": forward,
        "epkl": forward + reverse,
        "mkl": reverse,
    }


class Ensemble(Score):
    """One of the six measures over several networks.

    Parameters
    ----------
    models : two or more classifiers of the same classes, in eval mode.
    measure : one of ``MEASURES``.

    Raises
    ------
    ParameterError
        If there are fewer than two models, one is in train mode, or the measure is unknown (names the nearest).
    """

    def __init__(self, models: Sequence[nn.Module], *, measure: str) -> None:
        if len(models) < 2:
            raise ParameterError(f"An ensemble needs two models or more but was given {len(models)}.")
        if measure not in MEASURES:
            near = difflib.get_close_matches(str(measure), MEASURES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ParameterError(f"There is no measure {measure!r}.{hint} There are {', '.join(MEASURES)}.")
        members = nn.ModuleList(models)
        members.training = False  # the new list's own flag; .eval() would hide a member in train mode
        super().__init__(members)
        self.members = members
        self.measure = measure

    def all_measures(self, x: Tensor) -> dict[str, Tensor]:
        """All six measures ``[b]`` of a batch of inputs, by name, for the cost of one.

        Raises
        ------
        InputError
            As `Score.scores`, and if the models disagree in their number of classes.
        """
        check_inputs(x)
        require_eval(self.model)
        with explained(x):
            return self._measures(x)

    def _scores(self, x: Tensor) -> Tensor:
        return self._measures(x)[self.measure]

    @torch.no_grad()
    def _measures(self, x: Tensor) -> dict[str, Tensor]:
        logits = [logits_of(member, x) for member in self.members]
        classes = [member.shape[1] for member in logits]
        if len(set(classes)) > 1:
            raise InputError(f"The models have {classes} classes but must have the same ones to be averaged.")
        stacked = torch.stack(logits)
        # in float32 confident members would be tied at no disagreement at all; MPS has no float64
        exact = stacked if stacked.device.type == "mps" else stacked.double()
        return measures(exact.log_softmax(2))


def _entropy(log_p: Tensor) -> Tensor:
    """``-sum p log p`` over the last dimension, a probability of zero adding nothing."""
    p = log_p.exp()
    return -torch.where(p > 0, p * log_p, 0).sum(-1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL(p || q)`` over the last dimension, a p of zero adding nothing."""
    p = log_p.exp()
    terms = torch.where(p > 0, p * (log_p - log_q), 0)
    return terms.sum(-1).clamp(min=0)  # rounding alone takes it below
