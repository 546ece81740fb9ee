"""The parts of chapter `sec-attribute-adversary`: translate between subgroups, train one row of the table, judge it."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nuisance.data.garments_outdoors import load_other_garments
from nuisance.data.groups import alternating_order, balanced_order, counts, group_of
from nuisance.data.images import Images
from nuisance.experiments.attribute_adversary_data import (
    HARD,
    OTHERS,
    WIDTH,
    load_splits,
    make_embedding,
)
from nuisance.files import Checkpoint
from nuisance.methods.attribute_adversary import AttributeAdversary
from nuisance.methods.embedding import EmbeddingClassifier
from nuisance.methods.group_dro import GroupDRO
from nuisance.methods.model_patching import ModelPatching
from nuisance.methods.subgroup_translation import SubgroupTranslator, translation_report
from nuisance.methods.supervised import Supervised
from nuisance.metrics.groups import above_gate_then_hard, group_metrics, worst_group
from nuisance.metrics.probes import fresh_probe
from nuisance.models.small_cnn import SmallCNN
from nuisance.seeding import generator, seed_weights
from nuisance.training import Method, Selection, fit, in_parts

ROWS = {
    "erm": "ERM",
    "erm_balanced": "ERM, balanced groups",
    "gdro": "GDRO",
    "clamp": "CLAMP",
    "adversary": "Attribute adversary",
    "adversary_unbalanced": "Adversary, unbalanced",
    "adversary_conditional": "Adversary, conditional",
    "erm_black": "ERM on black",
}
"""The rows of the tables by their names in code."""

# One random stream for every purpose, so that adding one never shifts another.
_WEIGHTS, _ORDER, _PROBE, _TRANSLATE, _PRETRAIN, _PLACE = range(6)


def pretrain(
    *, device: str, settings: dict[str, Any], checkpoint: Checkpoint | None = None
) -> dict[str, Tensor]:
    """Train the small network on the eight other garments: what ImageNet is to the study's networks.

    Returns
    -------
    The weights of `SmallCNN`, its head of eight classes among them.
    """
    images = load_other_garments(size=settings["size"], seed=0).to(device)
    seed_weights(0, _PRETRAIN)
    net = SmallCNN(classes=OTHERS, in_channels=3, width=WIDTH)
    net = net.to(device).to(memory_format=torch.channels_last)
    epochs, size = settings["pretraining_epochs"], 64
    method = Supervised(net, steps=epochs * (len(images) // size), learning_rate=3e-3)
    order = generator(0, _PRETRAIN)
    fit(method, images, epochs=epochs, batch_size=size, generator=order, checkpoint=checkpoint)
    return {name: weight.cpu() for name, weight in net.state_dict().items()}


def translate(
    seed: int,
    label: int,
    *,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train a translator between the two subgroups of a class, and move its training images to the other place.

    Returns
    -------
    ``pixels``, uint8 ``[n, 3, h, w]``, in the order of the class's training images; and ``report``, what a
    `translation_report` says of the class's validation images. Its judge of places is trained on the others.
    """
    splits = load_splits(dataset, seed, data_root=data_root, settings=settings)
    train = splits["train"]
    some = train[train.labels == label].to(device)
    seed_weights(seed, _TRANSLATE, label)
    method = SubgroupTranslator(
        width=settings["translator_width"],
        learning_rate=settings["translator_rate"],
        cycle_weight=settings["translator_cycle"],
    ).to(device)
    size = min(settings["batch_size"], 16, len(some))
    epochs = max(1, round(settings["translator_steps"] / (len(some) // size)))
    fit(
        method,
        some,
        epochs=epochs,
        batch_size=size,
        generator=generator(seed, _ORDER, label),
        sampler=partial(alternating_order, some.attributes["attribute"]),
        checkpoint=checkpoint,
    )
    return {
        "pixels": method.translate(some.pixels, some.attributes["attribute"]).cpu(),
        "report": _report(method, splits["validation"].to(device), label, seed),
    }


def _report(translator: SubgroupTranslator, images: Images, label: int, seed: int) -> dict[str, float]:
    """What the translator does to images of its class; in validation the place tells nothing of the class."""
    others, own = images[images.labels != label], images[images.labels == label]
    others = Images(others.pixels, others.attributes["attribute"])
    seed_weights(seed, _PLACE, label)
    epochs, size = 10, min(32, len(others))
    net = SmallCNN(classes=2, in_channels=3, width=WIDTH).to(images.pixels.device)
    judge = Supervised(net, steps=epochs * (len(others) // size), learning_rate=3e-3)
    fit(judge, others, epochs=epochs, batch_size=size, generator=generator(seed, _PLACE, label))

    def place_of(pixels: Tensor) -> Tensor:
        return in_parts(judge.predict, pixels, size).argmax(1)

    return translation_report(translator, own, place_of)


def experiment(
    row: str,
    seed: int,
    *,
    strength: float = 0.0,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
    translations: tuple[Tensor, Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train one row, choose its epochs on validation images, and judge it on test images.

    Parameters
    ----------
    row : a key of `ROWS`.
    strength : lambda, which rows without an adversary do not use.
    settings : the chapter's own parameters by name, see its first cell.
    weights : what `pretrain` returned, for the small network.
    translations : the pixels that `translate` returned for either class, for CLAMP.

    Returns
    -------
    ``history`` by epoch; ``train_counts`` ``[4]``; ``groups`` ``[n]`` of the test images; and by rule, in ``chosen``:
    ``epoch`` (from 0), ``validation`` metrics, ``passed`` (whether the gate was), ``right`` bool ``[n]`` on the test
    images, ``embeddings`` ``[n, dimensions]`` of them, and ``probe_accuracy`` of a fresh probe for the attribute, trained on the embeddings of the validation images, where every group has equally many.
    """
    splits = load_splits(dataset, seed, data_root=data_root, settings=settings, on_black=row == "erm_black")
    splits = {name: images.to(device) for name, images in splits.items()}
    train, size = splits["train"], settings["batch_size"]
    if translations is not None:
        moved = torch.empty_like(train.pixels)
        for label, pixels in enumerate(translations):
            moved[train.labels == label] = pixels.to(device)
        train = train.with_attributes(translated=moved)
    train_counts = counts(train).cpu()
    metrics = partial(group_metrics, train_counts=train_counts, hard=HARD[dataset])

    def judge(method: Method) -> dict[str, float]:
        right = _right(method, splits["validation"], size)
        return metrics(right, group_of(splits["validation"]))

    seed_weights(seed, _WEIGHTS)
    embed, dimensions = make_embedding(settings["network"], data_root, weights)
    method = _make_method(row, embed, dimensions, strength, train_counts, settings).to(device)
    # how an epoch is chosen by validation images: as in the study, and by the worst group
    gate = above_gate_then_hard(settings["gate"])
    selection = Selection(judge, {"gate_then_hard": gate, "worst_group": worst_group})
    history = fit(
        method,
        train,
        epochs=settings["epochs"],
        batch_size=min(size, len(train)),
        generator=generator(seed, _ORDER),
        sampler=_sampler(row, train),
        selection=selection,
        checkpoint=checkpoint,
    )
    chosen = {}
    for rule, validation in selection.judged.items():
        epoch, weights = selection.best(rule)
        method.load_state_dict(weights)
        embedded = {
            name: in_parts(method.embedding, splits[name].pixels, size) for name in ("validation", "test")
        }
        chosen[rule] = {
            "epoch": epoch,
            "validation": validation,
            "passed": gate(validation)[0] == 1,
            "right": _right(method, splits["test"], size).cpu(),
            "embeddings": embedded["test"].cpu(),
            "probe_accuracy": _probe(embedded, splits, seed, settings),
        }
    return {
        "history": history,
        "train_counts": train_counts,
        "groups": group_of(splits["test"]).cpu(),
        "chosen": chosen,
    }


def probe_start(
    seed: int,
    *,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    weights: dict[str, Tensor] | None = None,
) -> float:
    """The accuracy of a fresh probe for the attribute on the embeddings with which all rows start."""
    splits = load_splits(dataset, seed, data_root=data_root, settings=settings)
    splits = {name: images.to(device) for name, images in splits.items()}
    embed, dimensions = make_embedding(settings["network"], data_root, weights)
    start = EmbeddingClassifier(embed, dimensions=dimensions, learning_rate=1.0, weight_decay=0.0).to(device)
    start.eval()
    embedded = {
        name: in_parts(start.embedding, splits[name].pixels, settings["batch_size"])
        for name in ("validation", "test")
    }
    return _probe(embedded, splits, seed, settings)


def _make_method(
    row: str,
    embed: nn.Module,
    dimensions: int,
    strength: float,
    train_counts: Tensor,
    settings: dict[str, Any],
) -> EmbeddingClassifier:
    common: dict[str, Any] = {name: settings[name] for name in ("learning_rate", "weight_decay")}
    common["dimensions"] = dimensions
    if row.startswith("adversary"):
        return AttributeAdversary(
            embed,
            strength=strength,
            conditional=row == "adversary_conditional",
            hidden=settings["adversary_width"],
            ahead=settings["adversary_steps"],
            rate=settings["adversary_rate"],
            **common,
        )
    robust: dict[str, Any] = {"group_counts": train_counts, "dro_step": settings["dro_step"]}
    if row == "gdro":
        return GroupDRO(embed, adjustment=settings["dro_adjustment"], **robust, **common)
    if row == "clamp":
        robust |= {"adjustment": settings["patch_adjustment"], "consistency_weight": settings["patch_weight"]}
        return ModelPatching(embed, **robust, **common)
    return EmbeddingClassifier(embed, **common)


def _sampler(row: str, train: Images) -> Callable[[torch.Generator], Tensor] | None:
    """Groups equally likely; but for plain ERM and its like, and the classes alone on black, as the study has it."""
    if row in ("erm", "adversary_unbalanced"):
        return None
    return partial(balanced_order, train.labels if row == "erm_black" else group_of(train))


def _right(method: Method, images: Images, size: int) -> Tensor:
    return in_parts(method.predict, images.pixels, size).argmax(1) == images.labels


def _probe(
    embedded: dict[str, Tensor], splits: dict[str, Images], seed: int, settings: dict[str, Any]
) -> float:
    """The accuracy of a fresh network of the adversary's size; the first layer's batch norm makes the embeddings' scale idle."""
    seed_weights(seed, _PROBE)
    dimensions, width = embedded["test"].shape[1], settings["adversary_width"]
    probe = nn.Sequential(
        nn.BatchNorm1d(dimensions), nn.Linear(dimensions, width), nn.ReLU(), nn.Linear(width, 2)
    ).to(embedded["test"].device)
    train, held_out = (
        (embedded[name], splits[name].attributes["attribute"]) for name in ("validation", "test")
    )
    return fresh_probe(
        probe,
        train,
        held_out,
        epochs=settings["probe_epochs"],
        learning_rate=3e-3,
        batch_size=128,
        generator=generator(seed, _PROBE),
    )[-1].accuracy
