"""``Images``: what every data set of the book is once it has been read."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Images:
    """Images as bytes with their labels and attributes, on one device.

    Attributes
    ----------
    pixels : uint8 ``[n, c, h, w]``. Bytes are a quarter of floats, so that a whole data set
        lies on the device and a batch is an index look-up; batches are scaled where they are used.
    labels : int64 ``[n]``, the class.
    attributes : further int64 or float tensors of length ``n``, by name.
    """

    pixels: Tensor
    labels: Tensor
    attributes: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            raise ValueError(
                f"pixels must be uint8 [n, c, h, w], not {self.pixels.dtype} {list(self.pixels.shape)}"
            )
        for name, values in {"labels": self.labels, **self.attributes}.items():
            if len(values) != len(self.pixels):
                raise ValueError(f"{len(self.pixels)} images but {len(values)} {name}")

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: Tensor | slice) -> "Images":
        chosen = {name: values[index] for name, values in self.attributes.items()}
        return Images(self.pixels[index], self.labels[index], chosen)

    def to(self, device: torch.device | str) -> "Images":
        """The same images on ``device``."""
        moved = {name: values.to(device) for name, values in self.attributes.items()}
        return Images(self.pixels.to(device), self.labels.to(device), moved)

    def with_attributes(self, **attributes: Tensor) -> "Images":
        """The same images with further attributes."""
        return replace(self, attributes={**self.attributes, **attributes})
