"""Plain supervised training of any classifier: what the out-of-distribution chapters judge."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuisance.data.images import Images
from nuisance.training import Method


class Supervised(Method):
    """A network trained by cross-entropy with Adam, its learning rate falling linearly to zero.

    Parameters
    ----------
    net : images ``[b, c, h, w]`` in [0, 1] -> logits.
    steps : number of steps of the whole training.
    """

    def __init__(self, net: nn.Module, *, steps: int, learning_rate: float) -> None:
        super().__init__()
        self.net, self.steps, self.learning_rate = net, steps, learning_rate
        self.optimizers = {"net": torch.optim.Adam(net.parameters(), learning_rate, fused=True)}

    def predict(self, pixels: Tensor) -> Tensor:
        """Logits of bytes ``[b, c, h, w]``."""
        return self.net(pixels.float().div_(255))

    def update(self, batch: Images) -> dict[str, Tensor]:
        """One step."""
        loss = F.cross_entropy(self.predict(batch.pixels), batch.labels)
        optimizer = self.optimizers["net"]
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * (1 - self.steps_done / self.steps)
        optimizer.step()
        self.steps_done += 1
        return {"loss": loss}
