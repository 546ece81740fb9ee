"""The run of the natural-transformation chapter: on few garments, and on a generated folder in CelebA's layout."""

import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import mse_loss
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from nuisance import store, study
from nuisance.data.distortions import DISTORTIONS
from nuisance.data.embedded import load_embedded
from nuisance.data.images import Images
from nuisance.errors import DataError, InputError, ParameterError
from nuisance.experiments import natural_transformation as nt
from nuisance.experiments import natural_transformation_data as data
from nuisance.experiments import natural_transformation_study as nts
from nuisance.experiments.natural_transformation_settings import DEFAULTS, LIMITS
from nuisance.methods.directions import Directions, keep_directions, sefa
from nuisance.methods.inversion import edited, leftover
from nuisance.methods.natural_transformation import NaturalTransformation
from nuisance.metrics.intervals import mean_interval
from nuisance.metrics.samples import frechet_distance, precision_recall
from nuisance.models.pretrained_generator import load_pretrained_generator
from nuisance.models.progressive_generator import ProgressiveGenerator
from nuisance.models.small_cnn import SmallCNN
from nuisance.models.style_generator import StyleGenerator
from nuisance.seeding import deterministic, generator, seed_weights
from nuisance.training import fit

SMALL = {
    "seeds": [0, 1],
    "images": 200,
    "test_images": 100,
    "latent": 8,
    "generator_width": 4,
    "discriminator_width": 4,
    "generator_steps": 200,
    "generator_batch": 16,
    "generator_rate": 5e-3,
    "shift_steps": 4,
    "reconstruction_steps": 6,
    "expansion_images": 12,
    "codes": 2,
    "directions": 4,
    "direction_images": 60,
    "direction_steps": 12,
    "amplitudes": [0.5, 1.0],
    "smallest_change": 0.0,
    "largest_flip": 0.3,
    "judge_epochs": 30,
    "epochs": 4,
    "batch_size": 20,
    "learning_rate": 0.01,
    "width": 8,
    "draws": 2,
    "ascent_steps": 2,
    "edit_images": 30,
}
TINY = DEFAULTS["reduced", "fashion_mnist20k"] | SMALL
COMMON = {"dataset": "fashion_mnist20k", "data_root": "", "device": "cpu"}
CALL = {**COMMON, "settings": TINY}


def forget():
    data._make_sets.cache_clear()


@contextmanager
def garments(**splits):
    """Let the chapter read these images instead of the embedded ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_embedded", lambda name: splits)
        forget()
        yield
    forget()


@pytest.fixture(scope="module")
def source():
    clean = load_embedded("fashion_mnist20k")
    # the validation images' first hundreds are of few classes
    steps = {"train": slice(700), "validation": slice(None, None, 17), "test": slice(130)}
    return {split: clean[split][step] for split, step in steps.items()}


@pytest.fixture(autouse=True, scope="module")
def _few_garments(source):
    deterministic()  # as in a run, whose outcomes are compared with these bit for bit
    with garments(**source), pytest.MonkeyPatch.context() as patch:
        patch.setattr(nt, "JUDGE_WIDTH", 8)
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a run of the chapter on one core, so that nothing waits for workers; all share a store."""
    cell = dict.fromkeys([*study.COMMON, *TINY]) | {"scale": "reduced", "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUISANCE_STORE", str(tmp_path_factory.mktemp("store")))
        patch.setenv("NUISANCE_RESULTS", str(tmp_path_factory.mktemp("results")))
        patch.setattr(store, "cores", lambda: 1)

        def begin(dataset="fashion_mnist20k", **given):
            namespace = cell | SMALL | {"dataset": dataset} | given
            run = study.start("06_test", namespace, defaults=DEFAULTS, limits=LIMITS)
            p = run.parameters
            run.use_data(data.fingerprint(dataset, str(p.data_root), p.generator_file))
            return run

        yield begin


@pytest.fixture(scope="module")
def found(start):
    """What a run comes to, of which the tests look at the parts."""
    return nts.compare(start())


@pytest.fixture(scope="module")
def sets():
    return data.make_sets("fashion_mnist20k", data_root="", settings=TINY)


@pytest.fixture(scope="module")
def world(found, sets):
    """The networks of the run, and the directions along which it edits."""
    pictures, encoder, _ = nt._load(found.networks, sets, TINY, "cpu")
    judge = nt._load_judge(found.judge, sets, "cpu")
    return SimpleNamespace(
        pictures=pictures, encoder=encoder, judge=judge, vectors=found.directions["sefa"]["vectors"]
    )


def edits_of(found, **changed):
    """The arguments of a row with edits."""
    vectors = found.directions["sefa"]["vectors"]
    return {"networks": found.networks, "inverted": found.inverted, "vectors": vectors, **CALL} | changed


def same(one, other):
    """Whether two trainings gave the same classifier."""
    return all(torch.equal(weight, other["weights"][name]) for name, weight in one["weights"].items())


def shares(right):
    return torch.tensor(right).double().mean().item()


# the images


def rows(images):
    """Images with their labels, as values that can be compared in any order."""
    return [
        (label, pixels.numpy().tobytes())
        for label, pixels in zip(images.labels.tolist(), images.pixels, strict=True)
    ]


