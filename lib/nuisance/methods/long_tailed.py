"""Classifiers for classes of very different sizes: the losses, weights and schedule that GIT is compared on.

The baselines of Zhou et al. (2022, arXiv 2203.09739) and their settings, which are those of LDAM (Cao et al. 2019,
arXiv 1906.07413). Chapter: `sec-invariance-transfer`; the equations are in `nuisance.losses`.

What is deferred (class-balanced sampling, DRS; weights, DRW; GIT) starts at a later epoch. Train the first epochs once
and fork them:

    fit(first, data, epochs=30, generator=order, ...)
    arm = LongTailedClassifier(..., reweight=0.9999)     # or another augment
    arm.load_training_state(first.training_state())
    fit(arm, data, epochs=20, generator=order, sampler=lambda stream: balanced_order(data.labels, stream), ...)

Schedules count steps, which go on across the fork; ``epochs`` and the history are those of one call of ``fit``. A
network with the same settings in both parts ends at the same bits as one that was never interrupted, if ``order``
goes on too: give every arm a copy of the generator as the first part left it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.losses import effective_number_weights, focal_loss, ldam_loss, ldam_margins
from nuisance.models.heads import CosineHead
from nuisance.seeding import generator
from nuisance.training import Method

Loss = Literal["cross_entropy", "focal", "ldam"]
Augment = Callable[[Images, int], Images]
"""From a batch and the number of steps done to what is learnt from in its place."""

# Purposes of random streams; 1 and 2 are those of `nuisance.methods.invariance_transfer`.
_RAND_AUGMENT, _CROP = 0, 3


@dataclass(frozen=True, kw_only=True)
class StepSchedule:
    """A learning rate that climbs linearly over the first epochs, and falls at given ones.

    Attributes
    ----------
    steps_per_epoch : images // batch size.
    learning_rate : the rate between the climb and the first fall.
    warm_up : epochs of the climb: in epoch e, from 0, the rate is (e + 1) / warm_up of the whole; 0 for none.
    milestones : (epoch, factor) in the epochs' order: from that epoch on, from 0, the rate is ``factor`` of the whole.
        The published ones are these, of 50 epochs, for Kuzushiji-49 and ((160, 0.01), (180, 0.0001)), of 200,
        for CIFAR.

    Raises
    ------
    ParameterError
        If an epoch has no step, or the milestones are out of order.
    """

    steps_per_epoch: int
    learning_rate: float = 0.1
    warm_up: int = 5
    milestones: Sequence[tuple[int, float]] = ((30, 0.01), (40, 0.0001))

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise ParameterError(f"steps_per_epoch is {self.steps_per_epoch} but must be 1 or more.")
        epochs = [epoch for epoch, _ in self.milestones]
        if epochs != sorted(set(epochs)):
            raise ParameterError(f"The milestones' epochs are {epochs} but each must be later than the last.")

    def rate(self, steps_done: int) -> float:
        """The learning rate of the step that follows ``steps_done`` others."""
        epoch = steps_done // self.steps_per_epoch
        if epoch < self.warm_up:
            return self.learning_rate * (epoch + 1) / self.warm_up
        factors = [factor for start, factor in self.milestones if epoch >= start]
        return self.learning_rate * (factors[-1] if factors else 1.0)


class LongTailedClassifier(Method):
    """A network trained by SGD with momentum 0.9 and weight decay 2e-4.

    Parameters
    ----------
    net : normalised images ``[b, c, h, w]`` -> logits, or cosines if the loss is LDAM: then its last layer must be
        a `CosineHead`.
    normalization : mean and standard deviation of every channel, of images in [0, 1].
    schedule : the learning rate.
    class_sizes : training images in each class, ``[classes]``; LDAM's margins and the weights follow from them.
    loss : ``"cross_entropy"``, ``"focal"`` or ``"ldam"``.
    reweight : beta of `effective_number_weights`, published 0.9999, for weighted losses; None for none.
    augment : what is done to a batch before it is learnt from.
    gamma : of the focal loss.
    largest_margin, scale : of LDAM.

    Raises
    ------
    ParameterError
        If the loss is unknown or its settings are outside their ranges, the head does not go with it, or a class
        has no image.
    """

    margins: Tensor
    weights: Tensor | None
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        normalization: tuple[Sequence[float], Sequence[float]],
        schedule: StepSchedule,
        class_sizes: Tensor,
        loss: Loss = "cross_entropy",
        reweight: float | None = None,
        augment: Augment | None = None,
        gamma: float = 1.0,
        largest_margin: float = 0.5,
        scale: float = 30.0,
    ) -> None:
        super().__init__()
        if loss not in get_args(Loss):
            raise ParameterError(f"loss is {loss!r} but must be one of {', '.join(get_args(Loss))}.")
        if gamma < 0 or scale <= 0:
            raise ParameterError(
                f"gamma is {gamma:g} and scale {scale:g}, but the one must be 0 or more, the other more."
            )
        if (loss == "ldam") != any(isinstance(module, CosineHead) for module in net.modules()):
            raise ParameterError(
                f"The loss {loss} does not go with the network's last layer; "
                "make it a CosineHead for ldam and a linear one for the others."
            )
        self.net, self.schedule, self.kind, self.augment = net, schedule, loss, augment
        self.gamma, self.scale = gamma, scale
        weights = None if reweight is None else effective_number_weights(class_sizes, beta=reweight)
        mean, deviation = (torch.tensor(values)[:, None, None] for values in normalization)
        settings = {
            "margins": ldam_margins(class_sizes, largest=largest_margin),
            "weights": weights,
            "mean": mean,
            "deviation": deviation,
        }
        for name, value in settings.items():  # not part of the state, which a fork with other settings loads
            self.register_buffer(name, value, persistent=False)
        self.optimizers = {
            "net": torch.optim.SGD(
                net.parameters(), schedule.learning_rate, momentum=0.9, weight_decay=2e-4, fused=True
            )
        }

    def outputs(self, pixels: Tensor) -> Tensor:
        """What the network makes of bytes ``[b, c, h, w]``: logits, or cosines."""
        return self.net((pixels.float().div_(255) - self.mean) / self.deviation)

    def predict(self, pixels: Tensor) -> Tensor:
        """Logits of bytes ``[b, c, h, w]``; LDAM's scaled as in training, or all probabilities would be alike."""
        outputs = self.outputs(pixels)
        return self.scale * outputs if self.kind == "ldam" else outputs

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of what `outputs` gave."""
        if self.kind == "ldam":
            return ldam_loss(outputs, labels, margins=self.margins, scale=self.scale, weights=self.weights)
        if self.kind == "focal":
            return focal_loss(outputs, labels, gamma=self.gamma, weights=self.weights)
        return F.cross_entropy(outputs, labels, weight=self.weights)

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step."""
        if self.augment:
            batch = self.augment(batch, self.steps_done)
        loss = self.loss(self.outputs(batch.pixels), batch.labels)
        optimizer = self.optimizers["net"]
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.steps_done)
        optimizer.step()
        self.steps_done += 1
        return {"loss": loss}


