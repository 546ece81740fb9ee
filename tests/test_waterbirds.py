"""Waterbirds: the authors' recipe on a tiny CUB and tiny places, and its layout read back."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nuisance import paths
from nuisance.data.compositing import composite, fit_background
from nuisance.data.groups import counts
from nuisance.data.waterbirds import RECIPE_COUNTS, build_waterbirds, is_waterbird, load_waterbirds
from nuisance.errors import DataError, InputError, ParameterError

LANDBIRD, WATERBIRD = "012.Yellow_headed_Blackbird", "059.California_Gull"
LAND, WATER = ("bamboo_forest", "forest/broadleaf"), ("ocean", "lake/natural")


def prepare(image):
    return torch.from_numpy(np.array(image.convert("RGB").resize((6, 4)))).permute(2, 0, 1)


def opened(path):
    with Image.open(path) as image:
        return image.copy()


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def cub(tmp_path):
    """100 landbirds and 40 waterbirds, of each kind half in the official test set."""
    folder, random = tmp_path / "CUB_200_2011", np.random.default_rng(0)
    names = [f"{LANDBIRD}/b_{i}.jpg" for i in range(100)] + [f"{WATERBIRD}/g_{i}.jpg" for i in range(40)]
    for i, name in enumerate(names):
        height, width = 12 + i % 3, 16
        save(folder / "images" / name, random.integers(0, 256, (height, width, 3), np.uint8))
        mask = np.zeros((height, width), np.uint8)
        mask[3:9, 4:12] = 255
        mask[3, 4:12] = 128  # a soft edge
        save(folder / "segmentations" / name.replace(".jpg", ".png"), mask)
    (folder / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (folder / "train_test_split.txt").write_text("".join(f"{i} {i % 2}\n" for i in range(1, 141)))
    return folder


def write_places(folder, categories, each, color, letters):
    for category in categories:
        for i in range(each):
            pixels = np.full((20, 20 + i % 5, 3), color, np.uint8)
            pixels[0, 0] = i  # no two alike
            save(folder / (f"{category[0]}/{category}" if letters else category) / f"p_{i}.jpg", pixels)


@pytest.fixture
def places(tmp_path):
    """50 images a category; land is green and lies at its name, water is blue and below its first letter."""
    write_places(tmp_path / "places", LAND, 50, (0, 200, 0), letters=False)
    write_places(tmp_path / "places", WATER, 50, (0, 0, 200), letters=True)
    return tmp_path / "places"


@pytest.fixture
def built(tmp_path):
    """A set as the archive has it: two images a group and split, whose grey levels tell them apart."""
    rows = []
    for split in range(3):
        for y in (0, 1):
            for place in (0, 1):
                for i in range(2):
                    name = f"{y}.species/{split}{place}{i}.png"
                    save(
                        tmp_path / "set" / name,
                        np.full((4, 6, 3), 80 * split + 40 * y + 20 * place + i, np.uint8),
                    )
                    rows.append(f"{len(rows) + 1},{name},{y},{split},{place},/o/ocean/x.jpg")
    write_table(tmp_path / "set", rows)
    return tmp_path / "set"


def write_table(folder, rows, header="img_id,img_filename,y,split,place,place_filename"):
    folder.mkdir(exist_ok=True)
    (folder / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")


def table_of(folder):
    with (folder / "metadata.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


# species


def test_the_authors_substring_takes_landbirds_for_terns_and_whole_words_do_not():
    for landbird in (
        "021.Eastern_Towhee",
        "088.Western_Meadowlark",
        "103.Western_Wood_Pewee",
        "western-wood-pewee",
    ):
        assert is_waterbird(landbird, whole_words=False)
        assert not is_waterbird(landbird, whole_words=True)


@pytest.mark.parametrize("whole_words", [False, True])
def test_seabirds_and_waterfowl_are_waterbirds_and_others_are_not(whole_words):
    for species in ("141.Artic_Tern", "Tern", "053.Western_Grebe", "086.Pacific_Loon", "pacific-loon"):
        expected = whole_words or species != "pacific-loon"  # a substring needs CUB's own spelling
        assert is_waterbird(species, whole_words=whole_words) == expected
    for species in ("016.Painted_Bunting", "Loon", "Pacific_Wren", "110.Geococcyx"):
        assert not is_waterbird(species, whole_words=whole_words)


def test_the_recipes_counts_add_up_to_cub():
    assert [sum(RECIPE_COUNTS[split]) for split in ("train", "validation", "test")] == [4795, 1199, 5794]


# building


def test_the_recipe_splits_assigns_and_writes_the_archives_layout(cub, places, tmp_path):
    found = build_waterbirds(cub, places, tmp_path / "out", seed=0)
    rows = table_of(tmp_path / "out")
    assert list(rows[0]) == ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    official = dict(line.split() for line in (cub / "train_test_split.txt").read_text().splitlines())
    for row in rows:
        assert (row["split"] == "2") == (official[row["img_id"]] == "0")
        assert row["y"] == str(int(row["img_filename"].startswith(WATERBIRD)))
        kinds = (LAND, WATER)[int(row["place"])]
        assert any(kind in row["place_filename"] for kind in kinds)
        assert (places / row["place_filename"].lstrip("/")).is_file()
        bird = opened(cub / "images" / row["img_filename"])
        assert opened(tmp_path / "out" / row["img_filename"]).size == bird.size
    assert len({row["place_filename"] for row in rows}) == len(rows) == 140
    assert {name: sum(n) for name, n in found.items()} == {"train": 56, "validation": 14, "test": 70}
    assert found["test"] == (25, 25, 10, 10)
    land, water, strays, waterbirds = found["validation"]
    assert max(abs(land - water), abs(strays - waterbirds)) <= 1  # halves
    train = [[0, 0], [0, 0]]
    for row in rows:
        if row["split"] == "0":
            train[int(row["y"])][int(row["place"])] += 1
    assert (*train[0], *train[1]) == found["train"]
    assert [min(pair) for pair in train] == [round(0.05 * sum(pair)) for pair in train]
    assert found["train"][0] > found["train"][1]
    assert found["train"][3] > found["train"][2]


def test_an_image_is_the_bird_over_its_own_background(cub, places, tmp_path):
    build_waterbirds(cub, places, tmp_path / "out", seed=0)
    for row in table_of(tmp_path / "out")[::20]:
        bird = opened(cub / "images" / row["img_filename"])
        mask = np.array(opened(cub / "segmentations" / row["img_filename"].replace(".jpg", ".png")))
        behind = fit_background(opened(places / row["place_filename"].lstrip("/")), bird.size)
        expected = composite(
            torch.tensor(np.array(bird)).permute(2, 0, 1),
            torch.tensor(mask) / 255,
            torch.tensor(np.array(behind)).permute(2, 0, 1),
        )
        Image.fromarray(expected.permute(1, 2, 0).numpy()).save(tmp_path / "expected.jpg")
        assert (tmp_path / "expected.jpg").read_bytes() == (
            tmp_path / "out" / row["img_filename"]
        ).read_bytes()


def test_a_seed_is_a_set_and_birds_on_black_share_its_splits_and_places(cub, places, tmp_path):
    found = [build_waterbirds(cub, places, tmp_path / str(i), seed=seed) for i, seed in enumerate((5, 5, 6))]
    same, again, other = (table_of(tmp_path / str(i)) for i in range(3))
    assert found[0] == found[1]
    assert same == again
    assert [row["split"] for row in same] != [row["split"] for row in other]
    # The test set is the same birds whatever the seed, so only the draw of places can tell its places apart.
    places_of_test = [[row["place"] for row in rows if row["split"] == "2"] for rows in (same, other)]
    assert places_of_test[0] != places_of_test[1]
    used = [{row["place_filename"] for row in rows} for rows in (same, other)]
    assert len(used[0] - used[1]) > 20  # 42 of the 140 on average
    assert build_waterbirds(cub, None, tmp_path / "black", seed=5) == found[0]
    masked = table_of(tmp_path / "black")
    assert {row["place_filename"] for row in masked} == {""}
    assert [row | {"place_filename": ""} for row in same] == masked
    pixels = np.array(opened(tmp_path / "black" / masked[0]["img_filename"])).astype(int)
    assert pixels[:, -1].max() < 40  # black but for what JPEG leaks
    assert pixels[4:8, 6:10].mean() > 80


def test_what_was_built_is_read(cub, places, tmp_path):
    found = build_waterbirds(cub, places, tmp_path / "out", seed=0)
    read = load_waterbirds(tmp_path / "out", prepare)
    assert {name: tuple(counts(images).tolist()) for name, images in read.items()} == found
    train = read["train"]
    corner = train.pixels[:, :, 0, 5].float()  # green on land, blue on water
    assert torch.equal((corner[:, 2] > corner[:, 1]).long(), train.attributes["attribute"])


def test_whole_words_move_a_species(cub, places, tmp_path):
    for part in ("images", "segmentations"):
        (cub / part / LANDBIRD).rename(cub / part / "021.Eastern_Towhee")
    listing = (cub / "images.txt").read_text().replace(LANDBIRD, "021.Eastern_Towhee")
    (cub / "images.txt").write_text(listing)
    found = build_waterbirds(cub, places, tmp_path / "mended", seed=0, whole_words=True)
    assert found["test"] == (25, 25, 10, 10)
    assert build_waterbirds(cub, places, tmp_path / "slip", seed=0)["test"] == (0, 0, 35, 35)


def test_an_interrupted_build_is_not_a_set_and_can_be_run_again(cub, tmp_path):
    mask = cub / "segmentations" / WATERBIRD / "g_30.png"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:40])
    with pytest.raises(DataError, match=r"1 of 1 image files cannot be decoded, first \S*g_30\.png"):
        build_waterbirds(cub, None, tmp_path / "out", seed=0)
    with pytest.raises(DataError, match=r"metadata\.csv is missing; unpack .*data_scripts/waterbirds\.py"):
        load_waterbirds(tmp_path / "out", prepare)
    mask.write_bytes(whole)
    build_waterbirds(cub, None, tmp_path / "out", seed=0)
    assert len(table_of(tmp_path / "out")) == 140
    with pytest.raises(DataError, match="already holds a set; give another folder"):
        build_waterbirds(cub, None, tmp_path / "out", seed=0)


def test_sources_are_not_written_over(cub, places):
    for out in (cub / "images", places / "out", cub):
        with pytest.raises(InputError, match=r"lies inside .*; give a folder outside"):
            build_waterbirds(cub, places, out, seed=0)


def test_too_few_backgrounds_and_missing_categories_are_named(cub, tmp_path):
    write_places(tmp_path / "few", LAND, 50, 0, letters=False)
    write_places(tmp_path / "few", WATER[:1], 3, 0, letters=False)
    with pytest.raises(DataError, match=r"neither \S*few/lake/natural nor \S*few/l/lake/natural; unpack"):
        build_waterbirds(cub, tmp_path / "few", tmp_path / "out", seed=0)
    write_places(tmp_path / "few", WATER[1:], 4, 0, letters=False)
    with pytest.raises(
        DataError, match=r"holds 7 images of ocean and lake/natural but \d\d are needed, one a"
    ):
        build_waterbirds(cub, tmp_path / "few", tmp_path / "out", seed=0)


def test_an_incomplete_cub_is_refused(cub, tmp_path):
    def refused(message):
        with pytest.raises(DataError, match=message):
            build_waterbirds(cub, None, tmp_path / "out", seed=0)

    Image.new("L", (9, 9)).save(cub / "segmentations" / LANDBIRD / "b_0.png")
    refused(r"^012\.Yellow_headed_Blackbird/b_0\.jpg: .*\[3, 12, 16\] but the mask \[9, 9\]")
    (cub / "segmentations" / LANDBIRD / "b_0.png").unlink()
    (cub / "images" / WATERBIRD / "g_1.jpg").unlink()
    refused(r"2 of 280 images and masks are missing, first \S*g_1\.jpg; unpack")
    split = (cub / "train_test_split.txt").read_text()
    for wrong in (split.replace("7 1\n", "7 2\n", 1), split.replace("140 0\n", "")):
        (cub / "train_test_split.txt").write_text(wrong)
        refused("do not list the same images, each with 0 or 1; unpack")
    (cub / "train_test_split.txt").write_text("1\n")
    refused(r"train_test_split\.txt has a line that is not two words")
    (cub / "images.txt").unlink()
    refused(r"images\.txt is missing; unpack CUB")


def test_the_command_line_builds_and_says_what_is_wrong(cub, tmp_path):
    def run(*arguments):
        script = paths.ROOT / "data_scripts" / "waterbirds.py"
        return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)

    done = run(cub, "-", tmp_path / "out", "--black", "--seed", "3", "--whole-words")
    assert done.returncode == 0, done.stderr
    assert "'test': (25, 25, 10, 10)" in done.stdout
    again = run(cub, "-", tmp_path / "out", "--black")
    assert again.returncode == 1
    assert again.stderr.startswith(f"{tmp_path / 'out'} already holds a set")


# reading


def test_the_archives_layout_is_read_by_split_with_its_groups(built):
    read = load_waterbirds(built, prepare)
    assert list(read) == ["train", "validation", "test"]
    for code, images in enumerate(read.values()):
        assert images.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
        assert images.attributes["attribute"].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
        values = [80 * code + offset for offset in (0, 1, 20, 21, 40, 41, 60, 61)]
        assert images.pixels[:, 0, 0, 0].tolist() == values


def test_a_cap_is_a_cap_of_every_group_and_its_seed_draws(built):
    drawn = set()
    for seed in range(6):
        capped = load_waterbirds(built, prepare, cap=1, seed=seed)
        for images in capped.values():
            assert counts(images).tolist() == [1, 1, 1, 1]
        again = load_waterbirds(built, prepare, cap=1, seed=seed)
        assert torch.equal(capped["train"].pixels, again["train"].pixels)
        drawn.add(tuple(capped["train"].pixels[:, 0, 0, 0].tolist()))
    assert len(drawn) > 1
    assert len(load_waterbirds(built, prepare, cap=9)["train"]) == 8
    with pytest.raises(ParameterError, match="cap is 0 but must be at least 1"):
        load_waterbirds(built, prepare, cap=0)


def test_a_table_without_a_column_or_with_an_unknown_code_is_refused(built):
    text = (built / "metadata.csv").read_text()
    for wrong, message in (
        (text.replace("place,", "plaice,", 1), r"metadata\.csv has no column place; unpack"),
        ("", r"metadata\.csv has no column img_filename"),
        (text.replace(".png,1,0,0,", ".png,2,0,0,", 1), r"Row 5 of \S* has y '2' instead of 0 or 1; unpack"),
        (text.replace(".png,0,1,0,", ".png,0,3,0,", 1), r"Row 9 of \S* has split '3' instead of 0, 1 or 2;"),
        (text.replace(",0,/o/ocean/x.jpg", ",,", 1), r"Row 1 of \S* has place '' instead of 0 or 1"),
        (text + "25,x.png\n", r"Row 25 of \S* has split '' instead of"),
        (text.replace(",1,0,/o", ",2,0,/o").replace(",1,1,/o", ",2,1,/o"), "split validation; fetch"),
    ):
        (built / "metadata.csv").write_text(wrong)
        with pytest.raises(DataError, match=message):
            load_waterbirds(built, prepare)


def test_a_table_that_is_no_text_is_refused(built):
    (built / "metadata.csv").write_bytes(b"\xff\xfe\x00img")
    with pytest.raises(
        DataError, match=r"metadata\.csv is no table in UTF-8 .*; unpack the released archive"
    ):
        load_waterbirds(built, prepare)


def test_missing_images_are_counted_and_the_first_is_named(built):
    (built / "0.species" / "100.png").unlink()
    (built / "1.species" / "201.png").unlink()
    with pytest.raises(DataError, match=r"2 of the 24 images to read are missing, first \S*100\.png; unpack"):
        load_waterbirds(built, prepare)