def test_the_judge_and_the_classifiers_share_no_image_and_the_generator_has_all(sets, source):
    assert rows(sets.unlabelled) == rows(sets.train) + rows(sets.others)
    assert sorted(rows(sets.unlabelled)) == sorted(rows(source["train"]))
    assert len(set(rows(sets.unlabelled))) == 700
    assert (len(sets.train), len(sets.others), len(sets.test)) == (200, 500, 100)
    assert sorted(rows(sets.validation)) == sorted(rows(source["validation"]))
    assert set(rows(sets.test)) < set(rows(source["test"]))
    assert (sets.classes, sets.channels, sets.side) == (10, 1, 28)


def test_the_first_images_of_a_split_are_of_all_classes():
    settings = DEFAULTS["reduced", "fashion_mnist20k"]
    with garments(**load_embedded("fashion_mnist20k")):
        sets = data.make_sets("fashion_mnist20k", data_root="", settings=settings)
        judged_on = sets.validation[: settings["direction_images"]]
        for images in (sets.train, sets.test, judged_on):
            assert images.labels.bincount(minlength=10).min() > len(images) / 20


MOVES = {
    "rotation": lambda pixels, size: tv.rotate(pixels, -size, InterpolationMode.BILINEAR),
    "brightness": lambda pixels, size: (pixels.int() + round(255 * size)).clamp(0, 255).byte(),
}


def test_an_image_is_distorted_in_the_same_direction_at_all_severities(sets):
    clean, drawn = sets.test.pixels, []
    for name, move in MOVES.items():
        fits = torch.ones(2, len(clean), dtype=torch.bool)  # either way, as far as it fits at all severities
        for level, amount in enumerate(DISTORTIONS[name].amounts, 1):
            for way, size in enumerate((amount, -amount)):
                fits[way] &= (
                    (data.distorted(sets.test, name, level).pixels == move(clean, size)).flatten(1).all(1)
                )
        assert (fits.sum(0) == 1).all()
        drawn.append(fits[0])
        assert 30 < fits[0].sum() < 70
    assert not torch.equal(*drawn)  # drawn anew for every distortion
    assert torch.equal(data.distorted(sets.test, "noise", 3).labels, sets.test.labels)


def test_all_settings_name_the_same_parameters_keep_to_their_limits_and_decide_a_part():
    names = DEFAULTS["reduced", "fashion_mnist20k"].keys()
    for settings in DEFAULTS.values():
        assert settings.keys() == names
        for name, limit in LIMITS.items():
            values = settings[name] if isinstance(settings[name], list) else [settings[name]]
            assert all(limit.allows(value) for value in values)
    assert LIMITS.keys() == names - {"generator_file"}
    parts = (nts.SETS, nts.GENERATOR, nts.INVERSION, nts.RECONSTRUCTION, nts.DIRECTIONS, nts.CLASSIFIER)
    used = {name for part in (*parts, nts.EDITS) for name in part}
    assert used | {"seeds", "judge_epochs", "epsilon", "edit_images"} == names


def test_the_checksums_are_of_all_that_is_read(tmp_path):
    assert data.fingerprint("fashion_mnist20k", "", "").keys() == {"fashion_mnist20k.npz"}
    path = tmp_path / "weights.pth"
    found = []
    for content in ("a", "b"):
        path.write_text(content)
        found.append(data.fingerprint("fashion_mnist20k", "", str(path)))
    assert [name for name in found[0] if found[0][name] != found[1][name]] == ["weights.pth"]


# judge and generator


@torch.no_grad()
def test_a_judges_accuracy_is_that_of_a_plain_loop(found, world, sets):
    images = zip(sets.validation.pixels, sets.validation.labels, strict=True)
    right = [world.judge(pixels[None] / 255).argmax().item() == label for pixels, label in images]
    assert found.judge["accuracy"] == pytest.approx(shares(right), abs=1e-2)
    assert found.judge["accuracy"] > 0.5


def test_every_network_learns_from_its_own_images_and_the_generator_from_no_label(found, sets, source):
    train, others = source["train"], set(rows(sets.others))
    of_judge = torch.tensor([row in others for row in rows(train)])
    labels = train.labels.roll(1)
    with garments(**source | {"train": Images(train.pixels, labels)}):
        unlabelled = nt.train_generator(**CALL)
        mislabelled = nt.train_classifier("standard", 0, **CALL)
    pixels = train.pixels.clone()
    pixels[~of_judge] = 255 - pixels[~of_judge]
    with garments(**source | {"train": Images(pixels, train.labels)}):
        judge = nt.train_judge(**CALL)
    pixels = train.pixels.clone()
    pixels[of_judge] = 0
    with garments(**source | {"train": Images(pixels, train.labels)}):
        standard = nt.train_classifier("standard", 0, **CALL)
    assert same(unlabelled, found.networks)
    assert same(judge, found.judge)
    assert same(standard, found.outcomes["standard", 0])
    assert not same(mislabelled, standard)


@torch.no_grad()
def test_samples_are_judged_against_test_images_in_the_judges_features(found, world, sets):
    real = sets.test.pixels / 255
    latents = torch.randn(100, 8, generator=generator(0, nt._SAMPLES))
    drawn = {
        "samples": world.pictures(latents),
        "reconstructions": world.pictures(world.encoder(real)),
        "training images": sets.train.pixels[:100] / 255,
    }
    wanted = world.judge.features(real)
    for name, images in drawn.items():
        features = world.judge.features(images)
        expected = (frechet_distance(wanted, features), *precision_recall(wanted, features))
        got = found.quality[name]
        assert (got["frechet"], got["precision"], got["recall"]) == pytest.approx(
            expected, rel=1e-3, abs=0.021
        )
    assert found.quality["training images"]["frechet"] < found.quality["samples"]["frechet"]
    originals, samples = found.quality["shown"]
    assert torch.equal(originals, sets.test.pixels[:8])
    assert (samples / 255 - drawn["samples"][:8]).abs().max() < 0.51 / 255


