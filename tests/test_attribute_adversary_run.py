"""The runs of the attribute-adversary chapter: on few garments, and on a generated folder in CelebA's layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from nuisance.data.groups import counts
from nuisance.errors import DataError
from nuisance.experiments import attribute_adversary as aa
from nuisance.experiments import attribute_adversary_data as data
from nuisance.experiments.attribute_adversary_printed import (
    chance_of_gap,
    discrepancies,
    is_a_share,
    nearest_counts,
)
from nuisance.experiments.attribute_adversary_settings import DEFAULTS
from nuisance.experiments.attribute_adversary_study import Results
from nuisance.metrics.intervals import mean_interval

TINY = DEFAULTS["reduced", "garments_outdoors"] | {
    "images": 300,
    "epochs": 2,
    "batch_size": 50,
    "probe_epochs": 2,
    "translator_steps": 2,
}
COMMON = {"dataset": "garments_outdoors", "data_root": "", "device": "cpu"}


def outcome_of(row, seed=0, **settings):
    return aa.experiment(row, seed, strength=0.5, settings=TINY | settings, **COMMON)


@pytest.fixture(scope="module")
def erm():
    return outcome_of("erm")


def test_an_outcome_is_about_the_test_images(erm):
    assert erm["groups"].bincount().tolist() == [300] * 4
    # of 300 images 230 are of the first class; 5 % of either class are on the other place
    assert erm["train_counts"].tolist() == [218, 12, 4, 66]
    for chosen in erm["chosen"].values():
        assert chosen["right"].dtype == torch.bool
        assert chosen["right"].shape == (1200,)
        assert chosen["embeddings"].shape == (1200, 64)
        assert 0 <= chosen["probe_accuracy"] <= 1


def test_the_same_seed_gives_the_same_outcome(erm):
    again = outcome_of("erm")
    assert again["history"] == erm["history"]
    for rule, chosen in erm["chosen"].items():
        assert torch.equal(chosen["embeddings"], again["chosen"][rule]["embeddings"])


def test_the_chosen_epoch_is_the_one_that_its_rule_ranks_first(erm):
    worst = erm["history"]["worst"]
    assert erm["chosen"]["worst_group"]["epoch"] == int(np.argmax(worst))
    assert erm["chosen"]["worst_group"]["validation"]["worst"] == max(worst)


def test_without_strength_the_adversary_is_erm_on_balanced_groups():
    adversary = aa.experiment("adversary", 0, strength=0.0, settings=TINY, **COMMON)
    balanced = outcome_of("erm_balanced")
    for rule, chosen in balanced["chosen"].items():
        assert torch.equal(chosen["embeddings"], adversary["chosen"][rule]["embeddings"])


@pytest.mark.parametrize("row", [row for row in aa.ROWS if row not in ("erm", "erm_balanced", "clamp")])
def test_every_row_runs_and_differs_from_erm(row, erm):
    found = outcome_of(row)
    rule = "worst_group"
    assert not torch.equal(found["chosen"][rule]["embeddings"], erm["chosen"][rule]["embeddings"])


def test_on_black_the_place_cannot_be_found():
    chosen = outcome_of("erm_black")["chosen"]["worst_group"]
    assert chosen["probe_accuracy"] == pytest.approx(0.5, abs=1e-6)
    assert chosen["validation"]["group_0"] == chosen["validation"]["group_1"]


def test_translations_reach_the_images_that_they_were_made_of():
    train = data.load_splits("garments_outdoors", 0, data_root="", settings=TINY)["train"]
    translated = [aa.translate(0, label, settings=TINY, **COMMON) for label in (0, 1)]
    translations, reports = zip(*[(of["pixels"], of["report"]) for of in translated], strict=True)
    for label, moved in enumerate(translations):
        assert 0 <= reports[label]["moved"] <= 1
        original = train.pixels[train.labels == label]
        assert moved.shape == original.shape
        assert moved.dtype == torch.uint8
        # an untrained translator blends: its output is nearer to its own image than to another one
        own = (moved.float() - original.float()).abs().mean()
        other = (moved.float() - original.roll(1, 0).float()).abs().mean()
        assert own < other
    found = aa.experiment("clamp", 0, strength=0.5, settings=TINY, translations=translations, **COMMON)
    assert "consistency_loss" in found["history"]


def test_a_gate_that_no_epoch_passes_falls_back_and_says_so():
    strict = outcome_of("erm", gate=0.999)["chosen"]["gate_then_hard"]
    assert strict["passed"] is False
    lenient = outcome_of("erm", gate=0.0)["chosen"]["gate_then_hard"]
    assert lenient["passed"] is True


def test_pretraining_teaches_the_other_garments():
    weights = aa.pretrain(device="cpu", settings=TINY | {"pretraining_epochs": 1})
    embed, dimensions = data.make_embedding("small_cnn", "", weights)
    assert dimensions == 64
    assert torch.equal(embed.network.fc.weight, weights["fc.weight"])


@pytest.fixture
def faces(tmp_path):
    """Eight photographs of every group and split, in CelebA's layout; hair is a colour above, sex one below."""
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows, codes = [], []
    for i in range(96):
        blond, male, split = i % 2, i // 2 % 2, i // 4 % 3
        pixels = random.integers(0, 60, (218, 178, 3), dtype=np.uint8)
        pixels[60:110, :, 0] += np.uint8(150 * blond)
        pixels[110:150, :, 2] += np.uint8(150 * male)
        name = f"{i:06}.jpg"
        Image.fromarray(pixels).save(root / "img_align_celeba" / name)
        rows.append(f"{name} {2 * blond - 1} {2 * male - 1}")
        codes.append(f"{name} {split}")
    (root / "list_attr_celeba.txt").write_text("\n".join(["96", "Blond_Hair Male", *rows]) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(codes) + "\n")
    return tmp_path


