"""Known and unknown images: what is read, what is refused, and what a restyled image keeps."""

import hashlib
import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from nuisance import paths
from nuisance.data import restyle
from nuisance.data.embedded import load_embedded
from nuisance.data.ood_sets import (
    IMAGENET_SAMPLE,
    TINY_IMAGENET_IN_CIFAR,
    imagenet_checksums,
    load_imagenet_sample,
    load_known_fashion,
    load_tiny_imagenet,
    select_confident,
    select_random,
    split_in_two,
    tiny_imagenet_checksums,
)
from nuisance.data.photos import fingerprint_files, list_images, load_photos
from nuisance.data.small_photos import cifar_checksums, load_cifar
from nuisance.errors import DataError, InputError, ParameterError
from nuisance.seeding import generator


def prepare(image):
    return torch.from_numpy(np.array(image.convert("RGB").resize((8, 8)))).permute(2, 0, 1)


def save(path, color, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Three whole images, a truncated one, and what is no image."""
    save(tmp_path / "b" / "red.PNG", (255, 0, 0))
    save(tmp_path / "a.bmp", (0, 255, 0))
    save(tmp_path / "c.webp", (0, 0, 255))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    (tmp_path / "half.jpeg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    return tmp_path


def real(*parts):
    folder = paths.data_root().joinpath(*parts)
    if not folder.exists():
        pytest.skip(f"{'/'.join(parts)} is not in the data root (NUISANCE_DATA_ROOT)")
    return paths.data_root()


# photos


def test_images_are_found_below_a_folder_in_order_whatever_the_case_of_their_suffix(photos):
    names = [path.relative_to(photos).as_posix() for path in list_images(photos)]
    assert names == ["a.bmp", "b/red.PNG", "c.webp", "half.jpeg"]


def test_a_folder_that_is_missing_or_without_images_is_named(tmp_path):
    with pytest.raises(DataError, match=r"There is no folder .*nowhere; unpack"):
        list_images(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"holds no image .*unpack"):
        list_images(tmp_path)


def test_photos_are_bytes_in_the_order_of_their_files(photos):
    files = [photos / "b" / "red.PNG", photos / "a.bmp"]
    pixels, read = load_photos(files, prepare)
    assert read == files
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (2, 3, 8, 8)
    assert pixels[:, :, 3, 3].tolist() == [[255, 0, 0], [0, 255, 0]]


def test_broken_photos_are_counted_before_they_are_refused(photos):
    (photos / "z.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2 of 5 image files cannot be decoded, first \S*half\.jpeg; fetch"):
        load_photos(list_images(photos), prepare)


def test_broken_photos_are_left_out_on_demand_with_a_warning(photos):
    with pytest.warns(UserWarning, match=r"1 of 4 .*half\.jpeg; they are left out") as caught:
        pixels, read = load_photos(
            [photos / "half.jpeg", *list_images(photos)[:3]], prepare, skip_broken=True
        )
    assert len(caught) == 1
    assert [path.name for path in read] == ["a.bmp", "red.PNG", "c.webp"]
    assert pixels[:2, :, 0, 0].tolist() == [[0, 255, 0], [255, 0, 0]]
    assert len(pixels) == 3


def test_nothing_but_broken_photos_are_refused_in_any_case(photos):
    with pytest.raises(DataError, match="1 of 1 image files cannot be decoded"):
        load_photos([photos / "half.jpeg"], prepare, skip_broken=True)


def test_photos_of_different_sizes_and_no_photos_are_refused(photos):
    def as_it_is(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    wide = save(photos / "wide.png", (0, 0, 0), size=(9, 8))
    with pytest.raises(InputError, match=r"\[3, 8, 9\] of .*wide\.png but must make uint8 \[3, h, w\]"):
        load_photos([photos / "a.bmp", wide], as_it_is)
    with pytest.raises(InputError, match="must make uint8"):
        load_photos([photos / "a.bmp"], lambda image: as_it_is(image).float())
    with pytest.raises(InputError, match=r"\[1, 8, 8\] of"):
        load_photos([photos / "a.bmp"], lambda image: as_it_is(image)[:1])
    with pytest.raises(InputError, match="no image file to read"):
        load_photos([], prepare)


def test_a_fingerprint_covers_names_contents_and_order(tmp_path):
    files = [tmp_path / "a", tmp_path / "b" / "c"]
    files[1].parent.mkdir()
    files[0].write_bytes(b"one")
    files[1].write_bytes(b"two")
    contents = [hashlib.sha256(content).digest() for content in (b"one", b"two")]
    by_hand = hashlib.sha256(b"a\0" + contents[0] + b"b/c\0" + contents[1]).hexdigest()
    assert fingerprint_files("set", files, tmp_path) == {"set": by_hand}
    assert fingerprint_files("set", files[::-1], tmp_path) != {"set": by_hand}
    files[1].unlink()
    with pytest.raises(DataError, match="c cannot be read"):
        fingerprint_files("set", files, tmp_path)


# restyle


def test_a_negative_is_exact():
    pixels = torch.arange(256, dtype=torch.uint8).repeat(20, 1).view(20, 1, 16, 16)
    restyled, drawn = restyle.restyle(pixels, generator=generator(0))
    is_negative = drawn == restyle.STYLES.index("negative")
    assert is_negative.any()
    assert torch.equal(restyled[is_negative], 255 - pixels[is_negative])


def step_image(side):
    """Black on the left, white on the right."""
    return (torch.arange(side) >= side // 2).float().expand(1, 3, side, side)


@pytest.mark.parametrize("side", [28, 224])
def test_styles_of_an_edge(side):
    edge = step_image(side)
    middle, far = side // 2, side // 4
    drawn = restyle.sketch(edge)
    assert drawn[..., middle - 1 : middle + 1].max() < 0.05  # dark on the contour
    assert drawn[..., :far].min() == 1  # white off it
    assert drawn[..., -far:].min() == 1
    embossed = restyle.relief(edge)
    assert embossed[..., middle].min() > 0.9  # lit: it gets brighter to the lower right
    assert restyle.relief(1 - edge)[..., middle].max() < 0.1
    assert torch.allclose(embossed[..., :far], torch.tensor(0.5))
    # as much of the image is drawn on at either size
    assert (drawn < 0.9).float().mean() == pytest.approx(2 / 28)


def test_a_poster_has_three_levels_of_each_channel():
    ramp = torch.linspace(0, 1, 28).expand(1, 3, 28, 28)
    levels = restyle.poster(ramp)
    assert levels.unique().tolist() == [0, 0.5, 1]
    for level in (0, 0.5, 1):
        assert (levels == level).float().mean() == pytest.approx(1 / 3, abs=1 / 28)


@pytest.mark.parametrize("side", [28, 224])
def test_a_canvas_darkens_by_up_to_a_half_in_seven_threads(side):
    woven = restyle.canvas(torch.ones(1, 1, side, side))[0, 0]
    assert woven.unique().tolist() == [0.5, 1]
    changes = (woven[0].diff() != 0).sum()
    assert changes == 13  # seven bright and seven dark threads
    assert torch.equal(woven, woven.T)
    assert woven.mean() == pytest.approx(0.75)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 5, 9), (1, 28, 28), (3, 61, 40)])
def test_every_style_takes_every_size_and_stays_in_range(size):
    x = torch.rand(2, *size, generator=generator(0))
    for style in restyle.STYLES:
        styled = getattr(restyle, style)(x)
        assert styled.shape == x.shape
        assert styled.min() >= 0
        assert styled.max() <= 1


def test_a_photo_keeps_its_look_when_it_is_shrunk():
    rough = torch.rand(1, 3, 7, 7, generator=generator(0))
    large = torch.nn.functional.interpolate(rough, size=(224, 224), mode="bicubic").clamp(0, 1)
    small = torch.nn.functional.avg_pool2d(large, 8)
    for style in ("sketch", "relief", "canvas", "negative"):
        shrunk = torch.nn.functional.avg_pool2d(getattr(restyle, style)(large), 8)
        both = torch.stack([shrunk.flatten(), getattr(restyle, style)(small).flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.85, style


def test_styles_are_drawn_evenly_by_the_seed_and_each_image_is_styled_by_itself():
    pixels = load_embedded("fashion_mnist20k")["test"].pixels[:1_000]
    restyled, drawn = restyle.restyle(pixels, generator=generator(1))
    again, drawn_again = restyle.restyle(pixels, generator=generator(1))
    assert torch.equal(restyled, again)
    assert torch.equal(drawn, drawn_again)
    assert torch.equal(drawn, torch.randint(5, (1_000,), generator=generator(1)))
    assert torch.bincount(drawn).min() > 150
    for i in range(20):
        alone = getattr(restyle, restyle.STYLES[drawn[i]])(pixels[i : i + 1].float() / 255)
        assert (restyled[i].float() - alone[0] * 255).abs().max() <= 0.51
    assert (restyled == pixels).flatten(1).all(1).sum() == 0


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (2, 8, 8)])
def test_what_is_no_image_is_not_restyled(shape):
    with pytest.raises(InputError, match="must be uint8"):
        restyle.restyle(torch.zeros(shape, dtype=torch.uint8), generator=generator(0))
    with pytest.raises(InputError, match="must be uint8"):
        restyle.restyle(torch.zeros(2, 3, 8, 8), generator=generator(0))


# the sets


def test_held_out_garments_are_apart_and_the_known_ones_relabelled_in_order():
    known, unknown = load_known_fashion([9, 0, 4])
    everything = load_embedded("fashion_mnist20k")
    for split, images in everything.items():
        kept, held = known[split], unknown[split]
        assert torch.equal(held.pixels, images.pixels[torch.isin(images.labels, torch.tensor([0, 4, 9]))])
        assert held.labels.unique().tolist() == [0, 4, 9]
        assert torch.equal(held.labels, held.attributes["original"])
        assert len(kept) + len(held) == len(images)
        assert kept.labels.unique().tolist() == list(range(7))
        assert torch.equal(torch.tensor([1, 2, 3, 5, 6, 7, 8])[kept.labels], kept.attributes["original"])


@pytest.mark.parametrize("held_out", [[], [10], [-1], [3, 3], range(9), range(10), ["1"]])
def test_classes_that_cannot_be_held_out(held_out):
    with pytest.raises(ParameterError, match=r"hold out 1 to 8|from 0 to 9, each once"):
        load_known_fashion(held_out)


def write_cifar(root, **arrays):
    (root / "cifar10_sample").mkdir(exist_ok=True)
    for split in ("train", "test"):
        np.savez(root / "cifar10_sample" / f"{split}.npz", **arrays)


def test_the_cifar_sample_is_read_with_its_channels_in_front(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    write_cifar(tmp_path, images=images, labels=np.array([9, 0], np.uint8))
    parts = load_cifar(tmp_path)
    assert list(parts) == ["train", "test"]
    assert parts["test"].pixels[1, 2, 3, 4] == images[1, 3, 4, 2]
    assert parts["test"].labels.tolist() == [9, 0]
    assert parts["test"].labels.dtype == torch.int64
    digest = hashlib.sha256((tmp_path / "cifar10_sample" / "test.npz").read_bytes()).hexdigest()
    assert cifar_checksums(tmp_path)["cifar10_sample/test.npz"] == digest
    assert len(cifar_checksums(tmp_path)) == 2


WHOLE = np.zeros((2, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": WHOLE},
        {"images": WHOLE, "labels": np.zeros(3, int)},
        {"images": WHOLE, "labels": np.zeros(2)},
        {"images": WHOLE, "labels": np.array([0, 10])},
        {"images": WHOLE.transpose(0, 3, 1, 2), "labels": np.zeros(2, int)},
        {"images": WHOLE / 255, "labels": np.zeros(2, int)},
        {"images": WHOLE[:0], "labels": np.zeros(0, int)},
        {"images": WHOLE, "labels": np.array(["a", None])},
    ],
)
def test_a_cifar_sample_with_wrong_arrays_is_refused(tmp_path, arrays):
    write_cifar(tmp_path, **arrays)
    with pytest.raises(DataError, match=r"train\.npz (holds|is missing, damaged).*bring it back"):
        load_cifar(tmp_path)


def test_a_damaged_or_missing_cifar_sample_is_refused(tmp_path):
    with pytest.raises(DataError, match="Neither cifar10_sample nor cifar-10-batches-py"):
        load_cifar(tmp_path)
    write_cifar(tmp_path, images=WHOLE, labels=np.zeros(2, int))
    test = tmp_path / "cifar10_sample" / "test.npz"
    whole = test.read_bytes()
    for raw in (whole[:-100], b"", b"no archive"):
        test.write_bytes(raw)
        with pytest.raises(DataError, match=r"test\.npz is missing, damaged"):
            load_cifar(tmp_path)
    with test.open("wb") as stream:
        np.save(stream, WHOLE)  # an array, not an archive of arrays
    with pytest.raises(DataError, match=r"test\.npz is missing, damaged"):
        load_cifar(tmp_path)
    test.unlink()
    with pytest.raises(DataError, match=r"test\.npz is missing, damaged"):
        load_cifar(tmp_path)
    with pytest.raises(DataError, match=r"test\.npz cannot be read"):
        cifar_checksums(tmp_path)


@pytest.fixture
def torchvision_cifar(tmp_path, monkeypatch):
    """Torchvision's layout of CIFAR-10 with one image a file."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    lists = {"train_list": ["data_batch_1", "data_batch_2"], "test_list": ["test_batch"]}
    image = np.arange(3072, dtype=np.int64).astype(np.uint8)
    for which, names in lists.items():
        sums = []
        for label, name in enumerate(names):
            (folder / name).write_bytes(pickle.dumps({"data": image[None], "labels": [label]}))
            sums.append([name, hashlib.md5((folder / name).read_bytes()).hexdigest()])
        monkeypatch.setattr(CIFAR10, which, sums)
    meta = folder / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": ["a", "b"]}))
    md5 = hashlib.md5(meta.read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta.name, "key": "label_names", "md5": md5})
    return tmp_path