# inversion


def test_inversion_refines_the_encoders_latents_of_the_right_images(found, world, sets):
    for split, count in (("train", 200), ("validation", 60)):
        got = found.inverted[split]
        images = getattr(sets, split).pixels[:count] / 255
        assert not got["left_out"].any()
        assert got["left_out"].shape == (count,)
        assert got["loss"] < got["start_loss"]
        with torch.no_grad():
            errors = [mse_loss(world.pictures(w), images) for w in (got["latents"], world.encoder(images))]
        # errors in pixels are nearly all of the loss, and of other images they would be larger
        assert errors[0] < errors[1] < mse_loss(images.roll(1, 0), images)
        assert errors[0] < got["loss"] < 2 * errors[0]


@torch.no_grad()
def test_no_stage_of_a_reconstruction_is_worse_than_the_one_before(found, world, sets, monkeypatch):
    kept = {}

    def keep(name, function):
        def call(*args, **given):
            kept[name] = function(*args, **given)
            return kept[name]

        monkeypatch.setattr(nt, name, call)

    keep("shift_latents", nt.shift_latents)
    keep("expand_latents", nt.expand_latents)
    got = nt.reconstruct(networks=found.networks, judge=found.judge, **CALL)
    shift, expansion = kept["shift_latents"], kept["expand_latents"]
    assert (shift.loss < shift.start_loss).all()
    assert (expansion.loss < expansion.start_loss).all()
    # without the encoder's term the shift's objective is the expansion's
    assert (expansion.start_loss <= shift.loss + 1e-7).all()
    images = sets.test.pixels[:12] / 255
    drawn = {
        "encoder": world.pictures(world.encoder(images)),
        "shift": world.pictures(shift.latents),
        "expansion": expansion.reconstruct(),
    }
    wanted = world.judge.features(images)
    for stage, of in drawn.items():
        errors = [mse_loss(*pair).item() for pair in zip(of, images, strict=True)]
        assert got[stage]["error"] == pytest.approx(errors, rel=1e-3)
        distances = [
            math.dist(*pair) for pair in zip(world.judge.features(of).tolist(), wanted.tolist(), strict=True)
        ]
        assert got[stage]["feature_distance"] == pytest.approx(distances, rel=1e-2)
    means = [np.mean(got[stage]["error"]) for stage in drawn]
    assert means == sorted(means, reverse=True)
    assert got["left_out"] == 0
    for shown, of in zip(got["shown"], [images, *drawn.values()], strict=True):
        assert (shown / 255 - of[:8]).abs().max() < 0.51 / 255
    assert found.reconstructed["shift"] == got["shift"]


# directions


@torch.no_grad()
def test_kept_directions_leave_the_class_and_are_as_long_as_they_may_be(found, world, sets):
    got = found.directions["sefa"]
    latents = found.inverted["validation"]["latents"]
    images = sets.validation.pixels[:60] / 255
    residual = images - world.pictures(latents)
    seen = world.judge(images).argmax(1)
    units = sefa(world.pictures.first_weight, 4).vectors
    assert got["note"] is None
    for number, unit in enumerate(units.T):
        flips, changes = [], []
        for amplitude in TINY["amplitudes"]:
            ends = [
                (world.pictures(latents + side * unit) + residual).clamp(0, 1)
                for side in (amplitude, -amplitude)
            ]
            flips.append(shares([(world.judge(end).argmax(1) != seen).tolist() for end in ends]))
            changes.append(torch.stack([(end - images).abs().mean() for end in ends]).mean().item())
        within = [flip < TINY["largest_flip"] for flip in flips]
        last = 1 if all(within) else 0
        assert got["amplitudes"][number] == TINY["amplitudes"][last]
        assert got["flips"][number] == pytest.approx(flips[last], abs=1e-2)
        assert got["changes"][number] == pytest.approx(changes[last], rel=1e-3)
        assert got["kept"][number] == within[0]
    kept = torch.tensor(got["kept"])
    expected = (units * torch.tensor(got["amplitudes"]))[:, kept]
    assert torch.allclose(got["vectors"], expected, atol=1e-5)
    assert got["shown"].shape == (int(kept.sum()), 5, 1, 28, 28)
    middle = world.pictures(latents[:1])[0]
    assert (got["shown"][:, 2] / 255 - middle).abs().max() < 0.51 / 255
    far = world.pictures(latents[:1] - nt.STRETCH * expected[:, :1].T)[0]
    assert (got["shown"][0, 0] / 255 - far).abs().max() < 0.51 / 255


def test_learned_directions_are_orthogonal_and_not_sefas(found):
    got = found.directions["learned"]
    lengths = torch.tensor(got["amplitudes"])[torch.tensor(got["kept"])]
    vectors = got["vectors"]
    assert torch.allclose(vectors.T @ vectors, lengths.square().diag(), atol=1e-5)
    assert not torch.allclose(vectors[:, :1], found.directions["sefa"]["vectors"][:, :1], atol=1e-2)
    assert got["history"].keys() == {"direction_loss", "size_loss", "hit_rate"}
    assert not found.directions["sefa"]["history"]


def diverged(inverted, count, latents):
    """The first so many images of either split are marked as diverged, and their latents are these."""
    result = {}
    for split, of in inverted.items():
        moved, left_out = of["latents"].clone(), of["left_out"].clone()
        moved[:count], left_out[:count] = latents, True
        result[split] = of | {"latents": moved, "left_out": left_out}
    return result


