"""Statistics of spikes against counting by hand, and what they say of sensor models."""

import json
import math
import weakref

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spikedata.analysis.compare import MEANINGS, compare_streams, comparison_html
from spikedata.analysis.scanning import MIN_INTERVALS, Scan, scan
from spikedata.analysis.stats import profile
from spikedata.bits import pack_ticks
from spikedata.camera import read_recording
from spikedata.clip import Clip
from spikedata.clips import open_spikes
from spikedata.clips.store import create_store
from spikedata.errors import SpikeDataError, StoreError
from spikedata.stream import SpikeStream


class Blocks:
    """A stream given in pieces cut at these groups."""

    def __init__(self, planes_thw, cuts=()):
        self.ticks, self.height_px, self.width_px = planes_thw.shape
        self.tick_rate_hz = 20_000.0
        self._pieces = np.split(pack_ticks(planes_thw), cuts)

    def blocks(self):
        return self._pieces


def stream(planes_thw):
    return SpikeStream(pack_ticks(planes_thw), len(planes_thw), 20_000.0)


def by_hand(planes_thw):
    """The same statistics, one pixel after the other, from their definitions."""
    found = {"excess": [], "relative": [], "lag1": [], "off": 0, "intervals": 0, "many": 0}
    for train_t in planes_thw.reshape(len(planes_thw), -1).T:
        lengths = np.diff(np.flatnonzero(train_t))
        found["many"] += len(set(lengths)) > 2
        if not len(lengths):
            continue
        mean = lengths.mean()
        found["intervals"] += len(lengths)
        found["off"] += sum(length not in (int(mean), int(mean) + 1) for length in lengths)
        if len(lengths) < MIN_INTERVALS:
            continue
        excess = lengths.var() - mean % 1 * (1 - mean % 1)
        found["excess"].append(excess)
        found["relative"].append(excess / mean**2)
        before, after = lengths[:-1], lengths[1:]
        if before.std() and after.std():
            found["lag1"].append(np.corrcoef(before, after)[0, 1])
    return found


@example(134, 242965580, 0.078125)  # lengths of 39 and more, all far above a pixel's mean
@given(st.integers(60, 140), st.integers(0, 2**32), st.floats(0.05, 0.9))
def test_statistics_equal_those_worked_out_pixel_by_pixel(ticks, seed, rate):
    rng = np.random.default_rng(seed)
    planes_thw = rng.random((ticks, 4, 5)) < rng.random((4, 5)) * rate
    want, found = by_hand(planes_thw), profile(scan(Blocks(planes_thw, [1, 4])))
    if want["excess"]:
        assert found.isi_excess_variance == pytest.approx(np.median(want["excess"]), abs=1e-12)
        spread = math.sqrt(max(0, np.mean(want["relative"])))
        assert found.extra_isi_spread == pytest.approx(spread, abs=1e-7)
    if want["lag1"]:
        assert found.lag1_correlation == pytest.approx(np.median(want["lag1"]))
    if want["intervals"]:
        assert found.off_neighbour_share == pytest.approx(want["off"] / want["intervals"])
    assert found.many_lengths_share == want["many"] / 20
    assert found.firing_rate == pytest.approx(planes_thw.mean())
    assert found.saturated_share == planes_thw.all(axis=0).mean()
    assert found.silent_share == (~planes_thw.any(axis=0)).mean()


@given(st.integers(16, 90), st.lists(st.integers(0, 12), max_size=3), st.integers(0, 2**32))
def test_cutting_into_blocks_changes_nothing(ticks, cuts, seed):
    planes_thw = np.random.default_rng(seed).random((ticks, 3, 9)) < 0.4
    whole, pieces = scan(Blocks(planes_thw)), scan(Blocks(planes_thw, sorted(cuts)))
    for name in ("count_chw", "sums_chws", "lengths_chwn", "length_ckl", "spikes_kt", "base_hw"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(pieces, name))
    assert whole.count_chw.sum() == whole.spikes_kt.sum() == planes_thw.sum()
    assert whole.sums_chws[..., 0].sum() == whole.length_ckl.sum()


def test_a_block_is_let_go_before_the_next_but_one():
    alive = set()

    class Piece(np.ndarray):
        pass

    class Long:
        ticks, height_px, width_px, tick_rate_hz = 8 * 200, 4, 4, 20_000.0

        def blocks(self):
            for number in range(200):
                piece = np.full((1, 4, 4), 0b00100101, np.uint8).view(Piece)
                alive.add(number)
                weakref.finalize(piece, alive.discard, number)
                assert len(alive) <= 2
                yield piece

    assert scan(Long()).count_chw.sum() == 3 * 200 * 16


