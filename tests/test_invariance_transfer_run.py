"""The run of the invariance-transfer chapter: on few garments, and on generated photographs and signs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nuisance import store, study
from nuisance.data.nuisance_transforms import TRANSFORMS
from nuisance.errors import InputError, ParameterError
from nuisance.experiments import invariance_transfer as it
from nuisance.experiments import invariance_transfer_data as data
from nuisance.experiments import invariance_transfer_study as its
from nuisance.experiments.invariance_transfer_settings import DEFAULTS, LIMITS
from nuisance.experiments.invariance_transfer_study import Results, Trained
from nuisance.methods.long_tailed import CropAndFlip, LongTailedClassifier, StepSchedule
from nuisance.methods.munit import generator_report
from nuisance.metrics.expected_kl import expected_kl
from nuisance.metrics.intervals import mean_interval
from nuisance.models.resnet import CifarResNet
from nuisance.models.small_cnn import SmallCNN
from nuisance.seeding import deterministic, generator
from nuisance.training import fit

SMALL = {
    "batch_size": 32,
    "width": 4,
    "epochs": 3,
    "deferral": 2,
    "warm_up": 1,
    "judge_epochs": 1,
    "generator_width": 4,
    "generator_steps": 4,
    "report_images": 4,
    "kl_images": 3,
    "kl_draws": 3,
}
TINY = DEFAULTS["reduced", "fashion_mnist20k"] | SMALL | {"largest": 60}
SIZES = [60, 15, 6, 5, 5, 5, 5, 5, 5, 5]  # 60 / i^2, at least 5
K = 20
COMMON = {"dataset": "fashion_mnist20k", "data_root": "", "device": "cpu", "settings": TINY}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As in a run, whose outcomes are compared with these bit for bit."""
    deterministic()


@pytest.fixture(scope="module")
def sets():
    return data.make_sets("fashion_mnist20k", "background", 0, data_root="", settings=TINY)


@pytest.fixture(scope="module")
def judge():
    return it.train_judge("background", **COMMON)


@pytest.fixture(scope="module")
def drawn(judge):
    return it.train_generator("background", 0, judge=judge, **COMMON)


@pytest.fixture(scope="module")
def first():
    """The first phases by what arms share."""
    kinds = {(arm.loss, arm.rand_augment) for arm in it.ROWS.values()}
    return {kind: it.first_phase(*kind, "background", 0, **COMMON) for kind in kinds}


@pytest.fixture(scope="module")
def outcome(first, drawn):
    """The outcome of a row, found once."""
    known = {}

    def of(row, threshold=K):
        if (row, threshold) not in known:
            arm = it.ROWS[row]
            known[row, threshold] = it.second_phase(
                row,
                "background",
                0,
                first=first[arm.loss, arm.rand_augment],
                weights=drawn["weights"] if arm.transfer else None,
                threshold=threshold,
                **COMMON,
            )
        return known[row, threshold]

    return of


def bare(found):
    """An outcome without its note."""
    return {name: value for name, value in found.items() if name != "note"}


# the images


def levels(disturbed, clean):
    """The background of every image that has one; it is one level, and all else is as it was."""
    assert torch.equal(disturbed[clean != 0], clean[clean != 0])
    found = []
    for image, original in zip(disturbed, clean, strict=True):
        if (original == 0).any():
            (level,) = image[original == 0].unique().tolist()
            found.append(level)
    assert max(found) <= 99
    return found


def test_a_set_has_the_recipes_sizes_and_changes_only_the_nuisance(sets):
    images, order = sets.tail.images, sets.tail.order
    assert sets.tail.class_sizes[order].tolist() == SIZES
    expected = [label for label, size in zip(order, SIZES, strict=True) for _ in range(size)]
    assert images.labels.tolist() == expected
    source = images.attributes["source"]
    assert torch.equal(sets.clean.labels[source], images.labels)
    head = (sets.clean.labels == order[0]).nonzero().flatten()[:60]
    assert source[:60].tolist() == head.tolist()
    of_train = levels(images.pixels, sets.clean.pixels[source])
    of_validation = levels(sets.validation.pixels, sets.clean_validation.pixels)
    clean_test = data.load_clean("fashion_mnist20k", "")["test"].pixels
    of_test = levels(sets.test.pixels, clean_test)
    assert len(set(of_train)) > 30
    assert len(set(of_test)) == 100
    # draws of their own, not one stream begun anew
    shared = [
        sum(a == b for a, b in zip(of_test, other, strict=False)) for other in (of_train, of_validation)
    ]
    assert shared[0] < 10
    assert shared[1] < 60


