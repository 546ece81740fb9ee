"""The attribute adversary: an embedding from which an opponent cannot tell the attribute.

The method of chapter `sec-attribute-adversary`. G and C descend, D climbs (and the other way round for its own loss)

    F(G, C, D) = E[ l(C(G(x)), y) ] - lambda E[ l(D(G(x)), a) ],   l cross-entropy,

by one backward pass through a gradient-reversal layer between G and D (Ganin & Lempitsky 2015): D descends
its own loss unscaled, G climbs lambda times that loss, C knows nothing of it.

The study does not describe D. Unconditional, D asks that z tell nothing of a; where a and y go together in
training, that forbids z to tell y, so that batches must be drawn with the groups equally likely.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.losses import gradient_reversal
from nuisance.methods.embedding import EmbeddingClassifier


class AttributeAdversary(EmbeddingClassifier):
    """G and C against D, which predicts the attribute from the embedding.

    Parameters
    ----------
    strength : lambda, constant.
    ahead : steps that D takes on a batch's embeddings before the game's own, while G stands still; 0 in the study.
    rate : D's learning rate in units of the others'; 1 in the study.
    conditional : whether D has a head for each class, of which the true class's is used: z then has to be
        invariant within a class only, and may tell of a what y tells.
    hidden : width of D's hidden layer; None for a linear D.
    attributes : number of the attribute's values.
    others : as `EmbeddingClassifier`.
    """

    def __init__(
        self,
        embed: nn.Module,
        *,
        dimensions: int,
        classes: int = 2,
        strength: float,
        conditional: bool = False,
        ahead: int = 0,
        rate: float = 1.0,
        hidden: int | None = 64,
        attributes: int = 2,
        **others: Any,
    ) -> None:
        super().__init__(embed, dimensions=dimensions, classes=classes, **others)
        self.strength, self.conditional, self.attributes = strength, conditional, attributes
        self.ahead = ahead
        outputs = attributes * classes if conditional else attributes
        self.adversary: nn.Module = nn.Linear(dimensions, outputs)
        if hidden is not None:
            self.adversary = nn.Sequential(
                nn.Linear(dimensions, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
            )
        self.add_player(self.adversary, rate=rate)

    def attribute_logits(self, z: Tensor, labels: Tensor) -> Tensor:
        """D: embeddings ``[b, dimensions]`` -> logits ``[b, attributes]``; the labels choose a conditional D's head."""
        logits = self.adversary(z)
        if not self.conditional:
            return logits
        by_class = logits.unflatten(1, (-1, self.attributes))
        return by_class[torch.arange(len(z), device=z.device), labels]

    def prepare(self, z: Tensor, batch: Images) -> None:
        """D's steps ahead, on embeddings ``[b, dimensions]`` that carry no gradient."""
        for _ in range(self.ahead):
            guesses = self.attribute_logits(z, batch.labels)
            self.step(F.cross_entropy(guesses, batch.attributes["attribute"]))

    def loss(self, z: Tensor, logits: Tensor, batch: Images) -> tuple[Tensor, dict[str, Tensor]]:
        """C's loss and D's, with the reversal between z and D; losses are watched in nats."""
        attribute = batch.attributes["attribute"]
        class_loss = F.cross_entropy(logits, batch.labels)
        guesses = self.attribute_logits(gradient_reversal(z, self.strength), batch.labels)
        attribute_loss = F.cross_entropy(guesses, attribute)
        return class_loss + attribute_loss, {
            "class_loss": class_loss,
            "attribute_loss": attribute_loss,
            "attribute_accuracy": (guesses.argmax(1) == attribute).float().mean(),
        }
