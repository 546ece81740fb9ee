"""The parts of chapter `sec-natural-transformation`: a judge, a generator, directions, inversions, classifiers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nuisance.data.distortions import DISTORTIONS, SEVERITIES
from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.experiments.natural_transformation_data import Sets, distorted, make_sets
from nuisance.files import Checkpoint
from nuisance.methods.directions import (
    Directions,
    LearnedDirections,
    describe_direction,
    keep_directions,
    sefa,
)
from nuisance.methods.encoder_training import EncoderTraining
from nuisance.methods.inversion import (
    Features,
    SplitGenerator,
    edited,
    expand_latents,
    shift_latents,
)
from nuisance.methods.long_tailed import RandAugmentation
from nuisance.methods.natural_transformation import Choice, NaturalTransformation, worst_edits
from nuisance.methods.pixel_attack import Augmented, AugMixAugmentation, PixelAdversary
from nuisance.methods.supervised import Supervised
from nuisance.methods.vae_gan import VAEGAN
from nuisance.metrics.samples import frechet_distance, image_features, precision_recall
from nuisance.models.generator import ImageEncoder
from nuisance.models.pretrained_generator import load_pretrained_generator
from nuisance.models.small_cnn import SmallCNN
from nuisance.seeding import generator, seed_weights
from nuisance.training import Method, fit, in_parts

Peer = Literal["supervised", "rand_augment", "aug_mix", "pixel_adversary"]
Finder = Literal["sefa", "learned"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """How a classifier is trained.

    Attributes
    ----------
    title : in tables and figures.
    peer : the training that it is compared with, for rows without a generator.
    found_by : how the directions of its edits were found, for the others,
    choice : how an edit is chosen,
    steps : and how many steps on all coefficients follow one draw: by the gradient's signs if the worst is sought, which
        without steps is the worst of several draws, and by coins if the edit is random. ``"several"`` are as many as
        the chapter's parameter says.
    """

    title: str
    peer: Peer | None = None
    found_by: Finder | None = None
    choice: Choice = "worst"
    steps: Literal["none", "one", "several"] = "none"


ROWS = {
    "standard": Row(title="standard", peer="supervised"),
    "rand_augment": Row(title="RandAugment", peer="rand_augment"),
    "aug_mix": Row(title="AugMix", peer="aug_mix"),
    "pixels": Row(title="pixel adversary (PGD)", peer="pixel_adversary"),
    "random": Row(title="NaTra, random edit", found_by="sefa", choice="random"),
    "coins": Row(title="NaTra, random steps", found_by="sefa", choice="random", steps="several"),
    "corner": Row(title="NaTra, random corner", found_by="sefa", choice="random", steps="one"),
    "natra": Row(title="NaTra, worst of draws", found_by="sefa"),
    "ascent": Row(title="NaTra, gradient steps", found_by="sefa", steps="several"),
    "learned": Row(title="NaTra, learned directions", found_by="learned"),
    "learned_ascent": Row(title="NaTra, learned, gradient steps", found_by="learned", steps="several"),
}
"""The rows of the tables by their names in code."""

# One random stream for every purpose, so that adding one never shifts another; the data's are below 10.
_WEIGHTS, _ORDER, _JUDGE, _GENERATOR, _SAMPLES, _DIRECTIONS, _EXPANSION = range(10, 17)
SHOWN = 8
"""Images that are kept to be shown, of each kind."""
STRETCH = 3
"""Directions are shown so many times beyond their amplitude, at which an eye sees little."""
CHOICES = 5
"""So many times each image is edited where the edits of a training are judged."""
PIECE = 250
"""So many images of the reduced run's size are inverted, edited or brought near a goal at once, and fewer larger ones,
which bounds the memory."""
REACH_SEVERITY, REACH_STEPS = 3, 12
JUDGE_WIDTH, REPORT_IMAGES, DESCRIBED = 16, 2000, 200


def train_judge(
    *,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """A classifier of images that no other classifier of the chapter has seen: it says whether an edit keeps the class.

    Returns
    -------
    ``weights`` of `SmallCNN`, and its ``accuracy`` on validation images.
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    seed_weights(0, _JUDGE)
    epochs, size = settings["judge_epochs"], min(128, len(sets.others))
    net = _judge(sets).to(device)
    method = Supervised(net, steps=epochs * (len(sets.others) // size), learning_rate=4e-3)
    random = generator(0, _JUDGE, 1)
    images = sets.others.to(device)
    fit(method, images, epochs=epochs, batch_size=size, generator=random, checkpoint=checkpoint)
    return {"weights": _on_cpu(net), "accuracy": _accuracy(method, sets.validation.to(device))}


def train_generator(
    *,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train a VAE-GAN, or for a generator from a file the encoder that it lacks.

    Returns
    -------
    ``weights`` of the `VAEGAN`, or of the encoder; ``history`` by epoch.
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    images = sets.unlabelled.to(device)
    size = min(settings["generator_batch"], len(images))
    epochs = max(1, round(settings["generator_steps"] / (len(images) // size)))
    steps = epochs * (len(images) // size)
    method: VAEGAN | EncoderTraining
    if settings["generator_file"]:
        pictures = load_pretrained_generator(Path(settings["generator_file"])).to(device)
        encoder = _encoder(pictures.latent, sets, settings).to(device)
        method = EncoderTraining(
            encoder, pictures, steps=steps, learning_rate=settings["generator_rate"], seed=0
        )
    else:
        method = _vae_gan(sets, settings, steps).to(device)
    history = fit(
        method,
        images,
        epochs=epochs,
        batch_size=size,
        generator=generator(0, _ORDER, _GENERATOR),
        checkpoint=checkpoint,
    )
    if isinstance(method, VAEGAN):
        method.standardise(images.pixels)
        return {"weights": _on_cpu(method), "history": history}
    return {"weights": _on_cpu(method.encoder), "history": history}


def judge_generator(
    *,
    networks: dict[str, Any],
    judge: dict[str, Any],
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """How good the samples are, in the judge's features, against test images; beside them training images.

    Returns
    -------
    Rows ``samples``, ``reconstructions`` and ``training images``, each ``frechet``, ``precision`` and ``recall``; and
    ``shown``, bytes ``[2, n, c, h, w]``: the first test images, `SHOWN` at most, and samples.
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    pictures, encoder, _ = _load(networks, sets, settings, device)
    net = _load_judge(judge, sets, device)
    count = min(REPORT_IMAGES, len(sets.test), len(sets.train))
    real = sets.test.pixels[:count].to(device)
    latents = pictures.draw(count, generator(0, _SAMPLES)).to(device)
    drawn = {
        "samples": in_parts(pictures, latents),
        "reconstructions": in_parts(lambda x: pictures(encoder(x)), _scaled(real)),
        "training images": _scaled(sets.train.pixels[:count].to(device)),
    }
    features = {name: in_parts(net.features, images) for name, images in drawn.items()}
    wanted = image_features(net.features, real)
    found: dict[str, Any] = {}
    for name, of in features.items():
        precision, recall = precision_recall(wanted, of)
        found[name] = {"frechet": frechet_distance(wanted, of), "precision": precision, "recall": recall}
    shown = [of[:SHOWN].cpu() for of in (real, _bytes(drawn["samples"]))]
    return found | {"shown": torch.stack(shown)}


def invert(
    *,
    networks: dict[str, Any],
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Invert the classifiers' training images, and validation images on which directions are judged.

    Returns
    -------
    By split, ``train`` and ``validation``: ``latents``, ``left_out``, whether the inversion diverged, and the mean
    ``start_loss`` and ``loss``.
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    pictures, encoder, features = _load(networks, sets, settings, device)
    found = {}
    for name, images in (
        ("train", sets.train),
        ("validation", sets.validation[: settings["direction_images"]]),
    ):
        parts = [
            shift_latents(
                _scaled(pixels.to(device)),
                encoder=encoder,
                generator=pictures,
                features=features,
                steps=settings["shift_steps"],
                learning_rate=settings["shift_rate"],
            )
            for pixels in images.pixels.split(_piece(sets))
        ]
        left_out = torch.cat([part.left_out for part in parts]).cpu()
        if left_out.all():
            raise ParameterError(
                f"All {len(images)} inversions of {name} images diverged; "
                "take a smaller shift_rate or train the generator for longer."
            )
        found[name] = {
            "latents": torch.cat([part.latents for part in parts]).cpu(),
            "left_out": left_out,
            "start_loss": torch.cat([part.start_loss for part in parts]).mean().item(),
            "loss": torch.cat([part.loss for part in parts]).mean().item(),
        }
    return found


def reconstruct(
    *,
    networks: dict[str, Any],
    judge: dict[str, Any],
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Reconstruct a few test images in three stages.

    Returns
    -------
    By stage, ``encoder``, ``shift`` and ``expansion``: ``error``, the mean squared error, and ``feature_distance`` of
    the judge's features, by image; ``shown``, bytes ``[4, SHOWN, c, h, w]``, the images and the stages; and
    ``left_out``, how many diverged in either.
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    pictures, encoder, features = _load(networks, sets, settings, device)
    net = _load_judge(judge, sets, device)
    common: dict[str, Any] = {
        "generator": pictures,
        "features": features,
        "steps": settings["reconstruction_steps"],
        "learning_rate": settings["shift_rate"],
    }
    found: dict[str, Any] = {
        stage: {"error": [], "feature_distance": []} for stage in ("encoder", "shift", "expansion")
    }
    shown: list[Tensor] = []
    left_out = 0
    for pixels in sets.test.pixels[: settings["expansion_images"]].split(_piece(sets)):
        images = _scaled(pixels.to(device))
        shift = shift_latents(images, encoder=encoder, **common)
        # the same codes for every piece, so that an image's do not depend on its place
        random = generator(0, _EXPANSION)
        expansion = expand_latents(
            images, start=shift.latents, random=random, codes=settings["codes"], **common
        )
        with torch.no_grad():
            stages = {
                "encoder": pictures(shift.start),
                "shift": pictures(shift.latents),
                "expansion": expansion.reconstruct(),
            }
            for name, drawn in stages.items():
                away = (net.features(drawn) - net.features(images)).norm(dim=1)
                found[name]["error"] += (drawn - images).square().flatten(1).mean(1).tolist()
                found[name]["feature_distance"] += away.tolist()
        shown.append(torch.stack([_bytes(of).cpu() for of in (images, *stages.values())]))
        left_out += int((shift.left_out | expansion.left_out).sum())
    return found | {"shown": torch.cat(shown, 1)[:, :SHOWN], "left_out": left_out}


def find_directions(
    found_by: Finder,
    *,
    networks: dict[str, Any],
    judge: dict[str, Any],
    inverted: dict[str, Any],
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Find directions and keep those that change the picture and leave the class, on validation images.

    Parameters
    ----------
    inverted : what `invert` returned.

    Returns
    -------
    ``vectors``, those kept ``[d, K]``; of all directions ``kept``, ``amplitudes``, ``changes``, ``flips``, ``correlations`` by
    attribute and ``strongest``; ``note``, if none is kept; ``shown``, bytes ``[K, 5, c, h, w]`` of one image along each
    kept direction, to `STRETCH` times its amplitude either way; and ``history`` of the learned ones.
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    pictures, _, _ = _load(networks, sets, settings, device)
    net = _load_judge(judge, sets, device)
    history: dict[str, list[float]] = {}
    if found_by == "sefa":
        directions = sefa(pictures.first_weight, settings["directions"])
    else:
        directions, history = _learn_directions(
            pictures, inverted["train"], sets, device, settings, checkpoint
        )
    validation = inverted["validation"]
    use = (~validation["left_out"]).nonzero().flatten()
    latents = validation["latents"][use].to(device)
    images = _scaled(sets.validation.pixels[use].to(device))
    kept = keep_directions(
        pictures,
        directions,
        latents,
        residual=images - in_parts(pictures, latents),
        amplitudes=settings["amplitudes"],
        classify=lambda images: net(images).argmax(1),
        smallest_change=settings["smallest_change"],
        largest_flip=settings["largest_flip"],
    )
    ends = torch.linspace(-1, 1, 5)
    described = [
        describe_direction(pictures, amplitude * direction, latents[:DESCRIBED], ends)
        for amplitude, direction in zip(kept.amplitudes, directions.vectors.T, strict=True)
    ]
    with torch.no_grad():
        rows = [
            pictures(latents[:1] + STRETCH * ends[:, None].to(device) * direction)
            for direction in kept.directions.vectors.T
        ]
    return {
        "vectors": kept.directions.vectors.cpu(),
        "kept": kept.kept.tolist(),
        "amplitudes": kept.amplitudes.tolist(),
        "changes": kept.changes.tolist(),
        "flips": kept.flips.tolist(),
        "correlations": [dict(each.correlations) for each in described],
        "strongest": [each.strongest for each in described],
        "note": kept.note(),
        "shown": _bytes(torch.stack(rows)).cpu() if rows else None,
        "history": history,
    }


def train_classifier(
    row: str,
    seed: int,
    *,
    networks: dict[str, Any] | None = None,
    inverted: dict[str, Any] | None = None,
    vectors: Tensor | None = None,
    split: str = "test",
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """Train a classifier as a row has it, and judge its last epoch.

    Parameters
    ----------
    row : a key of `ROWS`.
    networks, inverted, vectors : the generator, the latents of the training images, and the directions, for rows with
        edits.
    split : on which it is judged.

    Returns
    -------
    ``accuracy`` by distortion, on the clean images and at severities 1 to 5; ``weights``; ``history``.
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    train = sets.train
    seed_weights(seed, _WEIGHTS)
    net = _classifier(sets, settings).to(device)
    size = min(settings["batch_size"], len(train))
    arm = ROWS[row]
    if arm.peer:
        method = _peer(arm.peer, net, settings["epochs"] * (len(train) // size), seed, settings)
    else:
        if networks is None or inverted is None or vectors is None:
            raise InputError(
                f"The row {row!r} edits images; give networks, inverted and vectors, as the parts before it returned."
            )
        pictures, _, _ = _load(networks, sets, settings, device)
        train = _with_latents(train, inverted["train"], pictures, device)
        steps = settings["epochs"] * (len(train) // size)
        method = _natural(arm, net, pictures, vectors.to(device), steps, seed, settings)
    history = fit(
        method.to(device),
        train.to(device),
        epochs=settings["epochs"],
        batch_size=size,
        generator=generator(seed, _ORDER),
        checkpoint=checkpoint,
    )
    images = getattr(sets, split)[: settings["test_images"]]
    accuracy = {"clean": [_accuracy(method, images.to(device))]}
    for name in DISTORTIONS:
        accuracy[name] = [
            _accuracy(method, distorted(images, name, severity).to(device))
            for severity in range(1, SEVERITIES + 1)
        ]
    return {"accuracy": accuracy, "weights": _on_cpu(net), "history": history}


def judge_edits(
    weights: list[dict[str, Tensor]],
    *,
    networks: dict[str, Any],
    vectors: Tensor,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """How classifiers fare on test images that are edited along directions.

    Parameters
    ----------
    weights : of classifiers, as `train_classifier` returned them.
    vectors : the directions.

    Returns
    -------
    ``amplitudes``, from 0 to twice that of the training; and ``mean`` and ``worst``, a list for every classifier:
    accuracy at each amplitude over all directions, both ways, and the share of images that are right under all of them.
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    pictures, encoder, _ = _load(networks, sets, settings, device)
    images = sets.test[: settings["edit_images"]].to(device)
    x = _scaled(images.pixels)
    latents = in_parts(encoder, x)
    residual = x - in_parts(pictures, latents)
    nets = []
    for of in weights:
        net = _classifier(sets, settings).to(device)
        net.load_state_dict(of)
        nets.append(net.eval())
    amplitudes = [settings["amplitude"] * part for part in (0.0, 0.5, 1.0, 1.5, 2.0)]
    mean: list[list[float]] = [[] for _ in nets]
    worst: list[list[float]] = [[] for _ in nets]
    for amplitude in amplitudes:
        right: list[list[Tensor]] = [[] for _ in nets]
        for direction in vectors.to(device).T:
            for size in (amplitude, -amplitude) if amplitude else (0.0,):
                with torch.no_grad():
                    moved = (latents + size * direction).split(_piece(sets))
                    parts = zip(moved, residual.split(_piece(sets)), strict=True)
                    shown = torch.cat([edited(pictures, w, rest) for w, rest in parts])
                for net, of_net in zip(nets, right, strict=True):
                    of_net.append(in_parts(net, shown).argmax(1) == images.labels)
            if not amplitude:  # no direction matters
                break
        for k, of_net in enumerate(right):
            both = torch.stack(of_net)
            mean[k].append(both.double().mean().item())
            worst[k].append(both.all(0).double().mean().item())
    return {"amplitudes": amplitudes, "mean": mean, "worst": worst}


def judge_choices(
    seed: int,
    weights: dict[str, dict[str, Tensor]],
    *,
    networks: dict[str, Any],
    judge: dict[str, Any],
    vectors: Tensor,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
) -> dict[str, dict[str, float]]:
    """What the edits of a training are: test images are edited as each row edits, with its classifier as it has become.

    Their latents are the encoder's, as in `judge_edits`; those of training images were shifted.

    Parameters
    ----------
    seed : of the random numbers.
    weights : of classifiers of rows with edits, by row, as `train_classifier` returned them.
    vectors : the directions.

    Returns
    -------
    By row, means over images and `CHOICES` edits of each: ``flips``, in how many the judge sees another class than in
    the image, and ``errors``, in how many the classifier is wrong; ``length``, the Euclidean norm of the coefficients;
    and ``change``, the mean absolute one of a pixel, on the scale [0, 1].
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    pictures, encoder, _ = _load(networks, sets, settings, device)
    judging = _load_judge(judge, sets, device)
    images = sets.test[: settings["edit_images"]].to(device)
    x = _scaled(images.pixels)
    latents = in_parts(encoder, x)
    images = images.with_attributes(
        latent=latents, residual=x - in_parts(pictures, latents), seen=in_parts(judging, x).argmax(1)
    )
    size = _piece(sets)
    pieces = [images[start : start + size] for start in range(0, len(images), size)]
    found: dict[str, dict[str, float]] = {}
    for row, of in weights.items():
        net = _classifier(sets, settings).to(device)
        net.load_state_dict(of)
        net.eval()
        method = _natural(ROWS[row], net, pictures, vectors.to(device), 1, seed, settings)
        measured: list[Tensor] = []
        # a step of the method for every piece and turn, since a step decides what is drawn
        for step in range(CHOICES * len(pieces)):
            method.steps_done, piece = step, pieces[step // CHOICES]
            shown, coefficients = method.edits(piece)
            with torch.no_grad():
                columns = (
                    judging(shown).argmax(1) != piece.attributes["seen"],
                    net(shown).argmax(1) != piece.labels,
                    coefficients.norm(dim=1),
                    (shown - _scaled(piece.pixels)).abs().flatten(1).mean(1),
                )
            measured.append(torch.stack([column.double() for column in columns], 1))
        means = torch.cat(measured).mean(0).tolist()
        found[row] = dict(zip(("flips", "errors", "length", "change"), means, strict=True))
    return found


def measure_reach(
    *,
    networks: dict[str, Any],
    judge: dict[str, Any],
    vectors: Tensor,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """What kept directions do to test images, and how much of each distortion edits can imitate.

    For an image x and its distortion T(x) at severity `REACH_SEVERITY`, coefficients are sought by sign-gradient steps
    that bring the edit x' nearest to T(x). The number is 1 - |x' - T(x)|^2 / |x - T(x)|^2, the sums over test images:
    0 where no edit is nearer than the image itself, 1 where edits reach it. A search may stop short, so it is a lower
    bound; the larger space is given the better of the two searches.

    Returns
    -------
    ``changes`` and ``flips`` by direction, as `keep_directions` has them, on test images, which had no part in keeping
    them; ``reach``, by distortion ``kept``, within the box of the kept directions, and ``latent``, within 3 of the image
    in all of the generator's latent space.
    """
    sets = make_sets(dataset, data_root=data_root, settings=settings)
    pictures, encoder, _ = _load(networks, sets, settings, device)
    images = sets.test[: settings["edit_images"]]
    x = _scaled(images.pixels.to(device))
    latents = in_parts(encoder, x)
    residual = x - in_parts(pictures, latents)
    spaces = {"kept": (vectors.to(device), 1.0), "latent": (torch.eye(pictures.latent, device=device), 3.0)}
    found: dict[str, dict[str, float]] = {}
    for name in DISTORTIONS:
        goals = _scaled(distorted(images, name, REACH_SEVERITY).pixels.to(device))
        whole = (x - goals).square().sum().item()
        left = dict.fromkeys(spaces, 0.0)
        for w, rest, goal in zip(*(of.split(_piece(sets)) for of in (latents, residual, goals)), strict=True):
            nearest = torch.full((len(w),), -torch.inf, device=device)
            for space, (columns, amplitude) in spaces.items():  # the second holds the first

                def edit(
                    coefficients: Tensor, columns: Tensor = columns, w: Tensor = w, rest: Tensor = rest
                ) -> Tensor:
                    return edited(pictures, w + coefficients @ columns.T, rest)

                def nearness(shown: Tensor, goal: Tensor = goal) -> Tensor:
                    return -(shown - goal).square().flatten(1).sum(1)

                start = [torch.zeros(len(w), columns.shape[1], device=device)]
                here = worst_edits(edit, nearness, start, amplitude=amplitude, ascent_steps=REACH_STEPS)
                nearest = torch.maximum(nearest, here.losses)
                left[space] -= nearest.sum().item()
        found[name] = {space: 1 - rest / whole for space, rest in left.items()}
    net = _load_judge(judge, sets, device)
    checked = keep_directions(
        pictures,
        Directions(vectors.to(device)),
        latents,
        residual=residual,
        amplitudes=[1.0],
        classify=lambda images: net(images).argmax(1),
        smallest_change=0.0,
    )
    return {"reach": found, "changes": checked.changes.tolist(), "flips": checked.flips.tolist()}


def _learn_directions(
    pictures: Any,
    inverted: dict[str, Any],
    sets: Sets,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None,
) -> tuple[Directions, dict[str, list[float]]]:
    count = settings["directions"]
    seed_weights(0, _DIRECTIONS)
    reconstructor = SmallCNN(classes=count + 1, in_channels=2 * sets.channels, width=16)
    method = LearnedDirections(
        pictures,
        reconstructor.to(device),
        count=count,
        learning_rate=settings["direction_rate"],
        largest=settings["direction_reach"],
        smallest=settings["direction_reach"] / 12,  # the released code's 0.5 of 6
        seed=0,
    )
    images = sets.train.with_attributes(latent=inverted["latents"])[~inverted["left_out"]].to(device)
    size = min(32, len(images))
    history = fit(
        method,
        images,
        epochs=max(1, round(settings["direction_steps"] / (len(images) // size))),
        batch_size=size,
        generator=generator(0, _ORDER, _DIRECTIONS),
        checkpoint=checkpoint,
    )
    return method.directions(), history


def _with_latents(train: Images, inverted: dict[str, Any], pictures: SplitGenerator, device: str) -> Images:
    """The images whose inversion went well, with their latents and what these leave."""
    images = train.with_attributes(latent=inverted["latents"])[~inverted["left_out"]].to(device)
    drawn = in_parts(pictures, images.attributes["latent"])
    return images.with_attributes(residual=_scaled(images.pixels) - drawn)


def _natural(
    row: Row,
    net: nn.Module,
    pictures: SplitGenerator,
    vectors: Tensor,
    steps: int,
    seed: int,
    settings: dict[str, Any],
) -> NaturalTransformation:
    """The training of a row with edits."""
    return NaturalTransformation(
        net,
        pictures,
        Directions(vectors),
        steps=steps,
        learning_rate=settings["learning_rate"],
        amplitude=settings["amplitude"],
        choice=row.choice,
        draws=settings["draws"] if row.steps == "none" else 1,
        ascent_steps={"none": 0, "one": 1, "several": settings["ascent_steps"]}[row.steps],
        rho=settings["rho"],
        seed=seed,
    )


def _peer(peer: Peer, net: nn.Module, steps: int, seed: int, settings: dict[str, Any]) -> Method:
    learning_rate = settings["learning_rate"]
    if peer == "supervised":
        return Supervised(net, steps=steps, learning_rate=learning_rate)
    if peer == "pixel_adversary":
        return PixelAdversary(
            net, steps=steps, learning_rate=learning_rate, epsilon=settings["epsilon"], seed=seed
        )
    augment = RandAugmentation(seed=seed) if peer == "rand_augment" else AugMixAugmentation(seed=seed)
    return Augmented(net, augment, steps=steps, learning_rate=learning_rate)


def _vae_gan(sets: Sets, settings: dict[str, Any], steps: int) -> VAEGAN:
    return VAEGAN(
        latent=settings["latent"],
        width=settings["generator_width"],
        channels=sets.channels,
        side=sets.side,
        discriminator_width=settings["discriminator_width"],
        steps=steps,
        learning_rate=settings["generator_rate"],
        seed=0,
    )


def _encoder(latent: int, sets: Sets, settings: dict[str, Any]) -> ImageEncoder:
    seed_weights(0, _GENERATOR)
    return ImageEncoder(
        latent=latent, width=settings["generator_width"], channels=sets.channels, side=sets.side
    )


def _load(
    networks: dict[str, Any], sets: Sets, settings: dict[str, Any], device: str
) -> tuple[Any, nn.Module, Features | None]:
    """The generator, its encoder, and what sees features of images: the VAE-GAN's discriminator, where there is one."""
    if settings["generator_file"]:
        pictures = load_pretrained_generator(Path(settings["generator_file"])).to(device)
        encoder = _encoder(pictures.latent, sets, settings)
        encoder.load_state_dict(networks["weights"])
        return pictures.eval().requires_grad_(False), encoder.to(device).eval().requires_grad_(False), None
    method = _vae_gan(sets, settings, 1)
    method.load_state_dict(networks["weights"])
    method = method.to(device).eval().requires_grad_(False)
    return method.generator, method.encoder, method.discriminator.features


def _piece(sets: Sets) -> int:
    """How many images are worked on at once: `PIECE` of 28 x 28 pixels, or of larger ones as many pixels."""
    return max(1, min(PIECE, PIECE * 28**2 // sets.side**2))


def _load_judge(judge: dict[str, Any], sets: Sets, device: str) -> SmallCNN:
    net = _judge(sets)
    net.load_state_dict(judge["weights"])
    return net.to(device).eval().requires_grad_(False)


def _judge(sets: Sets) -> SmallCNN:
    return _small_cnn(sets, JUDGE_WIDTH)


def _classifier(sets: Sets, settings: dict[str, Any]) -> SmallCNN:
    return _small_cnn(sets, settings["width"])


def _small_cnn(sets: Sets, width: int) -> SmallCNN:
    net = SmallCNN(classes=sets.classes, in_channels=sets.channels, width=width)
    return net.to(memory_format=torch.channels_last)


def _accuracy(method: Method, images: Images) -> float:
    right = in_parts(method.predict, images.pixels).argmax(1) == images.labels
    return right.double().mean().item()


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.cpu() for name, weight in module.state_dict().items()}


def _scaled(pixels: Tensor) -> Tensor:
    """Bytes as floats in [0, 1], in the memory format in which a CPU's convolutions are faster."""
    return (pixels.float() / 255).contiguous(memory_format=torch.channels_last)


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().clamp(0, 255).byte()
