"""Generators whose weights lie in a local file, for the full scale of chapter `sec-natural-transformation`."""

from pathlib import Path

from nuisance.models.progressive_generator import ProgressiveGenerator, progressive_generator_of
from nuisance.models.style_generator import StyleGenerator, is_style, style_generator_of
from nuisance.models.weights import unpack_weights

MEND = (
    "give the file of torch.hub's PGAN, one of rosinality's StyleGAN2, or a state_dict() of either's generator "
    "or of NVIDIA's"
)


def load_pretrained_generator(path: Path) -> ProgressiveGenerator | StyleGenerator:
    """A generator from a local file, on the CPU, in eval mode; nothing of the file is run.

    Which one it is, is told by the names of its tensors: see `progressive_generator_of` and `style_generator_of`.

    Raises
    ------
    DataError
        If the file is missing, cannot be unpacked, or holds neither.
    """
    saved = unpack_weights(path)
    of = style_generator_of if is_style(saved) else progressive_generator_of
    return of(saved, path, MEND)
