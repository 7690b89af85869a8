"""HSFE pictures: untrained the exposures of a colour picture, and then free to learn."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spikedata.bits import pack_ticks
from spklip import SpklipConfig
from spklip.model.hsfe_picture import HsfePicture, assign_exposures
from spklip.model.pictures import exposures


def config_of(**changes):
    small = {
        "picture": "hsfe",
        "radius_ticks": 7,
        "exposure_ticks": 3,
        "exposure_step_ticks": 4,
        "branch_ticks": (15, 13, 11),
        "branch_channels": (4, 3, 2),
    }
    return SpklipConfig(**small | changes)


def random_windows(config, *, windows=2, height=5, width=6, share=0.3, seed=0):
    """Planes as float (N, K, H, W), and packed."""
    shape = (windows, config.hsfe_ticks, height, width)
    planes_nkhw = np.random.default_rng(seed).random(shape) < share
    packed_nghw = torch.from_numpy(np.stack([pack_ticks(planes) for planes in planes_nkhw]))
    return torch.from_numpy(planes_nkhw).float(), packed_nghw


@st.composite
def configs(draw):
    """Any window, nested or equal crops in any order, and exposures that may overlap."""
    radius = draw(st.integers(2, 12))
    window = 2 * radius + 1
    branches = draw(st.integers(1, 5))
    numbers = st.lists(st.integers(1, 4), min_size=branches, max_size=branches)
    step = draw(st.integers(1, radius))
    return config_of(
        radius_ticks=radius,
        exposure_step_ticks=step,
        exposure_ticks=draw(st.integers(1, window - 2 * step)),
        branch_ticks=tuple(window - 2 * (n - 1) if n < radius else window for n in draw(numbers)),
        branch_channels=tuple(draw(numbers)),
        branch_features=draw(st.integers(1, 4)),
    )


def has_places(config):
    """Whether some way gives every exposure a feature of its own, by trying all."""
    slots = [
        (first, first + ticks)
        for ticks, channels in zip(config.branch_ticks, config.branch_channels, strict=True)
        for first in [(config.hsfe_ticks - ticks) // 2]
        for _ in range(min(channels, config.branch_features))
    ]

    def place(starts, free):
        if not starts:
            return True
        begin, end = starts[0], starts[0] + config.exposure_ticks
        return any(
            first <= begin and end <= last and place(starts[1:], free[:i] + free[i + 1 :])
            for i, (first, last) in enumerate(free)
        )

    return place(config.picture_starts, slots)


@settings(deadline=None)
@given(
    config=configs(),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.05, 0.4, 1.0]),
    side=st.integers(1, 6),
)
def test_untrained_it_gives_the_exposures_up_to_the_border(config, seed, share, side):
    assume(has_places(config))
    torch.manual_seed(seed)
    model = HsfePicture(config)
    window_nkhw, packed_nghw = random_windows(config, height=side, share=share, seed=seed)
    want_nchw = exposures(
        packed_nghw, config.hsfe_ticks, config.picture_starts, config.exposure_ticks
    )
    got_nchw = model(window_nkhw)
    assert got_nchw.shape == want_nchw.shape == (2, 3, side, 6)
    torch.testing.assert_close(got_nchw, want_nchw, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=200)
@given(config=configs())
def test_every_configuration_with_a_place_for_each_exposure_works(config):
    if has_places(config):
        assert len(set(assign_exposures(config))) == 3
    else:
        with pytest.raises(ValueError, match="no branch sees|no place is left"):
            HsfePicture(config)


def test_exposures_go_to_branches_of_their_own_where_crops_allow():
    # Ticks 2 to 4, 6 to 8 and 10 to 12; the crops of 15 ticks are ticks 0-14, 1-13 and 2-12.
    assert sorted(assign_exposures(config_of())) == [(0, 0), (1, 0), (2, 0)]
    # The crop of 9 ticks is 3-11 and holds the middle one alone; both others share the longest.
    narrow = config_of(branch_ticks=(15, 9, 9), branch_features=2)
    assert assign_exposures(narrow) == [(0, 0), (1, 0), (0, 1)]


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match="no branch sees the exposure of ticks 2 to 4 of a window"):
        HsfePicture(config_of(branch_ticks=(9, 9, 9)))
    with pytest.raises(ValueError, match=r"no place is left .* have 2. Use more branch_features"):
        HsfePicture(config_of(branch_ticks=(15, 13), branch_channels=(4, 4)))
    with pytest.raises(ValueError, match="no place is left"):  # features without channels
        HsfePicture(config_of(branch_ticks=(15,), branch_channels=(2,), branch_features=4))
    with pytest.raises(ValueError, match=r"3 exposures, but a 'tfp' picture has 1"):
        HsfePicture(config_of(picture="tfp"))
    with pytest.raises(ValueError, match="no branch sees the exposure of ticks -7 to 7"):
        HsfePicture(SpklipConfig(picture="hsfe"))  # 75 ticks do not go into 61
    with pytest.raises(ValueError, match=r"expected windows \(N, 15, H, W\), got \(2, 14, 3, 3\)"):
        HsfePicture(config_of())(torch.zeros(2, 14, 3, 3))


@pytest.mark.parametrize("branch_features", [1, 2])
@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_all_of_it_learns_within_two_steps(branch_features, make):
    torch.manual_seed(0)
    ticks, channels = (15, 15, 13, 11), (4, 4, 3, 3)
    config = config_of(
        branch_ticks=ticks, branch_channels=channels, branch_features=branch_features
    )
    model = HsfePicture(config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    window_nkhw, _ = random_windows(config, windows=3)
    target_nchw = torch.rand(3, 3, 5, 6)
    optimizer = make(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        ((model(window_nkhw) - target_nchw) ** 2).mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
    # Weight decay alone moves no zero, and moves no mask.
    moved = {name: (value - before[name]).abs() for name, value in model.state_dict().items()}
    assert sorted(moved) == [
        *("attention.first.bias", "attention.first.weight"),
        *("attention.second.bias", "attention.second.weight", "colour.bias", "colour.weight"),
        *("temporal.filter.bias", "temporal.filter.weight", "temporal.mask_mk"),
        *("temporal.merge.bias", "temporal.merge.weight"),
    ]
    assert all(change.max() > 0 for change in moved.values())
    assert (moved["temporal.mask_mk"].amax(dim=1) > 0).all()  # of idle branches too
    assert (moved["temporal.filter.weight"].flatten(1).amax(dim=1) > 0).all()
    assert (moved["colour.weight"].amax(dim=(2, 3)) > 0).all()


def test_it_can_learn_another_picture():
    torch.manual_seed(0)
    config = config_of()
    model = HsfePicture(config)
    window_nkhw, _ = random_windows(config, windows=4, height=8, width=8)
    target_nchw = window_nkhw.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)  # all ticks
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        error = ((model(window_nkhw) - target_nchw) ** 2).mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < errors[0] / 4
