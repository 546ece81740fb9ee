"""The parts of chapters `sec-gradient-ood` and `sec-gradient-ood-anatomy`: train a network, score its test images."""

from typing import Any

import torch
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.experiments.gradient_ood_sets import (
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
from nuisance.seeding import generator
from nuisance.training import fit

CHOSEN_ON = {"selected": "selected", "random": "random", "restyled": "restyled", "digits": "random"}
"""The set whose validation images choose (epsilon, T) for a set's test images; digits have none of their own."""

_ORDER, _PEERS = range(2)


def train(
    network: str,
    seed: int,
    *,
    epochs: int,
    settings: dict[str, Any],
    device: str,
    checkpoint: Checkpoint | None,
) -> dict[str, Any]:
    """Train a network on the known garments; its ``weights``, and ``accuracy`` on validation images, 0 to 1."""
    images = training_images(settings).to(device)
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator(seed))))
    net = make_network(network, data_root="", settings=settings).to(device)
    steps = epochs * (len(images) // 64)
    method = Supervised(net, steps=steps, learning_rate=3e-3).to(device)
    order = generator(seed, _ORDER)
    fit(method, images, epochs=epochs, batch_size=64, generator=order, checkpoint=checkpoint)
    return {"weights": {name: weight.cpu() for name, weight in net.state_dict().items()}}


def score_tests(
    network: str,
    seed: int,
    *,
    cells: dict[str, dict[str, list[float]]],
    confidences: Tensor,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    weights: Weights = None,
) -> dict[str, dict[str, Tensor]]:
    """Scores of all test images of a network.

    Parameters
    ----------
    cells : the chosen (epsilon, T) by set that they were chosen on, and by score.

    Returns
    -------
    By set, and by score ``[n]``: ``msp``, ``max_logit``, ``energy``, ``gradient_plain`` (epsilon = 0, T = 1); the
    scores of ``cells`` (and for random outliers ``gradient_as_selected``, in the selected ones' cell), for known images as ``odin@selected`` and so on, one for every set they were chosen on; and
    other people's. Besides ``logits`` ``[n, classes]``, ``labels`` and the images' attributes; and ``stages`` ``[n, stages]``, the norms over
    the weights of each stage of the network, of the gradient score that was chosen on ``selected``.
    """
    sets = load_sets(
        network=network, dataset=dataset, data_root=data_root, settings=settings, confidences=confidences
    )
    model = make_network(network, data_root=data_root, settings=settings, weights=weights).to(device)
    others = _others(model, network, dataset, device, settings)
    found: dict[str, dict[str, Tensor]] = {}
    for name, parts in sets.items():
        images = parts["test"]

        def scored(score: Score, images: Images = images) -> Tensor:
            parts = images.pixels.split(settings["batch_size"])
            return score_all(score, (prepare_inputs(network, part, device) for part in parts))

        logits = _logits(model, network, images, device, settings)
        seen = nn.Identity().eval()  # these three look at logits alone, which are there already
        scores = {
            "msp": MSP(seen).scores(logits),
            "max_logit": MaxLogit(seen).scores(logits),
            "energy": peers.energy(seen).scores(logits),
            "gradient_plain": scored(GradientNorm(model)),
        }
        scores |= {other: scored(score) for other, score in others.items()}
        for chosen_on, of in cells.items():
            if name != "known" and CHOSEN_ON[name] != chosen_on:
                continue
            for method, (epsilon, temperature) in of.items():
                if method.startswith("gradient_without") and name not in ("known", "selected"):
                    continue
                if method == "odin":
                    score: Score = ODIN(model, temperature=temperature, epsilon=epsilon)
                else:
                    score = GradientNorm(model, temperature=temperature, epsilon=epsilon)
                at = f"@{chosen_on}" if name == "known" else ""
                if isinstance(score, GradientNorm) and method == "gradient" and chosen_on == "selected":
                    by_stage = _by_stage(score, model, network, images, device, settings)
                    scores["stages"] = by_stage
                    scores[f"gradient{at}"] = by_stage.norm(dim=1)
                else:
                    scores[f"{method}{at}"] = scored(score)
        if name == "random":  # what was chosen on the selected outliers, on others that were not
            epsilon, temperature = cells["selected"]["gradient"]
            score = GradientNorm(model, temperature=temperature, epsilon=epsilon)
            scores["gradient_as_selected"] = scored(score)
        found[name] = scores | {"logits": logits, "labels": images.labels} | images.attributes
    return found


def _others(
    model: nn.Module, network: str, dataset: str, device: str, settings: dict[str, Any]
) -> dict[str, Score]:
    """Other people's scores; those that are fitted, where training images are at hand."""
    weight = [name for name, _ in model.named_parameters() if name.endswith("weight")][-1]
    found: dict[str, Score] = {"gradnorm": peers.gradnorm(model, weight=weight)}
    if dataset != "fashion_mnist20k":
        return found
    images = training_images(settings)
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


@torch.no_grad()
def _logits(model: nn.Module, network: str, images: Images, device: str, settings: dict[str, Any]) -> Tensor:
    parts = images.pixels.split(settings["batch_size"])
    return torch.cat([model(prepare_inputs(network, part, device)).cpu() for part in parts])


def _by_stage(
    score: GradientNorm, model: nn.Module, network: str, images: Images, device: str, settings: dict[str, Any]
) -> Tensor:
    """Norms ``[n, stages]`` over the weights of every stage."""
    of_stage = [
        [
            layer
            for layer in score.layers
            if any(layer == name or layer.startswith(f"{name}.") for name in names)
        ]
        for names in stages(model).values()
    ]
    found = []
    for part in images.pixels.split(settings["batch_size"]):
        norms = score.by_layer(prepare_inputs(network, part, device))
        found.append(
            torch.stack([torch.stack([norms[n] for n in names]).norm(dim=0) for names in of_stage], 1)
        )
    return torch.cat(found).cpu()
