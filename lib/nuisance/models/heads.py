"""Last layers, which turn features into what a loss takes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineHead(nn.Module):
    """The cosine of features and each class's weights: features ``[b, features]`` -> ``[b, classes]``.

    The last layer of LDAM (Cao et al. 2019, arXiv 1906.07413), which has no bias: neither the length of an image's
    features nor that of a class's weights can make up for a margin.

    Parameters
    ----------
    features, classes : number of each.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        # Of length 1, since only directions count: the longer the weights, the less a step turns them.
        self.weight = nn.Parameter(F.normalize(torch.randn(classes, features)))

    def forward(self, x: Tensor) -> Tensor:
        """Cosines, see the class; 0 for features that are all 0."""
        return F.linear(F.normalize(x), F.normalize(self.weight))
