"""The generator of chapter `sec-invariance-transfer`: a MUNIT that learns nuisances from one data set without labels.

Zhou et al. (2022, arXiv 2203.09739) train the MUNIT of Huang et al. (2018, arXiv 1804.04732) with one data set in
the place of both domains. With content c = E_c(x) and style E_s(x) of an image x, decoder G, discriminator D, a style
s ~ N(0, I) and y = G(c, s), the networks E_c, E_s and G descend

    (D(y) - 1)^2 + 10 |G(c, E_s(x)) - x| + |E_s(y) - s| + |E_c(y) - c|

with means over images and places and pixels in [-1, 1]; D descends D(y)^2 + (D(x') - 1)^2 with another real image x'.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.errors import InputError
from nuisance.models.munit import AutoEncoder, PatchDiscriminator, draw_weights
from nuisance.seeding import generator as stream
from nuisance.training import LossWatch, Method

PIECE = 256
"""So many images are drawn at once, which bounds the memory."""
TERMS = ("discriminator_loss", "adversarial_loss", "image_loss", "style_loss", "content_loss")
BETAS, WEIGHT_DECAY = (0.5, 0.999), 1e-4

_WEIGHTS, _STYLES = 1, 2  # purposes of random numbers


def discriminator_loss(fake: Tensor, real: Tensor) -> Tensor:
    """mean(fake^2) + mean((real - 1)^2) of a discriminator's scores, any shape (Mao et al. 2017, LSGAN)."""
    return fake.square().mean() + adversarial_loss(real)


def adversarial_loss(fake: Tensor) -> Tensor:
    """mean((fake - 1)^2): 0 where the discriminator takes drawn images for real."""
    return (fake - 1).square().mean()


