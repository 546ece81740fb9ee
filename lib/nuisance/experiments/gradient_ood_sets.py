"""The images and networks of chapters `sec-gradient-ood` and `sec-gradient-ood-anatomy`, by data set.

Known images and four kinds of outliers, each in a part to choose by (validation) and one to report (test):

- ``selected``: new classes, those of a pool of which a reference network is surest, a stand-in for ImageNet-O;
- ``random``: new classes, drawn at random from the same pool: its counterpart, a stand-in for ImageNet-G;
- ``restyled``: known classes in a new style, by formulas of our own, a stand-in for ImageNet-R;
- ``digits``: MNIST, beside Fashion-MNIST only.

No image is in two parts: the pool is split before anything is drawn from it, and what is restyled is not known.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nuisance.data.embedded import checksums, load_embedded
from nuisance.data.images import Images
from nuisance.data.ood_sets import (
    imagenet_checksums,
    load_imagenet_sample,
    load_known_fashion,
    load_tiny_imagenet,
    select_confident,
    select_random,
    split_in_two,
    tiny_imagenet_checksums,
)
from nuisance.data.photos import fingerprint_files, list_images, load_photos
from nuisance.data.restyle import restyle
from nuisance.data.small_photos import cifar_checksums, load_cifar
from nuisance.errors import DataError
from nuisance.models.pretrained import fingerprint as weights_fingerprint
from nuisance.models.pretrained import load_pretrained
from nuisance.models.resnet import CifarResNet
from nuisance.models.small_cnn import SmallCNN
from nuisance.ood.score import score_all
from nuisance.ood.softmax import MSP
from nuisance.seeding import generator

TRAINED_HERE = ("small_cnn", "small_resnet")
"""Networks that a run trains itself."""

Weights = dict[str, Tensor] | None
Sets = dict[str, dict[str, Images]]

_SPLIT, _POOL, _RANDOM, _RESTYLED = range(4)  # random streams, one a purpose


def make_network(
    name: str, *, dataset: str, data_root: str, settings: dict[str, Any], weights: Weights = None
) -> nn.Module:
    """A network by its name, in eval mode: raw images in [0, 1] -> logits; of ``weights``, or trained already."""
    if name in TRAINED_HERE:
        garments = dataset == "fashion_mnist20k"
        classes, channels = (10 - len(settings["held_out"]), 1) if garments else (10, 3)
        if name == "small_cnn":
            network: nn.Module = SmallCNN(classes=classes, in_channels=channels)
        else:
            network = CifarResNet(blocks=1, widths=(8, 16, 32), in_channels=channels, classes=classes)
        if weights is not None:
            network.load_state_dict(weights)
        return network.eval()
    network = load_pretrained(name, Path(data_root))
    # Depthwise convolutions are several times as fast with channels last.
    return network.to(memory_format=torch.channels_last) if "efficientnet" in name else network


def prepare_inputs(name: str, pixels: Tensor, device: str) -> Tensor:
    """Bytes ``[n, c, h, w]`` as the floats in [0, 1] that a network takes."""
    form = torch.channels_last if "efficientnet" in name else torch.contiguous_format
    return pixels.to(device).float().div_(255).contiguous(memory_format=form)


def reference_confidences(
    *,
    network: str,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    weights: Weights = None,
) -> Tensor:
    """How sure a network is of every image of the pool, ``[n]``: what the selected outliers are selected by."""
    model = make_network(
        network, dataset=dataset, data_root=data_root, settings=settings, weights=weights
    ).to(device)
    pool = _read(dataset, network, data_root, _key(settings))[1]
    batches = (prepare_inputs(network, part, device) for part in pool.pixels.split(settings["batch_size"]))
    return -score_all(MSP(model), batches)


def load_sets(
    *, network: str, dataset: str, data_root: str, settings: dict[str, Any], confidences: Tensor
) -> Sets:
    """``Images`` by set (``known``, ``selected``, ...) and part (``validation``, ``test``).

    Labels are classes where there are any, else 0; images of the pool have an attribute ``confidence``, the
    reference network's. Networks that differ in the size of their input see the same images.
    """
    known, pool, unstyled, digits = _read(dataset, network, data_root, _key(settings))
    pool = pool.with_attributes(confidence=confidences)
    sets: Sets = {"known": known, "selected": {}, "random": {}, "restyled": {}}
    counts = {"validation": settings["validation_images"], "test": settings["test_images"]}
    cut = round(len(pool) * counts["validation"] / sum(counts.values()))
    parts = split_in_two(len(pool), cut, generator=generator(0, _POOL))
    for number, ((part, count), indices) in enumerate(zip(counts.items(), parts, strict=True)):
        some = pool[indices]
        sets["selected"][part] = some[select_confident(some.attributes["confidence"], count)]
        sets["random"][part] = some[select_random(len(some), count, generator=generator(0, _RANDOM, number))]
        pixels, styles = restyle(unstyled[part].pixels, generator=generator(0, _RESTYLED, number))
        sets["restyled"][part] = Images(pixels, unstyled[part].labels, {"style": styles})
    if digits is not None:
        sets["digits"] = digits
    return sets


def training_images(dataset: str, data_root: str, settings: dict[str, Any]) -> Images:
    """The training images of the known classes: garments, or the sample of CIFAR-10."""
    if dataset == "fashion_mnist20k":
        return load_known_fashion(settings["held_out"])[0]["train"]
    return load_cifar(Path(data_root))["train"]


def fingerprint(dataset: str, data_root: Path, settings: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of all data and weights that a run on ``dataset`` reads, by name."""
    if dataset == "fashion_mnist20k":
        stated = checksums()
        return {name: stated[name] for name in ("fashion_mnist20k.npz", "mnist10k.npz")}
    found: dict[str, str] = {}
    for name in dict.fromkeys([*settings["networks"], settings["reference"]]):
        if name not in TRAINED_HERE:
            found |= weights_fingerprint(name, data_root)
    if dataset == "cifar10":
        return found | cifar_checksums(data_root) | tiny_imagenet_checksums(data_root)
    files = pool_files(data_root, settings)
    return found | imagenet_checksums(data_root) | fingerprint_files("outliers", files, data_root)


