"""One training loop for every method of the book."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.errors import ParameterError
from nuisance.files import Checkpoint


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
        """All that a resumed training needs to go on as if it had never stopped."""
        states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        return {"method": self.state_dict(), "optimizers": states, "steps": self.steps_done}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go on from what `training_state` returned."""
        self.load_state_dict(state["method"])
        self.steps_done = state["steps"]
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])


def fit(
    method: Method,
    data: Images,
    *,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    checkpoint: Checkpoint | None = None,
) -> dict[str, list[float]]:
    """Train ``method`` on ``data`` in random order; incomplete last batches are left out.

    Parameters
    ----------
    generator : decides the order of the images, on the CPU.
    checkpoint : where the state is saved at the ends of epochs; training goes on from there.

    Returns
    -------
    The mean over every epoch of what ``update`` returned, by name.

    Raises
    ------
    ParameterError
        If there are fewer images than one batch takes.
    """
    history: dict[str, list[float]] = defaultdict(list)
    first = 0
    saved = checkpoint.load() if checkpoint else None
    if saved is not None:
        method.load_training_state(saved["training"])
        generator.set_state(saved["generator"])
        first = saved["epochs"]
        history.update(saved["history"])
    steps = len(data) // batch_size
    if not steps:
        raise ParameterError(f"batch_size is {batch_size} but there are only {len(data)} training images.")
    method.train()
    for epoch in range(first, epochs):
        order = torch.randperm(len(data), generator=generator).to(data.labels.device)
        sums: dict[str, Tensor] = {}
        for step in range(steps):
            for name, value in method.update(data[order[step * batch_size :][:batch_size]]).items():
                sums[name] = sums[name] + value.detach() if step else value.detach().clone()
        method.end_epoch(epoch)
        for name, total in sums.items():
            history[name].append(total.item() / steps)
        if checkpoint:
            done = epoch + 1
            checkpoint.save(
                lambda done=done: {  # type: ignore[misc]
                    "training": method.training_state(),
                    "generator": generator.get_state(),
                    "epochs": done,
                    "history": dict(history),
                }
            )
    method.eval()
    return dict(history)
