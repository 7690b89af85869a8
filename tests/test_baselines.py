"""Baselines throw time away, and are honest classifiers otherwise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata.analysis.trains import count_intervals
from spikedata.bits import pack_ticks
from spikedata.stream import SpikeStream
from spklip.baselines import (
    chance,
    features,
    interval_histogram,
    logistic_regression,
    mean_rate,
    rate_histogram,
    rate_image,
    spike_counts,
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


def test_intervals_of_a_worked_case():
    # One pixel, two segments of 10 ticks: intervals 1, 3 and 4 (ticks 1, 2, 5, 9); then 8. That
    # from tick 9 to the next segment's tick 1 is none.
    trains = [[0, 1, 1, 0, 0, 1, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0, 0, 0, 0, 1]]
    packed = _packed(np.array(trains, bool)[:, :, None, None])
    assert interval_histogram(packed, 10, bins=5).tolist() == [[0.25, 0.0, 0.25, 0.25, 0.25]]
    assert interval_histogram(packed, 10, bins=3).tolist() == [[0.25, 0.0, 0.75]]
    assert interval_histogram(packed, 10, bins=1).tolist() == [[1.0]]


@given(
    seed=st.integers(0, 2**32),
    ticks=st.integers(1, 60),
    bins=st.integers(1, 40),
    share=st.sampled_from([0.02, 0.1, 0.5, 1.0]),
)
def test_interval_histogram_counts_the_steps_between_a_pixel_s_spikes(seed, ticks, bins, share):
    spikes = np.random.default_rng(seed).random((2, 3, ticks, 2, 3)) < share
    packed = torch.cat([_packed(spikes_sthw) for spikes_sthw in spikes])
    got = interval_histogram(packed, ticks, bins)
    assert got.shape == (2, bins)
    for got_k, spikes_sthw, packed_sghw in zip(got, spikes, packed, strict=True):
        want_k = np.zeros(bins)
        for train_t in spikes_sthw.transpose(0, 2, 3, 1).reshape(-1, ticks):
            for length in np.diff(np.flatnonzero(train_t)):
                want_k[min(length, bins) - 1] += 1
        streams = [SpikeStream(packed_ghw.numpy(), ticks, 20_000.0) for packed_ghw in packed_sghw]
        counted_l = np.sum([count_intervals(stream, longest=bins) for stream in streams], axis=0)
        assert counted_l[1:].tolist() == want_k.tolist()
        want_k = (want_k / max(want_k.sum(), 1)).astype(np.float32)
        assert np.array_equal(got_k.numpy(), want_k)


def test_a_clip_without_intervals_has_an_empty_histogram_beside_one_with():
    spikes = np.zeros((1, 9, 2, 2), bool)
    spikes[0, 4] = True
    lone, often = _packed(spikes), _packed(np.ones_like(spikes))
    assert interval_histogram(torch.cat([lone, often]), 9, bins=2).tolist() == [[0, 0], [1, 0]]


def test_intervals_and_counts_of_other_ticks_than_packed_are_refused():
    packed = torch.zeros(1, 1, 2, 3, 3, dtype=torch.uint8)
    for ticks, bins in ((17, 8), (8, 8), (16, 0)):
        with pytest.raises(ValueError, match="expected 1 bin or more"):
            interval_histogram(packed, ticks, bins)
    for ticks, bins in ((16, 0), (16, 17)):
        with pytest.raises(ValueError, match=f"16 ticks cannot fill {bins} bins"):
            spike_counts(packed, ticks, bins_per_segment=bins, longer_px=3)


def test_spike_counts_are_the_mean_planes_of_each_bin_in_time_order():
    rng = np.random.default_rng(2)
    spikes = rng.random((2, 3, 13, 8, 12)) < 0.3
    packed = torch.cat([_packed(spikes_sthw) for spikes_sthw in spikes])
    rate = spike_counts(packed, 13, bins_per_segment=3, longer_px=6)
    assert rate.shape == (2, 9, 4, 6)
    assert rate.dtype == torch.float32
    cells = spikes.reshape(2, 3, 13, 4, 2, 6, 2).mean(axis=(4, 6))
    bins = [cells[:, :, begin:end].mean(axis=2) for begin, end in ((0, 4), (4, 8), (8, 13))]
    want = np.stack(bins, axis=2).reshape(2, 9, 4, 6)
    assert np.allclose(rate.numpy(), want, atol=1e-6)
    assert spike_counts(packed, 13, bins_per_segment=1, longer_px=99).shape == (2, 3, 8, 12)


def test_standardise_uses_training_statistics_only():
    train, test = torch.tensor([[0.0, 3.0], [2.0, 3.0]]), torch.tensor([[4.0, 9.0]])
    # Deviations 1 and 0, their mean a half: divided by 1.5 and by 0.5.
    want = torch.tensor([[-1 / 1.5, 0, 1], [1 / 1.5, 0, 1]])
    torch.testing.assert_close(standardise(train, train), want)
    torch.testing.assert_close(standardise(test, train), torch.tensor([[2.0, 12, 1]]))
    flat = torch.full((2, 3), 7.0)
    assert standardise(flat + 1, flat).tolist() == [[0, 0, 0, 1]] * 2


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
