"""Folders of image files as bytes, and what identifies them."""

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from nuisance.errors import DataError, InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
Prepare = Callable[[Image.Image], Tensor]
"""From an image to what a network takes of it: uint8 ``[3, h, w]``."""


def list_images(folder: Path) -> list[Path]:
    """All image files below a folder, sorted, so that a seed means the same images on every machine.

    Raises
    ------
    DataError
        If the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; unpack the data set there, or mend the data root.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise DataError(
            f"{folder} holds no image ({kinds}); unpack the data set there, or mend the data root."
        )
    return files


def load_photos(
    files: Sequence[Path], prepare: Prepare, *, skip_broken: bool = False
) -> tuple[Tensor, list[Path]]:
    """Read image files.

    Parameters
    ----------
    files : in the order that the images shall have.
    prepare : ``PIL.Image -> uint8 [3, h, w]``, the same size for every image.
    skip_broken : leave out the files that cannot be decoded, with one warning.

    Returns
    -------
    uint8 ``[n, 3, h, w]``, and the ``n`` files that were read.

    Raises
    ------
    DataError
        If a file cannot be decoded, a truncated one too: half an image and grey would pass for a
        photo and score as an anomaly. All are tried first, so that one run tells how many are broken.
        With ``skip_broken`` only if none is left.
    InputError
        If there is no file, or ``prepare`` gives something else than bytes of one size.
    """
    if not files:
        raise InputError("There is no image file to read; list some with list_images.")
    pixels: Tensor | None = None
    read: list[Path] = []
    broken: list[Path] = []
    for path in files:
        image = _decode(path)
        if image is None:
            broken.append(path)
            continue
        prepared = prepare(image)
        if pixels is None:  # filled in place: a stack of a list would need the memory twice
            pixels = torch.empty((len(files), *prepared.shape), dtype=torch.uint8)
        if prepared.dtype != torch.uint8 or prepared.ndim != 3 or prepared.shape != (3, *pixels.shape[2:]):
            raise InputError(
                f"prepare made {prepared.dtype} {list(prepared.shape)} of {path} but must make uint8 [3, h, w] "
                "of one size for all images; let it resize and crop."
            )
        pixels[len(read)] = prepared
        read.append(path)
    found = f"{len(broken)} of {len(files)} image files cannot be decoded, first {next(iter(broken), None)}"
    if pixels is None or (broken and not skip_broken):
        raise DataError(f"{found}; fetch the broken ones again or remove them.")
    if broken:
        warnings.warn(f"{found}; they are left out.", stacklevel=2)
    return pixels[: len(read)], read


def _decode(path: Path) -> Image.Image | None:
    """The image with all its pixels, or None where the file is not a whole image."""
    try:
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.load()  # `open` reads the header only: a truncated file would pass it
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None  # what Pillow's readers raise on damage, each its own way
    return image


def fingerprint_files(name: str, files: Sequence[Path], folder: Path) -> dict[str, str]:
    """One SHA-256 over files, under ``name``, for the record of a run.

    It covers each file's name relative to ``folder``, its content and the files' order, which
    decides what a random split picks.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    total = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").digest()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); fetch it again.") from error
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + content)
    return {name: total.hexdigest()}
