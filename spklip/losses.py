"""Contrastive loss between clips and texts.

Shapes: B clips with one text each, D width of the shared space.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

UNLABELLED = -1
"""Label of a clip without a class: it is alone in its own."""


def contrastive_loss(video_bd: Tensor, text_bd: Tensor, scale: Tensor, label_b: Tensor) -> Tensor:
    """Symmetric contrastive loss; clips of one class are not each other's negatives (STCL).

    The target of a clip is shared out evenly among the texts of its class. With several
    processes, give it what was gathered from all of them, by a gather that carries gradients.

    Args:
        video_bd: unit vectors of the clips, (B, D).
        text_bd: unit vectors of their texts, (B, D).
        scale: inverse temperature, a scalar.
        label_b: int64 (B,), class of each clip; ``UNLABELLED`` clips are classes of their own.

    Returns:
        Mean of the clip-to-text and the text-to-clip cross-entropies, a scalar.

    Raises:
        ValueError: the shapes do not agree.

    Source: SPKLIP, arXiv:2505.12656, STCL; with several positives as in supervised contrastive
    learning, arXiv:2004.11362.
    """
    clips = len(video_bd)
    if video_bd.shape != text_bd.shape or label_b.shape != (clips,):
        raise ValueError(
            f"expected video (B, D), text (B, D) and label (B,), got {tuple(video_bd.shape)}, "
            f"{tuple(text_bd.shape)} and {tuple(label_b.shape)}"
        )
    logits_bb = (scale * video_bd @ text_bd.T).float()
    same_bb = (label_b[:, None] == label_b) & (label_b != UNLABELLED)
    same_bb = same_bb | torch.eye(clips, dtype=torch.bool, device=label_b.device)
    target_bb = same_bb / same_bb.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits_bb, target_bb) + F.cross_entropy(logits_bb.T, target_bb)) / 2
