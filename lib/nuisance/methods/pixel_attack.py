"""The peers of training on natural transformations: changes of pixels, by an adversary or at random.

Chapter: `sec-natural-transformation`. All are `MixedTraining`, so that they differ in the changed images alone.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.methods.inversion import frozen
from nuisance.methods.long_tailed import Augment
from nuisance.methods.natural_transformation import MixedTraining, scaled
from nuisance.seeding import generator as stream

# purposes of random streams; 1 is that of the edits, 0 and 3 are those of the augmentations
_START, _AUG_MIX = 2, 4


def attack_pixels(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    steps: int,
    step_size: float,
    generator: torch.Generator,
) -> Tensor:
    """Projected gradient ascent of the cross-entropy (Madry et al. 2018, arXiv 1706.06083, section 2.1).

    From a start drawn from the box |x' - x|_inf <= epsilon, each step adds ``step_size`` times the gradient's sign and
    goes back into the box and into [0, 1]. The last image counts, as theirs, not the best seen.

    Parameters
    ----------
    net : images in [0, 1] -> logits; in eval mode meanwhile, so that no statistics move.
    images, labels : floats ``[b, c, h, w]`` in [0, 1] and int64 ``[b]``.
    epsilon, step_size : on the scale [0, 1].
    generator : of the CPU; gives the start.

    Returns
    -------
    Images ``[b, c, h, w]``, without a gradient.
    """
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    start = torch.rand(images.shape, generator=generator).to(images.device)
    attacked = (images + epsilon * (2 * start - 1)).clamp(0, 1)
    with frozen(net):
        for _ in range(steps):
            attacked.requires_grad_()
            with torch.enable_grad():
                # a sum, in whose gradient no image sees the batch's size
                loss = F.cross_entropy(net(attacked), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, attacked)
            attacked = torch.clamp(attacked.detach() + step_size * gradient.sign(), low, high)
    return attacked


class PixelAdversary(MixedTraining):
    """A network trained on the images of `attack_pixels`.

    Parameters
    ----------
    epsilon : on the scale [0, 1], above 0.
    attack_steps : 7, as Madry et al. train for CIFAR.
    step_size : on the scale [0, 1]; by default epsilon / 4, their 2 for 8.
    rho : 1 is theirs: clean images are not learnt from.
    seed : of the starts, which depend on it and on the step alone.
    others : as `MixedTraining`.

    Raises
    ------
    ParameterError
        If a number is outside its range.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        steps: int,
        learning_rate: float,
        epsilon: float,
        attack_steps: int = 7,
        step_size: float | None = None,
        rho: float = 1.0,
        seed: int,
    ) -> None:
        super().__init__(net, steps=steps, learning_rate=learning_rate, rho=rho)
        step_size = epsilon / 4 if step_size is None else step_size
        if not (0 < epsilon <= 1 and step_size > 0 and attack_steps >= 1):
            raise ParameterError(
                f"epsilon is {epsilon:g}, step_size {step_size:g} and attack_steps {attack_steps}, "
                "but these must be above 0, the first up to 1."
            )
        self.epsilon, self.attack_steps, self.step_size, self.seed = epsilon, attack_steps, step_size, seed

    def changed(self, batch: Images) -> Tensor:
        """The attacked images of a batch."""
        return attack_pixels(
            self.net,
            scaled(batch),
            batch.labels,
            epsilon=self.epsilon,
            steps=self.attack_steps,
            step_size=self.step_size,
            generator=stream(self.seed, _START, self.steps_done),
        )


class Augmented(MixedTraining):
    """A network trained on images that are changed at random.

    Parameters
    ----------
    augment : from a batch and the number of steps done to the changed batch: `AugMixAugmentation`,
        `nuisance.methods.long_tailed.RandAugmentation` or ``CropAndFlip``.
    rho : by default 1: clean images are not learnt from.
    others : as `MixedTraining`.
    """

    def __init__(
        self, net: nn.Module, augment: Augment, *, steps: int, learning_rate: float, rho: float = 1.0
    ) -> None:
        super().__init__(net, steps=steps, learning_rate=learning_rate, rho=rho)
        self.augment = augment

    def changed(self, batch: Images) -> Tensor:
        """What the augmentation makes of a batch."""
        return scaled(self.augment(batch, self.steps_done))


class AugMixAugmentation:
    """AugMix (Hendrycks et al. 2020, arXiv 1912.02781), as torchvision has it, drawn anew for every image.

    Given a batch, torchvision would do the same to all its images. As in the paper, and unlike torchvision's default,
    brightness, contrast, colour and sharpness are not among the operations, since they are in the test. Of the paper's
    loss only the cross-entropy is taken, without the term that holds the predictions of three versions together.

    Parameters
    ----------
    severity : how far each operation goes at most, 1 to 10; torchvision's is 3.
    seed : of the random numbers, which depend on it and on the step alone.

    Raises
    ------
    ParameterError
        If the severity is outside its range.
    """

    def __init__(self, *, severity: int = 3, seed: int) -> None:
        if not 1 <= severity <= 10:
            raise ParameterError(f"severity is {severity} but must be from 1 to 10.")
        self.transform, self.seed = v2.AugMix(severity=severity, all_ops=False), seed

    def __call__(self, batch: Images, step: int) -> Images:
        """The batch with its images changed.

        Raises
        ------
        InputError
            If the images have neither 1 channel nor 3.
        """
        if batch.pixels.shape[1] not in (1, 3):
            raise InputError(
                f"AugMix takes images of 1 or 3 channels, not {batch.pixels.shape[1]}; train without it."
            )
        # torchvision draws from PyTorch's global streams, also from that of the images' device; the CPU's is put
        # back as it was, and the images lie there meanwhile, so that a seed means the same on every device.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(stream(self.seed, _AUG_MIX, step).get_state())
            pixels = torch.stack([self.transform(image) for image in batch.pixels.cpu()])
        return replace(batch, pixels=pixels.to(batch.pixels.device))
