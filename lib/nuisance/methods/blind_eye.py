"""BlindEye: turning a blind eye by a confusion loss (Alvi, Zisserman, Nellaker, ECCV workshops 2018).

f, g minimise CE(y, g(f(x))) + alpha * confusion, the cross-entropy of the uniform distribution and h's
prediction; h minimises its own cross-entropy. Chapter: `sec-learning-not-to-learn`.
Their text was not at hand: the form of the loss is the one that the field quotes, and that both players step
on every batch, as everywhere in the chapter, is our choice.
"""

from torch import Tensor

from nuisance.data.colored_mnist import Paint
from nuisance.losses import confusion_loss
from nuisance.methods.bias_game import BiasGame
from nuisance.methods.erm import Schedule


class BlindEye(BiasGame):
    """The confusion loss against the same bias net as in unlearning.

    Parameters
    ----------
    confusion_weight : alpha.
    """

    def __init__(self, *, width: int, schedule: Schedule, painting: Paint, confusion_weight: float) -> None:
        super().__init__(width=width, schedule=schedule, painting=painting)
        self.confusion_weight = confusion_weight

    def encoder_term(self, log_q: Tensor, bias_loss: Tensor) -> Tensor:
        """alpha times the confusion loss."""
        return self.confusion_weight * confusion_loss(log_q)