def test_images_whose_inversion_diverged_enter_no_training_and_no_judgement(found, world, sets):
    broken = [diverged(found.inverted, 15, latents) for latents in (math.nan, 5.0)]
    one, other = (nt.train_classifier("natra", 0, **edits_of(found, inverted=of)) for of in broken)
    assert same(one, other)
    assert not same(one, found.outcomes["natra", 0])
    for name in ("sefa", "learned"):
        ours, others = (
            nt.find_directions(name, networks=found.networks, judge=found.judge, inverted=of, **CALL)
            for of in broken
        )
        assert torch.equal(ours["vectors"], others["vectors"])
        assert ours["flips"] == others["flips"] != found.directions[name]["flips"]
        assert all(map(math.isfinite, ours["changes"]))
    # what is left are the other images with their own latents
    latents, images = found.inverted["validation"]["latents"][15:], sets.validation.pixels[15:60] / 255
    expected = keep_directions(
        world.pictures,
        sefa(world.pictures.first_weight, 4),
        latents,
        residual=leftover(world.pictures, latents, images),
        amplitudes=TINY["amplitudes"],
        classify=lambda images: world.judge(images).argmax(1),
        smallest_change=0.0,
        largest_flip=TINY["largest_flip"],
    )
    sefas = nt.find_directions("sefa", networks=found.networks, judge=found.judge, inverted=broken[0], **CALL)
    assert sefas["changes"] == pytest.approx(expected.changes.tolist(), rel=1e-3)
    train = nt._with_latents(sets.train, broken[0]["train"], world.pictures, "cpu")
    assert torch.equal(train.pixels, sets.train.pixels[15:])
    assert torch.equal(train.labels, sets.train.labels[15:])
    again = edited(world.pictures, train.attributes["latent"], train.attributes["residual"])
    assert torch.allclose(again, train.pixels / 255, atol=1e-6)


# the classifiers


@torch.no_grad()
@pytest.mark.parametrize("row", ["standard", "natra"])
def test_accuracy_is_that_of_a_plain_loop_by_distortion_and_severity(row, found, sets):
    outcome = found.outcomes[row, 1]
    assert {name: len(of) for name, of in outcome["accuracy"].items()} == {"clean": 1} | dict.fromkeys(
        DISTORTIONS, 5
    )
    net = nt._classifier(sets, TINY)
    net.load_state_dict(outcome["weights"])
    net.eval()
    for name, severity in (("clean", 0), ("scale", 1), ("contrast", 5), ("noise", 3)):
        of = data.distorted(sets.test, name, severity) if severity else sets.test
        pairs = zip(of.pixels, of.labels, strict=True)
        right = [net(pixels[None] / 255).argmax().item() == label for pixels, label in pairs]
        measured = outcome["accuracy"][name][max(0, severity - 1)]
        assert measured == pytest.approx(shares(right), abs=0.0101)  # rounding may turn one image over


def test_every_row_is_trained_in_its_own_way_and_a_seed_decides_it(found):
    assert found.rows == [row for row in nt.ROWS if row not in ("coins", "learned", "learned_ascent")]
    assert found.outcomes.keys() == {(row, seed) for row in found.rows for seed in (0, 1)}
    histories = [of["history"] for of in found.outcomes.values()]
    assert all(histories.count(history) == 1 for history in histories)
    for row in found.rows:
        losses = found.outcomes[row, 0]["history"]
        changed = {"loss"} if row == "standard" else {"changed_loss"}
        assert losses.keys() == changed | ({"clean_loss"} if nt.ROWS[row].found_by else set())
        assert all(len(values) == 4 for values in losses.values())


def test_the_standard_row_knows_nothing_of_the_generator(found):
    settings = TINY | {"latent": 4, "generator_steps": 1, "amplitude": 9.0, "rho": 0.9, "epsilon": 0.9}
    alone = nt.train_classifier("standard", 0, **COMMON, settings=settings)
    assert alone["accuracy"] == found.outcomes["standard", 0]["accuracy"]
    assert same(alone, found.outcomes["standard", 0])


def edits_by(net, world, **choice):
    """The method with the settings of a row's training and seed 1."""
    settings = {"learning_rate": 0.01, "amplitude": 1.0, "rho": 0.5, "seed": 1}
    return NaturalTransformation(net, world.pictures, Directions(world.vectors), **settings, **choice)


@pytest.mark.parametrize(
    ("row", "choice"),
    [
        ("random", {"choice": "random"}),
        ("corner", {"choice": "random", "ascent_steps": 1}),
        ("natra", {"choice": "worst", "draws": 2}),
        ("ascent", {"choice": "worst", "draws": 1, "ascent_steps": 2}),
    ],
)
def test_a_row_with_edits_is_the_method_along_the_kept_directions(row, choice, found, world, sets):
    latents = found.inverted["train"]["latents"]
    residual = leftover(world.pictures, latents, sets.train.pixels / 255)
    seed_weights(1, nt._WEIGHTS)
    net = SmallCNN(classes=10, width=8).to(memory_format=torch.channels_last)
    method = edits_by(net, world, steps=40, **choice)
    images = sets.train.with_attributes(latent=latents, residual=residual)
    history = fit(method, images, epochs=4, batch_size=20, generator=generator(1, nt._ORDER))
    outcome = found.outcomes[row, 1]
    assert outcome["history"]["changed_loss"] == pytest.approx(history["changed_loss"], rel=1e-2)
    for name, weight in net.state_dict().items():
        assert torch.allclose(outcome["weights"][name], weight, rtol=0.02, atol=0.02)


