"""The 3-D CNN reads motion, from its seed alone."""

import pytest
import torch

from spklip.conv3d import conv3d_scores, fit_conv3d


def moving_dots(clips: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy counts (N, 16, 9, 12) of a dot that goes right (0), left (1), up (2) or down (3)."""
    generator = torch.Generator().manual_seed(seed)
    label_n = torch.randint(0, 4, (clips,), generator=generator)
    counts_nthw = 0.3 * torch.rand(clips, 16, 9, 12, generator=generator)
    steps = torch.tensor([[0, 1], [0, -1], [-1, 0], [1, 0]])
    start_n2 = torch.randint(0, 100, (clips, 2), generator=generator)
    for n in range(clips):
        for t in range(16):
            y, x = (start_n2[n] + t * steps[label_n[n]]).tolist()
            counts_nthw[n, t, y % 9, x % 12] = 1.0  # round the edges: no place tells the class
    return counts_nthw, label_n


def test_it_learns_which_way_a_dot_moves():
    counts, label = moving_dots(100, seed=0)
    module = fit_conv3d(counts, label, 4)
    test_counts, test_label = moving_dots(400, seed=1)
    right = conv3d_scores(module, test_counts).argmax(dim=1) == test_label
    assert right.float().mean() > 0.5  # 11 deviations of 400 guesses, 0.022, above 0.25
    backwards = conv3d_scores(module, test_counts.flip(1)).argmax(dim=1) == test_label
    assert backwards.float().mean() < 0.25  # each way is taken for its opposite


def test_a_seed_gives_the_same_scores_and_leaves_the_global_state_alone():
    counts, label = moving_dots(12, seed=2)
    before = torch.random.get_rng_state()
    with torch.no_grad():  # as an evaluation calls it
        scores = [
            conv3d_scores(
                fit_conv3d(counts, label, 4, steps=3, batch_size=5, seed=seed, mirror=mirror),
                counts,
            )
            for seed, mirror in ((0, False), (0, False), (1, False), (0, True))
        ]
        assert not torch.is_grad_enabled()
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])
    assert not torch.equal(scores[0], scores[3])
    assert not scores[0].requires_grad


def test_a_trained_module_is_frozen_and_its_batches_do_not_matter():
    counts, label = moving_dots(7, seed=3)
    module = fit_conv3d(counts, label, 4, steps=2)
    assert not module.training
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    one, all_at_once = conv3d_scores(module, counts, batch_size=2), conv3d_scores(module, counts)
    assert torch.allclose(one, all_at_once, atol=1e-5)  # sums in float32, in another order


def test_a_class_without_training_clips_is_never_an_answer():
    counts, _ = moving_dots(6, seed=4)
    score = conv3d_scores(fit_conv3d(counts, torch.tensor([0, 2] * 3), 3, steps=1), counts)
    assert (score[:, 1] == -torch.inf).all()
    assert score[:, [0, 2]].isfinite().all()


def test_counts_that_never_vary_and_single_pixels_are_no_trouble():
    module = fit_conv3d(torch.zeros(2, 3, 1, 1), torch.tensor([0, 1]), 2, steps=1)
    assert conv3d_scores(module, torch.zeros(4, 3, 1, 1)).isfinite().all()


def test_clips_that_do_not_fit_their_labels_are_refused():
    counts = torch.zeros(2, 3, 4, 4)
    for wrong, label in (
        (counts, [0]),
        (counts[:0], []),
        (counts[0], [0, 1, 0]),
    ):
        with pytest.raises(ValueError, match=r"\(N, T, H, W\)"):
            fit_conv3d(wrong, torch.tensor(label, dtype=torch.long), 2)
    for label in ([0, 2], [-1, 0]):
        with pytest.raises(ValueError, match="labels must be 0 to 1"):
            fit_conv3d(counts, torch.tensor(label), 2)
