"""eKLD: how far a nuisance transformation moves what a classifier predicts (Zhou et al. 2022, arXiv 2203.09739).

Chapter: `sec-invariance-transfer`. With P(. | x) the predicted probabilities and T drawn anew for every term,

    eKLD  =  E_x E_T [ KL( P(. | x) || P(. | T x) ) ],

0 for an invariant classifier. It is in nats, and confounded with confidence: a classifier that is never sure moves
little, one that is sure and wrong moves much. So agreement, accuracy and confidence are measured beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from nuisance.errors import InputError, ParameterError
from nuisance.metrics.intervals import mean_interval

Pairing = Literal["same", "released"]


@dataclass(frozen=True)
class ExpectedKL:
    """eKLD of every class and what helps to read it, float64 ``[classes]``.

    Attributes
    ----------
    kl : the mean over images and transforms, in nats.
    low, high : Student's 95 % interval over images, of each its mean over transforms; infinite for one image.
    agreement : share of transforms that leave the predicted class as it is for the original.
    accuracy, confidence : share of transformed images that are classified right, and the mean probability of the class
        that is predicted for them.
    images : how many images it is from, int64.
    """

    kl: Tensor
    low: Tensor
    high: Tensor
    agreement: Tensor
    accuracy: Tensor
    confidence: Tensor
    images: Tensor


@torch.no_grad()
def expected_kl(
    predict: Callable[[Tensor], Tensor],
    pixels: Tensor,
    labels: Tensor,
    transform: Callable[..., Tensor],
    *,
    per_class: int = 40,
    draws: int = 100,
    generator: torch.Generator,
    pairing: Pairing = "same",
    batch_size: int = 1000,
) -> ExpectedKL:
    """eKLD of every class, from images without the nuisance.

    Parameters
    ----------
    predict : bytes ``[b, c, h, w]`` -> logits ``[b, classes]``, in eval mode.
    pixels, labels : the clean images, bytes ``[n, c, h, w]`` and int64 ``[n]``.
    transform : ``transform(pixels, generator=...)``, another draw for every image.
    per_class : images drawn of each class; of a smaller class all are taken.
    draws : transforms of each image.
    generator : of the CPU; decides images and transforms, the same ones under either pairing.
    pairing : ``"same"`` compares an image with transforms of itself. ``"released"`` compares it with those of another
        image of its class, drawn at random, as the released code does: what differs between images then counts
        too, and an invariant classifier does not reach 0.
    batch_size : images in flight at once, which bounds the memory; another one means other draws.

    Raises
    ------
    ParameterError
        If a number is below 1 or the pairing is unknown.
    InputError
        If a class of the classifier has no image, a label is none of its classes, or the transform changes the
        images' shape or type.
    """
    for name, value in {"per_class": per_class, "draws": draws, "batch_size": batch_size}.items():
        if value < 1:
            raise ParameterError(f"{name} is {value} but must be 1 or greater.")
    if pairing not in get_args(Pairing):
        raise ParameterError(f"pairing is {pairing!r} but must be one of {', '.join(get_args(Pairing))}.")
    classes = predict(pixels[:1]).shape[1] if len(pixels) else 0
    sizes = torch.bincount(labels.cpu(), minlength=classes)
    if not classes or len(sizes) > classes or not sizes.all():
        raise InputError(
            f"The classes have {sizes.tolist()} images but each of the classifier's {classes} must have one or more, "
            "and there can be no others; give images of all classes."
        )
    members = [(labels.cpu() == label).nonzero().flatten() for label in range(classes)]
    members = [of[torch.randperm(len(of), generator=generator)[:per_class]] for of in members]
    # drawn in any case, so that transforms are the same under either pairing
    shuffled = torch.cat([of[torch.randperm(len(of), generator=generator)] for of in members])
    chosen = torch.cat(members)
    counts = torch.tensor([len(of) for of in members])
    original = (chosen if pairing == "same" else shuffled).to(pixels.device)
    log_p = torch.cat([_log_probabilities(predict(pixels[part])) for part in original.split(batch_size)])
    truth = labels[chosen.to(labels.device)]
    of_row = torch.arange(len(chosen), device=pixels.device).repeat_interleave(draws)
    chosen = chosen.to(pixels.device)

    measured = []
    for rows in of_row.split(batch_size):
        given = pixels[chosen[rows]]
        made = transform(given, generator=generator)
        if made.shape != given.shape or made.dtype != given.dtype:
            raise InputError(
                f"The transform makes {made.dtype} {list(made.shape)} of {given.dtype} {list(given.shape)}; "
                "take one that keeps shape and type."
            )
        log_q = _log_probabilities(predict(made))
        confidence, predicted = log_q.exp().max(1)
        kl = (log_p[rows].exp() * (log_p[rows] - log_q)).sum(1)
        agrees, right = predicted == log_p[rows].argmax(1), predicted == truth[rows]
        measured.append(torch.stack([kl, agrees, right, confidence]))
    # the mean of every image over its draws, then that of every class over its images
    by_image = torch.cat(measured, 1).view(4, len(chosen), draws).mean(2).cpu()
    by_class = by_image.split(counts.tolist(), 1)
    kl, agreement, accuracy, confidence = torch.stack([of.mean(1) for of in by_class], 1)
    intervals = [mean_interval(of[0].tolist()) for of in by_class]
    low, high = (
        torch.tensor([getattr(each, end) for each in intervals], dtype=torch.float64)
        for end in ("low", "high")
    )
    return ExpectedKL(kl, low, high, agreement, accuracy, confidence, counts)


def _log_probabilities(logits: Tensor) -> Tensor:
    return logits.double().log_softmax(1)  # float32 loses what differs between two nearly equal predictions
