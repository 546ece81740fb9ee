"""CelebA's official lists: read by hair, sex and partition, and refused where they are damaged."""

import numpy as np
import pytest
import torch
from PIL import Image

from nuisance.data.celeba import RECIPE_COUNTS, load_celeba
from nuisance.data.groups import counts
from nuisance.errors import DataError, ParameterError

HEADER = "Bald Blond_Hair Chubby Male Young"


def prepare(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture
def celeba(tmp_path):
    """Three images of every group and split, the splits mixed; grey level i is image i."""
    rows, codes = [], []
    (tmp_path / "img_align_celeba").mkdir()
    for i in range(36):
        blond, male, split = (i // 2) % 2, i % 2, i // 4 % 3
        name = f"{i + 1:06}.jpg"
        Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / "img_align_celeba" / name)
        rows.append(f"{name} -1  {2 * blond - 1}  1 {2 * male - 1} -1")
        codes.append(f"{name} {split}")
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["36", HEADER + " ", *rows]) + "\n")
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(codes) + "\n")
    return tmp_path


def test_hair_is_the_class_sex_the_attribute_and_the_partition_the_split(celeba):
    read = load_celeba(celeba, prepare)
    assert list(read) == ["train", "validation", "test"]
    for code, images in enumerate(read.values()):
        number = images.pixels[:, 0, 0, 0].long()
        assert number.tolist() == [i for i in range(36) if i // 4 % 3 == code]
        assert torch.equal(images.labels, number // 2 % 2)
        assert torch.equal(images.attributes["attribute"], number % 2)


def test_a_cap_is_a_cap_of_every_group_and_split(celeba):
    drawn = [load_celeba(celeba, prepare, cap=2, seed=seed) for seed in range(5)]
    for images in drawn[0].values():
        assert counts(images).tolist() == [2, 2, 2, 2]
    assert len({tuple(read["test"].pixels[:, 0, 0, 0].tolist()) for read in drawn}) > 1
    with pytest.raises(ParameterError, match="cap is -1 but must be at least 1"):
        load_celeba(celeba, prepare, cap=-1)


def test_the_published_counts_are_those_of_the_partition():
    assert [sum(RECIPE_COUNTS[split]) for split in ("train", "validation", "test")] == [162770, 19867, 19962]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Blond_Hair", "Blond", r"Line 2 of \S*celeba\.txt names no attribute Blond_Hair; fetch"),
        (" Male", "", "names no attribute Male; fetch"),
        ("36\n", "37\n", r"lists 36 images but says 37; fetch the whole list"),
        ("36\n", "", "names no attribute Blond_Hair"),
        (" -1  -1  1 -1 -1\n", " -1 -1\n", r"Line 3 of \S* is not a name and 5 values of -1 or 1; fetch"),
        (" -1  -1  1 1 -1\n", " -1  -1  1 0 -1\n", r"Line 4 of \S* is not a name and 5 values"),
        ("000002.jpg", "other.jpg", r"1 images are in list_eval_partition.* first 000002\.jpg; fetch both"),
    ],
)
def test_a_damaged_attribute_list_is_refused(celeba, old, new, message):
    path = celeba / "list_attr_celeba.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load_celeba(celeba, prepare)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "000003.jpg 0",
            "000003.jpg 3",
            r"Line 3 of \S* is '000003\.jpg 3' but must be a name and 0, 1 or 2",
        ),
        ("000004.jpg 0", "000004.jpg", r"Line 4 of \S* is '000004\.jpg' but must"),
        ("000005.jpg 1\n000006.jpg 1\n", "", r"2 images are in list_attr_celeba.* first 000005\.jpg; fetch"),
    ],
)
def test_a_damaged_partition_is_refused(celeba, old, new, message):
    path = celeba / "list_eval_partition.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load_celeba(celeba, prepare)


def test_a_list_that_is_no_text_is_refused(celeba):
    (celeba / "list_eval_partition.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"list_eval_partition\.txt is no text .*; fetch the official list"):
        load_celeba(celeba, prepare)


def test_missing_lists_empty_splits_and_missing_images_are_named(celeba):
    for number in (9, 2):
        (celeba / "img_align_celeba" / f"{number:06}.jpg").unlink()
    with pytest.raises(DataError, match=r"2 of the 36 images to read are missing, first \S*000002\.jpg"):
        load_celeba(celeba, prepare)
    partition = celeba / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace(" 1\n", " 0\n"))
    with pytest.raises(DataError, match="No image is listed for the split validation"):
        load_celeba(celeba, prepare)
    for name in ("list_eval_partition.txt", "list_attr_celeba.txt"):
        (celeba / name).unlink()
        with pytest.raises(DataError, match=rf"{name} is missing; put CelebA's official lists"):
            load_celeba(celeba, prepare)
