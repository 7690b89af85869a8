"""Normalisation of whole feature vectors over a batch.

Shapes: N vectors, D features.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from spklip.gather import gather_with_gradients, own_rows

MOMENTUM = 0.1


class FeatureNorm(nn.BatchNorm1d):
    """Batch normalisation that is right from the first steps and for a batch of one.

    In training the batch is that of all processes together, so that several processes train what
    one process trains on the whole batch, and hold the same running statistics. These are plain
    means over the first ten batches and moving averages after that, so they never remember where
    they were initialised; a batch of one vector, which has no spread, is normalised by them.
    """

    def forward(self, x_nd: Tensor) -> Tensor:
        """Centre and scale every feature, (N, D); in training, N alike in all processes."""
        if not self.training:
            return super().forward(x_nd)
        gathered_nd = gather_with_gradients(x_nd)
        if len(gathered_nd) == 1:
            return F.batch_norm(
                x_nd, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        if self.num_batches_tracked is not None:
            self.momentum = max(MOMENTUM, 1 / (int(self.num_batches_tracked) + 1))
        return own_rows(super().forward(gathered_nd))


class DampedNorm(FeatureNorm):
    """The same without blowing up what hardly varied: divides by deviation plus mean deviation.

    A pretrained encoder's features that a few clips leave as they are differ for other clips, and
    by much more than so few can tell.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features, affine=False)

    def forward(self, x_nd: Tensor) -> Tensor:
        """Centre every feature and scale it, (N, D)."""
        normal_nd = super().forward(x_nd)
        assert self.running_var is not None
        spread_d = (self.running_var + self.eps).sqrt()
        return normal_nd * (spread_d / (spread_d + spread_d.mean()))
