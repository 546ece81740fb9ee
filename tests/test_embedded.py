"""The embedded data: what they are, and what happens when they are damaged."""

import numpy as np
import pytest

from nuisance import paths
from nuisance.data.embedded import checksums, load_embedded, write_embedded
from nuisance.errors import DataError


def test_ten_thousand_digits():
    splits = load_embedded("mnist10k")
    assert {name: len(part) for name, part in splits.items()} == {
        "train": 8_000,
        "validation": 1_000,
        "test": 1_000,
    }
    assert splits["train"].pixels.shape == (8_000, 1, 28, 28)
    counts = sum(np.bincount(part.labels, minlength=10) for part in splits.values())
    assert counts.tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    # strokes are bright on black, in the middle of the frame
    assert splits["train"].pixels[:, :, 0].max() == 0
    assert 0.1 < splits["train"].pixels.float().mean() / 255 < 0.16


def test_fashion_is_balanced():
    splits = load_embedded("fashion_mnist20k")
    for name, size in (("train", 1_500), ("validation", 200), ("test", 300)):
        assert np.bincount(splits[name].labels).tolist() == [size] * 10


def test_no_picture_is_in_two_splits():
    for name in ("mnist10k", "fashion_mnist20k"):
        splits = load_embedded(name)
        seen = [{picture.numpy().tobytes() for picture in part.pixels} for part in splits.values()]
        assert not seen[0] & seen[2]
        assert not seen[1] & seen[2]
        assert not seen[0] & seen[1]


def test_all_embedded_files_are_stated_and_small():
    files = sorted(path.name for path in paths.DATA.glob("*.npz"))
    assert files == sorted(checksums())
    assert sum((paths.DATA / name).stat().st_size for name in files) < 12e6


@pytest.fixture
def tiny(tmp_path):
    images, labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.array([0, 1])
    write_embedded("tiny", dict.fromkeys(("train", "validation", "test"), (images, labels)), tmp_path)
    return tmp_path


def test_what_is_written_is_read_back_and_is_the_same_bytes_again(tiny):
    before = (tiny / "tiny.npz").read_bytes()
    assert load_embedded("tiny", tiny)["test"].pixels.flatten().tolist() == list(range(8))
    images, labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.array([0, 1])
    write_embedded("tiny", dict.fromkeys(("train", "validation", "test"), (images, labels)), tiny)
    assert (tiny / "tiny.npz").read_bytes() == before


def test_a_damaged_file_is_named_with_its_mend(tiny):
    path = tiny / "tiny.npz"
    raw = bytearray(path.read_bytes())
    raw[-30] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=r"tiny\.npz is damaged.*python data_scripts/tiny\.py"):
        load_embedded("tiny", tiny)


def test_a_missing_file_is_named_with_its_mend(tiny):
    (tiny / "tiny.npz").unlink()
    with pytest.raises(DataError, match=r"tiny\.npz is missing.*git checkout"):
        load_embedded("tiny", tiny)


def test_an_unknown_name_lists_the_known_ones(tiny):
    with pytest.raises(DataError, match="there are tiny"):
        load_embedded("tinny", tiny)


def test_every_data_set_has_its_script():
    for name in checksums():
        assert (paths.ROOT / "data_scripts" / name).with_suffix(".py").is_file()
