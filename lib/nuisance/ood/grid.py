"""ODIN's and the gradient score in every cell of a grid of epsilons and temperatures.

Chapter `sec-gradient-ood-anatomy`; the thesis takes 21 epsilons from 0 to 0.004 and the temperatures of
``TEMPERATURES``. Cell by cell, each of the 210 cells costs two forward and two backward passes. Exactly shared are:
the forward pass at the image itself, which all cells need; for each temperature its one backward pass there,
which gives both the direction of the step for every epsilon and the scores of the cell epsilon = 0; and, in every
other cell, the one forward pass from which both scores follow.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from nuisance.errors import InputError, ParameterError
from nuisance.files import Checkpoint
from nuisance.ood.gradient_norm import GradientNorm, total
from nuisance.ood.odin import Std, ascends, check_epsilon, check_temperature, gradients, loss_slope, stepped
from nuisance.ood.score import check_inputs, explained, logits_of, require_eval
from nuisance.ood.softmax import confidence

EPSILONS = tuple(round(0.0002 * i, 4) for i in range(21))
TEMPERATURES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


@dataclass(frozen=True)
class Grid:
    """Scores in every cell.

    Attributes
    ----------
    epsilons, temperatures : the cells.
    odin, gradient : ``[n, epsilons, temperatures]``, float64, on the CPU.
    approximate : whether temperatures were merged, see `score_grid`.
    """

    epsilons: tuple[float, ...]
    temperatures: tuple[float, ...]
    odin: Tensor
    gradient: Tensor
    approximate: bool


def score_grid(
    model: nn.Module,
    x: Tensor,
    *,
    epsilons: Sequence[float] = EPSILONS,
    temperatures: Sequence[float] = TEMPERATURES,
    std: Std = 1.0,
    layers: Sequence[str] | None = None,
    batch_size: int = 32,
    merge_from: float | None = None,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> Grid:
    """Both scores of every input in every cell.

    Parameters
    ----------
    model, std, layers : see `nuisance.ood.gradient_norm.GradientNorm`.
    x : inputs ``[n, ...]``; moved to the model's device batch by batch.
    batch_size : inputs in flight at once, which bounds the memory.
    merge_from : None for exact scores. Otherwise an **approximation**: at this temperature and above, where
        ``T * score`` has nearly converged, the direction of the step and ``T * score`` are taken from the smallest
        such temperature for all of them.
    checkpoint : where finished batches are kept, so that an interrupted grid goes on.
    progress : whether to show a progress bar.

    Raises
    ------
    ParameterError
        If an epsilon, a temperature or batch_size is out of its range, or the model is refused.
    InputError
        If the inputs are, or the checkpoint belongs to another grid.
    """
    _check_cells(epsilons, temperatures, batch_size)
    check_inputs(x)
    require_eval(model)
    score = GradientNorm(model, std=std, layers=layers)
    cells = _Cells(score, tuple(map(float, epsilons)), tuple(map(float, temperatures)), merge_from)
    device = next(model.parameters()).device
    with explained(x[:1]):
        score.settle(x[:1].to(device))
    steps = torch.as_tensor(std, dtype=torch.float64).tolist()
    key = _digest(model, x, cells.epsilons, cells.temperatures, cells.directions, list(score.layers), steps)
    done: list[Tensor] = []
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        if saved["key"] != key:
            raise InputError(
                "The checkpoint belongs to a grid of another network, other inputs or other cells; delete it, or "
                "give this grid another one."
            )
        done = [saved["scores"]]
    first = sum(map(len, done))
    with tqdm(total=len(x), initial=first, disable=not progress, unit="image") as bar:
        for batch in x[first:].split(batch_size) if first < len(x) else ():
            with explained(batch):
                done.append(cells.scores(batch.to(device)))
            bar.update(len(batch))
            if checkpoint:
                checkpoint.save(lambda: {"key": key, "scores": torch.cat(done)})
    both = torch.cat(done)
    return Grid(cells.epsilons, cells.temperatures, both[:, 0], both[:, 1], cells.approximate)


class _Cells:
    """The cells of one grid, for one batch after the other."""

    def __init__(
        self,
        score: GradientNorm,
        epsilons: tuple[float, ...],
        temperatures: tuple[float, ...],
        merge_from: float | None,
    ) -> None:
        self.score, self.epsilons, self.temperatures = score, epsilons, temperatures
        merged = [t for t in temperatures if merge_from is not None and t >= merge_from]
        # The temperature that stands for each: itself, or the smallest of the merged ones.
        self.stands_for = {t: min(merged) if t in merged else t for t in temperatures}
        self.directions = tuple(dict.fromkeys(self.stands_for.values()))
        self.approximate = len(self.directions) < len(temperatures)

    def scores(self, x: Tensor) -> Tensor:
        """``[b, 2, epsilons, temperatures]``: ODIN's and the gradient score."""
        if self.score.by_image and len(x) > 1:
            return torch.cat([self.scores(image) for image in x.split(1)])
        found = torch.empty(len(x), 2, len(self.epsilons), len(self.temperatures), dtype=torch.float64)
        norms, ascending, logits = self._at_images(x)
        for e, epsilon in enumerate(self.epsilons):
            for d, direction in enumerate(self.directions):
                norm, at = norms[d], logits
                if epsilon:
                    moved = stepped(x, ascending[d], epsilon, self.score.std)
                    by_layer, at = self.score.norms_at(moved, direction)
                    norm = total(by_layer)
                for t, temperature in enumerate(self.temperatures):
                    if self.stands_for[temperature] == direction:
                        found[:, 0, e, t] = -confidence(at, temperature).cpu()
                        found[:, 1, e, t] = norm.cpu().double() * (direction / temperature)
        return found

    def _at_images(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Gradient scores and directions of the step for every temperature, and the logits, at the images themselves."""
        norms: list[Tensor] = []
        ascending: list[Tensor] = []
        with gradients(self.score.model):
            x = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            with self.score.taps() as taps:
                logits = logits_of(self.score.model, x)
                for temperature in self.directions:
                    x.grad = None
                    slope = loss_slope(logits.detach(), temperature)
                    by_layer = taps.backward(logits, slope, again=True)
                    assert x.grad is not None
                    ascending.append(ascends(x.grad))
                    if self.score.by_image:  # no taps then
                        norms.append(total(self.score.norms_at(x.detach(), temperature)[0]))
                    else:
                        norms.append(total(by_layer) / temperature)
        return norms, ascending, logits.detach()


def _check_cells(epsilons: Sequence[float], temperatures: Sequence[float], batch_size: int) -> None:
    if not len(epsilons) or not len(temperatures):
        raise ParameterError("The grid has no cell; give at least one epsilon and one temperature.")
    for epsilon in epsilons:
        check_epsilon(epsilon)
    for temperature in temperatures:
        check_temperature(temperature)
    if batch_size < 1:
        raise ParameterError(f"batch_size is {batch_size} but must be 1 or greater.")


def _digest(model: nn.Module, x: Tensor, *cells: object) -> str:
    """What tells one grid from another."""
    content = hashlib.sha256(repr(cells).encode())
    for tensor in (x, *model.state_dict().values()):
        content.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()