def test_the_path_of_photographs_runs_with_a_pretrained_network(faces):
    settings = DEFAULTS["reduced", "celeba"] | {"size": 64, "images": 6, "epochs": 1, "batch_size": 8}
    settings |= {"probe_epochs": 1, "translator_steps": 1}
    common = {"dataset": "celeba", "data_root": str(faces), "device": "cpu", "settings": settings}
    splits = data.load_splits("celeba", 0, data_root=str(faces), settings=settings)
    assert splits["train"].pixels.shape == (24, 3, 64, 64)
    assert all(counts(of).tolist() == [6] * 4 for of in splits.values())
    translations = tuple(aa.translate(0, label, **common)["pixels"] for label in (0, 1))
    for row, given in (("adversary", None), ("clamp", translations)):
        found = aa.experiment(row, 0, strength=0.5, translations=given, **common)
        assert found["chosen"]["worst_group"]["embeddings"].shape == (24, 1280)
    assert not data.has_objects_on_black("celeba", str(faces))


def test_the_start_is_probed_on_the_embedding_that_no_row_has_moved():
    weights = aa.pretrain(device="cpu", settings=TINY | {"pretraining_epochs": 1})
    first, again = (aa.probe_start(0, settings=TINY, weights=weights, **COMMON) for _ in range(2))
    assert first == again
    assert 0.5 < first <= 1  # places of drawn landscapes are easily told apart
    black = outcome_of("erm_black", epochs=1)["chosen"]["worst_group"]["probe_accuracy"]
    assert first > black


def test_all_images_are_as_many_as_the_recipe_allows():
    few, most = (
        data.load_splits("garments_outdoors", 0, data_root="", settings=TINY | {"images": images})["train"]
        for images in (100, 0)
    )
    assert len(few) == 100
    assert len(most) == 1950


def test_the_lists_of_all_folders_identify_the_data(tmp_path):
    for folder, content in (("waterbird_complete95_forest2water2", "a"), ("waterbirds_on_black", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "metadata.csv").write_text(content)
    before = data.fingerprint("waterbirds", "small_cnn", str(tmp_path))
    assert before.keys() == {"waterbird_complete95_forest2water2", "waterbirds_on_black"}
    (tmp_path / "waterbirds_on_black" / "metadata.csv").write_text("c")
    after = data.fingerprint("waterbirds", "small_cnn", str(tmp_path))
    assert [name for name in before if before[name] != after[name]] == ["waterbirds_on_black"]


def test_photographs_that_are_missing_are_named(tmp_path):
    with pytest.raises(DataError, match=r"list_attr_celeba\.txt"):
        data.fingerprint("celeba", "small_cnn", str(tmp_path))


def outcome_with(right_in_group, seed=0):
    """An outcome in which so many of ten images of each group are right."""
    right = torch.cat([torch.arange(10) < count for count in right_in_group])
    chosen = {"right": right, "probe_accuracy": 0.6 + 0.1 * seed, "passed": True}
    return {
        "groups": torch.arange(4).repeat_interleave(10),
        "train_counts": torch.tensor([70, 5, 5, 20]),
        "chosen": {"gate_then_hard": chosen},
    }


def test_results_are_means_over_seeds_and_differences_within_them():
    outcomes = {("erm", 0): outcome_with([10, 8, 2, 9]), ("erm", 1): outcome_with([10, 8, 4, 9], 1)}
    outcomes |= {("gdro", 0): outcome_with([9, 8, 7, 9]), ("gdro", 1): outcome_with([9, 8, 8, 9], 1)}
    results = Results(outcomes, {}, {}, {}, [0, 1], hard=2, resamples=100)
    assert results.rows() == ["erm", "gdro"]
    assert results.accuracy("erm", "hard") == mean_interval([0.2, 0.4])
    assert results.accuracy("erm", "overall").value == pytest.approx((29 + 31) / 80)
    assert results.accuracy("erm", "train_weighted").value == pytest.approx(0.7 + 0.04 + 0.015 + 0.18)
    assert results.accuracy("erm", "probe_accuracy") == mean_interval([0.6, 0.7])
    gained = results.difference(("gdro", "hard"), ("erm", "hard"))
    assert (gained.value, gained.low) == pytest.approx((0.45, 0.45 - 0.05 * 12.706), abs=1e-3)
    assert results.difference(("erm", "hard"), ("erm", "worst")).value == 0


def test_one_seed_has_a_bootstrap_over_images():
    results = Results({("erm", 3): outcome_with([10, 8, 2, 9])}, {}, {}, {}, [3], hard=2, resamples=500)
    found = results.accuracy("erm", "hard")
    assert found.value == pytest.approx(0.2)
    assert 0 <= found.low < 0.2 < found.high < 0.6


def test_printed_accuracies_as_counts_of_images():
    assert nearest_counts(90.03, 642) == (578, 577)
    assert is_a_share(90.03, 642)
    assert is_a_share(90.51, 5794)
    assert not is_a_share(90.29, 5794)
    # two of two against none of two: 2 of the 6 ways to place two right answers among four are as extreme
    assert chance_of_gap(100.0, 0.0, 2) == pytest.approx(1 / 3)
    table = discrepancies()
    assert "580 and 578 of 642" in table["from the counts"].iloc[0]
    assert "91.74" in table["from the counts"].iloc[3]
