"""A VAE-GAN, the stand-in for the "well-trained generators" of chapter `sec-natural-transformation`.

Larsen et al. (2016, arXiv 1512.09300) join a variational autoencoder and a GAN, whose generator is the decoder. With
an image x, its posterior q(z|x) = N(mu(x), diag(s(x))) from the encoder E, a draw z of it, another latent w, the
generator G, the discriminator D with features F, and a(t) = log(1 + e^t), E and G descend

    |G(z) - x|^2 / P  +  2 v / P KL(q(z|x) || N(0, I))
        +  f mean[(F(G(z)) - F(x))^2]  +  g mean[a(-D(G(z))), a(-D(G(w)))]

with P numbers in an image; D descends a(-D(x)) + mean[a(D(G(z))), a(D(G(w)))]. The first two terms are, but for the
factor 2 v / P, a variational autoencoder whose pixels have the variance v. The adversarial loss is the non-saturating
one (Goodfellow et al. 2014). As in the paper's algorithm 1, all players step at once, from one pass, and D learns from
nothing but its own loss. Unlike there, errors are counted in pixels too, and the adversarial loss of G(z) reaches E.

The paper draws w from N(0, I). Within the thousand steps that a CPU can do, the divergence does not bring the latents
there: they stay correlated, and most of N(0, I) lies where no image does. So here w is drawn from the Gaussian that has
the moments of the batch's own z, and when training is over `VAEGAN.standardise` changes the coordinates so that this
Gaussian, now fitted to all images (Ghosh et al. 2020, arXiv 1903.12436), is N(0, I).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nuisance.data.images import Images
from nuisance.errors import ParameterError
from nuisance.models.generator import ImageDiscriminator, ImageEncoder, LatentGenerator, draw_weights
from nuisance.seeding import generator as stream
from nuisance.training import LossWatch, Method, in_parts

PIECE = 256
"""So many images are encoded or drawn at once, which bounds the memory."""
BETAS = (0.5, 0.999)

_WEIGHTS, _NOISE = 1, 2  # purposes of random numbers


def kl_from_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag(variance)) || N(0, I)), in nats: ``[b, d]`` twice -> ``[b]``.

    sum_j (mean_j^2 + variance_j - log variance_j - 1) / 2 (Kingma & Welling 2014, appendix B).
    """
    # expm1: for a variance near 1 the difference of two numbers near 1 would be rounding
    return (mean.square() + log_variance.expm1() - log_variance).sum(1) / 2


def gaussian_like(latents: Tensor, noise: Tensor) -> Tensor:
    """Draws from the Gaussian with the mean and the (biased) covariance of latents, without taking its root.

    Parameters
    ----------
    latents : ``[b, d]``.
    noise : standard normal numbers, ``[n, b]``.

    Returns
    -------
    ``[n, d]``.
    """
    mean = latents.mean(0)
    return mean + noise @ (latents - mean) / len(latents) ** 0.5


def discriminator_loss(real: Tensor, drawn: Tensor) -> Tensor:
    """mean(-log p(real)) + mean(-log(1 - p(drawn))) of scores of any number, p their logistic function."""
    return F.softplus(-real).mean() + F.softplus(drawn).mean()


def adversarial_loss(drawn: Tensor) -> Tensor:
    """mean(-log p(drawn)), non-saturating: its slope is largest where the discriminator is not deceived at all."""
    return F.softplus(-drawn).mean()


