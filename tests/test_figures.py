"""The figures' helpers."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from nuisance import figures
from nuisance.errors import DataError


def test_a_number_table_has_digits_where_there_are_numbers_and_nothing_elsewhere():
    frame = pd.DataFrame({"row": ["a", "b"], "value": [0.12345, float("nan")], "seeds": [3, 4]})
    assert figures.number_table(frame, 2).to_numpy().tolist() == [["a", "0.12", 3], ["b", "", 4]]


def test_an_image_grid_has_a_row_for_every_item():
    tiles = torch.arange(2 * 3 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 3, 4, 5)
    axes = plt.subplots()[1]
    figures.image_grid(tiles, axes)
    picture = axes.images[0].get_array()
    assert picture.shape == (2 * 4, 3 * 5, 3)
    assert picture[4:, 5:10].tolist() == tiles[1, 1].permute(1, 2, 0).tolist()
    plt.close(axes.figure)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_comes_back_as_it_was_kept(tmp_path, channels):
    rows = torch.randint(256, (2, 3, channels, 4, 5), dtype=torch.uint8)
    figures.save_picture(tmp_path / "record.png", rows)
    picture = figures.load_picture(tmp_path / "record.png")
    assert torch.equal(picture, figures.tile(rows))
    assert picture[:, 4:, 5:10].tolist() == rows[1, 1].tolist()


def test_a_picture_that_is_missing_or_damaged_is_named(tmp_path):
    path = tmp_path / "record.png"
    with pytest.raises(DataError, match=r"record.png is missing or damaged; bring it back"):
        figures.load_picture(path)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"record.png is missing or damaged"):
        figures.load_picture(path)
