"""What every anomaly score is: ``scores(x) -> [batch]``, larger for what is more anomalous."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nuisance.errors import InputError, ParameterError


class Score(ABC):
    """An anomaly score of a classifier.

    Parameters
    ----------
    model : any module that maps a batch of inputs ``[b, ...]`` to logits ``[b, classes]``, in eval mode.

    Raises
    ------
    ParameterError
        If the model is in train mode: dropout and batch norm would make an image's score depend on chance
        and on the other images of its batch.
    """

    def __init__(self, model: nn.Module) -> None:
        require_eval(model)
        self.model = model

    def scores(self, x: Tensor) -> Tensor:
        """Anomaly scores ``[b]`` of a batch of inputs, floats ``[b, ...]`` on the model's device.

        Raises
        ------
        InputError
            If the inputs are not floats, not finite or not of a shape that the model takes, if the model
            has not two logits or more, or if memory runs out (names a batch size to try).
        """
        check_inputs(x)
        require_eval(self.model)
        with explained(x):
            return self._scores(x).detach()

    @abstractmethod
    def _scores(self, x: Tensor) -> Tensor:
        """The scores of checked inputs."""


def score_all(score: Score, batches: Iterable[Tensor | Sequence[Tensor]]) -> Tensor:
    """Scores ``[n]`` of every image of a loader, on the CPU; of a pair (images, labels) the images are scored.

    Raises
    ------
    InputError
        If the loader gives no image.
    """
    device = next((p.device for p in score.model.parameters()), torch.device("cpu"))
    parts = []
    for batch in batches:
        x = batch if isinstance(batch, Tensor) else batch[0]
        parts.append(score.scores(x.to(device)).cpu())
    if not sum(map(len, parts)):
        raise InputError("There is no image to score: the loader is empty; check its folder or its split.")
    return torch.cat(parts)


def require_eval(model: nn.Module) -> None:
    """Refuse a model of which a part is in train mode."""
    training = [name or "the model" for name, module in model.named_modules() if module.training]
    if training:
        raise ParameterError(
            f"The network is in train mode ({training[0]}), where dropout and batch norm make an image's score "
            "depend on chance and on its batch; call model.eval() first."
        )


def check_inputs(x: Tensor) -> None:
    """Refuse inputs that no score is defined for."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"Inputs are {kind} but must be a tensor of floats; scale bytes as the network was trained."
        )
    if x.ndim < 2 or not len(x):
        raise InputError(
            f"Inputs have the shape {list(x.shape)} but must be a batch [b, ...] of at least one."
        )
    finite = x.isfinite().flatten(1).all(1)
    if not finite.all():
        which = torch.where(~finite)[0].tolist()
        raise InputError(
            f"Input {which[0]} of the batch has pixels that are not finite ({len(which)} inputs in all)."
        )


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Logits ``[b, classes]`` of checked inputs, themselves checked."""
    logits = model(x)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"The network must return logits [{len(x)}, classes] but returned {got}.")
    if logits.shape[1] < 2:
        raise InputError(
            "The network has a single class, whose probability is always 1: there is nothing to score."
        )
    return logits


def channel_std(std: float | Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """The standard deviations of a network's preprocessing, so shaped that ``like / std`` is by channel.

    Raises
    ------
    ParameterError
        If there are not as many as channels, or one is not above 0.
    """
    values = torch.as_tensor(std, dtype=like.dtype, device=like.device)
    if values.ndim > 1 or (values.ndim == 1 and len(values) not in (1, like.shape[1])):
        raise ParameterError(
            f"std is {values.tolist()} but must be one number, or one for each of {like.shape[1]} channels."
        )
    if not (values.isfinite() & (values > 0)).all():
        raise ParameterError(f"std is {values.tolist()} but must be above 0.")
    return values.reshape(-1, *[1] * (like.ndim - 2)) if values.ndim else values


@contextmanager
def explained(x: Tensor) -> Iterator[None]:
    """Say in one sentence what a failing network means: out of memory, or inputs that it does not take."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if isinstance(error, InputError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in reason:
            mend = (
                f"try batches of {len(x) // 2}"
                if len(x) > 1
                else "a single image is too much for this device"
            )
            raise InputError(f"Memory ran out with a batch of {len(x)} inputs; {mend}.") from error
        if not any(
            word in reason
            for word in ("channels", "device", "dimension", "dtype", "input", "shape", "size", "type")
        ):
            raise
        raise InputError(
            f"The network does not take inputs of the shape {list(x.shape)} ({x.dtype}, {x.device}): {reason}"
        ) from error
