"""Model patching: a classifier that must see the same class in an image and in its translation to the other place.

Stage 2 of Goel, Gu, Li & Re (2021, arXiv 2008.06775), a peer of chapter `sec-attribute-adversary`, which calls it CLAMP;
the authors call it CAMEL. Stage 1 is `nuisance.methods.subgroup_translation`. With p0 what is predicted of an image, p1
and p2 what is predicted of it at either place, and q group DRO's weights within a class, the classifier descends

    1/2 sum_y sum_a q_(a|y) L_(y,a)  +  w sum_(y,a) mean over the group of [ 1/2 KL(p0||m) + 1/2 JS(p1, p2) ],

with m = (p1 + p2) / 2, L the groups' mean cross-entropies on the original images only, and JS(p1, p2) the
Jensen-Shannon divergence 1/2 KL(p1||m) + 1/2 KL(p2||m).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.errors import InputError, ParameterError
from nuisance.losses import dro_weights, group_means
from nuisance.methods.group_dro import GroupDRO
from nuisance.metrics.groups import GROUPS


def consistency(log_p0: Tensor, log_p1: Tensor, log_p2: Tensor) -> Tensor:
    """1/2 KL(p0||m) + 1/4 KL(p1||m) + 1/4 KL(p2||m) with m = (p1 + p2) / 2, the mean over the batch, in nats.

    The authors' code (HazyResearch/model-patching, the type ``camel``). It is no Jensen-Shannon divergence of all three,
    whose m would contain p0 too: an image far from both its translations costs without a bound.

    Parameters
    ----------
    log_p0, log_p1, log_p2 : log-probabilities ``[b, classes]`` of the image and of its two translations. Logarithms,
        since those of probabilities that have underflowed are infinite; the authors' are clipped at 1e-7.
    """
    log_m = torch.logaddexp(log_p1, log_p2) - math.log(2)
    kl0, kl1, kl2 = (
        F.kl_div(log_m, log_p, reduction="batchmean", log_target=True) for log_p in (log_p0, log_p1, log_p2)
    )
    return kl0 / 2 + kl1 / 4 + kl2 / 4


class ModelPatching(GroupDRO):
    """G and C, trained by group DRO within the classes and by consistency with translations.

    It differs from the authors' code in that an image stands for its own translation to the place that it has
    (theirs goes through the generator of that place too, trained to change it little), in the optimiser
    (theirs: SGD, 500 epochs for Waterbirds), in the translator (see there), and in that a batch is
    drawn with the groups equally likely, not with exactly as many images of each. As theirs are, translations are
    made once, before training.

    Parameters
    ----------
    consistency_weight : w; the authors' is 100 for Waterbirds and 5 for CelebA.
    others : as `GroupDRO`; the authors' step is 0.01 and their adjustment 2 and 3.

    Raises
    ------
    ParameterError
        As `GroupDRO`, or if the weight is negative.
    """

    def __init__(
        self,
        embed: nn.Module,
        *,
        dimensions: int,
        group_counts: Tensor,
        consistency_weight: float,
        **others: Any,
    ) -> None:
        super().__init__(embed, dimensions=dimensions, group_counts=group_counts, **others)
        if consistency_weight < 0:
            raise ParameterError(f"consistency_weight is {consistency_weight:g} but must be 0 or more.")
        self.consistency_weight = consistency_weight

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step, in one pass of the originals and their translations, which batch norm then sees alike.

        Parameters
        ----------
        batch : with the attribute ``translated``, uint8 ``[b, 3, h, w]``: each image at the other place.

        Raises
        ------
        InputError
            If the translations are missing or not like the images.
        """
        translated = batch.attributes.get("translated")
        if translated is None or translated.shape != batch.pixels.shape or translated.dtype != torch.uint8:
            raise InputError(
                "The images have no attribute 'translated' of their shape and type; "
                "add it with images.with_attributes(translated=translator.translate(...))."
            )
        attribute = batch.attributes["attribute"].repeat(2)
        both = torch.cat([batch.pixels, translated])
        return super().update(Images(both, batch.labels.repeat(2), {"attribute": attribute}))

    def loss(self, z: Tensor, logits: Tensor, batch: Images) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of which the second half are the translations of the first; moves q as `GroupDRO` does."""
        log_p, log_translated = F.log_softmax(logits, 1).chunk(2)
        labels, attribute = batch.labels[: len(log_p)], batch.attributes["attribute"][: len(log_p)]
        losses = F.nll_loss(log_p, labels, reduction="none")
        means = group_means(losses, 2 * labels + attribute, GROUPS)
        within = zip(self.q.view(2, 2), means.view(2, 2), self.margins.view(2, 2), strict=True)
        # a class's weights sum to a half, so that its hard group gains on the other group of the class alone
        q = torch.cat(
            [dro_weights(*of, step=self.dro_step, adjustment=margins) / 2 for *of, margins in within]
        )
        self.q.copy_(q)
        dro_loss = q @ means
        inconsistency = consistency(log_p, log_p, log_translated)
        # the sum over the groups of their means is, where groups are equally likely, so many times the batch's mean
        loss = dro_loss + self.consistency_weight * GROUPS * inconsistency
        weights = {f"weight_{group}": q[group] for group in range(GROUPS)}
        watched = {"class_loss": losses.mean(), "dro_loss": dro_loss, "consistency_loss": inconsistency}
        return loss, {**watched, **weights}
