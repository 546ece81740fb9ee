"""Group DRO: the loss of the groups that fare worst counts most (Sagawa et al. 2020, algorithm 1).

The adversary's main rival in chapter `sec-attribute-adversary`; the equations are in `nuisance.losses.group_dro`.
What differs from the released code (kohpangwei/group_DRO) is told there; the optimiser is the chapter's Adam.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.errors import ParameterError
from nuisance.losses import group_dro
from nuisance.methods.embedding import EmbeddingClassifier
from nuisance.metrics.groups import GROUPS


class GroupDRO(EmbeddingClassifier):
    """G and C, trained by the mean of the groups' losses under weights q, which climb where the loss is high.

    Batches should be drawn so that groups are equally likely, as in algorithm 1.

    Parameters
    ----------
    group_counts : training images in each group ``2 * class + attribute``, n_g, int64 ``[4]``.
    dro_step : learning rate of q.
    adjustment : C, which adds C / sqrt(n_g) to a group's loss in the update of q: small groups generalise worse.
    others : as `EmbeddingClassifier`.

    Raises
    ------
    ParameterError
        If there are not four groups with an image each, or the adjustment is negative.
    """

    q: Tensor
    margins: Tensor

    def __init__(
        self,
        embed: nn.Module,
        *,
        dimensions: int,
        group_counts: Tensor,
        dro_step: float = 0.01,
        adjustment: float = 0.0,
        **others: Any,
    ) -> None:
        super().__init__(embed, dimensions=dimensions, **others)
        if group_counts.shape != (GROUPS,) or (group_counts < 1).any():
            raise ParameterError(
                f"group_counts is {group_counts.tolist()} but must name {GROUPS} groups with an image or more each."
            )
        if adjustment < 0:
            raise ParameterError(f"adjustment is {adjustment:g} but must be 0 or more.")
        self.dro_step = dro_step
        self.register_buffer("q", torch.full((GROUPS,), 1 / GROUPS))
        self.register_buffer(
            "margins", adjustment / group_counts.sqrt(), persistent=False
        )  # a setting, not a state

    def loss(self, z: Tensor, logits: Tensor, batch: Images) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss; moves q, and so is to be called once a step. Watches the plain mean and q too."""
        losses = F.cross_entropy(logits, batch.labels, reduction="none")
        # group_of would check the labels again in every step, and wait for the device to do so.
        groups = 2 * batch.labels + batch.attributes["attribute"]
        loss, q = group_dro(losses, groups, self.q, step=self.dro_step, adjustment=self.margins)
        self.q.copy_(q)
        weights = {f"weight_{group}": q[group] for group in range(GROUPS)}
        return loss, {"class_loss": losses.mean(), "dro_loss": loss, **weights}
