"""One figure style for the whole book."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torchvision.io import decode_image, encode_png

from nuisance.errors import DataError
from nuisance.files import replace_file

PALETTE = sns.color_palette("colorblind")
WIDTH = 7.2
"""Width of a full figure in inches: the column of the book's theme."""


def use_style() -> None:
    """Set the book's style; every chapter calls it once, before its first figure."""
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.85)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "savefig.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "legend.frameon": False,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "svg.hashsalt": "nuisance",
        }
    )


def tile(rows: Iterable[Tensor]) -> Tensor:
    """One picture ``[c, height, width]`` of images of one size, ``[n, c, h, w]`` for every row of it."""
    return torch.cat([images.permute(1, 2, 0, 3).flatten(2) for images in rows], 1)


def save_picture(path: Path, rows: Iterable[Tensor]) -> None:
    """Keep images, for a chapter that shows this run among others.

    Parameters
    ----------
    path : a PNG file.
    rows : uint8 ``[n, c, h, w]`` for every row of the picture, all of one size, c being 1 or 3.
    """
    replace_file(path, encode_png(tile(rows)).numpy().tobytes())


def load_picture(path: Path) -> Tensor:
    """What `save_picture` wrote, uint8 ``[c, height, width]``.

    Raises
    ------
    DataError
        If it is not there or cannot be read.
    """
    try:
        return decode_image(str(path))
    except RuntimeError as error:
        mend = "bring it back with `git checkout`, or run the chapter that draws it"
        raise DataError(f"The picture {path} is missing or damaged; {mend}.") from error


def image_grid(rows: Iterable[Tensor], axes: Axes) -> None:
    """Draw images as one picture, a row of tiles for every item.

    Parameters
    ----------
    rows : bytes or floats in [0, 1], ``[n, c, h, w]`` each, all of one size.
    """
    axes.imshow(tile(rows).permute(1, 2, 0).squeeze(-1).numpy())
    axes.set(xticks=[], yticks=[])
    sns.despine(ax=axes, left=True, bottom=True)


def mean_and_range(axes: Axes, runs: np.ndarray, **look: Any) -> None:
    """Draw the mean over seeds as a line over 1, 2, ..., and their range as a band.

    Parameters
    ----------
    runs : ``[seeds, steps]``.
    look : color, label and linestyle of the line.
    """
    steps = range(1, runs.shape[1] + 1)
    axes.plot(steps, runs.mean(0), **look)
    axes.fill_between(steps, runs.min(0), runs.max(0), color=look["color"], alpha=0.15, linewidth=0)


def number_table(frame: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """A table for the page: numbers with so many digits, and nothing where there is none."""

    def cell(value: object) -> object:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return ""
        return f"{value:.{digits}f}" if isinstance(value, float) else value

    return frame.map(cell)