def test_blocks_that_do_not_fit_are_refused():
    source = Blocks(np.zeros((24, 3, 3), np.uint8))
    source.ticks = 17 + 16
    with pytest.raises(ValueError, match="33 ticks need 5 groups"):
        scan(source)
    source.ticks, source.width_px = 24, 4
    with pytest.raises(ValueError, match=r"\(g, 3, 4\)"):
        scan(source)


def test_fixed_patterns_and_flicker_are_found():
    # 1,000 ticks at 20 kHz are five periods of 100 Hz. Spikes are drawn, so a count of n spikes
    # has a relative spread of sqrt((1 - rate) / (rate n)) at most.
    rng = np.random.default_rng(3)
    height, width, ticks = 64, 64, 1000
    rows = 1 + 0.05 * rng.standard_normal(height)[:, None]
    pixels = 1 + 0.2 * rng.standard_normal((height, width))
    light_t = 0.4 * (1 + 0.1 * np.sin(2 * np.pi * np.arange(ticks) / 200))
    rate_thw = light_t[:, None, None] * rows * pixels
    found = profile(scan(Blocks(rng.random((ticks, height, width)) < rate_thw)))
    own_spread = math.sqrt(0.6 / 0.4 / ticks)
    assert found.flicker == pytest.approx(0.1, abs=4 * own_spread / math.sqrt(height * width / 2))
    # The filter takes in bright pixels only, whose spread is smaller relative to their rate.
    assert 0.12 < found.prnu < 0.25
    # 62 bends: a median of 62 has a relative error of about 1 / sqrt(62).
    assert found.row_noise == pytest.approx(math.hypot(0.05, 0.2 / 8), rel=4 / math.sqrt(62))
    assert found.column_noise == pytest.approx(0.2 / 8, rel=4 / math.sqrt(62))


# --- models -------------------------------------------------------------------------------------
# Small float simulators of a static scene, one NumPy pass a tick: the one that real recordings
# bear out, and four that they contradict.


def scene(height=64, width=96, seed=0):
    """Rates as in a real static scene: intervals of 2.5 to 11 ticks, most about 4.7."""
    rng = np.random.default_rng(seed)
    return 1 / np.clip(np.exp(rng.normal(np.log(4.7), 0.33, (height, width))), 1.6, 30)


def integrate(rate_hw, *, ticks=500, seed=1, jitter=0.0, shot=0.0, reset="subtract", uniform=0.0):
    rng = np.random.default_rng(seed)
    residue_hw = rng.random(rate_hw.shape)
    limit_hw = np.ones(rate_hw.shape)
    spikes_thw = np.zeros((ticks, *rate_hw.shape), bool)
    for fired_hw in spikes_thw:
        light_hw = rate_hw + np.sqrt(rate_hw) * shot * rng.standard_normal(rate_hw.shape)
        residue_hw += light_hw
        limit_hw = limit_hw if uniform else 1 + jitter * rng.standard_normal(rate_hw.shape)
        fired_hw[:] = residue_hw >= limit_hw
        left_hw = residue_hw - 1 if reset == "subtract" else np.zeros_like(residue_hw)
        residue_hw = np.where(fired_hw, left_hw, residue_hw)
        if uniform:
            drawn_hw = 1 + uniform * (2 * rng.random(rate_hw.shape) - 1)
            limit_hw = np.where(fired_hw, drawn_hw, limit_hw)
    return spikes_thw


def with_false_spikes(rate_hw):
    """Spikes of no light, at random intervals of 200 ticks on average."""
    return integrate(rate_hw) | (np.random.default_rng(5).random((500, *rate_hw.shape)) < 0.005)


def bernoulli(rate_hw):
    return np.random.default_rng(6).random((500, *rate_hw.shape)) < rate_hw


def believable(found):
    """The bounds that real recordings set: what is off, what noise adds, and the correlation."""
    return (
        0.0005 <= found.off_neighbour_share <= 0.002
        and 0.008 <= found.extra_isi_spread <= 0.012
        and -0.40 <= found.lag1_correlation <= -0.33
    )


