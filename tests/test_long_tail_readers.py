"""Kuzushiji-49, CIFAR and GTSRB: what is read, how it is split, and what is refused."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from nuisance import paths
from nuisance.data import kuzushiji49, small_photos
from nuisance.data.kuzushiji49 import kuzushiji49_checksums, load_kuzushiji49
from nuisance.data.small_photos import (
    cifar_checksums,
    gtsrb_checksums,
    load_cifar,
    load_cifar_splits,
    load_gtsrb,
)
from nuisance.errors import DataError, ParameterError


def real(*parts):
    folder = paths.data_root().joinpath(*parts)
    if not folder.exists():
        pytest.skip(f"{'/'.join(parts)} is not in the data root (NUISANCE_DATA_ROOT)")
    return paths.data_root()


def split_as(splits, name):
    """Every split's images by their first pixel, which these tests make each image's number."""
    return splits[name].pixels[:, 0, 0, 0].tolist()


# Kuzushiji-49


@pytest.fixture
def characters(tmp_path, monkeypatch):
    """The four official files with 100 and 49 images, image ``i`` all of value ``i`` and of class ``i % 49``."""
    monkeypatch.setattr(kuzushiji49, "COUNTS", {"train": 100, "test": 49})
    for split, count in kuzushiji49.COUNTS.items():
        numbers = np.arange(count)
        images = np.broadcast_to(numbers[:, None, None], (count, 28, 28)).astype(np.uint8)
        np.savez_compressed(tmp_path / f"k49-{split}-imgs.npz", images)
        np.savez_compressed(tmp_path / f"k49-{split}-labels.npz", (numbers % 49).astype(np.uint8))
    return tmp_path


def test_a_fifth_of_the_training_characters_is_for_validation_in_the_order_of_the_file(characters):
    splits = load_kuzushiji49(characters, seed=0)
    assert list(splits) == ["train", "validation", "test"]
    train, validation = split_as(splits, "train"), split_as(splits, "validation")
    assert (len(train), len(validation)) == (80, 20)
    assert sorted(train + validation) == list(range(100))
    assert train == sorted(train)
    assert validation == sorted(validation)
    assert splits["validation"].labels.tolist() == [number % 49 for number in validation]
    assert splits["test"].labels.tolist() == split_as(splits, "test") == list(range(49))
    assert splits["train"].pixels.shape == (80, 1, 28, 28)
    assert split_as(load_kuzushiji49(characters, seed=0), "validation") == validation
    assert split_as(load_kuzushiji49(characters, seed=1), "validation") != validation


def test_characters_are_counted(characters, monkeypatch):
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"k49-train-\*\.npz hold 100 images but must hold 232365; fetch"):
        load_kuzushiji49(characters, seed=0)
    assert kuzushiji49.COUNTS["test"] == 38_547


CHARACTERS = np.zeros((100, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("k49-train-imgs", CHARACTERS[:99], "images uint8 .99, 28, 28. and labels uint8 .100."),
        ("k49-train-labels", np.zeros(101, int), "must hold uint8 .n, 28, 28. and as many integers"),
        ("k49-train-imgs", CHARACTERS.reshape(100, 784), "must hold uint8"),
        ("k49-train-imgs", CHARACTERS / 255, "images float64"),
        ("k49-train-labels", np.zeros(100), "labels float64"),
        ("k49-train-labels", np.full(100, 49), "labels from 49 to 49 but must hold labels from 0 to 48"),
        ("k49-test-labels", np.full(49, -1), "labels from -1 to -1"),
        ("k49-train-labels", np.array(["a", None]), "is missing, damaged"),  # pickled: never loaded
        ("k49-train-imgs", np.uint8(0), "must hold uint8"),
    ],
)
def test_wrong_arrays_of_characters_are_refused(characters, name, array, message):
    np.savez(characters / f"{name}.npz", array)
    with pytest.raises(DataError, match=f"k49-.*{message}.*fetch the four NumPy files"):
        load_kuzushiji49(characters, seed=0)


def test_missing_or_damaged_files_of_characters_are_named(characters):
    path = characters / "k49-test-imgs.npz"
    whole = path.read_bytes()
    assert kuzushiji49_checksums(characters)[path.name] == hashlib.sha256(whole).hexdigest()
    assert len(kuzushiji49_checksums(characters)) == 4
    for raw in (whole[:-50], whole[: len(whole) // 2], b"", whole[:60] + b"????" + whole[64:]):
        path.write_bytes(raw)
        with pytest.raises(DataError, match=r"k49-test-imgs\.npz is missing, damaged"):
            load_kuzushiji49(characters, seed=0)
    np.savez(path, images=CHARACTERS)
    with pytest.raises(DataError, match=r"lacks an array .*arr_0"):
        load_kuzushiji49(characters, seed=0)
    path.unlink()
    with pytest.raises(DataError, match=r"k49-test-imgs\.npz is missing, damaged"):
        load_kuzushiji49(characters, seed=0)
    with pytest.raises(DataError, match=r"k49-test-imgs\.npz cannot be read; fetch the four"):
        kuzushiji49_checksums(characters)


# CIFAR; the sample and torchvision's CIFAR-10 are tested in test_ood_data.py


@pytest.fixture
def cifar_sample(tmp_path):
    """40 training images, 30 of class 3 and 10 of class 7, and 10 test images, each of its number as value."""
    folder = tmp_path / "cifar10_sample"
    folder.mkdir()
    for split, labels in (("train", [3, 3, 3, 7] * 10), ("test", range(10))):
        numbers = np.arange(len(labels), dtype=np.uint8)
        images = np.ones((1, 32, 32, 3), np.uint8) * numbers[:, None, None, None]
        np.savez(folder / f"{split}.npz", images=images, labels=np.array(labels))
    return tmp_path


def test_validation_photos_are_cut_from_every_class_of_the_training_ones(cifar_sample):
    splits = load_cifar_splits(cifar_sample, seed=0, validation_share=0.2)
    train, validation = split_as(splits, "train"), split_as(splits, "validation")
    assert torch.bincount(splits["validation"].labels).tolist() == [0, 0, 0, 6, 0, 0, 0, 2]
    assert sorted(train + validation) == list(range(40))
    assert train == sorted(train)
    assert split_as(splits, "test") == list(range(10))
    again = load_cifar_splits(cifar_sample, seed=0, validation_share=0.2)
    other = load_cifar_splits(cifar_sample, seed=1, validation_share=0.2)
    assert split_as(again, "validation") == validation != split_as(other, "validation")


def test_the_share_of_validation_photos_has_its_ends(cifar_sample):
    none = load_cifar_splits(cifar_sample, seed=0, validation_share=0)
    assert (len(none["train"]), len(none["validation"])) == (40, 0)
    few = load_cifar_splits(cifar_sample, seed=0, validation_share=0.001)
    assert sorted(few["validation"].labels.tolist()) == [3, 7]  # at least one each
    half = load_cifar_splits(cifar_sample, seed=0, validation_share=0.5)
    assert torch.bincount(half["train"].labels).tolist()[3::4] == [15, 5]
    for wrong in (-0.1, 0.51, float("nan")):
        with pytest.raises(ParameterError, match=f"validation_share is {wrong} but"):
            load_cifar_splits(cifar_sample, seed=0, validation_share=wrong)


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """Torchvision's layout of CIFAR-100 with two training images and one test image."""
    from torchvision.datasets import CIFAR100

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    image = np.arange(3072, dtype=np.int64).astype(np.uint8)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for split, labels in (("train", [99, 5]), ("test", [42])):
        content = {
            "data": np.stack([image] * len(labels)),
            "fine_labels": labels,
            "coarse_labels": [0] * len(labels),
        }
        monkeypatch.setattr(CIFAR100, f"{split}_list", [[split, write(split, content)]])
    meta = {"filename": "meta", "key": "fine_label_names"}
    sums = write("meta", {"fine_label_names": ["a", "b"]})
    monkeypatch.setattr(CIFAR100, "meta", {**meta, "md5": sums})
    return tmp_path


