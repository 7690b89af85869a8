"""The contrastive loss, against sums done by hand and by brute force."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from spklip import contrastive_loss

SCALE = torch.tensor(2.0)


def by_hand(video_bd, text_bd, scale, label_b):
    """The definition, one clip and one text at a time, in Python floats."""
    clips = range(len(label_b))
    same = [[i == j or -1 != label_b[i] == label_b[j] for j in clips] for i in clips]
    total = 0.0
    for rows in (video_bd @ text_bd.T, text_bd @ video_bd.T):
        for i in clips:
            logits = [scale * float(rows[i, j]) for j in clips]
            log_sum = math.log(sum(math.exp(logit) for logit in logits))
            positives = [logits[j] - log_sum for j in clips if same[i][j]]
            total -= sum(positives) / len(positives) / len(label_b)
    return total / 2


def units(clips, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(clips, width, generator=generator, dtype=torch.float64), dim=1)


def test_two_matching_pairs_worked_on_paper():
    eye = torch.eye(2)
    loss = contrastive_loss(eye, eye, SCALE, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))  # logits (2, 0) and (0, 2)


@given(
    label=st.lists(st.integers(-1, 3), min_size=1, max_size=6),
    scale=st.floats(0.1, 5.0),
    seed=st.integers(0, 2**20),
)
def test_equals_the_definition_in_loops(label, scale, seed):
    video_bd, text_bd = units(len(label), 4, seed), units(len(label), 4, seed + 1)
    loss = contrastive_loss(video_bd, text_bd, torch.tensor(scale), torch.tensor(label))
    assert loss.item() == pytest.approx(by_hand(video_bd, text_bd, scale, label), rel=1e-5)


def test_unlabelled_clips_are_each_others_negatives():
    video_bd, text_bd = units(3, 4, 0), units(3, 4, 1)
    alone = contrastive_loss(video_bd, text_bd, SCALE, torch.tensor([-1, -1, -1]))
    assert torch.equal(alone, contrastive_loss(video_bd, text_bd, SCALE, torch.tensor([0, 1, 2])))


def test_order_of_the_batch_does_not_matter():
    video_bd, text_bd, label_b = units(5, 4, 0), units(5, 4, 1), torch.tensor([0, 1, 0, -1, 2])
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = contrastive_loss(video_bd[order], text_bd[order], SCALE, label_b[order])
    straight = contrastive_loss(video_bd, text_bd, SCALE, label_b)
    assert torch.allclose(shuffled, straight)


def test_shapes_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 4\), \(3, 4\) and \(2,\)"):
        contrastive_loss(units(2, 4, 0), units(3, 4, 0), SCALE, torch.tensor([0, 1]))
