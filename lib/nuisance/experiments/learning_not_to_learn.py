"""One cell of the tables of chapter `sec-learning-not-to-learn`: train one row, judge it, probe it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nuisance.data.colored_mnist import (
    Paint,
    color_bins,
    draw_colors,
    halve,
    load_digits,
    paint,
    with_colors,
)
from nuisance.data.images import Images
from nuisance.files import Checkpoint
from nuisance.losses import IGNORED
from nuisance.methods.bias_game import BiasGame
from nuisance.methods.blind_eye import BlindEye
from nuisance.methods.erm import Classifier, Schedule, State
from nuisance.methods.mutual_information import Ramp, UnlearnBias, UnlearnBiasTwoPass
from nuisance.metrics.probes import fresh_probe, judge
from nuisance.models.colored_mnist import BiasNet, LabelNet
from nuisance.seeding import generator
from nuisance.training import fit

ROWS = {
    "baseline": "Baseline",
    "blindeye": "BlindEye",
    "gray": "Gray",
    "unlearn": "Unlearning, fixed strength",
    "unlearn_ramped": "Unlearning, ramped",
    "unlearn_two_pass": "Unlearning, ramped, two passes",
    "reversal_only": "Reversal alone (lambda = 0), ramped",
}
"""The rows of the tables by their names in code; the first five are the printed ones."""

# One random stream for every purpose, so that adding one never shifts another.
_TRAIN, _VALIDATION, _TEST, _WEIGHTS, _ORDER, _PROBE = range(6)


@dataclass(frozen=True)
class Pictures:
    """Painted images, bytes ``[n, 3, s, s]``, with what they show."""

    pixels: Tensor
    labels: Tensor
    colors: Tensor


def experiment(
    row: str,
    color_variance: float,
    seed: int,
    *,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    initial: State | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train one row on biased digits; judge it on unbiased ones; probe its frozen features.

    Parameters
    ----------
    row : a key of ``ROWS``.
    settings : the chapter's own parameters by name, see its first cell.
    initial : weights of f and g to start from, as the published schedule has it; None for fresh ones.

    Returns
    -------
    Shares between 0 and 1 unless said otherwise: ``accuracy`` and ``validation_accuracy`` on unbiased digits;
    ``biased_accuracy`` on test digits that are coloured as in training; ``confusion`` [10, 10], counts of
    (digit, prediction) on unbiased test digits; ``history`` by epoch; ``color_accuracy`` and ``color_bits``, the
    fresh image probe's; ``position_accuracy`` and ``position_bits``, the fresh position probe's, and
    ``bias_net_accuracy``, the game's own h, judged on the same images (None without one); ``weights``
    of f and g.
    """
    splits = load_digits(dataset, Path(data_root))
    if settings["side"] == 14:
        splits = {name: halve(digits) for name, digits in splits.items()}
    splits = {name: digits.to(device) for name, digits in splits.items()}
    painting: Paint = settings["painting"]
    train = with_colors(splits["train"], color_variance, biased=True, generator=generator(seed, _TRAIN))

    torch.manual_seed(int(torch.randint(2**31, (), generator=generator(seed, _WEIGHTS))))
    steps = len(train) // settings["batch_size"]
    method = make_method(row, steps_per_epoch=steps, settings=settings).to(device)
    if initial is not None:
        method.load_net_state(initial)
    history = fit(
        method,
        train,
        epochs=settings["epochs"],
        batch_size=settings["batch_size"],
        generator=generator(seed, _ORDER),
        checkpoint=checkpoint,
    )

    def unbiased(split: str, purpose: int) -> Pictures:
        """Every digit painted ``repaints`` times in colours that say nothing about it."""
        digits = splits[split]
        again = digits[torch.arange(len(digits)).repeat(settings["repaints"]).to(device)]
        colored = with_colors(again, color_variance, biased=False, generator=generator(seed, purpose))
        return Pictures(paint(colored, painting), colored.labels, colored.labels)

    test, validation = unbiased("test", _TEST), unbiased("validation", _VALIDATION)
    biased_digits = with_colors(
        splits["test"], color_variance, biased=True, generator=generator(seed, _TEST, 1)
    )
    biased = paint(biased_digits, painting)
    predicted = _in_parts(method.predict, test.pixels).argmax(1)
    return {
        "accuracy": _share(predicted == test.labels),
        "validation_accuracy": _share(
            _in_parts(method.predict, validation.pixels).argmax(1) == validation.labels
        ),
        "biased_accuracy": _share(_in_parts(method.predict, biased).argmax(1) == biased_digits.labels),
        "confusion": torch.bincount(test.labels * 10 + predicted, minlength=100).view(10, 10).tolist(),
        "history": history,
        **_probe_colors(method, splits, color_variance, seed, painting, settings),
        **_probe_positions(method, paint(train, painting), biased, seed, settings),
        "weights": {name: {k: v.cpu() for k, v in part.items()} for name, part in method.net_state().items()},
    }


