"""Waterbirds: birds of CUB-200-2011 on places of Places365, built from local copies, and read.

Sagawa, Koh, Hashimoto, Liang: "Distributionally robust neural networks for group shifts" (ICLR 2020). Class 1
is a waterbird, attribute 1 a place with water. The authors' generator fixes no seed, so a set built here has
the counts and the recipe of the released one, but other images in its splits and on its places.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from nuisance.data.compositing import composite, fit_background
from nuisance.data.groups import SPLITS, Listed, assign_attributes, read_listed
from nuisance.data.images import Images
from nuisance.data.photos import Prepare, list_images, load_photos
from nuisance.errors import DataError, InputError
from nuisance.files import replace_file
from nuisance.metrics.groups import GROUPS
from nuisance.seeding import generator

WATERBIRD_KEYS = (
    "albatross",
    "auklet",
    "cormorant",
    "frigatebird",
    "fulmar",
    "gull",
    "jaeger",
    "kittiwake",
    "pelican",
    "puffin",
    "tern",
    "gadwall",
    "grebe",
    "mallard",
    "merganser",
    "guillemot",
    "pacific_loon",
)
"""What the name of a waterbird's species contains."""

PLACES = (("bamboo_forest", "forest/broadleaf"), ("ocean", "lake/natural"))
"""Categories of Places365 by attribute: land, water."""

RECIPE_COUNTS = {
    "train": (3498, 184, 56, 1057),
    "validation": (467, 466, 133, 133),
    "test": (2255, 2255, 642, 642),
}
"""Images of each group in the released set. The draw of validation images decides how many waterbirds
fall into training and validation, so a set built with another seed differs there by a few."""

VALIDATION_SHARE = 0.2
COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename")


def is_waterbird(species: str, *, whole_words: bool) -> bool:
    """Whether a species of CUB-200-2011 is a waterbird by its name, such as ``002.Laysan_Albatross``.

    Parameters
    ----------
    whole_words : False for the authors' test, a substring, which also takes three landbirds for terns:
        Eas*tern* Towhee, Wes*tern* Meadowlark and Wes*tern* Wood Pewee. True mends that.
    """
    name = species.lower()
    if whole_words:
        words = "_" + re.sub(r"[.\-\s]", "_", name) + "_"
        return any(f"_{key}_" in words for key in WATERBIRD_KEYS)
    return any(key in name for key in WATERBIRD_KEYS)


def build_waterbirds(
    cub: Path, places: Path | None, out: Path, *, seed: int, whole_words: bool = False
) -> dict[str, tuple[int, ...]]:
    """Build Waterbirds in the layout of the released archive.

    CUB's test images stay the test set; a fifth of its training images, drawn at random, is for validation.
    In training 95 % of each class stand on their own kind of place (`assign_attributes`), else half.
    Every background is used at most once. ``metadata.csv`` is written last, so that an interrupted build
    is not taken for a whole one.

    Parameters
    ----------
    cub : the folder ``CUB_200_2011`` with ``images.txt``, ``train_test_split.txt``, ``images`` and
        ``segmentations``, which is an archive of its own.
    places : the folder that holds the four categories of `PLACES`, with or without Places365's folders
        of first letters. None puts the birds on black; splits and places are those of the same seed, so
        that this masked set and the composed one agree image by image.
    out : a folder for ``metadata.csv`` and the images.
    whole_words : see `is_waterbird`.

    Returns
    -------
    The counts of the four groups by split; see `RECIPE_COUNTS`.

    Raises
    ------
    InputError
        If ``out`` lies inside a source folder, whose images would be written over.
    DataError
        If ``out`` holds a set already, or the sources are incomplete or damaged, or have too few backgrounds.
    """
    for source in (cub, places):
        if source is not None and out.resolve().is_relative_to(source.resolve()):
            raise InputError(f"{out} lies inside {source}; give a folder outside the sources.")
    if (out / "metadata.csv").exists():
        raise DataError(f"{out} already holds a set; give another folder, or remove it first.")
    listed, split = _read_cub(cub, seed)
    names = list(listed.values())
    labels = torch.tensor([int(is_waterbird(name.split("/")[0], whole_words=whole_words)) for name in names])
    place = torch.zeros_like(labels)
    for code, share in enumerate((0.95, 0.5, 0.5)):
        of_split = split == code
        place[of_split] = assign_attributes(labels[of_split], share=share, generator=generator(seed, 1, code))
    backgrounds = _choose_backgrounds(places, place, seed) if places else [None] * len(names)
    rows = []
    for i, (key, name, background) in enumerate(zip(listed, names, backgrounds, strict=True)):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _compose(cub, name, background).save(path)
        used = f"/{background.relative_to(places).as_posix()}" if places and background else ""
        rows.append((key, name, int(labels[i]), int(split[i]), int(place[i]), used))
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows])
    replace_file(out / "metadata.csv", table.getvalue().encode())
    group = 2 * labels + place
    return {
        name: tuple(torch.bincount(group[split == code], minlength=GROUPS).tolist())
        for code, name in enumerate(SPLITS)
    }


def lists_of(folder: Path) -> list[Path]:
    """The file that lists the images of a set; DataError if it is missing."""
    path = folder / "metadata.csv"
    if not path.is_file():
        raise DataError(
            f"{path} is missing; unpack the released archive there, or build the set with "
            "`python data_scripts/waterbirds.py`."
        )
    return [path]


