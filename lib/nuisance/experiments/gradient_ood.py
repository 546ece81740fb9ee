"""The parts of chapters `sec-gradient-ood` and `sec-gradient-ood-anatomy`: train a network, score its test images."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nuisance.experiments.gradient_ood_sets import (
    TRAINED_HERE,
    Weights,
    load_sets,
    make_network,
    prepare_inputs,
    training_images,
)
from nuisance.files import Checkpoint
from nuisance.methods.supervised import Supervised
from nuisance.models.pretrained import stages
from nuisance.ood import peers
from nuisance.ood.gradient_norm import GradientNorm
from nuisance.ood.odin import ODIN
from nuisance.ood.score import Score, score_all
from nuisance.ood.softmax import MSP, MaxLogit
from nuisance.seeding import generator, seed_weights
from nuisance.training import fit

CHOSEN_ON = {"selected": "selected", "random": "random", "restyled": "restyled", "digits": "random"}
"""The set whose validation images choose (epsilon, T) for a set's test images; digits have none of their own."""

_ORDER, _PEERS = range(2)


def train(
    network: str,
    seed: int,
    *,
    epochs: int,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint | None = None,
) -> dict[str, Tensor]:
    """Train a network on the known classes; returns its weights."""
    images = training_images(dataset, data_root, settings).to(device)
    seed_weights(seed)
    net = make_network(network, dataset=dataset, data_root=data_root, settings=settings).to(device)
    steps = epochs * (len(images) // 64)
    method = Supervised(net, steps=steps, learning_rate=3e-3).to(device)
    order = generator(seed, _ORDER)
    fit(method, images, epochs=epochs, batch_size=64, generator=order, checkpoint=checkpoint)
    return {name: weight.cpu() for name, weight in net.state_dict().items()}


def score_tests(
    network: str,
    seed: int,
    images: str,
    *,
    cells: dict[str, dict[str, list[float]]],
    confidences: Tensor,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    weights: Weights = None,
) -> dict[str, Tensor]:
    """Scores of the test images of one set by one network.

    Parameters
    ----------
    images : the set, see `load_sets`.
    cells : the chosen (epsilon, T) by set that they were chosen on, and by score.

    Returns
    -------
    By score ``[n]``: ``msp``, ``max_logit``, ``energy``, ``gradient_plain`` (epsilon = 0, T = 1); the scores of
    ``cells``, for known images as ``odin@selected`` and so on, one for every set they were chosen on; for random
    outliers ``gradient_as_selected``, the gradient score in the cell of the selected ones; and other people's.
    Besides ``logits`` ``[n, classes]``, ``labels`` and the images' attributes; and, where the cell that was chosen on
    ``selected`` is used, ``stages`` ``[n, stages]``, the gradient score over the weights of each stage of the network.
    """
    sets = load_sets(
        network=network, dataset=dataset, data_root=data_root, settings=settings, confidences=confidences
    )
    of = sets[images]["test"]
    model = make_network(
        network, dataset=dataset, data_root=data_root, settings=settings, weights=weights
    ).to(device)

    def batches() -> Iterator[Tensor]:
        return (prepare_inputs(network, part, device) for part in of.pixels.split(settings["batch_size"]))

    with torch.no_grad():
        logits = torch.cat([model(x).cpu() for x in batches()])
    seen = nn.Identity().eval()  # these three look at logits alone, which are there already
    scores = {
        "msp": MSP(seen).scores(logits),
        "max_logit": MaxLogit(seen).scores(logits),
        "energy": peers.energy(seen).scores(logits),
        "gradient_plain": score_all(GradientNorm(model), batches()),
    }
    others = _others(model, network, dataset, data_root, device, settings)
    scores |= {name: score_all(score, batches()) for name, score in others.items()}
    for chosen_on, chosen in cells.items():
        for method, (epsilon, temperature) in chosen.items():
            name = method
            if images == "known":
                name = f"{method}@{chosen_on}"
            elif images == "random" and (chosen_on, method) == ("selected", "gradient"):
                name = "gradient_as_selected"
            elif CHOSEN_ON[images] != chosen_on:
                continue
            if method == "odin":
                score: Score = ODIN(model, temperature=temperature, epsilon=epsilon)
                scores[name] = score_all(score, batches())
            elif (chosen_on, method) == ("selected", "gradient"):
                norm = GradientNorm(model, temperature=temperature, epsilon=epsilon)
                scores["stages"] = _by_stage(norm, batches())
                scores[name] = scores["stages"].norm(dim=1)
            else:
                score = GradientNorm(model, temperature=temperature, epsilon=epsilon)
                scores[name] = score_all(score, batches())
    return scores | {"logits": logits, "labels": of.labels} | of.attributes


def _others(
    model: nn.Module, network: str, dataset: str, data_root: str, device: str, settings: dict[str, Any]
) -> dict[str, Score]:
    """Other people's scores; those that are fitted, for networks that were trained here."""
    weight = [name for name, _ in model.named_parameters() if name.endswith("weight")][-1]
    found: dict[str, Score] = {"gradnorm": peers.gradnorm(model, weight=weight)}
    if network not in TRAINED_HERE:
        return found
    images = training_images(dataset, data_root, settings)
    some = torch.randperm(len(images), generator=generator(0, _PEERS))[:3000]
    x, labels = prepare_inputs(network, images.pixels[some], device), images.labels[some].to(device)
    head = model.get_submodule(weight.rpartition(".")[0])
    features = model.features
    assert callable(features)
    return found | {
        "mahalanobis": peers.mahalanobis(model, features, x, labels),
        "nearest_neighbours": peers.nearest_neighbours(model, features, x, labels),
        "react": peers.react(model, features, head, x, labels),
    }


def _by_stage(score: GradientNorm, batches: Iterator[Tensor]) -> Tensor:
    """The score ``[n, stages]`` over the weights of every stage."""
    of_stage = [
        [
            layer
            for layer in score.layers
            if any(layer == name or layer.startswith(f"{name}.") for name in names)
        ]
        for names in stages(score.model).values()
    ]
    found = []
    for x in batches:
        norms = score.by_layer(x)
        found.append(
            torch.stack([torch.stack([norms[n] for n in names]).norm(dim=0) for names in of_stage], 1)
        )
    return torch.cat(found).cpu()