def make_method(row: str, *, steps_per_epoch: int, settings: dict[str, Any]) -> Classifier:
    """The method of a row, on the CPU with fresh weights from torch's own random stream."""
    game = row not in ("baseline", "gray")
    schedule = Schedule(
        epochs=settings["epochs"],
        steps_per_epoch=steps_per_epoch,
        optimizer=settings["optimizer"],
        learning_rate=settings["game_learning_rate" if game else "learning_rate"],
        bias_learning_rate=settings["bias_learning_rate"],
        decay_every=settings["decay_every"],
        gradient_clip=settings["gradient_clip"],
        weight_average=settings["weight_average"],
    )
    width, painting = settings["width"], settings["painting"]
    if not game:
        return Classifier(width=width, schedule=schedule, painting=painting, gray=row == "gray")
    if row == "blindeye":
        confusion_weight = settings["confusion_weight"]
        return BlindEye(width=width, schedule=schedule, painting=painting, confusion_weight=confusion_weight)
    ramp: Ramp = "none" if row == "unlearn" else settings["ramp"]
    kind = UnlearnBiasTwoPass if row == "unlearn_two_pass" else UnlearnBias
    return kind(
        width=width,
        schedule=schedule,
        painting=painting,
        entropy_weight=0.0 if row == "reversal_only" else settings["entropy_weight"],
        reversal_strength=settings["reversal_strength"],
        ramp=ramp,
    )


def _probe_colors(
    method: Classifier,
    splits: dict[str, Images],
    color_variance: float,
    seed: int,
    painting: Paint,
    settings: dict[str, Any],
) -> dict[str, float]:
    """The image probe: a net like g, to tell which of the ten mean colours an unbiased image has.

    It sees the whole image, as g does; the digit is no help to it, because colours and digits are independent.
    """
    parts = []
    for number, split in enumerate(("train", "test")):
        digits = splits[split][slice(0, settings["probe_images"])]
        stream = generator(seed, _PROBE, number)
        which = torch.randint(0, 10, (len(digits),), generator=stream)
        colors = draw_colors(which, color_variance, biased=True, generator=stream)
        pixels = paint(digits.with_attributes(color=colors.to(digits.labels.device)), painting)
        parts.append((_in_parts(method.extract, pixels), which.to(pixels.device)))
    torch.manual_seed(seed)
    probe = LabelNet(settings["width"]).to(parts[0][0].device)
    stream = generator(seed, _PROBE, 2)
    found = fresh_probe(probe, *parts, epochs=6, learning_rate=3e-3, batch_size=100, generator=stream)
    return {"color_accuracy": found.accuracy, "color_bits": found.bits}


def _probe_positions(
    method: Classifier, train: Tensor, held_out: Tensor, seed: int, settings: dict[str, Any]
) -> dict[str, float | None]:
    """The position probe: a fresh h on frozen features, for the task and on the biased images of the game's h."""
    train = train[: settings["probe_images"]]
    features, bins = _in_parts(method.extract, held_out), color_bins(held_out)
    parts = (_in_parts(method.extract, train), color_bins(train)), (features, bins)
    torch.manual_seed(seed)
    probe = BiasNet(settings["width"]).to(features.device)
    stream = generator(seed, _PROBE, 3)
    found = fresh_probe(probe, *parts, epochs=4, learning_rate=5e-3, batch_size=100, generator=stream)
    own = None
    if isinstance(method, BiasGame):
        own = judge(_in_parts(method.bias, features), bins).accuracy
    return {"position_accuracy": found.accuracy, "position_bits": found.bits, "bias_net_accuracy": own}


@torch.no_grad()
def _in_parts(function: Any, inputs: Tensor) -> Tensor:
    return torch.cat([function(part) for part in inputs.split(500)])


def _share(right: Tensor) -> float:
    return right.double().mean().item()
