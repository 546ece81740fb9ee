"""The data that come with the book: ``data/*.npz``, checked against ``data/SHA256SUMS``.

Each file holds ``<split>_images`` (uint8 ``[n, h, w]``) and ``<split>_labels`` (uint8 ``[n]``) for
the splits train, validation and test. They are written by ``data_scripts/<name>.py``.
"""

import hashlib
import io
from pathlib import Path

import numpy as np
import torch

from nuisance import paths
from nuisance.data.images import Images
from nuisance.errors import DataError
from nuisance.files import replace_file

SPLITS = ("train", "validation", "test")
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def checksums(folder: Path | None = None) -> dict[str, str]:
    """SHA-256 of every embedded file by its name, as ``data/SHA256SUMS`` states them.

    Raises
    ------
    DataError
        If that file is missing or malformed.
    """
    path = (folder or paths.DATA) / "SHA256SUMS"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return {name: digest for digest, name in (line.split() for line in lines)}
    except (OSError, ValueError) as error:
        mend = "bring it back with `git checkout -- data/SHA256SUMS`"
        raise DataError(f"{path} is missing or damaged; {mend}.") from error


def load_embedded(name: str, folder: Path | None = None) -> dict[str, Images]:
    """Read an embedded data set.

    Parameters
    ----------
    name : the file's name without its ending: ``mnist10k`` or ``fashion_mnist20k``.
    folder : where it lies; ``data/`` of the repository unless told otherwise.

    Returns
    -------
    ``Images`` with one channel, by split.

    Raises
    ------
    DataError
        If the file is missing or its SHA-256 is not the stated one; the message names the
        file and the commands that bring it back.
    """
    folder = folder or paths.DATA
    path = folder / f"{name}.npz"
    mend = f"bring it back with `git checkout -- data/{name}.npz` or `python data_scripts/{name}.py`"
    expected = checksums(folder).get(path.name)
    if expected is None:
        known = ", ".join(sorted(Path(file).stem for file in checksums(folder)))
        raise DataError(f"There is no embedded data set {name!r}; there are {known}.")
    if not path.is_file():
        raise DataError(f"{path} is missing; {mend}.")
    raw = path.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != expected:
        raise DataError(f"{path} is damaged (SHA-256 {found[:12]}..., expected {expected[:12]}...); {mend}.")
    with np.load(io.BytesIO(raw)) as arrays:
        return {
            split: Images(
                torch.from_numpy(arrays[f"{split}_images"]).unsqueeze(1),
                torch.from_numpy(arrays[f"{split}_labels"]).long(),
            )
            for split in SPLITS
        }


def write_embedded(name: str, splits: Arrays, folder: Path | None = None) -> str:
    """Write a data set in the form that `load_embedded` reads, and state its checksum.

    The same arrays give the same bytes (on one version of zlib). Both files are replaced in
    one step each, so that an interrupted script leaves the old data set whole.

    Returns
    -------
    The SHA-256 of the written file, in hexadecimal.
    """
    folder = folder or paths.DATA
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for split, (images, labels) in splits.items():
        arrays[f"{split}_images"] = images.astype(np.uint8)
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    sums = folder / "SHA256SUMS"
    stated = {**(checksums(folder) if sums.exists() else {}), f"{name}.npz": digest}
    replace_file(folder / f"{name}.npz", buffer.getvalue())
    text = "".join(f"{value}  {file}\n" for file, value in sorted(stated.items()))
    replace_file(sums, text.encode())
    return digest