def test_only_the_training_images_have_a_tail(sets):
    clean = data.load_clean("fashion_mnist20k", "")
    for name in ("validation", "test"):
        assert torch.equal(getattr(sets, name).labels, clean[name].labels)
    assert torch.equal(sets.clean_validation.pixels, clean["validation"].pixels)
    x = sets.tail.images.pixels.numpy() / 255
    mean, deviation = sets.normalization
    assert mean == pytest.approx([x.mean()], abs=1e-6)
    assert deviation == pytest.approx([x.std()], rel=1e-4)


def test_a_seed_decides_the_classes_order_and_the_nuisance(sets):
    def of(seed, nuisance="background"):
        data._make_sets.cache_clear()
        return data.make_sets("fashion_mnist20k", nuisance, seed, data_root="", settings=TINY)

    again, other, rotated = of(0), of(1), of(0, "rotation")
    assert sorted(again.tail.order) == list(range(10))
    assert again.tail.order == sets.tail.order == rotated.tail.order != other.tail.order
    assert torch.equal(again.tail.images.pixels, sets.tail.images.pixels)
    assert torch.equal(again.test.pixels, sets.test.pixels)
    assert not torch.equal(other.test.pixels, sets.test.pixels)
    assert not torch.equal(rotated.test.pixels, sets.test.pixels)


@pytest.mark.parametrize(
    ("case", "classes", "images"),
    [
        (("full", "kuzushiji49"), 49, 7_864),
        (("full", "cifar10"), 10, 12_406),
        (("full", "cifar100"), 100, 10_847),
        (("reduced", "fashion_mnist20k"), 10, 1_857),
    ],
)
def test_the_settings_give_the_published_sizes(case, classes, images):
    assert sum(data.class_sizes(case[1], classes, DEFAULTS[case])) == images


def test_all_settings_name_the_same_parameters_and_keep_to_their_limits():
    names = DEFAULTS["reduced", "fashion_mnist20k"].keys()
    for settings in DEFAULTS.values():
        assert settings.keys() == names
        for name, limit in LIMITS.items():
            values = settings[name] if isinstance(settings[name], list) else [settings[name]]
            assert all(limit.allows(value) for value in values)
    parts = (its.SETS, its.CLASSIFIER, its.GENERATOR, its.GENERATOR_TRAINING, its.JUDGEMENT)
    used = [name for part in parts for name in part]
    of_the_run = ["seeds", "nuisances", "generated", "compared", "threshold", "thresholds", "judge_epochs"]
    assert sorted(used + of_the_run) == sorted(names)


def test_means_by_class():
    values, labels = torch.tensor([1.0, 0.0, 1.0, 3.0]), torch.tensor([0, 0, 2, 2])
    found = data.by_class(values, labels, 3).tolist()
    assert found[::2] == [0.5, 2.0]
    assert math.isnan(found[1])


# judge and generator


@torch.no_grad()
def test_a_judge_knows_the_classes(judge, sets):
    net = SmallCNN(classes=10, width=16)
    net.load_state_dict(judge["weights"])
    right = net.eval()(sets.test.pixels / 255).argmax(1) == sets.test.labels
    assert judge["accuracy"] == pytest.approx(right.double().mean().item(), abs=2e-3)
    assert judge["accuracy"] > 0.5