class RandAugmentation:
    """RandAugment (Cubuk et al. 2020, arXiv 1909.13719), as torchvision has it, drawn anew for every image.

    Given a batch, torchvision would do the same to all its images. Its saturation leaves grey images as they are.

    Parameters
    ----------
    operations : how many are done to an image, one after the other.
    magnitude : how far each goes, 0 to 30.
    seed : of the random numbers, which depend on it and on the step alone.

    Raises
    ------
    ParameterError
        If ``operations`` or ``magnitude`` is outside its range.
    """

    def __init__(self, *, operations: int = 3, magnitude: int = 4, seed: int) -> None:
        if operations < 1 or not 0 <= magnitude <= 30:
            raise ParameterError(
                f"operations is {operations} and magnitude {magnitude}, "
                "but the one must be 1 or more, the other 0 to 30."
            )
        self.transform, self.seed = v2.RandAugment(num_ops=operations, magnitude=magnitude), seed

    def __call__(self, batch: Images, step: int) -> Images:
        """The batch with its images changed.

        Raises
        ------
        InputError
            If the images have neither 1 channel nor 3.
        """
        if batch.pixels.shape[1] not in (1, 3):
            raise InputError(
                f"RandAugment takes images of 1 or 3 channels, not {batch.pixels.shape[1]}; train without it."
            )
        # torchvision draws from PyTorch's global stream, which is put back as it was. Only the CPU's is needed:
        # torch.manual_seed would start those of all devices anew.
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(generator(self.seed, _RAND_AUGMENT, step).get_state())
            pixels = torch.stack([self.transform(image) for image in batch.pixels])
        return replace(batch, pixels=pixels)


class CropAndFlip:
    """The usual augmentation of CIFAR, batched: a random window of the zero-padded image, mirrored every second time.

    Parameters
    ----------
    padding : pixels on every side, so that an image moves by as many at most.
    seed : of the random numbers, which depend on it and on the step alone.
    """

    def __init__(self, *, padding: int = 4, seed: int) -> None:
        self.padding, self.seed = padding, seed

    def __call__(self, batch: Images, step: int) -> Images:
        """The batch with its images changed."""
        stream = generator(self.seed, _CROP, step)
        n, channels, height, width = batch.pixels.shape
        moved = torch.randint(2 * self.padding + 1, (2, n, 1), generator=stream)
        mirrored = torch.randint(2, (n, 1), generator=stream).bool()
        rows = moved[0] + torch.arange(height)
        columns = moved[1] + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))
        place = rows[:, :, None] * (width + 2 * self.padding) + columns[:, None, :]
        padded = F.pad(batch.pixels, (self.padding,) * 4).flatten(2)
        place = place.flatten(1)[:, None].expand(-1, channels, -1).to(padded.device)
        return replace(batch, pixels=padded.gather(2, place).view_as(batch.pixels))
