"""CelebA by hair and sex: class 1 is blond, attribute 1 is male.

Liu, Luo, Wang, Tang: "Deep learning face attributes in the wild" (ICCV 2015), with its official lists and
partition; the groups are those of Sagawa et al. (ICLR 2020).
"""

from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

from nuisance.data.groups import Listed, read_listed
from nuisance.data.images import Images
from nuisance.data.photos import Prepare
from nuisance.errors import DataError

RECIPE_COUNTS = {
    "train": (71629, 66874, 22880, 1387),
    "validation": (8535, 8276, 2874, 182),
    "test": (9767, 7535, 2480, 180),
}
"""Images of each group in the official partition."""

LABEL, ATTRIBUTE = "Blond_Hair", "Male"


LISTS = ("list_attr_celeba.txt", "list_eval_partition.txt")
"""The official lists."""


def lists_of(folder: Path) -> list[Path]:
    """The lists of a folder; DataError if one is missing."""
    paths = [folder / name for name in LISTS]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is missing; put CelebA's official lists there.")
    return paths


CROP = 178
"""The side of the square that is cut from the middle of the aligned images, 178 x 218: their whole width."""


def prepare_face(image: Image.Image, *, side: int) -> Tensor:
    """The middle square of an aligned image, as group DRO's released code cuts it: uint8 ``[3, side, side]``."""
    return pil_to_tensor(resize(center_crop(image.convert("RGB"), CROP), [side, side]))


def load_celeba(
    folder: Path, prepare: Prepare, *, cap: int | None = None, seed: int = 0
) -> dict[str, Images]:
    """Read CelebA from ``list_attr_celeba.txt``, ``list_eval_partition.txt`` and ``img_align_celeba``.

    Parameters
    ----------
    prepare : ``PIL.Image -> uint8 [3, h, w]``; the whole set takes 30 GB at 224 x 224.
    cap : at most so many images of a group and split, drawn by ``seed``; None for all.

    Returns
    -------
    Images by split (train, validation, test) with the attribute ``attribute``, 1 for male.

    Raises
    ------
    ParameterError
        If ``cap`` is less than 1.
    DataError
        If a list is missing, damaged or cut off, the two lists name different images, or images are missing.
    """
    of_attributes, of_partition = lists_of(folder)
    attributes, partition = _read_attributes(of_attributes), _read_partition(of_partition)
    for lists, names, others in (
        ("list_eval_partition.txt but not in list_attr_celeba.txt", partition, attributes),
        ("list_attr_celeba.txt but not in list_eval_partition.txt", attributes, partition),
    ):
        missing = [name for name in names if name not in others]
        if missing:
            raise DataError(
                f"{len(missing)} images are in {lists}, first {missing[0]}; fetch both lists again."
            )
    listed = [
        Listed(folder / "img_align_celeba" / name, code, *attributes[name])
        for name, code in partition.items()
    ]
    return read_listed(listed, prepare, cap=cap, seed=seed)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text ({error.reason}); fetch the official list again.") from error


def _read_attributes(path: Path) -> dict[str, tuple[int, int]]:
    """Class and attribute by image; the file has the number of images, the names, then a row an image."""
    lines = _lines(path)
    names = lines[1].split() if len(lines) > 1 else []
    for name in (LABEL, ATTRIBUTE):
        if name not in names:
            raise DataError(f"Line 2 of {path} names no attribute {name}; fetch the official list again.")
    if lines[0].strip() != str(len(lines) - 2):
        raise DataError(
            f"{path} lists {len(lines) - 2} images but says {lines[0].strip()}; fetch the whole list again."
        )
    columns = [1 + names.index(name) for name in (LABEL, ATTRIBUTE)]
    attributes = {}
    for number, line in enumerate(lines[2:], 3):
        row = line.split()
        if len(row) != 1 + len(names) or not {row[column] for column in columns} <= {"-1", "1"}:
            raise DataError(
                f"Line {number} of {path} is not a name and {len(names)} values of -1 or 1; "
                "fetch the list again."
            )
        label, attribute = (int(row[column] == "1") for column in columns)
        attributes[row[0]] = (label, attribute)
    return attributes


def _read_partition(path: Path) -> dict[str, int]:
    """The code of the split by image."""
    partition = {}
    for number, line in enumerate(_lines(path), 1):
        row = line.split()
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise DataError(
                f"Line {number} of {path} is {line!r} but must be a name and 0, 1 or 2; fetch the list again."
            )
        partition[row[0]] = int(row[1])
    return partition