class InvarianceGenerator(Method):
    """Draws an image's content in another style, and so carries the nuisances of a data set from class to class.

    The released code trains NVlabs' MUNIT unchanged, with the same images in both domains: two whole generators and
    two discriminators. Generator A learns to reconstruct images from its own contents and styles, and to decode the
    contents that B's encoder makes in a way that discriminator A takes for real. The classifier's training then uses
    generator A from end to end, contents of A decoded by A in random styles: a way that no discriminator
    has ever judged. With ``two_generators`` this is what is trained and used. By default there is one generator and one
    discriminator, and the very way that is used is judged, against images other than those that gave the content.

    In both cases, and unlike the released code, a step draws its images once and shows them to the discriminator and
    then to the generator's losses; there the discriminator's half of the step encodes and decodes anew, in styles of
    its own. No label is ever read.

    Parameters
    ----------
    in_channels, width, style_dimensions, others : see `AutoEncoder`; by default the published ones.
    discriminator_width, discriminator_stages : see `PatchDiscriminator`; None for ``width``.
    learning_rate : of Adam, halved every ``halve_every`` steps; theirs are 1e-4 and 100,000.
    image_weight, style_weight, content_weight : of the reconstruction losses; the adversarial loss has weight 1.
    two_generators : train the released code's two generators; A is used.
    seed : decides the first weights and the styles of every step.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        width: int = 64,
        style_dimensions: int = 8,
        discriminator_width: int | None = None,
        discriminator_stages: int = 4,
        learning_rate: float = 1e-4,
        halve_every: int = 100_000,
        image_weight: float = 10.0,
        style_weight: float = 1.0,
        content_weight: float = 1.0,
        two_generators: bool = False,
        seed: int,
        **others: Any,
    ) -> None:
        super().__init__()
        self.style_dimensions, self.seed = style_dimensions, seed
        self.learning_rate, self.halve_every = learning_rate, halve_every
        self.weights = {
            "discriminator_loss": 1.0,
            "adversarial_loss": 1.0,
            "image_loss": image_weight,
            "style_loss": style_weight,
            "content_loss": content_weight,
        }
        count = 2 if two_generators else 1
        # typed as what it is, its items would be mere modules, without encode and decode
        self.generators: Any = nn.ModuleList(
            AutoEncoder(in_channels=in_channels, width=width, style_dimensions=style_dimensions, **others)
            for _ in range(count)
        )
        self.discriminators = nn.ModuleList(
            PatchDiscriminator(
                in_channels=in_channels, width=discriminator_width or width, stages=discriminator_stages
            )
            for _ in range(count)
        )
        draw_weights(self, stream(seed, _WEIGHTS))
        self.to(memory_format=torch.channels_last)
        self.optimizers = {
            name: torch.optim.Adam(
                players.parameters(), learning_rate, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
            )
            for name, players in (("generators", self.generators), ("discriminators", self.discriminators))
        }
        self.watch = LossWatch()

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step of the discriminators, then one of the generators.

        The first half of the batch gives the contents, the second half the real images that they are judged against
        (with two generators the halves are the two domains, and each is both), so the halves should be drawn
        independently, by the sampler that balances the classes.

        Raises
        ------
        InputError
            If the batch cannot be halved.
        ParameterError
            If a loss was not finite, at the latest `nuisance.training.CHECK_EVERY` steps later.
        """
        if not len(batch) or len(batch) % 2:
            raise InputError(
                f"The batch has {len(batch)} images but is cut into halves; take an even number."
            )
        halves = self._scale(batch.pixels).chunk(2)
        count = len(self.generators)
        styles = self._styles(count * len(halves[0]), stream(self.seed, _STYLES, self.steps_done))
        priors = styles.to(batch.pixels.device).chunk(count)
        reals = halves[-count:]  # where there is one generator, the other half
        players = list(zip(self.generators, self.discriminators, halves, priors, strict=False))
        terms: dict[str, list[Tensor]] = {term: [] for term in TERMS}

        # Gradients are gathered at the contents, so that the reconstruction can go back at once and make room.
        self.optimizers["generators"].zero_grad()
        contents = [own.content(x) for own, _, x, _ in players]
        gathered = [content.detach().requires_grad_() for content in contents]
        for (own, _, x, _), content in zip(players, gathered, strict=True):
            terms["image_loss"].append(F.l1_loss(own.decode(content, own.style(x)), x))
            self._backward(terms, "image_loss")
        fakes = [  # of two generators, each decodes the other's contents
            own.decode(content, style)
            for (own, _, _, style), content in zip(players, reversed(gathered), strict=True)
        ]

        self.discriminators.requires_grad_(True)
        self.optimizers["discriminators"].zero_grad()
        for (_, judge, _, _), fake, real in zip(players, fakes, reals, strict=True):
            scores = judge(torch.cat([fake.detach(), real])).chunk(2)  # one pass; no image sees another
            terms["discriminator_loss"].append(discriminator_loss(*scores))
            self._backward(terms, "discriminator_loss")
        self._step("discriminators")

        self.discriminators.requires_grad_(False)  # nobody would use their gradients
        for (own, judge, _, style), content, fake in zip(players, reversed(gathered), fakes, strict=True):
            again, style_again = own.encode(fake)
            terms["adversarial_loss"].append(adversarial_loss(judge(fake)))
            terms["style_loss"].append(F.l1_loss(style_again, style))
            terms["content_loss"].append(F.l1_loss(again, content))
            self._backward(terms, "adversarial_loss", "style_loss", "content_loss")
        torch.autograd.backward(contents, [content.grad for content in gathered])
        self._step("generators")

        losses = {term: torch.stack(values).detach().mean() for term, values in terms.items()}
        self.watch.add(self.steps_done, losses)
        self.steps_done += 1
        return losses

    def end_epoch(self, epoch: int) -> None:
        """Look whether the losses have stayed finite, see `update`."""
        self.watch.check()

    @torch.no_grad()
    def generate(self, pixels: Tensor, *, generator: torch.Generator) -> Tensor:
        """The contents of images in styles drawn from the prior.

        Parameters
        ----------
        pixels : uint8 ``[n, c, h, w]``.
        generator : gives the styles; on the CPU.

        Returns
        -------
        uint8 ``[n, c, h, w]``.

        Raises
        ------
        InputError
            If the images have other channels than those that the generator was built for, or a side that its
            networks cannot take.
        """
        return self._redraw(pixels, self._styles(len(pixels), generator).to(pixels.device))

    @torch.no_grad()
    def reconstruct(self, pixels: Tensor) -> Tensor:
        """The contents of images in their own styles: near the images, if the two keep all there is."""
        return self._redraw(pixels, None)

    def _redraw(self, pixels: Tensor, styles: Tensor | None) -> Tensor:
        own = self.generators[0]
        drawn = torch.empty_like(pixels)
        for start in range(0, len(pixels), PIECE):
            piece = slice(start, start + PIECE)
            x = self._scale(pixels[piece])
            style = own.style(x) if styles is None else styles[piece]
            drawn[piece] = ((own.decode(own.content(x), style) + 1) * 127.5).round().to(torch.uint8)
        return drawn

    def _styles(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, self.style_dimensions, generator=generator)

    def _backward(self, terms: dict[str, list[Tensor]], *names: str) -> None:
        """Add the gradients of the newest losses of these names."""
        torch.stack([self.weights[name] * terms[name][-1] for name in names]).sum().backward()

    def _step(self, players: str) -> None:
        optimizer = self.optimizers[players]
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * 0.5 ** (self.steps_done // self.halve_every)
        optimizer.step()

    @staticmethod
    def _scale(pixels: Tensor) -> Tensor:
        """Bytes -> [-1, 1], channels last."""
        return pixels.float().div_(127.5).sub_(1).contiguous(memory_format=torch.channels_last)


def pixel_variation(pixels: Tensor) -> float:
    """The mean over pixels of the standard deviation over versions of one image, on the scale [0, 1].

    Parameters
    ----------
    pixels : uint8 ``[versions, ...]``, at least two versions.
    """
    return (pixels.float() / 255).std(0).mean().item()


def generator_report(
    generator: InvarianceGenerator,
    images: Images,
    *,
    classify: Callable[[Tensor], Tensor],
    random: torch.Generator,
    draws: int = 8,
) -> dict[str, float]:
    """What a generator makes of images, to see whether it has collapsed.

    Parameters
    ----------
    images : with their classes.
    classify : bytes ``[n, c, h, w]`` -> the classes ``[n]`` that a classifier sees, which should have been trained on
        images with the nuisance.
    random : gives the styles; on the CPU.
    draws : styles an image, at least 2.

    Returns
    -------
    ``style_variation``, `pixel_variation` over the styles of each image (near 0: the style is ignored), and
    ``real_variation``, that over the real images, in which contents differ too (the better measure, where the true
    nuisance is known, is `pixel_variation` over versions of the same images by it); ``kept``, the share of drawn images
    in which ``classify`` sees the class of the image that gave the content; ``reconstruction``, the mean absolute error
    of `InvarianceGenerator.reconstruct`, on the scale [0, 1].

    Raises
    ------
    InputError
        If there are fewer than two images or draws: neither varies.
    """
    if draws < 2 or len(images) < 2:
        raise InputError(
            f"There are {len(images)} images and {draws} draws; a report on variation takes two of each at least."
        )
    drawn = torch.stack([generator.generate(images.pixels, generator=random) for _ in range(draws)])
    kept = torch.stack([classify(version) == images.labels for version in drawn])
    copies = generator.reconstruct(images.pixels)
    return {
        "style_variation": pixel_variation(drawn),
        "real_variation": pixel_variation(images.pixels),
        "kept": kept.double().mean().item(),
        "reconstruction": F.l1_loss(copies.float(), images.pixels.float()).item() / 255,
    }