def test_counting_light_with_a_little_noise_is_believable():
    # Published for one camera: threshold jitter 0.58%, 50,000 quanta for full light.
    planes_thw = integrate(scene(), jitter=0.0058, shot=5e4**-0.5)
    assert believable(profile(scan(Blocks(planes_thw))))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(with_false_spikes, id="false spikes at random intervals"),
        pytest.param(
            lambda rate_hw: integrate(rate_hw, uniform=0.075), id="uniform interval noise"
        ),
        pytest.param(lambda rate_hw: integrate(rate_hw, reset="zero"), id="reset to zero"),
        pytest.param(bernoulli, id="Bernoulli"),
    ],
)
def test_models_that_recordings_contradict_are_found_out(model):
    assert not believable(profile(scan(Blocks(model(scene())))))


def test_a_real_static_scene_has_the_known_statistics(shared_data):
    path = shared_data / "recordings" / "static_scene_250x400x500.npz"
    scanned = scan(read_recording(path, "npz-hwt"))
    found = profile(scanned)
    assert believable(found)
    assert found.isi_excess_variance == 0
    assert found.off_neighbour_share == pytest.approx(0.0009, abs=0.00005)
    assert 0.0094 <= found.extra_isi_spread <= 0.0098
    # Short trains scatter; of pixels with 100 intervals and more the median is -0.368.
    long_hw = scanned.sums_chws.sum(axis=0)[..., 0] >= 100
    lag1_hw = scanned.maps_t[2].lag1_hw
    assert np.nanmedian(lag1_hw[long_hw]) == pytest.approx(-0.368, abs=0.0005)


# --- comparison ---------------------------------------------------------------------------------


def test_another_recording_of_the_same_camera_and_scene_is_within_and_another_camera_is_not():
    rate_hw = scene(48, 48)
    real = stream(integrate(rate_hw, ticks=1000, jitter=0.0058, seed=1))
    again = stream(integrate(rate_hw, ticks=1000, jitter=0.0058, seed=2))
    noisy = stream(integrate(rate_hw, ticks=1000, uniform=0.1, seed=2))
    same = {item.name: item for item in compare_streams(real, again).statistics}
    other = {item.name: item for item in compare_streams(real, noisy).statistics}
    assert list(same) == list(MEANINGS)
    # Of 16 statistics judged at 97.5% each, all but two are within, in 99 of 100 cases.
    assert sum(item.within is False for item in same.values()) <= 2
    for name in ("extra_isi_spread", "off_neighbour_share", "lag1_correlation"):
        assert same[name].within
        assert not other[name].within
        assert other[name].distance > 5 * other[name].interval[1]


def test_a_recording_has_no_distance_from_itself():
    real = stream(integrate(scene(20, 20), ticks=200))
    found = compare_streams(real, real, splits=4)
    assert all(item.distance in (0, None) for item in found.statistics)
    assert all(item.within is not False for item in found.statistics)


def test_splits_are_chosen_by_the_seed_and_threads_change_nothing():
    real, other = stream(bernoulli(scene(16, 16))), stream(integrate(scene(16, 16)))
    results = [
        compare_streams(real, other, splits=8, seed=seed, threads=threads).to_dict()
        for seed, threads in ((0, 1), (0, 3), (1, 1))
    ]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_recordings_of_other_sizes_and_lengths_compare():
    found = compare_streams(
        stream(bernoulli(scene(9, 30))), stream(integrate(scene(33, 5), ticks=77))
    )
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["real"]["width_px"] == 30
    assert len(found.rows()) == len(MEANINGS)
    assert {row["within"] for row in found.rows()} <= {"yes", "NO", "-"}
    *lines, note = found.table().splitlines()
    assert note == "compared: the first 77 ticks; real has 500"
    assert lines[0].split()[:4] == ["statistic", "real", "simulated", "distance"]
    assert len(lines) == len(MEANINGS) + 1
    assert {line.index(row["real"]) for line, row in zip(lines[1:], found.rows(), strict=True)} == {
        lines[0].index("real")
    }


@pytest.mark.parametrize("longer", ["real", "simulated"])
def test_of_two_lengths_the_longer_is_cut_and_that_is_told(longer, tmp_path):
    planes_thw = integrate(scene(32, 32), ticks=2000, jitter=0.0058)
    # 501 ticks end inside a group of eight; 700 end inside a block.
    for ticks in (501, 700):
        pair = {"real": stream(planes_thw[:ticks]), "simulated": stream(planes_thw[:ticks])}
        pair[longer] = Blocks(planes_thw, [10, 100])
        found = compare_streams(**pair, splits=8)
        assert all(item.distance in (0, None) for item in found.statistics)
        note = f"compared: the first {ticks} ticks; {longer} has 2,000"
        assert found.table().splitlines()[-1] == note
        assert note in comparison_html(found, tmp_path / f"{ticks}.html").read_text()
        values = found.to_dict()
        assert values["compared_ticks"] == ticks
        assert values[longer]["ticks"] == 2000
        whole = compare_streams(stream(planes_thw[:ticks]), stream(planes_thw[:ticks]), splits=8)
        assert whole.to_dict()["statistics"] == values["statistics"]
        assert whole.table() == found.table().removesuffix(f"\n{note}")


