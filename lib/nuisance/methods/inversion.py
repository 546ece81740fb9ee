"""Inversion of images into a generator's latents, for chapter `sec-natural-transformation`.

Natural transformation (NaTra, arXiv 2105.04070), of which only the abstract is at hand. "Batch inverse encoding and
shifting" of images into the latents of a well-trained generator and "latent codes expansion", which improves the
reconstruction by extended feature maps, are the abstract's words. What the two compute is our inference, after the
closest published inversions: In-Domain GAN Inversion (Zhu et al. 2020, arXiv 2004.00049) and the multi-code GAN
prior (Gu et al. 2020, arXiv 1912.07116). By "shifting" we understand the refinement of the encoder's latents.

Images are batched for speed alone. No image influences another: Adam works element by element, the losses of the
images are summed (a mean would make the gradients, and through Adam's epsilon the result, depend on the batch), and
the networks are in eval mode. So a large set can be cut into batches of any size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from nuisance.errors import InputError, ParameterError

Features = Callable[[Tensor], Tensor]
"""From images ``[b, c, h, w]`` in [0, 1] to features ``[b, ...]``."""


class SplitGenerator(Protocol):
    """A network from latents to images in two parts; calling it is ``late(early(w))``."""

    @property
    def latent(self) -> int:
        """Numbers in a latent, d."""

    def draw(self, count: int, random: torch.Generator, /) -> Tensor:
        """Latents ``[count, d]`` as it was trained on; ``random`` is of the CPU."""

    def early(self, w: Tensor, /) -> Tensor:
        """Feature maps ``[b, C, h', w']`` of latents ``[b, d]``."""

    def late(self, features: Tensor, /) -> Tensor:
        """Images ``[b, c, h, w]`` in [0, 1] of feature maps."""

    def __call__(self, w: Tensor, /) -> Tensor:
        """Images ``[b, c, h, w]`` in [0, 1] of latents ``[b, d]``."""


@dataclass(frozen=True)
class Inversion:
    """Images as latents of a generator.

    Attributes
    ----------
    latents : ``[b, d]``, the best seen.
    start : ``[b, d]``, the encoder's.
    loss, start_loss : ``[b]``, what was minimised, of either.
    left_out : bool ``[b]``; images whose inversion diverged: their latents and loss stay the encoder's, and they
        are to be left out and counted.
    """

    latents: Tensor
    start: Tensor
    loss: Tensor
    start_loss: Tensor
    left_out: Tensor


@dataclass(frozen=True)
class Expansion:
    """Images as several codes each, whose feature maps are added up by importance.

    Attributes
    ----------
    codes : latents ``[b, N, d]``, the best seen.
    importances : ``[b, N, C]``, of every channel of a code's feature maps.
    loss, start_loss : ``[b]``, what was minimised, at the end and with the one code of the start.
    left_out : bool ``[b]``, as of `Inversion`; these images stay the one code of the start.
    generator : what the codes are latents of.
    """

    codes: Tensor
    importances: Tensor
    loss: Tensor
    start_loss: Tensor
    left_out: Tensor
    generator: SplitGenerator

    def reconstruct(self) -> Tensor:
        """The images ``[b, c, h, w]`` in [0, 1]."""
        with frozen(self.generator):
            return compose(self.codes, self.importances, generator=self.generator)

    def shifted(self, direction: Tensor, amplitude: float | Tensor) -> Tensor:
        """The images after all codes of an image moved alike; the importances stay. Our inference.

        Parameters
        ----------
        direction : ``[d]``, or one an image, ``[b, d]``.
        amplitude : in units of ``direction``'s length; one number, or one an image, ``[b]``.

        Returns
        -------
        Images ``[b, c, h, w]`` in [0, 1], differentiable in ``direction`` and ``amplitude``.
        """
        amplitude = torch.as_tensor(amplitude, dtype=self.codes.dtype, device=self.codes.device)
        shift = amplitude.reshape(-1, 1) * direction
        with frozen(self.generator):
            return compose(self.codes + shift[:, None], self.importances, generator=self.generator)


def psnr(error: Tensor) -> Tensor:
    """Peak signal-to-noise ratio 10 log10(1 / error) of images in [0, 1], in dB; infinite for an error of 0.

    Parameters
    ----------
    error : mean squared errors, any shape. The ratio of a mean is at most the mean of the ratios: say which it is.
    """
    return -10 * error.log10()


def compose(codes: Tensor, importances: Tensor, *, generator: SplitGenerator) -> Tensor:
    """late(sum_n early(w_n) * alpha_n), the images ``[b, c, h, w]`` of several codes each (Gu et al. 2020).

    Parameters
    ----------
    codes : w, ``[b, N, d]``.
    importances : alpha, ``[b, N, C]``; the same at all places of a channel.
    """
    features = generator.early(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])
    return generator.late((features * importances[..., None, None]).sum(1))


def shift_latents(
    images: Tensor,
    *,
    encoder: nn.Module,
    generator: SplitGenerator,
    features: Features | None = None,
    steps: int = 60,
    learning_rate: float = 0.01,
    pixel_weight: float = 1.0,
    feature_weight: float = 0.01,
    encoder_weight: float = 0.01,
) -> Inversion:
    """Batch inverse encoding and shifting: the encoder's latents w = E(x), and a shift delta that Adam finds.

    Minimises for every image x, with w' = w + delta,

        pixel_weight |G(w') - x|^2 + feature_weight |phi(G(w')) - phi(x)|^2 + encoder_weight |w' - E(G(w'))|^2,

    each term a mean over its elements, so that the weights mean the same at every size of image, features and latent.
    The last term keeps the latents where the encoder was trained to put them. The terms are those of Zhu et al. (2020),
    as our reading of the abstract's words. Their released code (genforce/idinvert_pytorch) takes means, too, 100 steps
    and the weights 1, 5e-5 and 2 with VGG features; features and latents have other scales here, and the default
    weights are ours.

    Parameters
    ----------
    images : x, floats ``[b, c, h, w]`` in [0, 1].
    encoder : E, images -> latents ``[b, d]``. Like the generator it is in eval mode meanwhile and never changed.
    features : phi, a classifier's or a discriminator's, in eval mode; None leaves its term out.
    steps : of Adam, 1 or more.

    Returns
    -------
    The best latents seen, never worse than the encoder's. An inversion has diverged if its loss is not finite at the
    end, or is above the start's by more than all weights together, as if every term were off by 1 in every element.

    Raises
    ------
    InputError
        If the images are not floats, or the encoder's latents or the images do not fit the generator.
    ParameterError
        If there is no step.
    """
    _require_fit(images, generator)
    with frozen(encoder, generator, features):
        start = encoder(images).detach()
        require_latents(start, generator.latent, len(images))
        fidelity = _fidelity(images, features, pixel_weight=pixel_weight, feature_weight=feature_weight)

        def losses(shift: Tensor) -> Tensor:
            latents = start + shift
            shown = generator(latents)
            return fidelity(shown) + encoder_weight * _mean_square(latents - encoder(shown))

        found = _minimise(
            losses,
            [torch.zeros_like(start)],
            steps=steps,
            learning_rate=learning_rate,
            rise=pixel_weight + feature_weight + encoder_weight,
        )
    return Inversion(start + found.best[0], start, found.loss, found.start_loss, found.left_out)


def expand_latents(
    images: Tensor,
    *,
    start: Tensor,
    generator: SplitGenerator,
    random: torch.Generator,
    features: Features | None = None,
    codes: int = 4,
    spread: float = 0.5,
    steps: int = 100,
    learning_rate: float = 0.01,
    pixel_weight: float = 1.0,
    feature_weight: float = 0.01,
) -> Expansion:
    """Latent codes expansion: several codes an image, added up as feature maps with an importance a channel.

    Minimises for every image x, over the codes w_n and the importances alpha_n of `compose`,

        pixel_weight |x' - x|^2 + feature_weight |phi(x') - phi(x)|^2,

    each term a mean over its elements. That the abstract's expansion is the multi-code prior (Gu et al. 2020) is our
    inference. Differences from their code: Adam instead of gradient descent, few codes, and a start at a known
    inversion instead of noise. The first code is ``start`` with importance 1, which is exactly the reconstruction by
    one code. The others lie around it with importance 0: their importances have gradients from the first step, their
    codes from the second. (Equal shares of equal codes would be exact, too, but then all have the same gradients
    and stay one code for ever.)

    Parameters
    ----------
    images : x, floats ``[b, c, h, w]`` in [0, 1].
    start : latents ``[b, d]``, as `shift_latents` finds them.
    random : draws where the further codes lie, on the CPU; alike for all images, so that an image's result does not
        depend on its place in the batch.
    features : phi, as of `shift_latents`.
    codes : N, 1 or more.
    spread : standard deviation of the further codes around ``start``.
    steps : of Adam, 1 or more.

    Returns
    -------
    The best codes and importances seen, never worse than the one code. Divergence is told as by `shift_latents`.

    Raises
    ------
    InputError
        If the images are not floats, or the images or ``start`` do not fit the generator.
    ParameterError
        If there is no code or no step.
    """
    if codes < 1:
        raise ParameterError(f"codes is {codes} but must be 1 or more.")
    _require_fit(images, generator)
    require_latents(start, generator.latent, len(images))
    start = start.detach()
    around = spread * torch.randn(codes, start.shape[1], generator=random).to(start)
    around[0] = 0
    with frozen(generator, features):
        with torch.no_grad():
            channels = generator.early(start[:1]).shape[1]
        importances = start.new_zeros(len(start), codes, channels)
        importances[:, 0] = 1
        fidelity = _fidelity(images, features, pixel_weight=pixel_weight, feature_weight=feature_weight)
        found = _minimise(
            lambda w, alpha: fidelity(compose(w, alpha, generator=generator)),
            [start[:, None] + around, importances],
            steps=steps,
            learning_rate=learning_rate,
            rise=pixel_weight + feature_weight,
        )
    found_codes, found_importances = found.best
    return Expansion(found_codes, found_importances, found.loss, found.start_loss, found.left_out, generator)


def edited(generator: SplitGenerator, latents: Tensor, residual: Tensor) -> Tensor:
    """clip(G(latents) + residual), images ``[b, c, h, w]`` in [0, 1].

    Raises
    ------
    InputError
        If the residual is not of the images' shape.
    """
    drawn = generator(latents)
    _require_alike(drawn, residual, "residuals")
    return (drawn + residual).clamp(0, 1)


@torch.no_grad()
def leftover(generator: SplitGenerator, latents: Tensor, images: Tensor) -> Tensor:
    """x - G(w), what the latents leave of images ``[b, c, h, w]`` in [0, 1].

    Raises
    ------
    InputError
        If the images are not of the shape that the generator draws.
    """
    drawn = generator(latents)
    _require_alike(drawn, images, "images")
    return images - drawn


@contextmanager
def frozen(*networks: object) -> Iterator[None]:
    """Networks in eval mode and without gradients of their weights; afterwards every part is as it was.

    In training mode batch normalisation would take its statistics from the images that are being inverted, and move.
    What is no ``nn.Module`` is passed over.
    """
    modules = [network for network in networks if isinstance(network, nn.Module)]
    modes = {part: part.training for module in modules for part in module.modules()}
    learns = {weight: weight.requires_grad for module in modules for weight in module.parameters()}
    try:
        for module in modules:
            module.eval().requires_grad_(False)
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for weight, wanted in learns.items():
            weight.requires_grad_(wanted)


def choose_by_image(which: Tensor, ours: Tensor, others: Tensor) -> Tensor:
    """Of two tensors ``[b, ...]``, the first where ``which``, bool ``[b]``, is true, and the second elsewhere."""
    return torch.where(which.reshape(-1, *[1] * (ours.ndim - 1)), ours, others)


def require_latents(latents: Tensor, dimensions: int, count: int | None = None) -> None:
    """Refuse what is not ``[count, dimensions]``; where no count is given, any number but 0 will do."""
    fits = latents.ndim == 2 and latents.shape[1] == dimensions
    if not fits or (len(latents) != count if count is not None else not len(latents)):
        raise InputError(
            f"The latents are {list(latents.shape)} but the generator takes "
            f"[{'n' if count is None else count}, {dimensions}]; use the encoder that was trained with it."
        )


@dataclass(frozen=True)
class _Minimum:
    best: list[Tensor]
    loss: Tensor
    start_loss: Tensor
    left_out: Tensor


def _minimise(
    losses: Callable[..., Tensor], start: list[Tensor], *, steps: int, learning_rate: float, rise: float
) -> _Minimum:
    """Adam on variables ``[b, ...]`` of losses ``[b]``, each image by itself; the best seen of every image.

    An image whose last loss is not finite, or above the first by more than ``rise``, is left out and stays at the
    start. Nothing waits for the device.
    """
    if steps < 1:
        raise ParameterError(f"steps is {steps} but must be 1 or more.")
    with torch.enable_grad():
        values = [value.clone().requires_grad_() for value in start]
        optimizer = torch.optim.Adam(values, learning_rate)
        loss = losses(*values)
        first = lowest = loss.detach()
        best = list(start)
        for _ in range(steps):
            # not backward(), which would leave gradients in the weights of a `features` that is no module
            for value, gradient in zip(values, torch.autograd.grad(loss.sum(), values), strict=True):
                value.grad = gradient
            optimizer.step()
            loss = losses(*values)
            better = loss.detach() < lowest  # never of NaN
            lowest = torch.where(better, loss.detach(), lowest)
            best = [
                choose_by_image(better, value.detach(), kept)
                for value, kept in zip(values, best, strict=True)
            ]
    left_out = ~(loss.detach() <= first + rise)  # true of NaN
    best = [choose_by_image(left_out, value, kept) for value, kept in zip(start, best, strict=True)]
    return _Minimum(best, torch.where(left_out, first, lowest), first, left_out)


def _fidelity(
    images: Tensor, features: Features | None, *, pixel_weight: float, feature_weight: float
) -> Callable[[Tensor], Tensor]:
    """From reconstructions ``[b, c, h, w]`` to the pixel and the feature term, ``[b]``."""
    if features is None:
        return lambda shown: pixel_weight * _mean_square(shown - images)
    with torch.no_grad():
        wanted = features(images)
    return lambda shown: (
        pixel_weight * _mean_square(shown - images) + feature_weight * _mean_square(features(shown) - wanted)
    )


def _mean_square(differences: Tensor) -> Tensor:
    return differences.square().flatten(1).mean(1)


def _require_fit(images: Tensor, generator: SplitGenerator) -> None:
    if not images.is_floating_point():
        raise InputError(f"The images are {images.dtype} but must be floats in [0, 1]; divide bytes by 255.")
    with frozen(generator), torch.no_grad():
        shape = generator(images.new_zeros(1, generator.latent)).shape
    if images.shape[1:] != shape[1:]:
        raise InputError(
            f"The images are {list(images.shape[1:])} (channels, height, width) but the generator's are"
            f" {list(shape[1:])}; resize them, or use a generator of their size."
        )


def _require_alike(drawn: Tensor, given: Tensor, what: str) -> None:
    if drawn.shape != given.shape:
        raise InputError(
            f"The {what} are {list(given.shape)} but the generator draws {list(drawn.shape)}; "
            "take a generator of the images' channels and size."
        )
