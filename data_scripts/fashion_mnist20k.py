"""20,000 garments of Fashion-MNIST -> ``data/fashion_mnist20k.npz`` (about 9 MB, a few seconds).

    python data_scripts/fashion_mnist20k.py             # fetches Debian's package with `apt-get download`
    python data_scripts/fashion_mnist20k.py FOLDER      # takes the four official IDX files from FOLDER

Source: Debian package `dataset-fashion-mnist` (MIT, Zalando SE). Of each of the 10 classes, in
the order of the official files: 1,500 training images and then 200 validation images of the
official training set, and 300 test images of the official test set.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from nuisance.data.embedded import write_embedded
from nuisance.data.idx import read_idx
from nuisance.errors import DataError

PACKAGE = "dataset-fashion-mnist"
SHA256 = {
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
}


def fetch(folder: Path) -> Path:
    """The folder of the IDX files inside Debian's package, unpacked but not installed."""
    try:
        subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True, capture_output=True)
        package = next(folder.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True, capture_output=True)
    except (FileNotFoundError, StopIteration, subprocess.CalledProcessError) as error:
        raise DataError(
            f"`apt-get download {PACKAGE}` failed ({error}); "
            "give a folder with the four official IDX files as this script's argument."
        ) from error
    return folder / "usr/share/datasets/fashion-mnist"


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[n, 28, 28]`` and labels ``[n]`` of the official split ``train`` or ``t10k``."""
    arrays = []
    for name in (f"{split}-images-idx3-ubyte.gz", f"{split}-labels-idx1-ubyte.gz"):
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path} is missing; run this script without an argument to fetch it.")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != SHA256[name]:
            raise DataError(f"{path} is not the official file: SHA-256 {found}, not {SHA256[name]}.")
        arrays.append(read_idx(path))
    return arrays[0], arrays[1]


def per_class(labels: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Indices of the images ``start`` to ``stop`` of each class, in the order of the file."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[start:stop] for c in range(10)]))


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments[0]) if arguments else fetch(Path(temporary))
        images, labels = read(folder, "train")
        test_images, test_labels = read(folder, "t10k")
    train, validation = per_class(labels, 0, 1_500), per_class(labels, 1_500, 1_700)
    test = per_class(test_labels, 0, 300)
    splits = {
        "train": (images[train], labels[train]),
        "validation": (images[validation], labels[validation]),
        "test": (test_images[test], test_labels[test]),
    }
    digest = write_embedded("fashion_mnist20k", splits)
    sizes = {name: len(part) for name, (part, _) in splits.items()}
    print(f"data/fashion_mnist20k.npz: {sizes}, SHA-256 {digest}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DataError as error:
        sys.exit(str(error))