def test_cifar100_is_read_with_its_fine_labels(cifar100):
    parts = load_cifar(cifar100, "cifar100")
    assert parts["train"].labels.tolist() == [99, 5]
    assert parts["test"].labels.tolist() == [42]
    assert parts["test"].pixels[0, 2, 3, 4] == (2 * 1024 + 3 * 32 + 4) % 256
    assert list(cifar_checksums(cifar100, "cifar100")) == ["cifar-100-python/train", "cifar-100-python/test"]


def test_a_cifar_that_is_missing_damaged_or_unknown_is_refused(cifar100, cifar_sample):
    (cifar100 / "cifar-100-python" / "test").write_bytes(b"half")
    with pytest.raises(DataError, match="cifar-100-python is not a whole CIFAR-100; delete it and fetch"):
        load_cifar(cifar100, "cifar100")
    (cifar100 / "cifar-100-python" / "train").unlink()
    with pytest.raises(DataError, match=r"train cannot be read; fetch .*CIFAR100"):
        cifar_checksums(cifar100, "cifar100")
    with pytest.raises(DataError, match=r"cifar-100-python is not in .*datasets\.CIFAR100\("):
        load_cifar(cifar100 / "elsewhere", "cifar100")
    with pytest.raises(ParameterError, match="no CIFAR named 'cifar20'; there are cifar10, cifar100"):
        load_cifar(cifar_sample, "cifar20")