def test_torchvisions_cifar_is_read_where_there_is_no_sample(torchvision_cifar):
    parts = load_cifar(torchvision_cifar)
    assert parts["train"].labels.tolist() == [0, 1]
    assert parts["test"].labels.tolist() == [0]
    assert parts["test"].pixels[0, 2, 3, 4] == (2 * 1024 + 3 * 32 + 4) % 256
    names = ["data_batch_1", "data_batch_2", "test_batch"]
    assert list(cifar_checksums(torchvision_cifar)) == [f"cifar-10-batches-py/{name}" for name in names]
    write_cifar(torchvision_cifar, images=WHOLE, labels=np.full(2, 7))
    assert load_cifar(torchvision_cifar)["test"].labels.tolist() == [7, 7]


def test_a_damaged_torchvision_cifar_is_refused(torchvision_cifar):
    (torchvision_cifar / "cifar-10-batches-py" / "test_batch").write_bytes(b"half")
    with pytest.raises(DataError, match="cifar-10-batches-py is not a whole CIFAR-10; delete it"):
        load_cifar(torchvision_cifar)


def test_tiny_imagenet_is_shrunk_without_aliasing(tmp_path):
    folder = tmp_path / "tiny-imagenet-200" / "val" / "images"
    folder.mkdir(parents=True)
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(folder / "val_0.png")  # grey: becomes three equal channels
    Image.fromarray(stripes).save(folder / "val_1.png")
    notes = folder.parent / "val_annotations.txt"
    notes.write_text(
        "val_0.png\tn01443537\t0\t0\t9\t9\nval_1.png\tn02123045\t0\t0\t9\t9\n"
    )  # the latter a tabby
    pixels, files = load_tiny_imagenet(tmp_path)
    assert pixels.shape == (1, 3, 32, 32)
    assert 120 <= pixels[..., 2:-2].min() <= pixels[..., 2:-2].max() <= 135
    assert files == [folder / "val_0.png"]
    assert load_tiny_imagenet(tmp_path, size=64)[0][0, 1].tolist() == stripes.tolist()
    assert tiny_imagenet_checksums(tmp_path) == fingerprint_files("tiny-imagenet-200", files, tmp_path)
    with pytest.raises(ParameterError, match="size is 0"):
        load_tiny_imagenet(tmp_path, size=0)
    notes.write_text("val_0.png\tn02123045\nval_1.png\tn02123045\n")
    with pytest.raises(DataError, match="holds no class that CIFAR-10 does not have"):
        load_tiny_imagenet(tmp_path)
    notes.write_text("val_0.png\tn01443537\n")
    with pytest.raises(DataError, match="is missing or lacks an image"):
        load_tiny_imagenet(tmp_path)


