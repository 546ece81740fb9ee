"""Painting and colour labels: values, means, variances."""

import gzip

import numpy as np
import pytest
import torch

from nuisance.data import colored_mnist
from nuisance.data.colored_mnist import MEAN_COLORS, color_bins, draw_colors, halve, paint, with_colors
from nuisance.data.images import Images
from nuisance.errors import DataError
from nuisance.losses import IGNORED
from nuisance.seeding import generator


def one_digit(pixels):
    return Images(torch.tensor(pixels, dtype=torch.uint8)[None, None], torch.tensor([0]))


def test_flat_strokes_have_one_color_and_multiplied_ones_follow_the_gray_level():
    digit = one_digit([[0, 1], [128, 255]]).with_attributes(
        color=torch.tensor([[200, 100, 0]], dtype=torch.uint8)
    )
    flat, multiplied = paint(digit, "flat")[0], paint(digit, "multiply")[0]
    assert flat[:, 0, 0].tolist() == [0, 0, 0]
    assert flat[:, 0, 1].tolist() == flat[:, 1, 0].tolist() == flat[:, 1, 1].tolist() == [200, 100, 0]
    assert multiplied[:, 1, 1].tolist() == [200, 100, 0]
    assert multiplied[:, 1, 0].tolist() == [round(128 * 200 / 255), round(128 * 100 / 255), 0]
    assert multiplied[:, 0, 0].tolist() == [0, 0, 0]


def test_biased_colors_have_the_digits_mean_and_the_stated_variance():
    digit, variance = 4, 0.002  # so narrow that clipping at 0 and 1 does not reach the sample
    labels = torch.full((40_000,), digit)
    colors = draw_colors(labels, variance, biased=True, generator=generator(0)).double() / 255
    inside = (MEAN_COLORS[digit] > 0.25) & (MEAN_COLORS[digit] < 0.75)
    assert inside.any()
    assert torch.allclose(colors.mean(0)[inside], MEAN_COLORS[digit][inside].double(), atol=1e-3)
    assert torch.allclose(colors.var(0)[inside], torch.tensor(variance).double(), rtol=0.03)


def test_unbiased_colors_do_not_depend_on_the_digit():
    labels = torch.arange(10).repeat_interleave(4_000)
    colors = draw_colors(labels, 0.02, biased=False, generator=generator(0)).double() / 255
    by_digit = colors.view(10, 4_000, 3).mean(1)
    assert (by_digit - by_digit.mean(0)).abs().max() < 0.03
    biased = draw_colors(labels, 0.02, biased=True, generator=generator(0)).double() / 255
    assert (biased.view(10, 4_000, 3).mean(1) - biased.mean(0)).abs().max() > 0.3


def test_color_bins_are_eight_a_channel_at_half_the_resolution():
    painted = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    painted[0, :, 0, 0] = torch.tensor([31, 32, 255])
    painted[0, :, 2, 2] = torch.tensor([0, 64, 224])  # red is exactly zero: ignored, inside a stroke too
    painted[0, :, 1, 1] = 99  # not on the coarse grid
    bins = color_bins(painted)
    assert bins.shape == (1, 3, 2, 2)
    assert bins[0, :, 0, 0].tolist() == [0, 1, 7]
    assert bins[0, :, 1, 1].tolist() == [IGNORED, 2, 7]
    assert (bins[0, :, 0, 1] == IGNORED).all()
    assert (bins[0, :, 1, 0] == IGNORED).all()


def test_every_byte_falls_into_its_bin():
    painted = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256).expand(1, 3, 2, 256)
    bins = color_bins(painted)[0, 0, 0]
    assert bins.tolist() == [IGNORED, *(value // 32 for value in range(2, 256, 2))]


def test_halving_takes_the_mean_of_four_pixels():
    assert halve(one_digit([[0, 100], [100, 200]])).pixels.flatten().tolist() == [100]


def test_a_seed_gives_the_same_colors_again():
    digits = Images(torch.zeros(50, 1, 2, 2, dtype=torch.uint8), torch.arange(50) % 10)
    one, same, other = (
        with_colors(digits, 0.02, biased=True, generator=generator(seed)).attributes["color"]
        for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_full_mnist_is_read_from_a_local_copy(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, size in (("train", 5_010), ("t10k", 20)):
        write_idx(raw / f"{split}-images-idx3-ubyte.gz", rng.integers(0, 256, (size, 28, 28), np.uint8))
        write_idx(raw / f"{split}-labels-idx1-ubyte.gz", rng.integers(0, 10, size, np.uint8))
    splits = colored_mnist.load_digits("mnist", tmp_path)
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 10,
        "validation": 5_000,
        "test": 20,
    }
    assert len(colored_mnist.fingerprint("mnist", tmp_path)) == 4

    damaged = raw / "t10k-images-idx3-ubyte.gz"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte.gz .*fetch it again"):
        colored_mnist.load_digits("mnist", tmp_path)


def test_missing_mnist_that_cannot_be_fetched_names_the_parameter(tmp_path, monkeypatch):
    def no_network(*_arguments, **_options):
        raise RuntimeError("no network")

    monkeypatch.setattr("torchvision.datasets.MNIST", no_network)
    with pytest.raises(DataError, match="data_root"):
        colored_mnist.load_digits("mnist", tmp_path)