# GTSRB

TRACKS = [3 + label % 8 for label in range(43)]  # 3 to 10 of them


def held_out(tracks):
    """How many of the tracks each held-out split gets."""
    return max(1, round(0.2 * tracks))


def frames():
    """Class, track and frame of two frames of every track."""
    return [(c, track, frame) for c in range(43) for track in range(TRACKS[c]) for frame in (9, 19)]


def signs(rows):
    """The arrays of a sample: the two upper left pixels say class and track."""
    images = np.zeros((len(rows), 32, 32, 3), np.uint8)
    images[:, 0, 0, 0] = [row[0] for row in rows]
    images[:, 0, 1, 0] = [row[1] for row in rows]
    names = np.array([f"gtsrb/{label}/{track:05d}_{frame:05d}.ppm" for label, track, frame in rows])
    return {"images": images, "labels": np.array([row[0] for row in rows], np.uint8), "names": names}


def write_signs(root, **arrays):
    (root / "gtsrb_sample").mkdir(exist_ok=True)
    np.savez(root / "gtsrb_sample" / "gtsrb_32px.npz", **arrays)
    return root


def assert_cut_by_track(splits, names, tracks):
    """No track is in two splits, and of every class each held-out split has its share of tracks."""
    of = {
        name: {*zip(part.labels.tolist(), part.attributes["track"].tolist(), strict=True)}
        for name, part in splits.items()
        if name in names
    }
    assert sum(len(pairs) for pairs in of.values()) == len(set.union(*of.values())) == sum(tracks)
    assert len({track for pairs in of.values() for _, track in pairs}) == sum(tracks)  # a number of its own
    for name in names[1:]:
        found = [sum(pair[0] == label for pair in of[name]) for label in range(43)]
        assert found == [held_out(count) for count in tracks]


