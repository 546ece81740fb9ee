"""The images and networks of chapters `sec-gradient-ood` and `sec-gradient-ood-anatomy`, by data set.

Known images and four kinds of outliers, each in a part to choose by (validation) and one to report (test):

- ``selected``: new classes, those of a pool of which a reference network is surest, as ImageNet-O was made;
- ``random``: new classes, drawn at random from the same pool: its counterpart, as the thesis' ImageNet-G;
- ``restyled``: the known classes in a new style, as ImageNet-R;
- ``digits``: MNIST, beside Fashion-MNIST only.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nuisance.data.embedded import checksums, load_embedded
from nuisance.data.images import Images
from nuisance.data.ood_sets import (
    cifar_checksums,
    imagenet_checksums,
    load_cifar_sample,
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
from nuisance.errors import DataError
from nuisance.models.pretrained import Pretrained, load_pretrained
from nuisance.models.pretrained import fingerprint as weights_fingerprint
from nuisance.models.resnet import CifarResNet
from nuisance.models.small_cnn import SmallCNN
from nuisance.ood.score import score_all
from nuisance.ood.softmax import MSP
from nuisance.seeding import generator

Weights = dict[str, Tensor] | None
Sets = dict[str, dict[str, Images]]

_SPLIT, _SELECTED, _RANDOM, _RESTYLED = range(4)  # random streams, one a purpose


def make_network(
    name: str, *, data_root: str, settings: dict[str, Any], weights: Weights = None
) -> nn.Module:
    """A network by its name, in eval mode: raw images in [0, 1] -> logits; of ``weights``, or trained already."""
    if name in ("small_cnn", "small_resnet"):
        classes = 10 - len(settings["held_out"])
        if name == "small_cnn":
            network: nn.Module = SmallCNN(classes=classes)
        else:
            network = CifarResNet(blocks=1, widths=(8, 16, 32), in_channels=1, classes=classes)
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
    model = make_network(network, data_root=data_root, settings=settings, weights=weights).to(device)
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
    known, pool, digits = _read(dataset, network, data_root, _key(settings))
    pool = pool.with_attributes(confidence=confidences)
    first, rest = settings["validation_images"], settings["test_images"]
    sets: Sets = {"known": known}
    surest = select_confident(confidences, first + rest)
    anyone = select_random(len(pool), first + rest, generator=generator(0, _RANDOM))
    for number, (name, chosen) in enumerate((("selected", surest), ("random", anyone))):
        parts = split_in_two(len(chosen), first, generator=generator(0, _SELECTED, number))
        sets[name] = {
            part: pool[chosen[order]] for part, order in zip(("validation", "test"), parts, strict=True)
        }
    sets["restyled"] = {}
    for number, (part, images) in enumerate(known.items()):
        some = images[slice(0, settings["test_images"])]
        pixels, styles = restyle(some.pixels, generator=generator(0, _RESTYLED, number))
        sets["restyled"][part] = Images(pixels, some.labels, {"style": styles})
    if digits is not None:
        sets["digits"] = digits
    return sets


def training_images(settings: dict[str, Any]) -> Images:
    """The known classes' training images of Fashion-MNIST."""
    return load_known_fashion(settings["held_out"])[0]["train"]


def fingerprint(dataset: str, data_root: Path, settings: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of all data and weights that a run on ``dataset`` reads, by name."""
    if dataset == "fashion_mnist20k":
        stated = checksums()
        return {name: stated[name] for name in ("fashion_mnist20k.npz", "mnist10k.npz")}
    found: dict[str, str] = {}
    for name in settings["networks"]:
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
) -> tuple[dict[str, Images], Images, dict[str, Images] | None]:
    """Known images by part, the pool of outliers, and digits by part or None."""
    settings = dict(zip(_READ, key, strict=True))
    root = Path(data_root)
    if dataset == "fashion_mnist20k":
        known, others = load_known_fashion(settings["held_out"])
        digits = load_embedded("mnist10k")
        parts = {"validation": settings["validation_images"], "test": settings["known_images"]}
        few = {"validation": settings["validation_images"], "test": settings["test_images"]}
        return (
            {part: _some(known[part], count) for part, count in parts.items()},
            _some(others["train"], settings["pool_images"]),
            {part: _some(digits[part], count) for part, count in few.items()},
        )
    if dataset == "cifar10":
        images = load_cifar_sample(root)["test"]
        pixels = load_tiny_imagenet(root)[0]
    else:
        model = load_pretrained(network, root)
        assert isinstance(model, Pretrained)
        images = load_imagenet_sample(root, model.prepare)
        pixels = load_photos(pool_files(root, settings), model.prepare)[0]
    return _two_parts(images, settings), Images(pixels, torch.zeros(len(pixels), dtype=torch.int64)), None


def _two_parts(images: Images, settings: dict[str, Any]) -> dict[str, Images]:
    first, rest = split_in_two(len(images), settings["validation_images"], generator=generator(0, _SPLIT))
    return {"validation": images[first], "test": images[rest[: settings["known_images"]]]}


def _some(images: Images, count: int) -> Images:
    """So many of the images, drawn at random."""
    return images[torch.randperm(len(images), generator=generator(0, _SPLIT))[:count]]
