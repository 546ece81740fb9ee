"""Stage 1 of model patching, a peer of chapter `sec-attribute-adversary`: a CycleGAN between a class's subgroups.

Goel, Gu, Li & Re (2021, arXiv 2008.06775) train one CycleGAN (Zhu et al. 2017) a class; with G_a the generator
that moves an image to place a, D_a the discriminator of place a and x from the other place, the generators descend

    BCE(D_a(G_a(x)), real) + 10 |G_b(G_a(x)) - x| + 1/2 |G_b(x) - x|   (b the place that x has)

summed over both directions, with mean absolute errors on the scale [-1, 1]; each D_a descends the mean of its
cross-entropies on real and on translated images.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.errors import InputError
from nuisance.models.cyclegan import Generator, PatchDiscriminator
from nuisance.training import Method

Translate = Callable[[Tensor], Tensor]
PLACES = ("place 0", "place 1")
PIECE = 256
"""So many images are translated at once, which bounds the memory."""


def generator_losses(x: Tensor, there: Translate, back: Translate) -> tuple[Tensor, Tensor, Tensor]:
    """The translation ``there(x)`` of images, and its two mean absolute errors.

    Returns
    -------
    ``there(x)``; the cycle loss mean|back(there(x)) - x|; the identity loss mean|back(x) - x|: ``back`` leads to
    where ``x`` is already.
    """
    moved = there(x)
    returned, same = back(torch.cat([moved, x])).chunk(2)  # one pass for both; no image sees another
    return moved, F.l1_loss(returned, x), F.l1_loss(same, x)


class SubgroupTranslator(Method):
    """Moves the images of one class from either place to the other.

    It differs from the authors' code in the generator (a few convolutions and a mask instead of a U-Net), in
    instance instead of batch norm, in batches (theirs: 4), steps (theirs: 4,000 epochs over 184 images a side of
    224 pixels), and in that the discriminators judge the newest translations only, not a store of the last 50.
    Of their flips and crops only the flips are kept: every second batch is mirrored, which needs no random numbers.

    With few steps the authors' settings hardly move anything: the cheapest way to come back is not to leave. For some
    250 steps of 16 images of 32 pixels take a width of 8, a learning rate of 2e-3 and a cycle weight of 3, and
    look at `translation_report`: how much is moved varies with the seed.

    Parameters
    ----------
    width : of the generators, see `Generator`; the discriminators are twice as wide.
    blocks : residual blocks of a generator.
    learning_rate : of Adam with beta1 = 0.5, for all four networks; the authors' is 2e-4.
    cycle_weight, identity_weight : the authors' are 10 and 1; half of the latter is taken, as they do.
    """

    def __init__(
        self,
        *,
        width: int = 16,
        blocks: int = 2,
        learning_rate: float = 2e-4,
        cycle_weight: float = 10.0,
        identity_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.cycle_weight, self.identity_weight = cycle_weight, identity_weight
        self.to_place = nn.ModuleList(Generator(width=width, blocks=blocks) for _ in PLACES)
        self.of_place = nn.ModuleList(PatchDiscriminator(width=2 * width) for _ in PLACES)
        self.optimizers = {
            name: torch.optim.Adam(players.parameters(), learning_rate, betas=(0.5, 0.999), fused=True)
            for name, players in (("generators", self.to_place), ("discriminators", self.of_place))
        }

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step of the generators, then one of the discriminators, on a batch of one class from both places.

        The caller balances the places (``nuisance.data.groups.alternating_order``).

        Raises
        ------
        InputError
            If the batch has no image of one place.
        """
        place = batch.attributes["attribute"]
        real = [self._scale(batch.pixels[place == a]) for a in range(2)]
        for name, x in zip(PLACES, real, strict=True):
            if not len(x):
                raise InputError(f"The batch has no image of {name}; draw both places equally often.")
        if self.steps_done % 2:
            real = [x.flip(3) for x in real]

        adversarial = cycle = identity = torch.zeros((), device=place.device)
        translated = []
        for a in range(2):
            x, b = real[1 - a], 1 - a
            moved, cycle_loss, identity_loss = generator_losses(x, self.to_place[a], self.to_place[b])
            adversarial = adversarial + _cross_entropy(self.of_place[a](moved), real=True)
            cycle, identity = cycle + cycle_loss, identity + identity_loss
            translated.append(moved.detach())
        loss = adversarial + self.cycle_weight * cycle + self.identity_weight / 2 * identity
        self.optimizers["generators"].zero_grad()
        # to the generators only: what the discriminators would be told here would be thrown away
        loss.backward(inputs=list(self.to_place.parameters()))
        self.optimizers["generators"].step()

        judged = torch.zeros((), device=place.device)
        for a in range(2):
            judge = self.of_place[a]
            judged = judged + _cross_entropy(judge(real[a]), real=True) / 2
            judged = judged + _cross_entropy(judge(translated[a]), real=False) / 2
        self.optimizers["discriminators"].zero_grad()
        judged.backward()
        self.optimizers["discriminators"].step()
        self.steps_done += 1
        return {
            "adversarial_loss": adversarial / 2,
            "cycle_loss": cycle / 2,
            "identity_loss": identity / 2,
            "discriminator_loss": judged / 2,
        }

    @torch.no_grad()
    def translate(self, pixels: Tensor, attribute: Tensor) -> Tensor:
        """Images moved to the other place.

        Parameters
        ----------
        pixels : uint8 ``[n, 3, h, w]`` of the class that the translator was trained on.
        attribute : int64 ``[n]``, the place that each image has, 0 or 1.

        Returns
        -------
        uint8 ``[n, 3, h, w]``.
        """
        moved = torch.empty_like(pixels)
        for a in range(2):
            for piece in (attribute == 1 - a).nonzero().squeeze(1).split(PIECE):
                if len(piece):  # without an image there is one empty piece, which instance norm refuses
                    x = self.to_place[a](self._scale(pixels[piece]))
                    moved[piece] = ((x + 1) * 127.5).round().to(torch.uint8)
        return moved

    @staticmethod
    def _scale(pixels: Tensor) -> Tensor:
        """Bytes -> [-1, 1]."""
        return pixels.float().div_(127.5).sub_(1)


def translation_report(
    translator: SubgroupTranslator, images: Images, place_of: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """What a translator does to images, to see whether it has collapsed.

    Parameters
    ----------
    place_of : bytes ``[n, 3, h, w]`` -> the place 0 or 1 ``[n]`` that a classifier sees in each, which should have
        been trained on images without the link of place and class.

    Returns
    -------
    ``moved``, the share of the translations that are taken for the other place (near 0: nothing was moved);
    ``changed``, the mean absolute change of a pixel by the translation (near 0: nothing was changed), and ``cycle``,
    that by two translations (near ``changed``: the way back is lost), both on the scale [0, 1].
    """
    place = images.attributes["attribute"]
    there = translator.translate(images.pixels, place)
    back = translator.translate(there, 1 - place)
    return {
        "moved": (place_of(there) == 1 - place).double().mean().item(),
        "changed": _difference(there, images.pixels),
        "cycle": _difference(back, images.pixels),
    }


def _difference(one: Tensor, other: Tensor) -> float:
    return F.l1_loss(one.float(), other.float()).item() / 255


def _cross_entropy(logits: Tensor, *, real: bool) -> Tensor:
    """-log sigmoid(logits) where ``real``, else -log(1 - sigmoid(logits)), in nats."""
    return F.softplus(-logits if real else logits).mean()