def test_signs_of_one_track_are_in_one_split(tmp_path):
    root = write_signs(tmp_path, **signs(frames()))
    splits = load_gtsrb(root, seed=0)
    assert list(splits) == ["train", "validation", "test"]
    assert_cut_by_track(splits, ["train", "validation", "test"], TRACKS)
    pixels = torch.cat([part.pixels for part in splits.values()])
    labels = torch.cat([part.labels for part in splits.values()])
    tracks = torch.cat([part.attributes["track"] for part in splits.values()])
    first = torch.tensor([0, *np.cumsum(TRACKS)[:-1].tolist()])  # tracks are numbered through the classes
    assert torch.equal(pixels[:, 0, 0, 0].long(), labels)
    assert torch.equal(first[labels] + pixels[:, 0, 0, 1], tracks)
    for part in splits.values():
        assert (part.attributes["track"].diff() >= 0).all()  # the order of the file
        assert (part.attributes["track"].unique(return_counts=True)[1] == 2).all()
    again, other = load_gtsrb(root, seed=0), load_gtsrb(root, seed=1)
    assert torch.equal(again["test"].attributes["track"], splits["test"].attributes["track"])
    assert not torch.equal(other["test"].attributes["track"], splits["test"].attributes["track"])
    path = root / "gtsrb_sample" / "gtsrb_32px.npz"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert gtsrb_checksums(root) == {"gtsrb_sample/gtsrb_32px.npz": digest}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros(3, int)}, "images uint8 .* and labels int64 .3. but must hold"),
        ({"labels": np.full(len(frames()), 43)}, "labels from 43 to 43 but must hold labels from 0 to 42"),
        ({"labels": np.zeros(len(frames()), int)}, r"names gtsrb/1/00000_00009\.ppm but labels it 0"),
        ({"names": np.array(["gtsrb/0/00000_00009.ppm"])}, r"images but names <U23 \[1\]"),
        ({"names": np.zeros(len(frames()), int)}, "images but names int64"),
        ({"names": np.full(len(frames()), "0/sign.ppm")}, r"has 0/sign\.ppm, not <class>/<track>"),
        ({"names": np.full(len(frames()), "43/00000_00000.ppm")}, "a class from 0 to 42"),
        ({"images": np.zeros((len(frames()), 30, 30, 3), np.uint8)}, r"must hold uint8 \[n, 32, 32, 3\]"),
    ],
)
def test_a_sample_of_signs_with_wrong_arrays_is_refused(tmp_path, change, message):
    write_signs(tmp_path, **{**signs(frames()), **change})
    with pytest.raises(DataError, match=rf"gtsrb_32px\.npz .*{message}.*bring it back"):
        load_gtsrb(tmp_path, seed=0)


def test_a_class_of_signs_with_too_few_tracks_is_named(tmp_path):
    write_signs(tmp_path, **signs([row for row in frames() if row[:2] != (8, 1)]))
    with pytest.raises(DataError, match=r"has 2 tracks of class 8 but must have 3 of each of the 43"):
        load_gtsrb(tmp_path, seed=0)
    write_signs(tmp_path, **signs([row for row in frames() if row[0] != 42]))
    with pytest.raises(DataError, match=r"has 0 tracks of class 42 .*train, validation, test; fetch"):
        load_gtsrb(tmp_path, seed=0)


def test_a_missing_or_damaged_sample_of_signs_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"Neither gtsrb_sample nor gtsrb is in .*datasets\.GTSRB"):
        load_gtsrb(tmp_path, seed=0)
    path = write_signs(tmp_path, **signs(frames())) / "gtsrb_sample" / "gtsrb_32px.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"gtsrb_32px\.npz is missing, damaged"):
        load_gtsrb(tmp_path, seed=0)
    path.unlink()
    with pytest.raises(DataError, match=r"gtsrb_32px\.npz cannot be read"):
        gtsrb_checksums(tmp_path)


