"""The parts of chapter `sec-invariance-transfer`: a judge, a generator, a shared first phase, and the arms it forks into."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from nuisance.data.groups import balanced_order
from nuisance.data.images import Images
from nuisance.data.nuisance_transforms import TRANSFORMS
from nuisance.errors import InputError
from nuisance.experiments.invariance_transfer_data import NATURAL, Sets, by_class, make_sets
from nuisance.files import Checkpoint
from nuisance.methods.invariance_transfer import InvarianceTransfer, Oracle
from nuisance.methods.long_tailed import (
    Augment,
    CropAndFlip,
    LongTailedClassifier,
    Loss,
    RandAugmentation,
    StepSchedule,
)
from nuisance.methods.munit import InvarianceGenerator, generator_report, pixel_variation
from nuisance.methods.supervised import Supervised
from nuisance.metrics.expected_kl import expected_kl
from nuisance.models.heads import CosineHead
from nuisance.models.resnet import CifarResNet
from nuisance.models.small_cnn import SmallCNN
from nuisance.seeding import generator, seed_weights
from nuisance.training import fit, in_parts

Transfer = Literal["below", "all", "ramp"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How a classifier is trained.

    Attributes
    ----------
    title : in tables and figures.
    loss : see `LongTailedClassifier`.
    sampling, weights : whether classes are balanced by the sampler (DRS), or by weights (DRW), once deferred.
    transfer : whose images the generator redraws once deferred: those of classes below K, of all classes, or of
        classes below K by the released code's ramp.
    oracle : whether the true nuisance is drawn anew in every step, once deferred.
    rand_augment : whether RandAugment is used, from the start.
    """

    title: str
    loss: Loss = "cross_entropy"
    sampling: bool = False
    weights: bool = False
    transfer: Transfer | None = None
    oracle: bool = False
    rand_augment: bool = False


ROWS = {
    "erm": Arm(title="ERM"),
    "git": Arm(title="ERM + GIT", transfer="below"),
    "drs": Arm(title="DRS", sampling=True),
    "drs_git": Arm(title="DRS + GIT", sampling=True, transfer="below"),
    "drs_git_all": Arm(title="DRS + GIT, all classes", sampling=True, transfer="all"),
    "drs_git_ramp": Arm(title="DRS + GIT, ramp", sampling=True, transfer="ramp"),
    "drs_oracle": Arm(title="DRS + Oracle", sampling=True, oracle=True),
    "drw": Arm(title="DRW", weights=True),
    "focal": Arm(title="Focal", loss="focal"),
    "ldam": Arm(title="LDAM", loss="ldam"),
    "ldam_git": Arm(title="LDAM + GIT", loss="ldam", transfer="below"),
    "ldam_drs": Arm(title="LDAM + DRS", loss="ldam", sampling=True),
    "ldam_drs_git": Arm(title="LDAM + DRS + GIT", loss="ldam", sampling=True, transfer="below"),
    "drs_rand": Arm(title="DRS + RandAugment", sampling=True, rand_augment=True),
    "drs_rand_git": Arm(title="DRS + RandAugment + GIT", sampling=True, rand_augment=True, transfer="below"),
}
"""The rows of the tables by their names in code."""

DRW_BETA = 0.9999

# One random stream for every purpose, so that adding one never shifts another; the data's are below 10.
_WEIGHTS, _ORDER, _JUDGE, _GENERATOR, _REPORT, _KL, _RAND, _CROP, _TRANSFER, _ORACLE = range(10, 20)
SAMPLES = 4
"""Images of every class that are kept to be shown, and styles of each."""