def test_one_camera_and_scene_are_within_whatever_their_lengths():
    rate_hw = scene(48, 48)
    real = stream(integrate(rate_hw, ticks=500, jitter=0.0058, seed=1))
    again = stream(integrate(rate_hw, ticks=2000, jitter=0.0058, seed=2))
    for pair in ((real, again), (again, real)):
        found = {item.name: item for item in compare_streams(*pair).statistics}
        for name in ("many_lengths_share", "isi_mean", "isi_histogram", "off_neighbour_share"):
            assert found[name].within, name


@pytest.mark.parametrize("value", [0, 1])
def test_dark_and_saturated_recordings_compare(value):
    flat = stream(np.full((40, 6, 6), value, np.uint8))
    found = {item.name: item for item in compare_streams(flat, flat, splits=3).statistics}
    assert found["saturated_share"].real == value
    assert found["silent_share"].real == 1 - value
    assert found["lag1_correlation"].distance is None


def test_too_little_is_refused():
    short = stream(np.zeros((8, 3, 3), np.uint8))
    with pytest.raises(ValueError, match="simulated: at least 16 ticks are needed, got 8"):
        compare_streams(stream(np.zeros((16, 3, 3), np.uint8)), short)
    with pytest.raises(ValueError, match="splits must be at least 2"):
        compare_streams(short, short, splits=1)


def test_the_page_holds_table_and_pictures(tmp_path):
    found = compare_streams(
        stream(bernoulli(scene(16, 16))), stream(integrate(scene(16, 16))), splits=4
    )
    page = comparison_html(found, tmp_path / "page.html", title="a <b>").read_text()
    assert "a &lt;b&gt;" in page
    assert page.count("<svg") == 1
    assert page.count("data:image/png;base64,") == 2
    assert all(name in page for name in MEANINGS)
    with pytest.raises(SpikeDataError, match="page.html: exists already. Give --overwrite"):
        comparison_html(found, tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == page
    comparison_html(found, tmp_path / "page.html", overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_files_and_clips_are_opened(tmp_path):
    planes_thw = bernoulli(scene(8, 8))[:40]
    np.savez(tmp_path / "r.npz", planes_thw.transpose(1, 2, 0).astype(np.uint8))
    with create_store(tmp_path / "s.zarr", recipe={}, class_names=()) as writer:
        for name in ("one", "two"):
            with writer.clip(Clip(id=name), height_px=8, width_px=8, tick_rate_hz=2e4) as target:
                target.append(pack_ticks(planes_thw))
                target.finish(ticks=40, attributes={})
    camera_file = open_spikes(tmp_path / "r.npz", camera="npz-hwt")
    clip = open_spikes(tmp_path / "s.zarr", clip="two")
    assert all(item.distance in (0, None) for item in compare_streams(camera_file, clip).statistics)
    with pytest.raises(StoreError, match="holds 2 clips; give --clip ID"):
        open_spikes(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="no clip 'three'"):
        open_spikes(tmp_path / "s.zarr", clip="three")
    with pytest.raises(SpikeDataError, match="no file tells its camera"):
        open_spikes(tmp_path / "r.npz")


def test_a_scan_knows_its_halves():
    planes_thw = np.zeros((21, 1, 1), np.uint8)
    planes_thw[[2, 9, 10, 20]] = 1
    scanned = scan(Blocks(planes_thw))
    assert isinstance(scanned, Scan)
    assert scanned.half_tick == 10
    assert scanned.count_chw.ravel().tolist() == [2, 2]
    # Intervals 7 | 1 and 10, the mean 6 and whole; they end in the first, second and second half.
    assert scanned.base_hw.item() == 6
    assert scanned.sums_chws[:, 0, 0, 0].tolist() == [1, 2]
    assert scanned.sums_chws[1, 0, 0].tolist() == [2, -1, 41, 2, -4, -1, 26, 41, -25, 2]