@pytest.fixture
def whole_signs(tmp_path, monkeypatch):
    """Torchvision's layout of GTSRB: two tracks a class of two frames, and a test image of every class."""
    monkeypatch.setattr(small_photos, "GTSRB_COUNTS", {"train": 43 * 4, "test": 43})
    train, test = tmp_path / "gtsrb/GTSRB/Training", tmp_path / "gtsrb/GTSRB/Final_Test/Images"
    test.mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for label in range(43):
        (train / f"{label:05d}").mkdir(parents=True)
        (train / f"{label:05d}" / f"GT-{label:05d}.csv").write_text("of no use here")
        for track in (0, 1):
            for frame in (0, 29):
                image = Image.new("RGB", (40 + frame, 35), (label, track, frame))
                image.save(train / f"{label:05d}" / f"{track:05d}_{frame:05d}.ppm")
        number = 42 - label  # labels come from the annotations, not from the files' order
        Image.new("RGB", (33, 50), (label, 0, 0)).save(test / f"{number:05d}.ppm")
        lines.append(f"{number:05d}.ppm;33;50;5;5;28;45;{label}")
    (tmp_path / "gtsrb/GT-final_test.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_whole_set_of_signs_keeps_its_official_test_images(whole_signs):
    splits = load_gtsrb(whole_signs, seed=0)
    assert_cut_by_track(splits, ["train", "validation"], [2] * 43)
    assert [len(part) for part in splits.values()] == [86, 86, 43]
    for part in splits.values():
        assert part.pixels.shape[1:] == (3, 32, 32)
        assert torch.equal(part.pixels[:, 0, 16, 16].long(), part.labels)
    for name in ("train", "validation"):
        tracks = 2 * splits[name].labels + splits[name].pixels[:, 1, 16, 16]
        assert torch.equal(tracks, splits[name].attributes["track"])
    assert splits["test"].attributes["track"].unique().tolist() == [-1]
    before = gtsrb_checksums(whole_signs)
    assert list(before) == ["gtsrb"]
    changed = whole_signs / "gtsrb/GTSRB/Final_Test/Images/00007.ppm"
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    assert gtsrb_checksums(whole_signs) != before


def test_a_whole_set_of_signs_that_is_not_whole_is_refused(whole_signs, monkeypatch):
    folder = whole_signs / "gtsrb"
    annotations = folder / "GT-final_test.csv"
    stated = annotations.read_text()
    for text in (stated.replace("ClassId", "Label"), stated.replace(";42\n", "\n"), ""):
        annotations.write_text(text)
        with pytest.raises(DataError, match=r"(test\.csv is missing or damaged|has 0 test images)"):
            load_gtsrb(whole_signs, seed=0)
    annotations.write_text(stated.replace(";42\n", ";43\n"))
    with pytest.raises(DataError, match=r"test\.csv has a label 43 that is not 0 to 42"):
        load_gtsrb(whole_signs, seed=0)
    annotations.unlink()
    with pytest.raises(DataError, match=r"test\.csv is missing or damaged"):
        gtsrb_checksums(whole_signs)
    annotations.write_text(stated)
    (folder / "GTSRB/Final_Test/Images/00007.ppm").unlink()
    with pytest.raises(DataError, match=r"1 of 43 image files cannot be decoded, first \S*00007\.ppm"):
        load_gtsrb(whole_signs, seed=0)
    (folder / "GTSRB/Training/00003/00001_00029.ppm").unlink()
    with pytest.raises(DataError, match="has 171 train images but GTSRB has 172; delete it and fetch"):
        load_gtsrb(whole_signs, seed=0)
    monkeypatch.undo()
    with pytest.raises(DataError, match="has 171 train images but GTSRB has 26640"):
        load_gtsrb(whole_signs, seed=0)


# the real sets, where they are


def test_real_signs():
    root = real("gtsrb_sample")
    splits = load_gtsrb(root, seed=0)
    everything = torch.cat([part.attributes["track"] for part in splits.values()])
    labels = torch.cat([part.labels for part in splits.values()])
    per_class = [everything[labels == label].unique().numel() for label in range(43)]
    assert_cut_by_track(splits, ["train", "validation", "test"], per_class)
    assert len(everything) == 2_664
    # 888 tracks of 3 frames; each split has the frames of its tracks whole
    for part in splits.values():
        assert (part.attributes["track"].unique(return_counts=True)[1] == 3).all()
        assert part.labels.unique().tolist() == list(range(43))


def test_real_photos_are_cut_evenly():
    splits = load_cifar_splits(real("cifar10_sample"), seed=0, validation_share=0.1)
    assert torch.bincount(splits["validation"].labels).tolist() == [80] * 10
    assert torch.bincount(splits["train"].labels).tolist() == [720] * 10
    assert torch.bincount(splits["test"].labels).tolist() == [400] * 10


def test_real_characters():
    root = real("kuzushiji49")
    splits = load_kuzushiji49(root / "kuzushiji49", seed=0)
    assert [len(part) for part in splits.values()] == [185_892, 46_473, 38_547]
    assert len(splits["train"].labels.unique()) == 49
