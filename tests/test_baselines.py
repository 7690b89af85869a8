"""Baselines throw time away, and are honest classifiers otherwise."""

import numpy as np
import pytest
import torch

from spikedata.bits import pack_ticks
from spklip.baselines import (
    chance,
    features,
    logistic_regression,
    mean_rate,
    rate_histogram,
    rate_image,
    standardise,
)


def _packed(spikes_sthw: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([pack_ticks(spikes_thw) for spikes_thw in spikes_sthw]))[None]


def test_mean_rate_counts_spikes_over_all_segments():
    rng = np.random.default_rng(0)
    spikes = rng.random((3, 13, 5, 7)) < 0.4
    rate = mean_rate(_packed(spikes), 13)
    assert np.allclose(rate[0].numpy(), spikes.mean(axis=(0, 1)), atol=1e-6)


def test_baselines_cannot_tell_a_clip_from_its_reverse():
    rng = np.random.default_rng(1)
    spikes = rng.random((1, 16, 6, 8)) < 0.3
    forwards, backwards = features(_packed(spikes), 16), features(_packed(spikes[:, ::-1]), 16)
    for name in ("mean_rate", "histogram"):
        assert torch.equal(forwards[name], backwards[name])


def test_rate_image_keeps_the_aspect_and_the_mean():
    rate = torch.rand(2, 240, 320, generator=torch.Generator().manual_seed(0))
    image = rate_image(rate)
    assert image.shape == (2, 12 * 16)
    assert torch.allclose(image.mean(dim=1), rate.mean(dim=(1, 2)), atol=1e-5)
    assert rate_image(torch.rand(1, 5, 7)).shape == (1, 35)


def test_histogram_of_a_worked_case():
    rate = torch.tensor([[[0.0, 0.1], [0.9, 1.0]]])
    assert rate_histogram(rate, bins=4).tolist() == [[0.5, 0.0, 0.0, 0.5]]


def test_standardise_uses_training_statistics_only():
    train, test = torch.tensor([[0.0, 3.0], [2.0, 3.0]]), torch.tensor([[4.0, 9.0]])
    assert standardise(train, train).tolist() == [[-1, 0, 1], [1, 0, 1]]
    assert standardise(test, train).tolist() == [[3, 0, 1]]  # never varied in training: 0


def test_logistic_regression_learns_separable_classes_and_never_answers_an_unseen_one():
    label = torch.tensor([0, 0, 2, 2])
    train = torch.tensor([[-1.0, 1], [-2, 1], [1, 1], [2, 1]])
    score = logistic_regression(train, label, torch.tensor([[-3.0, 1], [3, 1]]), 3)
    assert score.argmax(dim=1).tolist() == [0, 2]
    assert (score[:, 1] == -torch.inf).all()


def test_chance_of_a_worked_case():
    guess = chance(np.array([1, 1, 0]), np.array([0, 1, 1, 1]), 10)
    assert guess["uniform_top1"] == pytest.approx(0.1)
    assert guess["uniform_top5"] == pytest.approx(0.5)
    assert guess["commonest_class"] == 1
    assert guess["commonest_class_top1"] == pytest.approx(0.75)