@torch.no_grad()
def test_a_generators_report_is_about_validation_images(drawn, judge, sets):
    report, order = dict(drawn["report"]), sets.tail.order
    labels = sets.validation.labels
    seen = torch.cat([(labels == label).nonzero().flatten()[:4] for label in order])
    net = SmallCNN(classes=10, width=16)
    net.load_state_dict(judge["weights"])
    net.eval()
    method = it.make_generator(1, TINY, 0, two_generators=False)
    method.load_state_dict(drawn["weights"])
    random = generator(0, it._REPORT)

    def classify(pixels):
        return net(pixels / 255).argmax(1)

    expected = generator_report(method, sets.validation[seen], classify=classify, random=random)
    assert {name: report.pop(name) for name in expected} == pytest.approx(expected, abs=1e-2)
    right = classify(sets.validation.pixels[seen]) == labels[seen]
    assert report.pop("real_kept") == pytest.approx(right.double().mean().item(), abs=0.026)
    kept = classify(method.generate(sets.validation.pixels[seen], generator=random)) == labels[seen]
    by_rank = kept.view(10, 4).double().mean(1)
    assert len(by_rank.unique()) > 2
    found = torch.tensor(report.pop("kept_by_class"), dtype=torch.float64)
    assert (found - by_rank).abs().sum() <= 0.25  # rounding may turn one image over
    # a level of U{0, ..., 99} deviates by 28.9; that of 8 draws is on average 0.965 as large
    zeros = (sets.clean_validation.pixels[seen] == 0).double().mean().item()
    assert report.pop("true_variation") == pytest.approx(zeros * 0.965 * 28.87 / 255, rel=0.15)
    assert not report
    assert all(len(values) == 1 for values in drawn["history"].values())


def test_samples_are_real_images_each_before_its_versions(drawn, sets):
    samples = drawn["samples"]
    assert samples.shape == (10, it.SAMPLES, 1 + it.SAMPLES, 1, 28, 28)
    assert samples.dtype == torch.uint8
    for rank, label in enumerate(sets.tail.order):
        own = sets.tail.images.pixels[sets.tail.images.labels == label]
        assert torch.equal(samples[rank, :, 0], own[: it.SAMPLES])
    assert not torch.equal(samples[:, :, 1], samples[:, :, 2])


def test_the_seed_decides_the_generator(drawn, judge):
    again = it.train_generator("background", 0, judge=judge, **COMMON)
    other = it.train_generator("background", 1, judge=judge, **COMMON)
    assert torch.equal(again["samples"], drawn["samples"])
    assert again["report"] == drawn["report"]
    assert other["history"] != drawn["history"]


def test_two_generators_as_released(judge, first, outcome):
    released = it.train_generator("background", 0, judge=judge, two_generators=True, **COMMON)
    assert any(name.startswith("generators.1.") for name in released["weights"])
    given = {"first": first["cross_entropy", False], "weights": released["weights"], **COMMON}
    found = it.second_phase("drs_git_all", "background", 0, two_generators=True, **given)
    assert found["history"] != outcome("drs_git_all")["history"]
    with pytest.raises(RuntimeError, match=r"generators\.1"):
        it.second_phase("drs_git_all", "background", 0, **given)


# the two phases


