"""Other people's scores, called from pytorch-ood: energy, Mahalanobis, nearest neighbours, ReAct, GradNorm.

Each constructor says what it returns as an equation, which the tests compute directly. pytorch-ood's
detectors all return more for what is more anomalous, also where a paper's score runs the other way.
Chapter `sec-gradient-ood`.

Where a detector needs features, it is given ``features``, from inputs ``[b, ...]`` to the features
``[b, d]`` before the last layer; where it is fitted, training images (floats ``[n, ...]``, prepared as for
the network) with labels ``[n]``. Its own ``fit`` is not used: not knowing where a plain function has
its weights, it would move the images to the CPU.
"""

import difflib
from collections.abc import Callable

import torch
from pytorch_ood import detector as detectors
from pytorch_ood.api import Detector
from torch import Tensor, nn

from nuisance.errors import InputError, ParameterError
from nuisance.ood.score import Score, check_inputs, explained, logits_of, require_eval

Function = Callable[[Tensor], Tensor]


class PytorchOOD(Score):
    """A fitted pytorch-ood detector as a score.

    Parameters
    ----------
    model : the classifier that the detector looks at, in eval mode.
    detector : anything with pytorch-ood's ``predict(x) -> [b]``, larger for what is more anomalous.

    Raises
    ------
    ParameterError
        If the model is in train mode.
    """

    def __init__(self, model: nn.Module, detector: Detector) -> None:
        super().__init__(model)
        self.detector = detector

    def _scores(self, x: Tensor) -> Tensor:
        return self.detector.predict(x)


def energy(model: nn.Module, *, temperature: float = 1.0) -> PytorchOOD:
    """Energy ``-T log sum_c exp(h_c(x) / T)`` of the logits h.

    Source: Liu et al. 2020, https://arxiv.org/abs/2010.03759.

    Raises
    ------
    ParameterError
        If the temperature is not above 0 or the model is in train mode.
    """
    if not temperature > 0:
        raise ParameterError(f"temperature is {temperature} but must be above 0.")

    @torch.no_grad()
    def logits(x: Tensor) -> Tensor:
        return logits_of(model, x)

    return PytorchOOD(model, detectors.EnergyBased(logits, t=temperature))


def mahalanobis(
    model: nn.Module, features: Function, images: Tensor, labels: Tensor, *, batch_size: int = 500
) -> PytorchOOD:
    """Half the squared Mahalanobis distance ``min_k (z - mu_k)' P (z - mu_k) / 2`` to the nearest class centre.

    P is the inverse of the scatter within classes, sum over all training features of (z - mu_y)(z - mu_y)' plus
    1e-6 on the diagonal; it is not divided by n, which scales all scores alike. In float32. Without the
    paper's input perturbation and its several layers.

    Source: Lee et al. 2018, https://arxiv.org/abs/1807.03888.

    Raises
    ------
    ParameterError
        If a network is in train mode.
    InputError
        If the images, labels or features cannot be used, a class up to the largest label is missing, or the
        features are so dependent on each other that float32 cannot invert their scatter.
    """
    encoder = _encoder(features)
    z = _training_features(model, encoder, images, labels, batch_size).float()
    missing = sorted(set(range(int(labels.max()) + 1)) - set(labels.tolist()))
    if missing:
        raise InputError(
            f"No training image has the label {missing[0]}; number the classes 0, 1, ... without a gap."
        )
    detector = detectors.Mahalanobis(lambda x: encoder(x).float()).fit_features(z, labels)
    identity = torch.eye(z.shape[1], device=z.device)
    error = (detector.cov @ detector.precision - identity).abs().max().item()
    # measured: 8e-4 and less with enough images; 8, distances below zero and a random order with fewer than features
    if not error < 0.01:
        raise InputError(
            f"The {z.shape[1]} features of {len(z)} training images depend on each other, so that their scatter has "
            "no usable inverse; give more images or take fewer features."
        )
    return PytorchOOD(model, detector)