def pool_files(data_root: Path, settings: dict[str, Any]) -> list[Path]:
    """The photos of the folders of outliers, without the classes that are left out."""
    files = []
    for folder in settings["outlier_folders"]:
        files += list_images(data_root / folder)
    kept = [file for file in files if file.parent.name not in settings["leave_out"]]
    if not kept:
        raise DataError("No outlier is left; name other outlier_folders, or fewer classes in leave_out.")
    return kept


_READ = (
    "held_out",
    "pool_images",
    "validation_images",
    "known_images",
    "test_images",
    "outlier_folders",
    "leave_out",
)


def _key(settings: dict[str, Any]) -> tuple[Any, ...]:
    values = (settings.get(name) for name in _READ)
    return tuple(tuple(value) if isinstance(value, list) else value for value in values)


@lru_cache(maxsize=1)  # parts of one network follow each other, and decoding photos takes long
def _read(
    dataset: str, network: str, data_root: str, key: tuple[Any, ...]
) -> tuple[dict[str, Images], Images, dict[str, Images], dict[str, Images] | None]:
    """Known images by part, the pool of outliers, the images to be restyled by part, and digits by part or None."""
    settings = dict(zip(_READ, key, strict=True))
    root, validation, test = Path(data_root), settings["validation_images"], settings["test_images"]
    known_test = settings["known_images"]
    if dataset == "fashion_mnist20k":
        garments, others = load_known_fashion(settings["held_out"])
        known, unstyled = {}, {}
        known["validation"], unstyled["validation"] = _drawn(garments["validation"], validation, validation)
        known["test"], unstyled["test"] = _drawn(garments["test"], known_test, test)
        (pool,) = _drawn(others["train"], settings["pool_images"])
        mnist = load_embedded("mnist10k")
        (few,), (more,) = _drawn(mnist["validation"], validation), _drawn(mnist["test"], test)
        return known, pool, unstyled, {"validation": few, "test": more}
    if dataset == "cifar10":
        images = load_cifar(root)["test"]
        pixels = load_tiny_imagenet(root)[0]
    else:
        model = load_pretrained(network, root)
        images = load_imagenet_sample(root, model.prepare)
        pixels = load_photos(pool_files(root, settings), model.prepare)[0]
    one, two, three, four = _drawn(images, validation, known_test, validation, test)
    pool = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    return {"validation": one, "test": two}, pool, {"validation": three, "test": four}, None


def _drawn(images: Images, *counts: int) -> list[Images]:
    """Disjoint sets of so many of the images each, drawn at random."""
    if sum(counts) > len(images):
        raise DataError(
            f"{sum(counts)} images are wanted but there are only {len(images)}; lower validation_images, "
            "known_images, test_images or pool_images."
        )
    order = torch.randperm(len(images), generator=generator(0, _SPLIT))
    return [images[chosen] for chosen in order[: sum(counts)].split(list(counts))]
