"""The images and networks of chapter `sec-attribute-adversary`, by data set.

- ``garments_outdoors``: embedded, made by the recipe of Waterbirds, and a stand-in for it;
- ``waterbirds``: the released archive's folder, or one built by ``data_scripts/waterbirds.py``; and for the objects on
  black another one, built with ``--black``;
- ``celeba``: the official files; blond hair is the class, male the attribute.
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from nuisance.data import celeba, waterbirds
from nuisance.data.embedded import checksums
from nuisance.data.garments_outdoors import ALL, load_garments_outdoors
from nuisance.data.groups import require_groups
from nuisance.data.images import Images
from nuisance.data.photos import fingerprint_files
from nuisance.models.pretrained import fingerprint as weights_fingerprint
from nuisance.models.pretrained import load_pretrained, without_head
from nuisance.models.small_cnn import SmallCNN

FOLDERS = {
    ("waterbirds", False): "waterbird_complete95_forest2water2",
    ("waterbirds", True): "waterbirds_on_black",
    ("celeba", False): "celeba",
}
"""Folders below the data root, by data set and whether objects are on black."""

HARD = {"garments_outdoors": 2, "waterbirds": 2, "celeba": 3}
"""The group that the study reports, by data set: the second class on land; blond men."""

OTHERS, WIDTH = 8, 16
"""Classes that the small network is trained on beforehand, and its width."""


class Features(nn.Module):
    """The embedding of a network that has one: images ``[b, 3, h, w]`` in [0, 1] -> ``[b, dimensions]``."""

    def __init__(self, network: SmallCNN) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings, see the class."""
        return self.network.features(x)


def make_embedding(network: str, data_root: str, weights: dict[str, Tensor] | None) -> tuple[nn.Module, int]:
    """G by a network's name, and the length of its embeddings.

    Parameters
    ----------
    weights : of the small network, from `nuisance.experiments.attribute_adversary.pretrain`; the others have learned from ImageNet.
    """
    if network == "small_cnn":
        small = SmallCNN(classes=OTHERS, in_channels=3, width=WIDTH)
        if weights is not None:
            small.load_state_dict(weights)
        return Features(small), 4 * WIDTH
    return without_head(load_pretrained(network, Path(data_root)))


def load_splits(
    dataset: str, seed: int, *, data_root: str, settings: dict[str, Any], on_black: bool = False
) -> dict[str, Images]:
    """``Images`` by split (train, validation, test) with the attribute ``attribute``.

    Parameters
    ----------
    seed : decides the embedded images, and which of the others are read where ``images`` limits them.
    settings : the chapter's ``size`` and ``images``.

    Raises
    ------
    DataError
        If files are missing or damaged, or a group has no image.
    """
    splits = _read(dataset, seed, data_root, settings["size"], settings["images"], on_black)
    for name, images in splits.items():
        require_groups(images, f"The split {name} of {dataset}")
    return splits


@lru_cache(maxsize=2)  # rows of a table share their images
def _read(
    dataset: str, seed: int, data_root: str, size: int, images: int, on_black: bool
) -> dict[str, Images]:
    if dataset == "garments_outdoors":
        return load_garments_outdoors(size=size, seed=seed, train_images=images or ALL, on_black=on_black)
    folder = Path(data_root) / FOLDERS[dataset, on_black]
    load = waterbirds.load_waterbirds if dataset == "waterbirds" else celeba.load_celeba
    return load(folder, partial(_prepare, dataset, size), cap=images or None, seed=seed)


def _prepare(dataset: str, size: int, image: Image.Image) -> Tensor:
    """As group DRO's released code does: uint8 ``[3, size, size]``."""
    if dataset == "celeba":
        return celeba.prepare_face(image, side=size)
    image = image.convert("RGB")
    larger = round(size * 256 / 224)
    return pil_to_tensor(center_crop(resize(image, [larger, larger]), size))


def fingerprint(dataset: str, network: str, data_root: str) -> dict[str, str]:
    """What identifies the data that a run reads: checksums by name."""
    found = weights_fingerprint(network, Path(data_root)) if network != "small_cnn" else {}
    if dataset == "garments_outdoors":
        name = "fashion_mnist20k.npz"
        return found | {name: checksums()[name]}
    for on_black in (False, True):
        if on_black and not has_objects_on_black(dataset, data_root):
            continue
        folder = Path(data_root) / FOLDERS[dataset, on_black]
        # The lists alone: reading 200,000 photos for a checksum would take longer than a reduced run.
        files = (waterbirds if dataset == "waterbirds" else celeba).lists_of(folder)
        found |= fingerprint_files(folder.name, files, folder)
    return found


def has_objects_on_black(dataset: str, data_root: str) -> bool:
    """Whether there is a set with the objects cut out; CelebA's faces have no masks."""
    if dataset == "garments_outdoors":
        return True
    return dataset == "waterbirds" and (Path(data_root) / FOLDERS[dataset, True]).is_dir()