def nearest_neighbours(
    model: nn.Module,
    features: Function,
    images: Tensor,
    labels: Tensor,
    *,
    k: int = 50,
    batch_size: int = 500,
) -> PytorchOOD:
    """Euclidean distance to the k-th nearest training feature, all features scaled to length 1.

    Source: Sun et al. 2022, https://arxiv.org/abs/2204.06507 (k = 50 on CIFAR-10).

    Raises
    ------
    ParameterError
        If k is not between 1 and the number of training images, or a network is in train mode.
    InputError
        If the images, labels or features cannot be used.
    """
    if not 1 <= k <= len(images):
        raise ParameterError(f"k is {k} but must be between 1 and the {len(images)} training images.")
    encoder = _encoder(features)
    z = _training_features(model, encoder, images, labels, batch_size)
    detector = detectors.KNN(encoder, k=k)
    detector.knn.set_params(n_jobs=1)  # it asks for all cores, on which other runs are at work
    return PytorchOOD(model, detector.fit_features(z.cpu(), labels.cpu()))


def react(
    model: nn.Module,
    features: Function,
    head: Function,
    images: Tensor,
    labels: Tensor,
    *,
    percentile: float = 0.9,
    batch_size: int = 500,
) -> PytorchOOD:
    """Energy of the logits ``head(min(z, c))``, c the given percentile of all training features together.

    Parameters
    ----------
    head : from features ``[b, d]`` to the network's logits.
    percentile : a share between 0 and 1.

    Source: Sun, Guo & Li 2021, https://arxiv.org/abs/2111.12797.

    Raises
    ------
    ParameterError
        If the percentile is not between 0 and 1, or a network is in train mode.
    InputError
        If the images, labels or features cannot be used, or ``head(features(x))`` is not the network's output.
    """
    if not 0 <= percentile <= 1:
        raise ParameterError(f"percentile is {percentile} but must be a share between 0 and 1, such as 0.9.")
    encoder = _encoder(features)
    z = _training_features(model, encoder, images, labels, batch_size)
    with torch.no_grad():
        few = images[:batch_size].to(z.device)
        logits, again = logits_of(model, few), head(z[: len(few)])
    if logits.shape != again.shape or not torch.allclose(logits, again, rtol=1e-3, atol=1e-3):
        raise InputError(
            "head(features(x)) is not the network's output; split the network where its features end."
        )
    return PytorchOOD(
        model, detectors.ReAct(encoder, head, percentile=percentile).fit_feature_maps(z, labels)
    )


def gradnorm(model: nn.Module, *, weight: str, batch_size: int = 32) -> PytorchOOD:
    """Minus the L1 norm of the gradient, by one weight, of the cross-entropy of the softmax to the uniform distribution.

    Huang et al. 2021, https://arxiv.org/abs/2110.00218, take the norm itself, which is HIGH for inliers;
    pytorch-ood turns its sign. On the last layer it is ``-|p - 1/C|_1 |z|_1``, p the softmax and z the features.

    Parameters
    ----------
    weight : name of the last layer's weight in ``model.named_parameters()``, such as ``fc.weight``.
    batch_size : images whose gradients are held at once.

    Raises
    ------
    ParameterError
        If the model has no such weight (names the nearest) or is in train mode.
    """
    names = [name for name, _ in model.named_parameters()]
    if weight not in names:
        near = difflib.get_close_matches(str(weight), names, n=3, cutoff=0.0)
        raise ParameterError(
            f"The network has no weight {weight!r}; the nearest are {', '.join(near) or 'none'}."
        )
    return PytorchOOD(
        model, detectors.GradNorm(model, lambda name: name == weight, micro_batch_size=batch_size)
    )


def _encoder(features: Function) -> Function:
    """Features without gradients, checked to be ``[b, d]``."""
    if isinstance(features, nn.Module):  # one of its own, which the model's check does not reach
        require_eval(features)

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        z = features(x)
        if z.ndim != 2 or len(z) != len(x):
            raise InputError(f"features must return [{len(x)}, d] but returned {list(z.shape)}.")
        return z

    return encode


def _training_features(
    model: nn.Module, encoder: Function, images: Tensor, labels: Tensor, batch_size: int
) -> Tensor:
    """Features ``[n, d]`` of all training images, on the model's device."""
    require_eval(model)
    check_inputs(images)
    if labels.shape != (len(images),) or labels.is_floating_point() or int(labels.min()) < 0:
        raise InputError(
            f"labels must be a class, 0 or greater, for each of the {len(images)} training images."
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    parts = []
    for part in images.split(batch_size):
        with explained(part):
            parts.append(encoder(part.to(device)))
    return torch.cat(parts)
