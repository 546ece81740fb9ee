"""Files of a generator's weights: unpacked without running anything of them, and compared with what is expected."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nuisance.errors import DataError


class HubSettings:
    """Stands for the class of the settings in a file of torch.hub's PGAN, which then fill its ``__dict__``."""


_KNOWN: list[Any] = [(HubSettings, "models.utils.config.BaseConfig")]


def unpack_weights(path: Path) -> Any:
    """What `torch.save` put into a file: tensors, numbers, texts, and lists and dictionaries of them.

    Nothing of the file is run: where a file of torch.hub's PGAN asks for its class of settings, it gets `HubSettings`.

    Raises
    ------
    DataError
        If the file is missing, damaged, or holds more than that.
    """
    if not path.is_file():
        raise DataError(f"There is no file of weights {path}; download it, or mend the path.")
    try:
        with torch.serialization.safe_globals(_KNOWN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load raises on damage is a kind of its own for every byte
        raise DataError(
            f"{path} is damaged or holds more than weights; download it anew, or load it once in an environment that "
            "you trust and save its generator alone, with torch.save(network.state_dict(), ...)."
        ) from error


def fault_of(weights: Any, expected: dict[str, Tensor]) -> str:
    """What is wrong with weights where those of ``expected``, by name and of its shapes, are wanted; "" if nothing."""
    if not tensors_by_name(weights):
        return "its weights are not tensors by name"
    if missing := expected.keys() - weights.keys():
        return f"it lacks {_some(missing)}"
    if unknown := weights.keys() - expected.keys():
        return f"it has {_some(unknown)} too"
    for name, weight in weights.items():
        if weight.shape != expected[name].shape:
            wanted = list(expected[name].shape)
            return f"its {name} is {list(weight.shape)} where its other tensors ask for {wanted}"
        if weight.dtype != torch.float32 or not weight.isfinite().all():
            return f"its {name} is not of finite float32 numbers"
    return ""


def tensors_by_name(weights: Any) -> bool:
    """Whether it is a dictionary of tensors."""
    return isinstance(weights, dict) and all(isinstance(weight, Tensor) for weight in weights.values())


def _some(names: Iterable[Any]) -> str:
    """A few of the names, and how many more there are."""
    first = sorted(map(str, names))
    more = f" and {len(first) - 6} more" if len(first) > 6 else ""
    return ", ".join(first[:6]) + more