def test_edits_that_do_not_move_are_the_images_themselves(found):
    given = edits_of(found, vectors=torch.zeros_like(found.directions["sefa"]["vectors"]))
    losses = nt.train_classifier("random", 0, **given)["history"]
    assert losses["changed_loss"] == pytest.approx(losses["clean_loss"], abs=1e-4)
    losses = found.outcomes["random", 0]["history"]
    assert losses["changed_loss"] != pytest.approx(losses["clean_loss"], abs=1e-3)


def test_a_shared_seed_means_shared_first_weights(found):
    still = edits_of(found, settings=TINY | {"learning_rate": 1e-9, "epochs": 1})

    def head(row, seed):
        return nt.train_classifier(row, seed, **still)["weights"]["fc.weight"]

    assert torch.allclose(head("standard", 0), head("random", 0), atol=1e-6)
    assert not torch.allclose(head("standard", 0), head("standard", 1), atol=1e-2)


@pytest.mark.parametrize("without", ["networks", "inverted", "vectors"])
def test_a_row_with_edits_needs_the_parts_before_it(without, found):
    with pytest.raises(InputError, match="The row 'natra' edits images; give networks, inverted and vectors"):
        nt.train_classifier("natra", 0, **edits_of(found, **{without: None}))


def test_a_row_can_be_judged_on_validation_images(found, sets):
    outcome = nt.train_classifier("standard", 0, split="validation", **CALL)
    assert same(outcome, found.outcomes["standard", 0])
    net = nt._classifier(sets, TINY)
    net.load_state_dict(outcome["weights"])
    with torch.no_grad():
        right = net.eval()(sets.validation.pixels[:100] / 255).argmax(1) == sets.validation.labels[:100]
    assert outcome["accuracy"]["clean"] == pytest.approx([shares(right.tolist())], abs=0.0101)


# edits of test images


@torch.no_grad()
def test_accuracy_on_edited_images_is_that_of_a_plain_loop(found, world, sets):
    got = found.edits[1]
    assert got["amplitudes"] == [0, 0.5, 1, 1.5, 2]
    for place, row in enumerate(found.rows):
        net = nt._classifier(sets, TINY)
        net.load_state_dict(found.outcomes[row, 1]["weights"])
        net.eval()
        right = {amplitude: [] for amplitude in (0, 1, 2)}
        for pixels, label in zip(sets.test.pixels[:30], sets.test.labels, strict=False):
            image = pixels[None] / 255
            w = world.encoder(image)
            drawn = world.pictures(w)
            for amplitude, of_image in right.items():
                steps = [side * amplitude * vector for vector in world.vectors.T for side in (1, -1)]
                moved = [(world.pictures(w + step) + image - drawn).clamp(0, 1) for step in steps]
                of_image.append([net(one).argmax().item() == label for one in moved])
        for which, amplitude in ((0, 0), (2, 1), (4, 2)):
            assert got["mean"][place][which] == pytest.approx(shares(right[amplitude]), abs=0.01)
            worst = shares([all(of_image) for of_image in right[amplitude]])
            assert got["worst"][place][which] == pytest.approx(worst, abs=0.034)
    for of in found.edits.values():
        mean, worst = np.array(of["mean"]), np.array(of["worst"])
        assert (worst <= mean).all()
        assert (worst[:, 0] == mean[:, 0]).all()
        assert (worst[:, 1:] < mean[:, 1:]).any()