def train_judge(
    nuisance: str,
    *,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """A classifier that has seen many images of every class, with the nuisance: the judge of what generators draw.

    Returns
    -------
    ``weights`` of `SmallCNN`, and its ``accuracy`` on test images with the nuisance.
    """
    sets = make_sets(dataset, nuisance, 0, data_root=data_root, settings=settings)
    images = sets.clean
    if nuisance != NATURAL:
        pixels = TRANSFORMS[nuisance](images.pixels, generator=generator(0, _JUDGE))
        images = Images(pixels, images.labels)
    seed_weights(0, _JUDGE)
    epochs, size = settings["judge_epochs"], 64
    net = _judge(images, len(sets.tail.class_sizes)).to(device)
    method = Supervised(net, steps=epochs * (len(images) // size), learning_rate=3e-3)
    order = generator(0, _JUDGE, 1)
    fit(method, images.to(device), epochs=epochs, batch_size=size, generator=order, checkpoint=checkpoint)
    right = _predicted(method.predict, sets.test.pixels.to(device)).cpu() == sets.test.labels
    weights = {name: weight.cpu() for name, weight in net.state_dict().items()}
    return {"weights": weights, "accuracy": right.double().mean().item()}


def train_generator(
    nuisance: str,
    seed: int,
    *,
    judge: dict[str, Any],
    two_generators: bool = False,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train a generator on the long tail, classes equally often, and see what it draws of validation images.

    Parameters
    ----------
    judge : what `train_judge` returned for the nuisance.
    two_generators : as the released code has it.

    Returns
    -------
    ``weights``; ``history`` by epoch; ``report``, as `generator_report` on validation images with the nuisance, with
    ``real_kept``, the judge's accuracy on the images themselves, ``true_variation``, the pixels' variation over draws of
    the true nuisance (None where it is not known), and ``kept_by_class`` from head to tail; ``samples``, bytes
    ``[classes, SAMPLES, 1 + SAMPLES, c, h, w]`` of training images from head to tail, each before its drawn versions.
    """
    sets = make_sets(dataset, nuisance, seed, data_root=data_root, settings=settings)
    train, order = sets.tail.images.to(device), sets.tail.order
    method = make_generator(train.pixels.shape[1], settings, seed, two_generators).to(device)
    size = min(settings["generator_batch"], len(train) // 2 * 2)
    epochs = max(1, round(settings["generator_steps"] / (len(train) // size)))
    history = fit(
        method,
        train,
        epochs=epochs,
        batch_size=size,
        generator=generator(seed, _ORDER, _GENERATOR),
        sampler=partial(balanced_order, train.labels),
        checkpoint=checkpoint,
    )
    net = _judge(train, len(order)).to(device)
    net.load_state_dict(judge["weights"])
    classify = partial(_predicted, Supervised(net.eval(), steps=1, learning_rate=1.0).predict)
    seen = _first_of_each(sets.validation, order, settings["report_images"]).to(device)
    random = generator(seed, _REPORT)
    report: dict[str, Any] = generator_report(method, seen, classify=classify, random=random)
    kept = classify(method.generate(seen.pixels, generator=random)) == seen.labels
    report["real_kept"] = (classify(seen.pixels) == seen.labels).double().mean().item()
    report["kept_by_class"] = by_class(kept, seen.labels, len(order))[order].tolist()
    report["true_variation"] = None
    if nuisance != NATURAL:
        clean = _first_of_each(sets.clean_validation, order, settings["report_images"])
        draws = [TRANSFORMS[nuisance](clean.pixels, generator=random) for _ in range(8)]
        report["true_variation"] = pixel_variation(torch.stack(draws))
    shown = _first_of_each(train, order, SAMPLES).pixels.unflatten(0, (len(order), SAMPLES))
    versions = [method.generate(shown.flatten(0, 1), generator=random).view_as(shown) for _ in range(SAMPLES)]
    return {
        "weights": {name: weight.cpu() for name, weight in method.state_dict().items()},
        "history": history,
        "report": report,
        "samples": torch.stack([shown, *versions], 2).cpu(),
    }


def first_phase(
    loss: Loss,
    rand_augment: bool,
    nuisance: str,
    seed: int,
    *,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train as far as all arms of a loss are alike: to the epoch from which on sampling, weights and GIT are deferred.

    Returns
    -------
    ``state`` of the method, ``order``, the state of the stream of random numbers that decides the images' order, and
    ``history`` by epoch.
    """
    sets = make_sets(dataset, nuisance, seed, data_root=data_root, settings=settings)
    augment = _chained(_from_the_start(rand_augment, seed, settings))
    method = _classifier(loss, None, sets, seed, settings, augment).to(device)
    order = generator(seed, _ORDER)
    train = sets.tail.images.to(device)
    history = fit(
        method,
        train,
        epochs=settings["deferral"],
        batch_size=min(settings["batch_size"], len(train)),
        generator=order,
        checkpoint=checkpoint,
    )
    return {"state": method.to("cpu").training_state(), "order": order.get_state(), "history": history}


def second_phase(
    row: str,
    nuisance: str,
    seed: int,
    *,
    first: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
    two_generators: bool = False,
    threshold: int = 0,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Go on from the first phase as a row has it, and judge the last epoch, as the study does.

    Parameters
    ----------
    row : a key of `ROWS`.
    first : what `first_phase` returned.
    weights, two_generators : of the generator, for rows with GIT.
    threshold : K of GIT.

    Returns
    -------
    By class, from head to tail, lists: ``sizes`` of the classes, ``accuracy`` on test images and
    ``validation_accuracy``, both with the nuisance; and where the nuisance is known ``kl``, ``agreement`` and
    ``confidence`` as `expected_kl` has them on clean validation images, and ``kl_released``, with its pairing. Then
    ``note``, what GIT has to say of K, and ``history``.
    """
    sets = make_sets(dataset, nuisance, seed, data_root=data_root, settings=settings)
    arm, channels = ROWS[row], sets.clean.pixels.shape[1]
    augments: list[Augment] = []
    note = None
    if arm.oracle:
        clean = sets.clean.pixels.to(device)
        augments.append(Oracle(clean, TRANSFORMS[nuisance], seed=_purpose(seed, _ORACLE)))
    if arm.transfer:
        if weights is None:
            raise InputError(
                f"The row {row!r} needs a generator; give the weights that train_generator returned."
            )
        drawing = make_generator(channels, settings, seed, two_generators).to(device)
        drawing.load_state_dict(weights)
        transfer = InvarianceTransfer(
            drawing.eval().generate,
            sets.tail.class_sizes,
            share=settings["share"],
            threshold=None if arm.transfer == "all" else threshold,
            ramp=arm.transfer == "ramp",
            seed=_purpose(seed, _TRANSFER),
        )
        note = transfer.note()
        augments.append(transfer)
    augments += _from_the_start(arm.rand_augment, seed, settings)
    reweight = DRW_BETA if arm.weights else None
    method = _classifier(arm.loss, reweight, sets, seed, settings, _chained(augments)).to(device)
    method.load_training_state(first["state"])
    order = torch.Generator()
    order.set_state(first["order"])
    train = sets.tail.images.to(device)
    history = fit(
        method,
        train,
        epochs=settings["epochs"] - settings["deferral"],
        batch_size=min(settings["batch_size"], len(train)),
        generator=order,
        sampler=partial(balanced_order, train.labels) if arm.sampling else None,
        checkpoint=checkpoint,
    )
    ranks, classes = sets.tail.order, len(sets.tail.order)

    def accuracy(images: Images) -> list[float]:
        right = _predicted(method.predict, images.pixels.to(device)).cpu() == images.labels
        return by_class(right, images.labels, classes)[ranks].tolist()

    found: dict[str, Any] = {
        "sizes": sets.tail.class_sizes[ranks].tolist(),
        "accuracy": accuracy(sets.test),
        "validation_accuracy": accuracy(sets.validation),
        "note": note,
        "history": history,
    }
    if nuisance != NATURAL:
        known = sets.clean_validation.to(device)
        measured = partial(
            expected_kl,
            method.predict,
            known.pixels,
            known.labels,
            TRANSFORMS[nuisance],
            per_class=settings["kl_images"],
            draws=settings["kl_draws"],
        )
        same = measured(generator=generator(seed, _KL))
        released = measured(generator=generator(seed, _KL), pairing="released")
        found |= {name: getattr(same, name)[ranks].tolist() for name in ("kl", "agreement", "confidence")}
        found["kl_released"] = released.kl[ranks].tolist()
    return found


def make_generator(
    channels: int, settings: dict[str, Any], seed: int, two_generators: bool
) -> InvarianceGenerator:
    """The generator by the chapter's settings."""
    return InvarianceGenerator(
        in_channels=channels,
        width=settings["generator_width"],
        residual_blocks=settings["generator_blocks"],
        style_dimensions=settings["style_dimensions"],
        style_stages=settings["style_stages"],
        halvings=settings["generator_halvings"],
        discriminator_stages=settings["discriminator_stages"],
        learning_rate=settings["generator_rate"],
        halve_every=settings["generator_halve_every"],
        image_weight=settings["image_weight"],
        content_weight=settings["content_weight"],
        two_generators=two_generators,
        seed=_purpose(seed, _GENERATOR),
    )


def _classifier(
    loss: Loss,
    reweight: float | None,
    sets: Sets,
    seed: int,
    settings: dict[str, Any],
    augment: Augment | None,
) -> LongTailedClassifier:
    pixels, classes = sets.tail.images.pixels, len(sets.tail.order)
    width = settings["width"]
    seed_weights(seed, _WEIGHTS)
    net = CifarResNet(
        blocks=settings["blocks"],
        widths=(width, 2 * width, 4 * width),
        in_channels=pixels.shape[1],
        classes=classes,
        stem_stride=settings["stem_stride"],
    )
    if loss == "ldam":
        net.linear = CosineHead(4 * width, classes)  # type: ignore[assignment]  # takes the linear head's place
    deferral, epochs = settings["deferral"], settings["epochs"]
    decay = settings["decay"]
    schedule = StepSchedule(
        steps_per_epoch=max(1, len(pixels) // settings["batch_size"]),
        learning_rate=settings["learning_rate"],
        warm_up=settings["warm_up"],
        # 30 and 40 of the published 50 epochs, 160 and 180 of 200
        milestones=((deferral, decay), ((deferral + epochs + 1) // 2, decay**2)),
    )
    return LongTailedClassifier(
        net.to(memory_format=torch.channels_last),
        normalization=sets.normalization,
        schedule=schedule,
        class_sizes=sets.tail.class_sizes,
        loss=loss,
        reweight=reweight,
        augment=augment,
    )


def _from_the_start(rand_augment: bool, seed: int, settings: dict[str, Any]) -> list[Augment]:
    """What is done to every batch in both phases."""
    augments: list[Augment] = []
    if settings["crop_and_flip"]:
        augments.append(CropAndFlip(seed=_purpose(seed, _CROP)))
    if rand_augment:
        augments.append(RandAugmentation(seed=_purpose(seed, _RAND)))
    return augments


def _chained(augments: list[Augment]) -> Augment | None:
    """One augmentation after the other."""

    def augment(batch: Images, step: int) -> Images:
        for one in augments:
            batch = one(batch, step)
        return batch

    return augment if augments else None


def _judge(images: Images, classes: int) -> SmallCNN:
    net = SmallCNN(classes=classes, in_channels=images.pixels.shape[1], width=16)
    return net.to(memory_format=torch.channels_last)


def _predicted(predict: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    """The classes that are predicted for bytes ``[n, c, h, w]``."""
    return in_parts(predict, pixels).argmax(1)


def _first_of_each(images: Images, order: list[int], count: int) -> Images:
    """The first images of every class, ``count`` each, in turn again where there are fewer; classes in ``order``."""
    chosen = []
    for label in order:
        own = (images.labels == label).nonzero().flatten()
        chosen.append(own[torch.arange(count, device=own.device) % len(own)])
    return images[torch.cat(chosen)]


def _purpose(seed: int, purpose: int) -> int:
    """A seed for one purpose, from that of the run."""
    return int(torch.randint(2**31, (), generator=generator(seed, purpose)))
