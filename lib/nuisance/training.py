"""One training loop for every method of the book."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.errors import ParameterError
from nuisance.files import Checkpoint

CHECK_EVERY = 100
"""So many steps' losses are looked at together, since every look waits for the device."""


class Method(nn.Module):
    """Something that is trained: ``update(batch) -> dict`` steps once, ``predict(pixels)`` uses it.

    A subclass names its optimisers in ``optimizers`` and counts its steps in ``steps_done`` (on the host, where
    a schedule can read it without waiting for a GPU), so that training can be stopped and resumed.
    """

    optimizers: dict[str, torch.optim.Optimizer]
    steps_done: int = 0

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step on a batch; returns what is worth watching, as scalars."""
        raise NotImplementedError

    def predict(self, pixels: Tensor) -> Tensor:
        """Logits ``[b, classes]`` of painted images, bytes ``[b, c, h, w]``."""
        raise NotImplementedError

    def end_epoch(self, epoch: int) -> None:
        """Called when epoch ``epoch`` (from 0) is done; for schedules."""

    def training_state(self) -> dict[str, Any]:
        """A copy of all that a resumed training needs to go on as if it had never stopped."""
        states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return deepcopy({"method": self.state_dict(), "optimizers": states, "steps": self.steps_done})

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from what `training_state` returned."""
        self.load_state_dict(state["method"])
        self.steps_done = state["steps"]
        for name, optimizer in self.optimizers.items():
            # PyTorch would take the momenta as they are: two methods that load one state would then share them
            optimizer.load_state_dict(deepcopy(state["optimizers"][name]))


class LossWatch:
    """Gathers the losses of a training, and stops it where one was not finite, without a wait at every step."""

    def __init__(self) -> None:
        self._unchecked: list[tuple[int, dict[str, Tensor]]] = []

    def add(self, step: int, losses: dict[str, Tensor]) -> None:
        """Losses of a step, detached, by name; those of every `CHECK_EVERY` steps are looked at, see `check`."""
        self._unchecked.append((step, losses))
        if len(self._unchecked) >= CHECK_EVERY:
            self.check()

    def check(self) -> None:
        """Look at the losses that have been gathered since the last time.

        Raises
        ------
        ParameterError
            If one is not finite: with the first such step, and the first such loss of it.
        """
        unchecked, self._unchecked = self._unchecked, []
        gathered = [(step, name, loss) for step, losses in unchecked for name, loss in losses.items()]
        finite = torch.stack([loss for _, _, loss in gathered]).isfinite().tolist() if gathered else []
        if not all(finite):
            step, name, _ = gathered[finite.index(False)]
            raise ParameterError(
                f"The {name} is not finite at step {step} (from 0); train with a smaller learning_rate."
            )


@torch.no_grad()
def in_parts(function: Callable[[Tensor], Tensor], inputs: Tensor, size: int = 500) -> Tensor:
    """``function(inputs)``, so many inputs at once, without gradients."""
    return torch.cat([function(part) for part in inputs.split(size)])


Rule = Callable[[dict[str, float]], tuple[float, ...]]
"""From the numbers of an epoch to what ranks it, larger is better: the first number, then the next among equals."""


