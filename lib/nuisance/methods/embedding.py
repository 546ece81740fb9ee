"""An embedding and a linear head, trained by cross-entropy: ERM, and the base of what is compared with it.

The network of chapter `sec-attribute-adversary`: G maps an image to z, C maps z to logits. The methods of the
chapter differ in the loss alone, so that a difference between them is not one of networks or optimisers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.training import Method


class EmbeddingClassifier(Method):
    """G and C, trained by cross-entropy (ERM) with Adam at a constant rate.

    A subclass overrides `loss`, perhaps `prepare`, and hands further networks that are trained along to `add_player`.

    Parameters
    ----------
    embed : G, images ``[b, 3, h, w]`` in [0, 1] -> embeddings ``[b, dimensions]``.
    dimensions : length of an embedding.
    classes : number of classes.
    learning_rate : Adam's, for all players.
    weight_decay : factor of the weights that Adam adds to the gradient (coupled L2), before it is scaled: so large
        ones as the study's 1.0 mean something else than in AdamW.
    """

    def __init__(
        self,
        embed: nn.Module,
        *,
        dimensions: int,
        classes: int = 2,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        super().__init__()
        self.embed, self.head = embed, nn.Linear(dimensions, classes)
        self.to(memory_format=torch.channels_last)  # in which a CPU's convolutions are faster
        self.optimizers = {
            "net": torch.optim.Adam(self.parameters(), learning_rate, weight_decay=weight_decay, fused=True)
        }

    def add_player(self, player: nn.Module, *, rate: float = 1.0) -> None:
        """Train ``player`` too, by the same optimiser; its learning rate is ``rate`` times the others'."""
        optimizer = self.optimizers["net"]
        rate *= optimizer.defaults["lr"]
        optimizer.add_param_group({"params": list(player.parameters()), "lr": rate})

    def scale(self, pixels: Tensor) -> Tensor:
        """Bytes ``[b, 3, h, w]`` as numbers in [0, 1], of the weights' type."""
        return pixels.to(self.head.weight.dtype, memory_format=torch.channels_last).div_(255)

    def embedding(self, pixels: Tensor) -> Tensor:
        """G: bytes ``[b, 3, h, w]`` -> z ``[b, dimensions]``."""
        return self.embed(self.scale(pixels))

    def predict(self, pixels: Tensor) -> Tensor:
        """C(G(x)): bytes ``[b, 3, h, w]`` -> logits ``[b, classes]``."""
        return self.head(self.embedding(pixels))

    def loss(self, z: Tensor, logits: Tensor, batch: Images) -> tuple[Tensor, dict[str, Tensor]]:
        """What all players descend, a scalar, and what is worth watching; here cross-entropy, in nats.

        Parameters
        ----------
        z : the batch's embeddings ``[b, dimensions]``.
        logits : C's ``[b, classes]``.
        batch : with its labels and attributes.
        """
        class_loss = F.cross_entropy(logits, batch.labels)
        return class_loss, {"class_loss": class_loss}

    def prepare(self, z: Tensor, batch: Images) -> None:
        """What comes before a step, given the batch's embeddings without their gradient; here nothing."""

    def step(self, loss: Tensor) -> None:
        """Move every player that the loss depends on; Adam passes over a weight without a gradient."""
        optimizer = self.optimizers["net"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step of every player."""
        z = self.embedding(batch.pixels)
        self.prepare(z.detach(), batch)
        loss, watched = self.loss(z, self.head(z), batch)
        self.step(loss)
        self.steps_done += 1
        return watched
