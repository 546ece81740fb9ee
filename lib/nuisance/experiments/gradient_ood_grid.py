"""Scores of validation images over the grid: what epsilon and temperature are chosen by."""

from typing import Any

from torch import Tensor

from nuisance.experiments.gradient_ood_sets import Weights, load_sets, make_network, prepare_inputs
from nuisance.files import Checkpoint
from nuisance.ood.grid import score_grid


def grid(
    network: str,
    images: str,
    start: int,
    *,
    count: int,
    epsilons: list[float],
    temperatures: list[float],
    confidences: Tensor,
    dataset: str,
    data_root: str,
    device: str,
    settings: dict[str, Any],
    weights: Weights = None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Tensor]:
    """ODIN's and the gradient score of validation images in every cell.

    Parameters
    ----------
    network : its name, see `make_network`; ``weights`` its weights, if it was trained here.
    images : the set, see `load_sets`; its images ``start`` to ``start + count``.
    confidences : the reference network's, see `reference_confidences`.

    Returns
    -------
    ``odin`` and ``gradient``, ``[n, epsilons, temperatures]`` each.
    """
    sets = load_sets(
        network=network, dataset=dataset, data_root=data_root, settings=settings, confidences=confidences
    )
    model = make_network(
        network, dataset=dataset, data_root=data_root, settings=settings, weights=weights
    ).to(device)
    x = prepare_inputs(network, sets[images]["validation"].pixels[start : start + count], device)
    found = score_grid(
        model,
        x,
        epsilons=epsilons,
        temperatures=temperatures,
        batch_size=settings["batch_size"],
        checkpoint=checkpoint,
        progress=False,
    )
    return {"odin": found.odin, "gradient": found.gradient}