class Selection:
    """Judges every epoch, and keeps for each of several rules the weights of the epoch that it ranks first.

    Rules share one training, so that comparing them costs nothing but memory.

    Parameters
    ----------
    judge : from a method, in eval mode and without gradients, to numbers by name; they join the history.
    rules : by name. Of epochs that rank equal the earliest is kept; a number that is NaN ranks last.
    """

    def __init__(self, judge: Callable[[Method], dict[str, float]], rules: Mapping[str, Rule]) -> None:
        self.judge, self.rules = judge, dict(rules)
        self._best: dict[str, dict[str, Any]] = {}

    def best(self, rule: str) -> tuple[int, dict[str, Tensor]]:
        """The epoch (from 0) that a rule ranks first, and the method's ``state_dict`` at its end, on the CPU.

        Raises
        ------
        ParameterError
            If there is no such rule, or no epoch has been judged.
        """
        if rule not in self._best:
            known = ", ".join(self._best) or "none, since no epoch has been judged yet"
            raise ParameterError(f"There is no selection by {rule!r}; there is {known}.")
        return self._best[rule]["epoch"], self._best[rule]["weights"]

    @property
    def judged(self) -> dict[str, dict[str, float]]:
        """By rule, the numbers of the epoch that it ranks first."""
        return {rule: best["judged"] for rule, best in self._best.items()}

    def end_epoch(self, method: Method, epoch: int) -> dict[str, float]:
        """Judge a method that is being trained, at the end of epoch ``epoch`` (from 0)."""
        method.eval()
        with torch.no_grad():
            judged = self.judge(method)
        method.train()
        weights: dict[str, Tensor] = {}
        for name, rule in self.rules.items():
            rank = [-math.inf if math.isnan(number) else number for number in rule(judged)]
            if name in self._best and rank <= self._best[name]["rank"]:
                continue
            if not weights:  # one copy an epoch, however many rules it is the best by
                weights = {key: value.to("cpu", copy=True) for key, value in method.state_dict().items()}
            self._best[name] = {"rank": rank, "epoch": epoch, "judged": judged, "weights": weights}
        return judged

    def state(self) -> dict[str, Any]:
        """All that `load_state` needs to go on selecting."""
        return dict(self._best)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._best = dict(state)


def fit(
    method: Method,
    data: Images,
    *,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    checkpoint: Checkpoint | None = None,
    sampler: Callable[[torch.Generator], Tensor] | None = None,
    selection: Selection | None = None,
) -> dict[str, list[float]]:
    """Train ``method`` on ``data`` in random order; incomplete last batches are left out.

    Parameters
    ----------
    generator : decides the order of the images, on the CPU.
    checkpoint : where the state is saved at the ends of epochs; training goes on from there.
    sampler : draws an epoch's images from ``generator``, as int64 indices into ``data`` in their order, some more
        than once and some never if it likes; by default every image once.
    selection : judges every epoch; it is part of the checkpoint.

    Returns
    -------
    The mean over every epoch of what ``update`` returned, by name, and what ``selection`` judged.

    Raises
    ------
    ParameterError
        If an epoch has fewer images than one batch takes, or ``selection`` judges under a name that ``update``
        uses.
    """
    history: dict[str, list[float]] = defaultdict(list)
    first = 0
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        method.load_training_state(saved["training"])
        generator.set_state(saved["generator"])
        first = saved["epochs"]
        history.update(saved["history"])
        if selection:
            selection.load_state(saved["selection"])
    method.train()
    for epoch in range(first, epochs):
        order = sampler(generator) if sampler else torch.randperm(len(data), generator=generator)
        order = order.to(data.labels.device)
        steps = len(order) // batch_size
        if not steps:
            raise ParameterError(
                f"batch_size is {batch_size} but an epoch has only {len(order)} training images; take smaller batches."
            )
        sums: dict[str, Tensor] = {}
        for step in range(steps):
            for name, value in method.update(data[order[step * batch_size :][:batch_size]]).items():
                sums[name] = sums[name] + value.detach() if step else value.detach().clone()
        method.end_epoch(epoch)
        for name, total in sums.items():
            history[name].append(total.item() / steps)
        if selection:
            judged = selection.end_epoch(method, epoch)
            if shared := sorted(sums.keys() & judged):
                raise ParameterError(
                    f"The judge's {', '.join(shared)} would mix with the training's; give the judge's another name."
                )
            for name, number in judged.items():
                history[name].append(number)
        if checkpoint:
            done = epoch + 1
            checkpoint.save(
                lambda done=done: {  # type: ignore[misc]
                    "training": method.training_state(),
                    "generator": generator.get_state(),
                    "epochs": done,
                    "history": dict(history),
                    "selection": selection.state() if selection else None,
                }
            )
    method.eval()
    return dict(history)