def test_the_edits_of_a_training_are_judged_image_by_image(found, world, sets, monkeypatch):
    monkeypatch.setattr(nt, "PIECE", 12)  # 30 images in three pieces
    rows = ("corner", "ascent")
    weights = {row: found.outcomes[row, 1]["weights"] for row in rows}
    given = {"networks": found.networks, "judge": found.judge, "vectors": world.vectors, **CALL}
    got = nt.judge_choices(1, weights, **given)
    assert got.keys() == set(rows)
    for row, choice in (("corner", "random"), ("ascent", "worst")):
        net = nt._classifier(sets, TINY)
        net.load_state_dict(weights[row])
        net.eval()
        method = edits_by(
            net, world, steps=1, choice=choice, draws=1, ascent_steps=1 if row == "corner" else 2
        )
        flips, errors, lengths, changes = [], [], [], []
        for method.steps_done in range(3 * nt.CHOICES):
            begin = 12 * (method.steps_done // nt.CHOICES)
            images = sets.test[begin : min(30, begin + 12)]
            with torch.no_grad():
                latents = world.encoder(images.pixels / 255)
            shown, coefficients = method.edits(images.with_attributes(latent=latents))
            with torch.no_grad():
                for one, pixels, label in zip(shown, images.pixels, images.labels, strict=True):
                    image = pixels[None] / 255
                    flips.append(world.judge(one[None]).argmax() != world.judge(image).argmax())
                    errors.append(net(one[None]).argmax() != label)
                    changes.append((one - image[0]).abs().mean().item())
            lengths += coefficients.norm(dim=1).tolist()
        assert len(flips) == 30 * nt.CHOICES
        expected = {"flips": shares(flips), "errors": shares(errors)}
        assert {name: got[row][name] for name in expected} == pytest.approx(expected, abs=0.014)
        means = {"length": np.mean(lengths), "change": np.mean(changes)}
        assert {name: got[row][name] for name in means} == pytest.approx(means, rel=0.01)
    assert got["ascent"]["errors"] > found.choices[1]["random"]["errors"]
    assert got["ascent"]["length"] > 2 * found.choices[1]["random"]["length"]


@pytest.mark.parametrize(("side", "count"), [(16, 250), (28, 250), (64, 47), (256, 2), (1024, 1)])
def test_of_larger_images_fewer_are_worked_on_at_once(side, count):
    assert nt._piece(SimpleNamespace(side=side)) == count


def test_what_is_reconstructed_in_pieces_is_what_it_is_at_once(found, monkeypatch):
    given = {"networks": found.networks, "judge": found.judge, **CALL}
    assert len(found.reconstructed["shift"]["error"]) > 5
    monkeypatch.setattr(nt, "PIECE", 5)
    got = nt.reconstruct(**given)
    assert torch.equal(got["shown"][0], found.reconstructed["shown"][0])
    for stage in ("encoder", "shift", "expansion"):
        for number in ("error", "feature_distance"):
            assert got[stage][number] == pytest.approx(found.reconstructed[stage][number], rel=1e-2)


def test_edits_reach_what_the_generator_can_draw_and_not_noise(found, world, sets, monkeypatch):
    vectors = 3 * world.vectors
    x = sets.test.pixels[:30] / 255
    with torch.no_grad():
        w = world.encoder(x)
        inside = torch.rand(30, vectors.shape[1], generator=generator(1)) - 0.5
        moved = edited(world.pictures, w + inside @ vectors.T, leftover(world.pictures, w, x))

    plain = data.distorted

    def by_the_generator(images, name, severity):
        assert torch.equal(images.pixels, sets.test.pixels[:30])
        assert severity == 3
        return plain(images, name, severity) if name == "noise" else Images(nt._bytes(moved), images.labels)

    monkeypatch.setattr(nt, "distorted", by_the_generator)
    given = {"networks": found.networks, "judge": found.judge, "vectors": vectors, **CALL}
    reach = nt.measure_reach(**given)["reach"]
    assert reach.keys() == DISTORTIONS.keys()
    for space in ("kept", "latent"):
        assert 0.7 < reach["rotation"][space] <= 1
        assert -1e-5 < reach["noise"][space] < 0.3
    # an edit of nothing reaches nothing
    monkeypatch.setattr(nt, "distorted", plain)
    nowhere = nt.measure_reach(**given | {"vectors": 0 * vectors})["reach"]
    assert all(abs(of["kept"]) < 1e-5 for of in nowhere.values())


@torch.no_grad()
def test_reach_is_a_share_and_directions_are_checked_on_test_images(found, world, sets):
    assert all(-1e-5 < of["kept"] <= of["latent"] <= 1 for of in found.reach["reach"].values())
    images = sets.test.pixels[:30] / 255
    latents = world.encoder(images)
    expected = keep_directions(
        world.pictures,
        Directions(world.vectors),
        latents,
        residual=leftover(world.pictures, latents, images),
        amplitudes=[1.0],
        classify=lambda images: world.judge(images).argmax(1),
        smallest_change=0.0,
    )
    assert found.reach["changes"] == pytest.approx(expected.changes.tolist(), rel=1e-3)
    assert found.reach["flips"] == pytest.approx(expected.flips.tolist(), abs=0.017)


# the results


def outcome_with(clean, natural, other):
    """Natural distortions take away 0.01 for each severity above the first."""
    losses = 0.01 * np.arange(5)
    by_name = {name: list((natural if of.natural else other) - losses) for name, of in DISTORTIONS.items()}
    return {"accuracy": {"clean": [clean]} | by_name}


OUTCOMES = {
    ("standard", 3): outcome_with(0.8, 0.5, 0.4),
    ("standard", 4): outcome_with(0.9, 0.6, 0.2),
    ("natra", 3): outcome_with(0.8, 0.6, 0.3),
    ("natra", 4): outcome_with(0.8, 0.9, 0.3),
}
EDITS = {
    3: {"mean": [[0.8, 0.7], [0.9, 0.8]], "worst": [[0.8, 0.3], [0.9, 0.5]]},
    4: {"mean": [[0.6, 0.5], [0.7, 0.6]], "worst": [[0.6, 0.1], [0.7, 0.2]]},
}
CHOICES = {3: {"natra": {"flips": 0.1}}, 4: {"natra": {"flips": 0.3}}}
HAND_MADE = nts.Results({}, {}, {}, {}, {}, {}, OUTCOMES, EDITS, CHOICES, {}, [3, 4])


def test_results_are_means_over_seeds_and_differences_within_them():
    assert HAND_MADE.rows == ["standard", "natra"]
    assert HAND_MADE.values("standard", nts.natural) == pytest.approx([0.48, 0.58])
    assert HAND_MADE.values("standard", nts.other) == pytest.approx([0.38, 0.18])
    assert HAND_MADE.values("natra", nts.under("rotation")) == pytest.approx([0.58, 0.88])
    assert HAND_MADE.values("natra", nts.under("noise")) == pytest.approx([0.28, 0.28])
    assert HAND_MADE.mean("standard", nts.clean) == mean_interval([0.8, 0.9])
    gained = HAND_MADE.difference("natra", "standard", nts.natural)
    # the differences are 0.1 and 0.3; t(1 degree, 95 %) = 12.706
    assert (gained.value, gained.low) == pytest.approx((0.2, 0.2 - 0.1 * 12.706), abs=1e-3)
    assert HAND_MADE.edited("natra", "worst").tolist() == [[0.9, 0.5], [0.7, 0.2]]
    assert HAND_MADE.edited("standard", "mean").tolist() == [[0.8, 0.7], [0.6, 0.5]]
    assert HAND_MADE.chosen("natra", "flips") == mean_interval([0.1, 0.3])


# the run


class Answers:
    """A run that computes nothing: it keeps what it is asked, and answers with names."""

    def __init__(self, note=None, **changed):
        self.parameters = SimpleNamespace(**COMMON, **TINY | changed)
        self.note, self.asked = note, []

    def parts(self, function, cases):
        return self.together((function, cases))[0]

    def together(self, *work):
        self.asked.append([function.__name__ for function, _ in work])
        return tuple([self.answer(function, case) for case in cases] for function, cases in work)

    def answer(self, function, case):
        name = function.__name__
        if name == "train_classifier":
            return {"weights": f"{case['row']} {case['seed']}", "split": case["split"]}
        if name == "find_directions":
            note = self.note if case["found_by"] == "sefa" else None
            return {"note": note, "vectors": f"vectors of {case['found_by']}"}
        if name in ("judge_edits", "judge_choices"):
            return {"weights": case["weights"]}
        return {"of": name}


class Keys(Answers):
    """Keeps the key of every part as well, under its function or row."""

    def __init__(self, **changed):
        super().__init__(**changed)
        self.keys = {}

    def answer(self, function, case):
        name = case.get("row", function.__name__)
        self.keys.setdefault(name, []).append(store.part_key(function, case, {}, "cpu"))
        return super().answer(function, case)


EDITED = {"random", "corner", "natra", "ascent"}
ROWS = EDITED | {"standard", "rand_augment", "aug_mix", "pixels"}
OF_EDITS = {"measure_reach", "judge_edits", "judge_choices"}
OF_GENERATOR = {"judge_generator", "invert", "reconstruct", "find_directions", *OF_EDITS, *EDITED}


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ({"seeds": [5, 6]}, ROWS | {"judge_edits", "judge_choices"}),
        ({"images": 100}, {"train_generator", "train_judge", *ROWS, *OF_GENERATOR}),
        ({"latent": 9}, {"train_generator", *OF_GENERATOR}),
        ({"generator_file": "a.pth"}, {"train_generator", *OF_GENERATOR}),
        ({"judge_epochs": 2}, {"train_judge"}),
        ({"shift_steps": 9}, {"invert"}),
        ({"shift_rate": 0.3}, {"invert", "reconstruct"}),
        ({"codes": 3}, {"reconstruct"}),
        ({"largest_flip": 0.1}, {"find_directions"}),
        ({"epochs": 7}, ROWS),
        ({"width": 5}, ROWS | {"judge_edits", "judge_choices"}),
        ({"epsilon": 0.1}, {"pixels"}),
        ({"draws": 9}, EDITED | {"judge_choices"}),
        ({"amplitude": 0.3}, EDITED | {"judge_edits", "judge_choices"}),
        ({"edit_images": 9}, OF_EDITS),
    ],
)
def test_a_parameter_changes_the_keys_of_the_parts_that_it_decides(changed, parts):
    """Of parts by themselves: what came before is answered alike."""
    before, after = Keys(), Keys(**changed)
    for run in (before, after):
        nts.compare(run)
    assert {name for name in before.keys if before.keys[name] != after.keys[name]} == parts