def load_waterbirds(
    folder: Path, prepare: Prepare, *, cap: int | None = None, seed: int = 0
) -> dict[str, Images]:
    """Read Waterbirds: what `build_waterbirds` wrote, or the released ``waterbird_complete95_forest2water2``.

    Parameters
    ----------
    prepare : ``PIL.Image -> uint8 [3, h, w]``; the whole set takes 1.8 GB at 224 x 224.
    cap : at most so many images of a group and split, drawn by ``seed``; None for all.

    Returns
    -------
    Images by split (train, validation, test) with the attribute ``attribute``, 1 on water.

    Raises
    ------
    ParameterError
        If ``cap`` is less than 1.
    DataError
        If ``metadata.csv`` is missing, lacks a column or holds an unknown code, or images are missing.
    """
    (path,) = lists_of(folder)
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), restval="")
        fields, rows = reader.fieldnames or (), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is no table in UTF-8 ({error}); unpack the released archive again."
        ) from error
    for column in ("img_filename", "y", "split", "place"):
        if column not in fields:
            raise DataError(f"{path} has no column {column}; unpack the released archive again.")
    listed = []
    for number, row in enumerate(rows, 1):
        for column, codes in (("split", "012"), ("y", "01"), ("place", "01")):
            if row[column] not in tuple(codes):
                raise DataError(
                    f"Row {number} of {path} has {column} {row[column]!r} instead of "
                    f"{', '.join(codes[:-1])} or {codes[-1]}; unpack the released archive again."
                )
        file = folder / row["img_filename"]
        listed.append(Listed(file, int(row["split"]), int(row["y"]), int(row["place"])))
    return read_listed(listed, prepare, cap=cap, seed=seed)


def _read_cub(cub: Path, seed: int) -> tuple[dict[str, str], Tensor]:
    """The images' names by CUB's number, in its order, and the codes of their splits, 0 to 2."""
    names, official = (_read_column(cub / file) for file in ("images.txt", "train_test_split.txt"))
    if names.keys() != official.keys() or not set(official.values()) <= {"0", "1"}:
        raise DataError(
            f"{cub}'s images.txt and train_test_split.txt do not list the same images, each with 0 or 1; "
            "unpack CUB-200-2011 again."
        )
    files = [cub / "images" / name for name in names.values()]
    files += [_mask_path(cub, name) for name in names.values()]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} images and masks are missing, first {missing[0]}; unpack "
            "CUB-200-2011 and its segmentations again."
        )
    is_train = torch.tensor([official[key] == "1" for key in names])
    split = torch.where(is_train, 0, 2)
    train = is_train.nonzero().flatten()
    drawn = torch.randperm(len(train), generator=generator(seed, 0))
    split[train[drawn[: round(VALIDATION_SHARE * len(train))]]] = 1
    return names, split


def _read_column(path: Path) -> dict[str, str]:
    """A file of CUB, ``key value`` a line."""
    if not path.is_file():
        raise DataError(f"{path} is missing; unpack CUB-200-2011 there.")
    rows = [line.split() for line in path.read_text().splitlines() if line.strip()]
    if any(len(row) != 2 for row in rows):
        raise DataError(f"{path} has a line that is not two words; unpack CUB-200-2011 again.")
    return {key: value for key, value in rows}


def _mask_path(cub: Path, name: str) -> Path:
    return (cub / "segmentations" / name).with_suffix(".png")


def _choose_backgrounds(places: Path, place: Tensor, seed: int) -> list[Path]:
    """A background of its own for every image, of the image's place."""
    chosen: dict[int, Path] = {}
    for code, categories in enumerate(PLACES):
        files = [file for category in categories for file in list_images(_category_folder(places, category))]
        members = (place == code).nonzero().flatten().tolist()
        if len(files) < len(members):
            raise DataError(
                f"{places} holds {len(files)} images of {' and '.join(categories)} but {len(members)} are "
                "needed, one a bird; unpack these categories of Places365 whole."
            )
        order = torch.randperm(len(files), generator=generator(seed, 2, code)).tolist()
        chosen |= {image: files[j] for image, j in zip(members, order, strict=False)}  # the rest is left over
    return [chosen[i] for i in range(len(place))]


def _category_folder(places: Path, category: str) -> Path:
    plain, lettered = places / category, places / category[0] / category
    if not plain.is_dir() and not lettered.is_dir():
        raise DataError(
            f"There is neither {plain} nor {lettered}; unpack this category of Places365, or give the folder "
            "that holds its categories."
        )
    return plain if plain.is_dir() else lettered


def _compose(cub: Path, name: str, background: Path | None) -> Image.Image:
    """A bird of CUB on a background of the same size, or on black."""
    bird = _read(cub / "images" / name)
    mask = _read(_mask_path(cub, name))[0] / 255
    behind = torch.zeros_like(bird)
    if background is not None:
        behind = _read(background, size=(bird.shape[2], bird.shape[1]))
    try:
        return to_pil_image(composite(bird, mask, behind))
    except InputError as error:
        raise DataError(f"{name}: {error}") from error


def _read(path: Path, size: Sequence[int] | None = None) -> Tensor:
    """Bytes ``[3, h, w]`` of a whole image file, fitted to ``size`` (width, height) as a background."""

    def prepare(image: Image.Image) -> Tensor:
        image = image.convert("RGB")
        return pil_to_tensor(fit_background(image, (size[0], size[1])) if size else image)

    return load_photos([path], prepare)[0][0]