class VAEGAN(Method):
    """Encoder, generator and discriminator, trained together; no label is ever read.

    Parameters
    ----------
    latent, width, channels, side : see `LatentGenerator`; the encoder has the same width.
    discriminator_width : see `ImageDiscriminator`, which sees three images for each one of the batch and so costs most;
        None for ``width``.
    steps : of the whole training; the learning rate falls linearly to zero over them.
    learning_rate : of Adam, for all players.
    pixel_variance : v, of a pixel about its reconstruction. Larger values draw the latents closer to N(0, I), at the
        cost of the reconstructions.
    feature_weight, adversarial_weight : f and g; the pixels' mean squared error has weight 1.
    seed : decides the first weights and the latents of every step.
    """

    def __init__(
        self,
        *,
        latent: int = 32,
        width: int = 16,
        channels: int = 1,
        side: int = 28,
        discriminator_width: int | None = None,
        steps: int,
        learning_rate: float = 2e-3,
        pixel_variance: float = 0.1,
        feature_weight: float = 0.02,
        adversarial_weight: float = 5e-3,
        seed: int,
    ) -> None:
        super().__init__()
        self.seed, self.steps, self.learning_rate = seed, steps, learning_rate
        self.weights = {
            "pixel_loss": 1.0,
            "kl": 2 * pixel_variance / (channels * side**2),
            "feature_loss": feature_weight,
            "adversarial_loss": adversarial_weight,
        }
        self.encoder = ImageEncoder(latent=latent, width=width, channels=channels, side=side)
        self.generator = LatentGenerator(latent=latent, width=width, channels=channels, side=side)
        self.discriminator = ImageDiscriminator(
            width=width if discriminator_width is None else discriminator_width, channels=channels, side=side
        )
        draw_weights(self, stream(seed, _WEIGHTS))
        self.to(memory_format=torch.channels_last)  # in which a CPU's convolutions are faster
        self.players = {
            "autoencoder": [*self.encoder.parameters(), *self.generator.parameters()],
            "discriminator": list(self.discriminator.parameters()),
        }
        self.optimizers = {
            name: torch.optim.Adam(weights, learning_rate, betas=BETAS, fused=True)
            for name, weights in self.players.items()
        }
        self.watch = LossWatch()

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step of every player; returns the terms, unweighted: ``kl`` in nats an image, the others means.

        Raises
        ------
        InputError
            If the images have another size than the networks.
        ParameterError
            If a term was not finite, at the latest `nuisance.training.CHECK_EVERY` steps later, or all ``steps`` have
            been done.
        """
        if self.steps_done >= self.steps:
            raise ParameterError(
                f"steps is {self.steps} and they are done; for a longer training build it with more."
            )
        x = self._scale(batch.pixels)
        mean, log_variance = self.encoder.posterior(x)
        noise, mixing = (numbers.to(x) for numbers in self._noise(len(x)))
        latents = mean + (log_variance / 2).exp() * noise
        others = gaussian_like(latents.detach(), mixing)
        drawn = self.generator(torch.cat([latents, others]))
        features = self.discriminator.features(torch.cat([x, drawn]))  # one pass; no image sees another
        scores = self.discriminator.judge(features)
        of_real, of_copies, _ = features.chunk(3)
        terms = {
            "pixel_loss": F.mse_loss(drawn[: len(x)], x),
            "kl": kl_from_standard(mean, log_variance).mean(),
            "feature_loss": F.mse_loss(of_copies, of_real),
            "adversarial_loss": adversarial_loss(scores[len(x) :]),
            "discriminator_loss": discriminator_loss(scores[: len(x)], scores[len(x) :]),
        }
        loss = torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        # `inputs` keeps each loss to its own player
        terms["discriminator_loss"].backward(retain_graph=True, inputs=self.players["discriminator"])
        loss.backward(inputs=self.players["autoencoder"])
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * (1 - self.steps_done / self.steps)
            optimizer.step()
        terms = {name: value.detach() for name, value in terms.items()}
        self.watch.add(self.steps_done, terms)
        self.steps_done += 1
        return terms

    def end_epoch(self, epoch: int) -> None:
        """Look whether the terms have stayed finite, see `update`."""
        self.watch.check()

    @torch.no_grad()
    def standardise(self, pixels: Tensor) -> None:
        """Change the latents' coordinates to those in which the draws z of images have the moments of N(0, I).

        To be called when training is over. Reconstructions stay as they are, and `sample` then draws from the Gaussian
        that fits the latents. The noise of the draws, its variances averaged over the images, is independent in the new
        coordinates too, which fixes them but for signs: each has the variance 1 / (1 + r) with r the ratio of
        what the images vary by to the noise, and the first, of the largest r, tells most of an image.

        Parameters
        ----------
        pixels : uint8 ``[n, c, h, w]``, the training's.

        Raises
        ------
        InputError
            If the images have another size than the networks.
        """

        def posterior(piece: Tensor) -> Tensor:
            return torch.cat(self.encoder.posterior(self._scale(piece)), 1)

        means, log_variances = in_parts(posterior, pixels, PIECE).double().chunk(2, 1)
        noise = log_variances.exp().mean(0).sqrt()
        centre = means.mean(0)
        scaled = (means - centre) / noise
        ratios, axes = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
        ratios, axes = ratios.flip(0).clamp(min=0), axes.flip(1)
        there = (axes / (1 + ratios).sqrt()).T / noise  # new = there (old - centre)
        back = noise[:, None] * axes * (1 + ratios).sqrt()
        # both changes are linear, so the layers next to the latents take them over
        last, first = self.encoder.out, self.generator.first
        weight, bias = last.weight.double(), last.bias.double()
        latent = len(centre)
        last.weight.copy_(torch.cat([there @ weight[:latent], torch.zeros_like(weight[latent:])]))
        last.bias.copy_(torch.cat([there @ (bias[:latent] - centre), -ratios.log1p()]))
        first.bias.add_(first.weight.double() @ centre)
        first.weight.copy_(first.weight.double() @ back)

    def encode(self, pixels: Tensor) -> Tensor:
        """The latents of images: uint8 ``[n, c, h, w]`` -> the posteriors' means ``[n, latent]``.

        Raises
        ------
        InputError
            If the images have another size than the networks.
        """
        return in_parts(lambda piece: self.encoder(self._scale(piece)), pixels, PIECE)

    def decode(self, latents: Tensor) -> Tensor:
        """The images of latents: ``[n, latent]`` -> uint8 ``[n, c, h, w]``.

        Raises
        ------
        InputError
            If the latents have another size than the generator's.
        """
        return in_parts(lambda piece: (self.generator(piece) * 255).round().to(torch.uint8), latents, PIECE)

    def sample(self, n: int, *, generator: torch.Generator) -> Tensor:
        """``n`` images of latents from N(0, I), uint8 ``[n, c, h, w]``; see `standardise`.

        ``generator`` is of the CPU.
        """
        latents = self.generator.draw(n, generator)
        return self.decode(latents.to(self.generator.first_weight))

    def _noise(self, count: int) -> tuple[Tensor, Tensor]:
        """This step's random numbers: the posteriors' ``[count, latent]``, and those of `gaussian_like`."""
        random = stream(self.seed, _NOISE, self.steps_done)
        own = torch.randn(count, self.generator.latent, generator=random)
        return own, torch.randn(count, count, generator=random)

    def _scale(self, pixels: Tensor) -> Tensor:
        """Bytes -> [0, 1], of the weights' type."""
        return pixels.to(self.generator.first_weight.dtype).div_(255)
