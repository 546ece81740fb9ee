"""Files of a generator's weights: unpacked without running anything of them, and compared with what is expected."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nuisance.errors import DataError


class Settings:
    """Stands for the classes of settings that lie beside released weights, which then fill its ``__dict__``."""


# of torch.hub's PGAN, and of trainings by rosinality's StyleGAN2
_KNOWN: list[Any] = [(Settings, "models.utils.config.BaseConfig"), (Settings, "argparse.Namespace")]


def unpack_weights(path: Path) -> Any:
    """What `torch.save` put into a file: tensors, numbers, texts, and lists and dictionaries of them.

    Nothing of the file is run: where it asks for a class of settings that is known, it gets `Settings`.

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
        if weight.dtype != torch.float32:
            return f"its {name} is {weight.dtype} and not torch.float32 (Tensor.float() turns it into that)"
        if not weight.isfinite().all():
            return f"its {name} has numbers that are not finite"
    return ""


def tensors_by_name(weights: Any) -> bool:
    """Whether it is a dictionary of tensors whose numbers are all there."""
    return isinstance(weights, dict) and all(_is_plain(weight) for weight in weights.values())


def _is_plain(weight: Any) -> bool:
    if not isinstance(weight, Tensor) or weight.layout != torch.strided or weight.is_nested:
        return False
    if weight.is_meta or weight.is_quantized:
        return False
    # an expanded tensor may stand for more numbers than fit any memory
    return weight.numel() * weight.element_size() <= weight.untyped_storage().nbytes()


def count_parts(weights: Iterable[str], module: str, name: Callable[[int], str], most: int = 12) -> int:
    """How many parts of a module there are, in a row from ``name(0)`` on, by the names of tensors; 1 to ``most``."""
    found = {of.split(".")[1] for of in weights if of.startswith(f"{module}.")}
    count = 1
    while count < most and name(count) in found:
        count += 1
    return count


def _some(names: Iterable[Any]) -> str:
    """A few of the names, and how many more there are."""
    first = sorted(ascii(str(name))[1:-1][:80] for name in names)
    more = f" and {len(first) - 6} more" if len(first) > 6 else ""
    return ", ".join(first[:6]) + more