def test_a_run_puts_its_parts_where_they_belong():
    run = Answers()
    results = nts.compare(run)
    assert run.asked == [
        ["train_generator", "train_judge", "train_classifier"],
        ["invert", "judge_generator", "reconstruct"],
        ["find_directions"],
        ["train_classifier"],
        ["measure_reach", "judge_edits", "judge_choices"],
    ]
    single = {"networks": "train_generator", "judge": "train_judge", "inverted": "invert"}
    single |= {"quality": "judge_generator", "reconstructed": "reconstruct", "reach": "measure_reach"}
    for name, part in single.items():
        assert getattr(results, name) == {"of": part}
    for (row, seed), outcome in results.outcomes.items():
        assert outcome == {"weights": f"{row} {seed}", "split": "test"}
    for name, of in results.directions.items():
        assert of["vectors"] == f"vectors of {name}"
    for seed in (0, 1):
        assert results.edits[seed]["weights"] == [f"{row} {seed}" for row in results.rows]
        assert results.choices[seed]["weights"] == {row: f"{row} {seed}" for row in nts.EDITED}


def test_a_second_run_computes_nothing(start, found, capsys):
    again = nts.compare(start())
    assert " s for " not in capsys.readouterr().err  # all from the store
    assert {key: of["accuracy"] for key, of in again.outcomes.items()} == {
        key: of["accuracy"] for key, of in found.outcomes.items()
    }
    assert (again.edits, again.choices) == (found.edits, found.choices)


@pytest.mark.parametrize("bound", [{"smallest_change": 1.0}, {"largest_flip": 0.0}])
def test_without_a_direction_a_run_says_so_and_finishes_without_edits(bound, start, found):
    results = nts.compare(start(**bound))
    for of in results.directions.values():
        assert of["note"].startswith("No direction is kept: pixels change by 0.")
        assert of["vectors"].shape == (8, 0)
        assert of["shown"] is None
    assert results.rows == ["standard", "rand_augment", "aug_mix", "pixels"]
    assert results.edits == results.reach == results.choices == {}
    assert results.mean("standard", nts.natural) == found.mean("standard", nts.natural)


# faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Eight photographs of every group and split, in CelebA's layout; hair is a colour above, sex one below."""
    folder = tmp_path_factory.mktemp("faces")
    root = folder / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows, codes = [], []
    for i in range(96):
        blond, male, split = i // 48, i // 24 % 2, i % 3
        pixels = random.integers(0, 60, (218, 178, 3), dtype=np.uint8)
        pixels[20:100, :, 0] += np.uint8(150 * blond)
        pixels[110:198, :, 2] += np.uint8(150 * male)
        name = f"{i:06}.jpg"
        Image.fromarray(pixels).save(root / "img_align_celeba" / name)
        rows.append(f"{name} {2 * blond - 1} {2 * male - 1}")
        codes.append(f"{name} {split}")
    (root / "list_attr_celeba.txt").write_text("\n".join(["96", "Blond_Hair Male", *rows]) + "\n")
    (root / "list_eval_partition.txt").write_text("\n".join(codes) + "\n")
    return folder


def progressive():
    return ProgressiveGenerator(latent=5, widths=(8, 6, 4))


def of_styles():
    network = StyleGenerator(normal=4, latent=5, mappings=2, widths=(8, 6, 4))
    for name, weight in network.named_parameters():
        if name.endswith("affine.bias"):
            torch.nn.init.ones_(weight)
        elif not name.endswith("bias"):
            torch.nn.init.normal_(weight, std=100.0 if name.startswith("mapping") else 1.0)
    return network


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """Writes a generator of 16 pixels that has not learnt anything."""

    def write(build):
        torch.manual_seed(0)
        path = tmp_path_factory.mktemp("weights") / "generator.pth"
        torch.save(build().state_dict(), path)
        return path

    return write


FACES = {
    "seeds": [0],
    "images": 16,
    "test_images": 12,
    "side": 16,
    "cap": 0,
    "generator_steps": 4,
    "generator_batch": 16,
    "batch_size": 8,
    "epochs": 1,
    "judge_epochs": 2,
    "directions": 3,
    "direction_steps": 2,
    "direction_images": 20,
    "largest_flip": 0.99,
    "edit_images": 8,
    "expansion_images": 8,
    "shift_steps": 2,
    "reconstruction_steps": 2,
}


@pytest.mark.parametrize("build", [None, progressive, of_styles])
def test_the_path_of_faces_runs(build, faces, weights_file, start):
    path = weights_file(build) if build else None
    run = start("celeba", data_root=str(faces), **FACES, generator_file=str(path) if path else None)
    results = nts.compare(run)
    settings = {name: getattr(run.parameters, name) for name in TINY}
    sets = data.make_sets("celeba", data_root=str(faces), settings=settings)
    assert (sets.classes, sets.channels, sets.side) == (2, 3, 16)
    lengths = [len(of) for of in (sets.unlabelled, sets.train, sets.others, sets.validation, sets.test)]
    assert lengths == [32, 16, 16, 32, 12]
    for images in (sets.train, sets.others, sets.test):
        assert torch.equal(images.labels, (images.pixels[:, 0, 2:6].float().mean((1, 2)) > 100).long())
        assert 2 < images.labels.sum() < len(images) - 2  # not one class after the other
    assert results.rows == [row for row in nt.ROWS if row not in ("coins", "learned", "learned_ascent")]
    for outcome in results.outcomes.values():
        assert all(
            value * 12 == pytest.approx(round(value * 12))
            for of in outcome["accuracy"].values()
            for value in of
        )
    assert results.reconstructed["shown"].shape == (4, 8, 3, 16, 16)
    assert results.directions["sefa"]["vectors"].shape[0] == (5 if path else 8)
    assert all(-1e-5 < share <= 1 for of in results.reach["reach"].values() for share in of.values())
    if path:
        network = load_pretrained_generator(path)
        with torch.no_grad():
            expected = network(network.draw(12, generator(0, nt._SAMPLES)))[:8]
        assert (results.quality["shown"][1] / 255 - expected).abs().max() < 0.51 / 255
        assert results.networks["history"].keys() == {"latent_loss", "pixel_loss"}
    else:
        assert "adversarial_loss" in results.networks["history"]


# bad input


@pytest.mark.parametrize("images", [700, 701])
def test_images_that_leave_none_for_the_judge_are_refused(images):
    with pytest.raises(
        ParameterError, match=rf"^images is {images} but there are 700 .* judge needs some; take fewer\.$"
    ):
        data.make_sets("fashion_mnist20k", data_root="", settings=TINY | {"images": images})


def test_a_file_of_weights_that_is_missing_is_named_before_anything_is_computed(tmp_path):
    path = str(tmp_path / "none.pth")
    with pytest.raises(DataError, match=r"^\S*none\.pth cannot be read \(No such file"):
        data.fingerprint("fashion_mnist20k", "", path)
    with pytest.raises(DataError, match=r"^There is no file of weights \S*none\.pth; download it"):
        nt.train_generator(**COMMON, settings=TINY | {"generator_file": path})


def test_a_generator_of_another_side_is_refused(faces, weights_file):
    settings = TINY | FACES | {"side": 32, "generator_file": str(weights_file(progressive))}
    common = {"dataset": "celeba", "data_root": str(faces), "device": "cpu"}
    words = r"^The images are \[16, 3, 32, 32\] but the generator draws \[16, 3, 16, 16\]; resize them"
    with pytest.raises(InputError, match=words):
        nt.train_generator(**common, settings=settings)
    with pytest.raises(ParameterError, match=r"^side is 30 but must be a multiple of 4"):
        nt.train_generator(**common, settings=settings | {"side": 30})
