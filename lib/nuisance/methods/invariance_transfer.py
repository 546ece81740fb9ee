"""Generative invariance transfer: small classes see the changes that a generator has learnt from all of them.

Zhou et al. (2022, arXiv 2203.09739), algorithm 1. Chapter: `sec-invariance-transfer`. Part of every batch goes through
the generator, if its class is small, and keeps its label: the generator changes what does not matter (light,
background, thickness) in the way in which it varies in the large classes.

Both classes here are what `nuisance.methods.long_tailed.LongTailedClassifier` takes as ``augment``. The released code
differs: what it generates is made from a second batch and brings that one's labels, and in place of the threshold it
has the ramp of ``ramp=True``, which is off by default, so that all classes are replaced.
"""

from dataclasses import replace

import torch
from torch import Tensor

from nuisance.data.images import Images
from nuisance.data.nuisance_transforms import Transform
from nuisance.errors import InputError, ParameterError
from nuisance.seeding import generator

_TRANSFER, _ORACLE = 1, 2  # purposes of random streams; RandAugment's is 0


class InvarianceTransfer:
    """Replaces part of a batch by what the generator makes of it.

    Parameters
    ----------
    generate : bytes ``[m, c, h, w]``, and a CPU generator of random numbers, to bytes of the same shape.
    class_sizes : training images in each class, ``[classes]``.
    share : p, the part of a batch that may be replaced. It is the last one: batches are in random order.
    threshold : K; only classes with fewer images are replaced. None for all classes.
    ramp : replace an image of a class with n images with probability max((K - n) / (K - n_min), 0), n_min being the
        size of the smallest class, instead of always if n < K.
    seed : of the random numbers, which depend on it and on the step alone.

    Raises
    ------
    ParameterError
        If the share is outside [0, 1], no class has an image, or a ramp has no threshold.
    """

    def __init__(
        self,
        generate: Transform,
        class_sizes: Tensor,
        *,
        share: float = 0.5,
        threshold: int | None,
        ramp: bool = False,
        seed: int,
    ) -> None:
        if not 0 <= share <= 1:
            raise ParameterError(f"share is {share:g} but must be between 0 and 1.")
        sizes = class_sizes.cpu().double()
        if not (sizes > 0).any():
            raise ParameterError(f"class_sizes is {class_sizes.tolist()} but some class must have an image.")
        if ramp and threshold is None:
            raise ParameterError("A ramp needs a threshold, the class size at which it ends; give one.")
        self.generate, self.share, self.threshold, self.seed = generate, share, threshold, seed
        self.smallest = int(sizes[sizes > 0].min())
        self.probability = torch.ones(len(sizes))
        if threshold is not None:
            small = (sizes < threshold).float()
            # without a class below K both parts of the fraction would be negative, and the ramp upside down
            slope = (threshold - sizes) / max(threshold - self.smallest, 1)
            self.probability = slope.clamp(0, 1).float() if ramp else small

    def note(self) -> str | None:
        """A sentence, if the threshold leaves nothing to replace."""
        if self.threshold is None or self.threshold > self.smallest:
            return None
        return (
            f"GIT replaces no image, since K is {self.threshold} and the smallest class has "
            f"{self.smallest} images; take a larger K."
        )

    @torch.no_grad()
    def __call__(self, batch: Images, step: int) -> Images:
        """The batch with some of its images replaced; labels and attributes stay.

        Raises
        ------
        InputError
            If a label has no class size, or the generator gives another shape or type than it was given.
        """
        stream = generator(self.seed, _TRANSFER, step)
        labels = batch.labels.cpu()  # looked up where the numbers are drawn, alike for every device
        if (labels >= len(self.probability)).any():
            raise InputError(
                f"An image has the label {int(labels.max())} but there are sizes of {len(self.probability)} classes; "
                "count all classes."
            )
        drawn = torch.rand(len(batch), generator=stream) < self.probability[labels]
        drawn[: len(batch) - int(self.share * len(batch))] = False
        chosen = drawn.nonzero().flatten().to(batch.pixels.device)
        if not len(chosen):
            return batch
        given = batch.pixels[chosen]
        made = self.generate(given, generator=stream)
        _require_alike(made, given, "The generator")
        return replace(batch, pixels=batch.pixels.index_copy(0, chosen, made))


class Oracle:
    """Draws the true nuisance of every image anew in every step: what a perfect generator could reach.

    Parameters
    ----------
    clean : the images without the nuisance, bytes ``[n, c, h, w]``.
    transform : as `nuisance.data.nuisance_transforms` has them.
    seed : of the random numbers, which depend on it and on the step alone.
    """

    def __init__(self, clean: Tensor, transform: Transform, *, seed: int) -> None:
        self.clean, self.transform, self.seed = clean, transform, seed

    @torch.no_grad()
    def __call__(self, batch: Images, step: int) -> Images:
        """The batch with new images; its attribute ``source`` names the clean image of each.

        Raises
        ------
        InputError
            If there is no such attribute, or the images made differ in shape or type from the batch's.
        """
        if "source" not in batch.attributes:
            raise InputError(
                "The images have no attribute named 'source', each one's index into the clean images; "
                "add it with images.with_attributes(source=...)."
            )
        clean = self.clean[batch.attributes["source"]]
        made = self.transform(clean, generator=generator(self.seed, _ORACLE, step))
        _require_alike(made, batch.pixels, "The transform of the clean images")
        return replace(batch, pixels=made)


def _require_alike(made: Tensor, wanted: Tensor, what: str) -> None:
    if made.shape != wanted.shape or made.dtype != wanted.dtype:
        raise InputError(
            f"{what} gave {made.dtype} {list(made.shape)} but the batch's images are {wanted.dtype} "
            f"{list(wanted.shape)}; take images and a generator of the same channels and size."
        )
