"""One cell of the tables of chapter `sec-learning-not-to-learn`: train one row, judge it, probe it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from nuisance.metrics.probes import ProbeResult, fresh_probe, judge
from nuisance.models.colored_mnist import BINS, BiasNet, LabelNet
from nuisance.seeding import generator, seed_weights
from nuisance.training import fit, in_parts

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


def experiment(
    row: str,
    color_variance: float,
    seed: int,
    *,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    probe: bool = True,
    initial: State | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train one row on biased digits; judge it on unbiased ones; probe its frozen features.

    Parameters
    ----------
    row : a key of ``ROWS``.
    settings : the chapter's own parameters by name, see its first cell.
    probe : whether to train the fresh probes.
    initial : weights of f and g to start from, as the published schedule has it; None for fresh ones.

    Returns
    -------
    Shares between 0 and 1 unless said otherwise: ``accuracy`` and ``validation_accuracy`` on unbiased digits;
    ``biased_accuracy`` on test digits that are coloured as in training; ``confusion`` [10, 10], counts of
    (digit, prediction) on unbiased test digits; ``history`` by epoch; ``weights`` of f and g. From the fresh
    probes: ``color_accuracy`` and ``color_bits`` of the image probe, and ``color_share`` of the variance of the
    features that the mean colour explains; ``position_accuracy`` and ``position_bits`` of the position probe,
    ``position_chance``, the accuracy of always naming the most frequent bin, and ``bias_net_accuracy`` of the
    game's own h on the same images (None without one), with the last weights of f, not their running mean.
    """
    splits = _load(dataset, data_root, device, settings)
    painting: Paint = settings["painting"]
    train = with_colors(splits["train"], color_variance, biased=True, generator=generator(seed, _TRAIN))

    seed_weights(seed, _WEIGHTS)
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

    def unbiased(split: str, purpose: int) -> tuple[Tensor, Tensor]:
        """Predictions and labels of every digit, painted ``repaints`` times in colours that say nothing."""
        again = torch.arange(len(splits[split]), device=device).repeat(settings["repaints"])
        colored = with_colors(
            splits[split][again], color_variance, biased=False, generator=generator(seed, purpose)
        )
        return in_parts(method.predict, paint(colored, painting)).argmax(1), colored.labels

    answers, labels = unbiased("test", _TEST)
    validation_answers, validation_labels = unbiased("validation", _VALIDATION)
    biased_digits = with_colors(
        splits["test"], color_variance, biased=True, generator=generator(seed, _TEST, 1)
    )
    biased = paint(biased_digits, painting)
    probes: dict[str, float | None] = {}
    if probe:
        parts = _color_features(method, splits, color_variance, seed, settings)
        image = _probe_colors(parts, seed, settings)[-1]
        probes = {"color_accuracy": image.accuracy, "color_bits": image.bits}
        probes["color_share"] = _explained_share(*parts[1])
        probes |= _probe_positions(method, paint(train, painting), biased, seed, settings)
    return {
        "accuracy": _share(answers == labels),
        "validation_accuracy": _share(validation_answers == validation_labels),
        "biased_accuracy": _share(in_parts(method.predict, biased).argmax(1) == biased_digits.labels),
        "confusion": torch.bincount(labels * 10 + answers, minlength=100).view(10, 10).tolist(),
        "history": history,
        **probes,
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
        bias_momentum=settings["bias_momentum"],
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


def color_probe_curve(
    color_variance: float,
    seed: int,
    normalised: bool,
    epochs: int,
    *,
    weights: State,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
) -> list[float]:
    """Bits that an image probe finds after every epoch of its training, in features of the given weights.

    ``normalised`` says whether the probe begins with a batch norm, as `experiment`'s does.
    """
    method = make_method("baseline", steps_per_epoch=1, settings={**settings, "weight_average": 0.0})
    method.load_net_state(weights)
    method.to(device).eval()
    splits = _load(dataset, data_root, device, settings)
    parts = _color_features(method, splits, color_variance, seed, settings)
    found = _probe_colors(parts, seed, settings, epochs=epochs, normalised=normalised)
    return [result.bits for result in found]


Features = tuple[Tensor, Tensor]


def _color_features(
    method: Classifier,
    splits: dict[str, Images],
    color_variance: float,
    seed: int,
    settings: dict[str, Any],
) -> tuple[Features, Features]:
    """Frozen features of unbiased digits with the mean colour that each has, to train a probe and to judge it."""
    parts = []
    for number, split in enumerate(("train", "test")):
        digits = splits[split][slice(0, settings["probe_images"])]
        stream = generator(seed, _PROBE, number)
        which = torch.randint(0, 10, (len(digits),), generator=stream)
        colors = draw_colors(which, color_variance, biased=True, generator=stream)
        colored = digits.with_attributes(color=colors.to(digits.labels.device))
        features = in_parts(method.extract, paint(colored, settings["painting"]))
        parts.append((features, which.to(features.device)))
    return parts[0], parts[1]


def _probe_colors(
    parts: tuple[Features, Features],
    seed: int,
    settings: dict[str, Any],
    *,
    epochs: int = 6,
    normalised: bool = True,
) -> list[ProbeResult]:
    """The image probe: a net like g, to tell which of the ten mean colours an unbiased image has.

    It sees the whole image, as g does; the digit is no help to it, because colours and digits are independent.
    A batch norm comes first: what an adversary has made small, but not removed, is as plain to it as ever.
    """
    torch.manual_seed(seed)
    probe: nn.Module = LabelNet(settings["width"])
    if normalised:
        probe = nn.Sequential(nn.BatchNorm2d(settings["width"]), probe)
    return fresh_probe(
        probe.to(parts[0][0].device),
        *parts,
        epochs=epochs,
        learning_rate=1e-2,
        batch_size=100,
        generator=generator(seed, _PROBE, 2),
    )


def _probe_positions(
    method: Classifier, train: Tensor, held_out: Tensor, seed: int, settings: dict[str, Any]
) -> dict[str, float | None]:
    """The position probe: a fresh h, normalised first, for h's own task on biased images; and h itself there."""
    train = train[: max(1, settings["probe_images"] // 4)]  # every image has many positions
    features, bins = in_parts(method.extract, held_out), color_bins(held_out)
    train_bins = color_bins(train)
    torch.manual_seed(seed)
    width = settings["width"]
    found = fresh_probe(
        nn.Sequential(nn.BatchNorm2d(width), BiasNet(width)).to(features.device),
        (in_parts(method.extract, train), train_bins),
        (features, bins),
        epochs=4,
        learning_rate=1e-2,
        batch_size=50,
        generator=generator(seed, _PROBE, 3),
    )
    own = None
    if isinstance(method, BiasGame):
        own = judge(in_parts(method.bias, in_parts(method.extract_last, held_out)), bins).accuracy
    frequencies = torch.stack([_frequencies(train_bins[:, channel]) for channel in range(3)], 1)  # [8, 3]
    blind = frequencies.log()[None, :, :, None, None].expand(len(bins), -1, -1, *bins.shape[2:])
    return {
        "position_chance": judge(blind, bins).accuracy,
        "position_accuracy": found[-1].accuracy,
        "position_bits": found[-1].bits,
        "bias_net_accuracy": own,
    }


def _load(dataset: str, data_root: str, device: str, settings: dict[str, Any]) -> dict[str, Images]:
    splits = load_digits(dataset, Path(data_root))
    if settings["side"] == 14:
        splits = {name: halve(digits) for name, digits in splits.items()}
    return {name: digits.to(device) for name, digits in splits.items()}


def _frequencies(bins: Tensor) -> Tensor:
    """Frequencies of the bins of one channel, ``[8]``, none of them quite zero."""
    counts = torch.bincount(bins[bins != IGNORED], minlength=BINS).float() + 1e-3
    return counts / counts.sum()


def _explained_share(features: Tensor, which: Tensor) -> float:
    """Share of the variance of the features' means over positions that ten groups explain, between 0 and 1."""
    means = features.mean((2, 3))  # [n, width]
    groups = torch.stack([means[which == group].mean(0) for group in range(10)])
    between = (groups[which] - means.mean(0)).square().sum()
    return (between / (means - means.mean(0)).square().sum().clamp(min=1e-12)).item()


def _share(right: Tensor) -> float:
    return right.double().mean().item()
