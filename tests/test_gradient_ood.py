"""The runs of the gradient-OOD chapters, on a handful of garments."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nuisance.data.ood_sets import load_known_fashion
from nuisance.errors import DataError, ParameterError
from nuisance.experiments import gradient_ood, gradient_ood_settings
from nuisance.experiments import gradient_ood_sets as sets
from nuisance.experiments.gradient_ood_grid import grid
from nuisance.experiments.gradient_ood_study import (
    Results,
    Validation,
    _check,
    _chosen_cells,
    selected_aurocs,
    tail_accuracies,
)
from nuisance.metrics.detection import auroc
from nuisance.models.pretrained import stages
from nuisance.ood.gradient_norm import GradientNorm
from nuisance.ood.odin import ODIN

SETTINGS = {
    "held_out": [1, 4, 7, 8],
    "pool_images": 60,
    "validation_images": 20,
    "known_images": 30,
    "test_images": 10,
    "batch_size": 7,
}
COMMON = {"dataset": "fashion_mnist20k", "data_root": "", "device": "cpu", "settings": SETTINGS}
CONFIDENCES = torch.rand(60, generator=torch.Generator().manual_seed(0))


def loaded():
    return sets.load_sets(
        network="small_cnn",
        dataset="fashion_mnist20k",
        data_root="",
        settings=SETTINGS,
        confidences=CONFIDENCES,
    )


def test_the_sets_are_what_they_are_called():
    found = loaded()
    assert {name: {part: len(of) for part, of in parts.items()} for name, parts in found.items()} == {
        "known": {"validation": 20, "test": 30},
        "selected": {"validation": 20, "test": 10},
        "random": {"validation": 20, "test": 10},
        "restyled": {"validation": 20, "test": 10},
        "digits": {"validation": 20, "test": 10},
    }
    drawn = {
        (name, part): set(found[name][part].attributes["confidence"].tolist())
        for name in ("selected", "random")
        for part in ("validation", "test")
    }
    for name in ("selected", "random"):
        for other in ("selected", "random"):
            assert not drawn[name, "validation"] & drawn[other, "test"]  # no image chooses and is reported
    for part, count in (("validation", 20), ("test", 10)):
        assert len(drawn["random", part]) == count
        unselected = drawn["random", part] - drawn["selected", part]
        assert min(drawn["selected", part]) > max(unselected)  # the surest of that part of the pool
    for parts in (found["selected"], found["random"]):
        assert set(torch.cat([of.labels for of in parts.values()]).tolist()) <= {1, 4, 7, 8}
    train = load_known_fashion([1, 4, 7, 8])[0]["train"]
    images = sets.training_images("fashion_mnist20k", "", SETTINGS)
    assert images.labels.tolist() == train.labels.tolist()


def test_what_is_restyled_is_not_among_the_known_images():
    def read(**more):
        key = sets._key(SETTINGS | more)
        known, _, unstyled, _ = sets._read("fashion_mnist20k", "small_cnn", "", key)
        return known, unstyled

    known, unstyled = read()
    for part in ("validation", "test"):
        here = {image.numpy().tobytes() for image in known[part].pixels}
        assert not here & {image.numpy().tobytes() for image in unstyled[part].pixels}
    with pytest.raises(DataError, match="images are wanted but there are only 1800"):
        read(known_images=1795)


def test_pool_files_leaves_out_classes(tmp_path):
    for name in ("cracked", "bubbly"):
        (tmp_path / "dtd" / name).mkdir(parents=True)
        (tmp_path / "dtd" / name / "one.jpg").touch()
    settings = {"outlier_folders": ["dtd"], "leave_out": ["bubbly"]}
    assert [file.parent.name for file in sets.pool_files(tmp_path, settings)] == ["cracked"]
    with pytest.raises(DataError, match="No outlier is left"):
        sets.pool_files(tmp_path, {"outlier_folders": ["dtd"], "leave_out": ["bubbly", "cracked"]})


@pytest.fixture(scope="module")
def trained():
    return gradient_ood.train("small_cnn", 0, epochs=1, **COMMON)


def network_of(weights):
    return sets.make_network(
        "small_cnn", dataset="fashion_mnist20k", data_root="", settings=SETTINGS, weights=weights
    )


def test_training_learns_and_repeats_to_the_bit(trained):
    again = gradient_ood.train("small_cnn", 0, epochs=1, **COMMON)
    assert all(torch.equal(weight, again[name]) for name, weight in trained.items())
    known = load_known_fashion([1, 4, 7, 8])[0]["validation"]
    model = network_of(trained)
    logits = model(sets.prepare_inputs("small_cnn", known.pixels, "cpu"))
    assert (logits.argmax(1) == known.labels).float().mean() > 0.6


def test_a_part_of_the_grid_is_that_part_of_the_scores(trained):
    case = COMMON | {"confidences": CONFIDENCES, "weights": trained}
    cells = {"epsilons": [0, 0.01], "temperatures": [1, 10]}
    found = grid("small_cnn", "selected", 5, count=10, **cells, **case)
    assert found["odin"].shape == found["gradient"].shape == (10, 2, 2)
    model = network_of(trained)
    x = sets.prepare_inputs("small_cnn", loaded()["selected"]["validation"].pixels[5:15], "cpu")
    expected = GradientNorm(model, epsilon=0.01, temperature=10).scores(x)
    torch.testing.assert_close(found["gradient"][:, 1, 1].float(), expected, rtol=1e-4, atol=0)
    expected = ODIN(model, epsilon=0.01, temperature=10).scores(x)
    torch.testing.assert_close(found["odin"][:, 1, 1], expected, rtol=1e-5, atol=0)


def validation_of(known, outliers, epsilons, temperatures):
    """A `Validation` with given scores for both methods."""
    names = ("known", "selected", "random", "restyled")
    grids = {
        ("net", name): {score: known if name == "known" else outliers for score in ("odin", "gradient")}
        for name in names
    }
    cells = {("net", name): (epsilons, temperatures) for name in names}
    return Validation([("net", 0)], {("net", 0): None}, torch.zeros(0), grids, cells)


def test_the_best_cell_and_of_several_the_last():
    known = torch.zeros(3, 2, 2)
    outliers = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).expand(3, 2, 2)
    found = validation_of(known, outliers, [0, 0.1], [1, 5])
    assert found.heat("net", "selected", "odin").tolist() == [[1, 1], [1, 0]]
    assert found.best("net", "selected", "odin") == (0.1, 1)
    assert found.best("net", "selected", "odin", without="epsilon") == (0, 5)
    assert found.best("net", "selected", "odin", without="temperature") == (0.1, 1)
    assert _chosen_cells(found, "net")["selected"]["gradient_without_epsilon"] == [0, 5]


def test_a_coarser_grid_finds_its_cells_in_the_whole_one():
    known = torch.arange(12.0).view(1, 3, 4)
    found = validation_of(known, known, [0, 0.1, 0.2], [1, 2, 5, 10])
    found.cells["net", "random"] = ([0, 0.2], [2, 10])
    assert found.on_cells("net", "known", "random", "odin").tolist() == [[[1, 3], [9, 11]]]
    found.grids["net", "random"] = {"odin": torch.tensor([[[1.0, 3], [9, 11]]])}
    common = found.on_common_cells()
    assert common.cells["net", "known"] == ([0, 0.2], [2, 10])
    for name in ("known", "random", "selected"):
        assert common.grids["net", name]["odin"].tolist() == [[[1, 3], [9, 11]]]


def test_resampled_temperatures_follow_the_better_column():
    draws = torch.Generator().manual_seed(1)
    known = torch.randn(40, 1, 2, generator=draws)
    gap = torch.tensor([0.0, 3.0])
    outliers = torch.randn(40, 1, 2, generator=draws) + gap
    found = validation_of(known, outliers, [0], [1, 5])
    assert found.best_temperature("net", "selected", "odin", 50).tolist() == [5.0] * 50
    same = validation_of(known, known + 0 * gap, [0], [1, 5]).best_temperature("net", "selected", "odin", 400)
    assert 0.2 < (same == 5).float().mean() < 0.9  # neither column is the better one


def test_results_of_one_network(trained):
    cells = {
        "selected": {
            "odin": [0.0, 2.0],
            "gradient": [0.01, 2.0],
            "gradient_without_epsilon": [0.0, 2.0],
            "gradient_without_temperature": [0.01, 1.0],
        },
        "random": {"odin": [0.0, 1.0], "gradient": [0.0, 1.0]},
        "restyled": {"odin": [0.0, 5.0], "gradient": [0.0, 5.0]},
    }
    case = {"cells": cells, "confidences": CONFIDENCES, "weights": trained} | COMMON
    outcome = {images: gradient_ood.score_tests("small_cnn", 0, images, **case) for images in loaded()}
    model = network_of(trained)
    known = sets.prepare_inputs("small_cnn", loaded()["known"]["test"].pixels, "cpu")
    expected = GradientNorm(model, epsilon=0.01, temperature=2).scores(known)
    torch.testing.assert_close(outcome["known"]["gradient@selected"], expected, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(outcome["known"]["stages"].norm(dim=1), expected, rtol=1e-4, atol=1e-9)
    assert outcome["known"]["stages"].shape[1] == len(stages(model))
    parameters = SimpleNamespace(
        networks=["small_cnn"], seeds=[0], resamples=100, dataset="fashion_mnist20k", scale="reduced"
    )
    results = Results(SimpleNamespace(parameters=parameters), {("small_cnn", 0): outcome})
    assert results.sets == ["selected", "random", "restyled", "digits"]
    assert "ensemble" not in results.methods
    found = results.metric("small_cnn", "restyled", "gradient")
    one, other = outcome["known"]["gradient@restyled"], outcome["restyled"]["gradient"]
    assert found.value == auroc(one, other)
    assert found.low <= found.value <= found.high
    gap = results.difference("small_cnn", "digits", "gradient_plain", "msp")
    assert gap.value == pytest.approx(
        results.metric("small_cnn", "digits", "gradient_plain").value
        - results.metric("small_cnn", "digits", "msp").value
    )
    everything = results.scores(("small_cnn", 0), "selected", "blocks all")[0]
    torch.testing.assert_close(everything, outcome["known"]["gradient@selected"])
    one_block = results.scores(("small_cnn", 0), "selected", "blocks 1")[0]
    torch.testing.assert_close(one_block, outcome["known"]["stages"][:, 0])
    with pytest.raises(KeyError):
        results.scores(("small_cnn", 0), "selected", "confidence")
    rows = results.rows("auroc")
    assert len(rows) == 4 * len(results.methods)
    assert {row["printed"] for row in rows if row["method"] == "msp"} == {0.474, 0.803, None}
    kept = selected_aurocs(results, ("small_cnn", 0), "msp", np.array([1.0, 0.5]))
    assert kept[0] == auroc(outcome["known"]["msp"], outcome["random"]["msp"])


def test_tail_accuracies_by_hand():
    known = {
        "logits": torch.eye(2)[[0, 0, 1, 1]],
        "labels": torch.tensor([0, 1, 1, 0]),
        "score": torch.tensor([1.0, 4.0, 2.0, 3.0]),
    }
    assert tail_accuracies(known, "score", np.array([0, 0.5, 0.75])) == [0.5, 0.0, 0.0]


def test_the_best_ensemble_is_the_best_of_six():
    draws = torch.Generator().manual_seed(0)

    def outcome():
        return {
            name: {"logits": scale * torch.randn(20, 3, generator=draws), "msp": torch.zeros(20)}
            for name, scale in (("known", 5.0), ("selected", 1.0))
        }

    parameters = SimpleNamespace(networks=["net"], seeds=[0, 1], resamples=100, dataset="cifar10")
    results = Results(SimpleNamespace(parameters=parameters), {("net", 0): outcome(), ("net", 1): outcome()})
    name, known, outliers = results.best_ensemble("net", "selected")
    assert name in (
        "confidence",
        "entropy_of_expected",
        "expected_entropy",
        "mutual_information",
        "epkl",
        "mkl",
    )
    members = [results.outcomes["net", seed] for seed in (0, 1)]
    mean = torch.stack([of["selected"]["logits"].softmax(1) for of in members]).mean(0)
    mean_known = torch.stack([of["known"]["logits"].softmax(1) for of in members]).mean(0)
    assert auroc(known, outliers) >= auroc(-mean_known.amax(1), -mean.amax(1)) - 1e-6


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epsilons": [0.1]}, "epsilons must hold 0"),
        ({"coarse_temperatures": [2]}, "coarse_temperatures 1"),
        ({"coarse_epsilons": [0, 0.5]}, r"coarse_epsilons has 0\.5, which epsilons has not"),
        ({"networks": ["resnet20_cifar10"], "seeds": [0, 1]}, "trained already: give one seed"),
        ({"dataset": "imagenet"}, "ImageNet's networks are not trained here"),
    ],
)
def test_parameters_that_do_not_fit_each_other(wrong, words):
    good = {
        "epsilons": [0, 0.1],
        "temperatures": [1, 2],
        "coarse_epsilons": [0],
        "coarse_temperatures": [1],
        "networks": ["small_cnn"],
        "reference": "small_cnn",
        "seeds": [0, 1],
        "dataset": "fashion_mnist20k",
    }
    _check(SimpleNamespace(**good))
    with pytest.raises(ParameterError, match=words):
        _check(SimpleNamespace(**good | wrong))


@pytest.mark.parametrize("scale_and_dataset", gradient_ood_settings.DEFAULTS)
def test_defaults_keep_to_their_limits(scale_and_dataset):
    for name, value in gradient_ood_settings.DEFAULTS[scale_and_dataset].items():
        limit = gradient_ood_settings.LIMITS.get(name)
        for item in value if isinstance(value, list) else [value]:
            assert limit is None or limit.allows(item), (name, item)