def test_imagenet_labels_of_the_sample_are_those_of_the_mapping(tmp_path):
    for name in ("n03888257", "n02102040"):
        save(tmp_path / "imagenet" / "val" / name / "a.png", (IMAGENET_SAMPLE[name] % 256, 0, 0))
    images = load_imagenet_sample(tmp_path, prepare)
    assert images.labels.tolist() == [217, 701]
    assert images.pixels[:, 0, 0, 0].tolist() == [217, 701 % 256]
    before = imagenet_checksums(tmp_path)
    assert list(before) == ["imagenet-val"]
    save(tmp_path / "imagenet" / "val" / "n02102040" / "b.png", (0, 0, 0))
    assert imagenet_checksums(tmp_path) != before
    assert load_imagenet_sample(tmp_path, prepare).labels.tolist() == [217, 217, 701]


def test_imagenet_labels_of_the_full_set_are_ranks(tmp_path):
    places, numbers = [*IMAGENET_SAMPLE.values(), 999], [int(name[1:]) for name in IMAGENET_SAMPLE]
    between = np.interp(np.arange(1_000), places, [*numbers, 15_075_141])
    names = [f"n{int(number):08d}" for number in between]
    folder = tmp_path / "imagenet" / "val"
    raw = save(tmp_path / "one.png", (9, 9, 9)).read_bytes()
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "one.png").write_bytes(raw)
    assert load_imagenet_sample(tmp_path, prepare).labels.tolist() == list(range(1_000))
    (folder / "n99999999").mkdir()  # one too many
    with pytest.raises(DataError, match="has 1001 folders of classes, but ImageNet has 1,000"):
        load_imagenet_sample(tmp_path, prepare)
    for path in (folder / names[-1]).iterdir():
        path.unlink()
    (folder / names[-1]).rmdir()
    (folder / "n99999999").rename(folder / "n00000001")  # 1,000 again, but every rank is off by one
    with pytest.raises(DataError, match="has 1000 folders of classes"):
        load_imagenet_sample(tmp_path, prepare)