def test_two_phases_are_one_uninterrupted_training(sets):
    settings = TINY | {"epochs": 4, "crop_and_flip": True}
    common = COMMON | {"settings": settings}
    start = it.first_phase("cross_entropy", False, "background", 0, **common)
    found = it.second_phase("erm", "background", 0, first=start, **common)

    torch.manual_seed(it._purpose(0, it._WEIGHTS))
    method = LongTailedClassifier(
        CifarResNet(blocks=1, widths=(4, 8, 16), in_channels=1, stem_stride=2).to(
            memory_format=torch.channels_last
        ),
        normalization=sets.normalization,
        schedule=StepSchedule(steps_per_epoch=116 // 32, warm_up=1, milestones=((2, 0.1), (3, 0.01))),
        class_sizes=sets.tail.class_sizes,
        augment=CropAndFlip(seed=it._purpose(0, it._CROP)),
    )
    order = generator(0, it._ORDER)
    history = fit(method, sets.tail.images, epochs=4, batch_size=32, generator=order)
    assert start["history"]["loss"] + found["history"]["loss"] == history["loss"]
    with torch.no_grad():
        predicted = torch.cat([method.predict(part).argmax(1) for part in sets.test.pixels.split(500)])
    right = predicted == sets.test.labels
    by_rank = [right[sets.test.labels == label].double().mean().item() for label in sets.tail.order]
    assert found["accuracy"] == by_rank
    clean, background = sets.clean_validation, TRANSFORMS["background"]
    for pairing, name in (("same", "kl"), ("released", "kl_released")):
        measured = expected_kl(
            method.predict,
            clean.pixels,
            clean.labels,
            background,
            per_class=3,
            draws=3,
            generator=generator(0, it._KL),
            pairing=pairing,
        )
        assert found[name] == measured.kl[sets.tail.order].tolist()
    # both phases go on from the state, and leave it as it is
    assert it.second_phase("erm", "background", 0, first=start, **common) == found


@pytest.mark.parametrize("row", it.ROWS)
def test_every_row_has_lists_by_rank_and_a_training_of_its_own(row, outcome):
    found = outcome(row)
    assert found["sizes"] == SIZES
    lists = ("accuracy", "validation_accuracy", "kl", "kl_released", "agreement", "confidence")
    assert sorted(found) == sorted(["sizes", "note", "history", *lists])
    for name in lists:
        assert len(found[name]) == 10
        assert all(math.isfinite(value) and value >= 0 for value in found[name])
        assert name.startswith("kl") or max(found[name]) <= 1
    assert found["note"] is None
    assert len(found["history"]["loss"]) == 1
    others = [outcome(other)["history"] for other in it.ROWS if other != row]
    assert found["history"] not in others


@pytest.mark.parametrize(
    ("row", "without"), [("git", "erm"), ("drs_git", "drs"), ("ldam_drs_git", "ldam_drs")]
)
def test_git_below_the_smallest_class_does_nothing_and_says_so(row, without, outcome):
    found = outcome(row, threshold=5)
    assert "K is 5 and the smallest class has 5" in found["note"]
    assert bare(found) == bare(outcome(without))
    assert bare(outcome(row, threshold=6)) != bare(found)


# the results


def outcome_with(accuracy, kl=None):
    kl = [0.1, 0.2, 0.4, 0.8] if kl is None else kl
    return {"sizes": [100, 20, 10, 5], "accuracy": accuracy, "kl": kl}


OUTCOMES = {
    Trained("drs", "background", 0): outcome_with([1.0, 0.8, 0.6, 0.4]),
    Trained("drs", "background", 1): outcome_with([1.0, 0.8, 0.6, 0.0]),
    Trained("drs_git", "background", 0, 20): outcome_with([1.0, 0.8, 0.6, 0.8]),
    Trained("drs_git", "background", 1, 20): outcome_with([1.0, 0.8, 0.6, 0.2]),
    Trained("drs_git", "background", 0, 10): outcome_with([0.1] * 4),
    Trained("drs_git", "background", 1, 10): outcome_with([0.3] * 4),
    Trained("drs_git_all", "background", 0): outcome_with([0.5] * 4),
    Trained("drs_git_all", "background", 1): outcome_with([0.5] * 4),
}
HAND_MADE = Results(OUTCOMES, {}, {}, [0, 1], threshold=20, compared="background")


def test_results_are_means_over_seeds_and_differences_within_them():
    assert its.balanced(OUTCOMES[Trained("drs", "background", 0)]) == pytest.approx(0.7)
    assert HAND_MADE.values("drs", "background", its.balanced) == pytest.approx([0.7, 0.6])
    found = HAND_MADE.mean("drs", "background", its.balanced)
    assert (found.value, found.low) == pytest.approx((0.65, 0.65 - 0.05 * 12.706), abs=1e-3)
    gained = HAND_MADE.difference("drs_git", "drs", "background", its.balanced)
    expected = mean_interval([0.1, 0.05])
    assert (gained.value, gained.low) == pytest.approx((expected.value, expected.low))
    assert HAND_MADE.mean("drs_git_all", "background", its.balanced).value == 0.5


def test_results_know_the_threshold_of_an_arm():
    assert HAND_MADE.mean("drs_git", "background", its.balanced, threshold=10).value == pytest.approx(0.2)
    tails = HAND_MADE.by_rank("drs_git", "background", "accuracy")[:, 3]
    assert tails.tolist() == [0.8, 0.2]
    assert HAND_MADE.by_rank("drs_git", "background", "accuracy", 10).shape == (2, 4)
    assert HAND_MADE.has("drs_git", "background")
    assert not HAND_MADE.has("drs_git", "dilation")
    assert not HAND_MADE.has("erm", "background")


def test_head_and_tail_are_cut_by_size():
    found = outcome_with([1.0, 0.8, 0.6, 0.4])
    assert its.small(found, 20) == [2, 3]
    assert its.small(found, 21) == [1, 2, 3]
    assert its.tail("accuracy", 20)(found) == pytest.approx(0.5)
    assert its.head("accuracy", 20)(found) == pytest.approx(0.9)
    assert its.tail("kl", 21)(found) == pytest.approx(1.4 / 3)
    assert its.head("kl", 21)(found) == pytest.approx(0.1)


def test_the_rank_correlation_of_size_and_kl():
    assert its.rank_correlation(outcome_with([], [0.1, 0.2, 0.4, 0.8])) == pytest.approx(-1)
    assert its.rank_correlation(outcome_with([], [0.8, 0.4, 0.2, 0.1])) == pytest.approx(1)
    tied = {"sizes": [60, 15, 5, 5], "kl": [0.1, 0.2, 0.3, 0.4]}
    # ranks 4, 3, 1.5, 1.5 against 1 to 4: -4.5 / sqrt(4.5 * 5)
    assert its.rank_correlation(tied) == pytest.approx(-math.sqrt(0.9))


# the run


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Starts a run of the chapter on one core, so that nothing waits for workers."""
    monkeypatch.setenv("NUISANCE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("NUISANCE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(store, "cores", lambda: 1)
    cell = dict.fromkeys([*study.COMMON, *TINY]) | {"scale": "reduced", "device": "cpu", "seeds": [0]}

    def start(dataset, **given):
        namespace = cell | SMALL | given | {"dataset": dataset}
        started = study.start("05_test", namespace, defaults=DEFAULTS, limits=LIMITS)
        started.use_data(data.fingerprint(dataset, str(started.parameters.data_root)))
        return started

    return start


def test_a_run_trains_every_arm_once(run, outcome, judge, drawn, capsys):
    given = {"nuisances": ["rotation", "background"], "generated": ["background"], "largest": 60}
    given |= {"threshold": K, "thresholds": [5, K]}
    results = its.compare(run("fashion_mnist20k", **given))
    expected = {Trained(row, "rotation", 0) for row in ("erm", "drs", "drs_oracle")}
    below = {row for row, arm in it.ROWS.items() if arm.transfer in ("below", "ramp")}
    expected |= {Trained(row, "background", 0, K if row in below else 0) for row in it.ROWS}
    assert set(results.outcomes) == expected | {Trained("drs_git", "background", 0, 5)}
    assert results.judges["background"]["accuracy"] == judge["accuracy"]
    assert results.generators["background", 0]["report"] == drawn["report"]
    for row in it.ROWS:
        assert results.outcomes[Trained(row, "background", 0, K if row in below else 0)] == outcome(row)
    assert "K is 5" in results.outcomes[Trained("drs_git", "background", 0, 5)]["note"]
    assert results.has("drs", "rotation")
    assert not results.has("drs_git", "rotation")
    assert results.by_rank("drs_git_ramp", "background", "sizes").tolist() == [SIZES]
    capsys.readouterr()
    again = its.compare(run("fashion_mnist20k", **given))
    assert again.outcomes == results.outcomes
    assert " s for " not in capsys.readouterr().err  # all from the store


@pytest.fixture
def photographs(tmp_path):
    """CIFAR-10's sample with 12 training and 2 test images a class, GTSRB's with three tracks of two frames a class.

    A class is a shade of the red channel, the rest is noise.
    """
    random = np.random.default_rng(0)

    def arrays(labels, classes):
        images = random.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        images[..., 0] = (np.array(labels) * 255 // classes)[:, None, None]
        return {"images": images, "labels": np.array(labels, np.uint8)}

    for folder in ("cifar10_sample", "gtsrb_sample"):
        (tmp_path / folder).mkdir()
    for split, count in (("train", 12), ("test", 2)):
        np.savez(tmp_path / f"cifar10_sample/{split}.npz", **arrays(list(range(10)) * count, 10))
    frames = [(label, track, frame) for label in range(43) for track in range(3) for frame in (9, 19)]
    names = np.array([f"gtsrb/{label}/{track:05d}_{frame:05d}.ppm" for label, track, frame in frames])
    signs = arrays([label for label, _, _ in frames], 43)
    np.savez(tmp_path / "gtsrb_sample/gtsrb_32px.npz", names=names, **signs)
    return tmp_path


@pytest.mark.parametrize(
    ("dataset", "sizes"),
    # 20 * 20^(-c / 9) of at most 11 images; 20 / i^1.8, at least 2, of at most 2
    [("cifar10", [20, 14, 10, 7, 5, 3, 2, 1, 1, 1]), ("gtsrb", [20, 5, 2] + [2] * 40)],
)
def test_photographs_run_with_the_nuisances_that_they_come_with(dataset, sizes, photographs, run):
    given = {"largest": 20, "smallest": 2, "imbalance": 20.0, "threshold": 6, "thresholds": [3]}
    started = run(dataset, data_root=str(photographs), style_dimensions=2, **given)
    assert started.parameters.nuisances == ["natural"]
    results = its.compare(started)
    assert {row for row, *_ in results.outcomes} == {row for row, arm in it.ROWS.items() if not arm.oracle}
    for found in results.outcomes.values():
        assert found["sizes"] == sizes
        assert len(found["accuracy"]) == len(found["validation_accuracy"]) == len(sizes)
        assert all(0 <= value <= 1 for value in found["accuracy"] + found["validation_accuracy"])
        assert not any(name.startswith("kl") or name in ("agreement", "confidence") for name in found)
    report = results.generators["natural", 0]["report"]
    assert report["true_variation"] is None
    assert len(report["kept_by_class"]) == len(sizes)

    _, released = its.draw(started, ["natural"], [0], two_generators=True)
    weights = {key: of["weights"] for key, of in released.items()}
    arm = Trained("drs_git_all", "natural", 0)
    found = its.train(started, [arm], weights, two_generators=True)
    assert found[arm]["history"] != results.outcomes[arm]["history"]

    def order(seed):
        settings = DEFAULTS["reduced", dataset] | given
        sets = data.make_sets(dataset, "natural", seed, data_root=str(photographs), settings=settings)
        source = sets.tail.images.attributes["source"]
        assert torch.equal(sets.tail.images.pixels, sets.clean.pixels[source])
        assert torch.equal(sets.validation.pixels, sets.clean_validation.pixels)
        return sets.tail.order

    shuffled = dataset == "gtsrb"
    assert (order(0) != list(range(len(sizes)))) == shuffled
    assert (order(0) != order(1)) == shuffled


def test_a_grey_nuisance_on_photographs_is_refused(photographs):
    settings = DEFAULTS["reduced", "cifar10"] | {"largest": 10, "imbalance": 2.0}
    with pytest.raises(InputError, match="grey images"):
        data.make_sets("cifar10", "background", 0, data_root=str(photographs), settings=settings)


def test_a_row_with_git_needs_a_generator(first):
    start = first["cross_entropy", False]
    with pytest.raises(InputError, match="The row 'git' needs a generator; give the weights"):
        it.second_phase("git", "background", 0, first=start, threshold=K, **COMMON)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"deferral": 3}, "deferral is 3 and epochs 3, but the second phase"),
        ({"generator_batch": 15}, "generator_batch is 15 but is cut into halves"),
        (
            {"compared": "dilation", "nuisances": ["background"]},
            "compared names 'dilation', which is not among",
        ),
        ({"generated": ["rotation"], "nuisances": ["background"]}, "generated names 'rotation'"),
        (
            {"nuisances": ["rotation", "background"], "compared": "rotation"},
            r"compared is 'rotation', for which no generator is trained; add it to generated, \['background'\]",
        ),
    ],
)
def test_parameters_that_do_not_go_together_are_refused_before_anything_is_trained(changed, words):
    settings = TINY | {"nuisances": ["background"], "generated": ["background"]} | changed
    with pytest.raises(ParameterError, match=words):
        its.compare(SimpleNamespace(parameters=SimpleNamespace(**settings)))


def test_without_a_class_on_one_side_of_k_there_is_no_mean():
    outcome = {"sizes": [9, 5], "kl": [1.0, 3.0]}
    assert its.tail("kl", 6)(outcome) == 3
    assert its.head("kl", 6)(outcome) == 1
    assert math.isnan(its.tail("kl", 5)(outcome))
    assert math.isnan(its.head("kl", 10)(outcome))
