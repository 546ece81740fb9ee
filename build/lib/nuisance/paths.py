"""Where things are. Nothing else in the project spells a path or the repository's address.

Two folders can be moved by environment variables, read at each call so that tests and
subprocesses can redirect them: ``NUISANCE_STORE`` (finished parts of runs) and
``NUISANCE_RESULTS`` (the records of runs).
"""

import os
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
NOTEBOOKS = ROOT / "notebooks"
PUBLISHED = ROOT / "book" / "published"


def store() -> Path:
    """Folder of the finished parts of runs."""
    return Path(os.environ.get("NUISANCE_STORE") or ROOT / ".store").absolute()


def results() -> Path:
    """Folder of the records of runs, ``<scale>/<stem>.json`` below it."""
    return Path(os.environ.get("NUISANCE_RESULTS") or ROOT / "results").absolute()


def data_root(given: str | None = None) -> Path:
    """Folder of full data sets: as given, else ``NUISANCE_DATA_ROOT``, else ``~/.cache/nuisance``."""
    root = given or os.environ.get("NUISANCE_DATA_ROOT") or "~/.cache/nuisance"
    return Path(root).expanduser().absolute()


def repository() -> str:
    """The repository's public address, which stands in ``_config.yml`` and nowhere else."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return str(config["repository"]["url"])