def test_an_imagenet_that_is_not_there_or_has_an_empty_class_is_refused(tmp_path):
    with pytest.raises(DataError, match="has 0 folders of classes"):
        load_imagenet_sample(tmp_path, prepare)
    (tmp_path / "imagenet" / "val" / "n03888257").mkdir(parents=True)
    with pytest.raises(DataError, match="n03888257 holds no image"):
        load_imagenet_sample(tmp_path, prepare)


# choosing


def test_two_parts_hold_every_image_once():
    first, second = split_in_two(10, 3, generator=generator(0))
    assert (len(first), len(second)) == (3, 7)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(10))
    assert first.dtype == second.dtype == torch.int64
    assert torch.equal(torch.cat([first, second]), torch.randperm(10, generator=generator(0)))
    for wrong in (0, 10, -1):
        with pytest.raises(ParameterError, match="must have 1 to 9"):
            split_in_two(10, wrong, generator=generator(0))


def test_the_surest_are_selected_and_ties_go_to_the_earlier():
    confidences = torch.tensor([0.2, 0.9, 0.5, 0.9, 0.5, 0.1])
    assert select_confident(confidences, 3).tolist() == [1, 3, 2]
    many = torch.full((5_000,), 0.5)  # large enough for an unstable sort to show
    assert select_confident(many, 4_000).tolist() == list(range(4_000))
    for wrong in (0, 7):
        with pytest.raises(ParameterError, match=f"{wrong} images are to be selected of 6"):
            select_confident(confidences, wrong)
    with pytest.raises(InputError, match="finite"):
        select_confident(torch.tensor([0.5, float("nan")]), 1)
    with pytest.raises(InputError, match=r"\[2, 2\] must be \[n\]"):
        select_confident(torch.zeros(2, 2), 1)


def test_the_control_is_drawn_without_replacement():
    chosen = select_random(10, 4, generator=generator(0))
    assert chosen.tolist() == torch.randperm(10, generator=generator(0))[:4].tolist()
    assert sorted(select_random(6, 6, generator=generator(0)).tolist()) == list(range(6))
    with pytest.raises(ParameterError, match="7 images are to be selected of 6"):
        select_random(6, 7, generator=generator(0))


# the real sets, where they are


def test_real_cifar():
    root = real("cifar10_sample")
    parts = load_cifar(root)
    for name in ("train", "test"):
        counts = torch.bincount(parts[name].labels)
        assert counts.tolist() == [len(parts[name]) // 10] * 10
        # the mean colour of CIFAR-10, in the order red, green, blue
        means = parts[name].pixels.float().mean((0, 2, 3)) / 255
        assert means.tolist() == pytest.approx([0.491, 0.482, 0.447], abs=0.01)
    assert len(cifar_checksums(root)) == 2


def test_real_tiny_imagenet():
    root = real("tiny-imagenet-200", "val", "images")
    pixels, files = load_tiny_imagenet(root)
    assert pixels.shape == (len(files), 3, 32, 32)
    folder = root / "tiny-imagenet-200" / "val"
    lines = (folder / "val_annotations.txt").read_text().splitlines()
    known = {line.split("\t")[0] for line in lines if line.split("\t")[1] in TINY_IMAGENET_IN_CIFAR}
    images = list((folder / "images").iterdir())
    assert [file.name for file in files] == sorted({image.name for image in images} - known)
    assert 0 < len(files) < len(images) >= 2_000
    exact = torch.from_numpy(np.array(Image.open(files[5]).convert("RGB"))).permute(2, 0, 1)[None].float()
    averaged = torch.nn.functional.interpolate(exact, size=(32, 32), mode="bilinear", antialias=True)
    assert (averaged[0] - pixels[5].float()).abs().max() <= 1.01


def test_real_imagenet():
    root = real("imagenet", "val")
    images = load_imagenet_sample(root, prepare)
    assert set(images.labels.tolist()) <= set(range(1_000))
    assert set(IMAGENET_SAMPLE.values()) >= set(images.labels.tolist()) or len(images) > 500
    assert len(imagenet_checksums(root)["imagenet-val"]) == 64
