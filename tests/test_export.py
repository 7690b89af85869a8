"""What other programs read: lists of spikes and archives of planes."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.analysis.export import spike_events, write_events, write_npz
from spikedata.bits import pack_ticks
from spikedata.camera import read_recording
from spikedata.errors import SpikeDataError


class Source:
    def __init__(self, planes_thw, tick_rate_hz=20_000.0, groups=1):
        self.ticks, self.height_px, self.width_px = planes_thw.shape
        self.tick_rate_hz = tick_rate_hz
        self._packed_ghw, self._groups = pack_ticks(planes_thw), groups

    def blocks(self):
        for at in range(0, len(self._packed_ghw), self._groups):
            yield self._packed_ghw[at : at + self._groups]


def random_planes(seed=0, shape=(150, 5, 7)):
    return (np.random.default_rng(seed).random(shape) < 0.3).astype(np.uint8)


def test_events_worked_by_hand():
    planes_thw = np.zeros((20, 2, 3), np.uint8)
    planes_thw[3, 1, 2] = planes_thw[3, 0, 1] = planes_thw[19, 0, 0] = 1
    source = Source(planes_thw)
    events = np.concatenate(list(spike_events(source, fields="xyt", time="tick")))
    assert events.dtype.names == ("x", "y", "t")
    assert events.tolist() == [(1, 0, 3), (2, 1, 3), (0, 0, 19)]
    timed = np.concatenate(list(spike_events(Source(planes_thw, 30_000.0))))
    # 3 ticks of 33.3 us are 100 us, 19 are 633.3 us.
    assert timed.tolist() == [(1, 0, 100, 0), (2, 1, 100, 0), (0, 0, 633, 0)]


@given(st.integers(1, 150), st.integers(1, 30), st.integers(0, 2**32))
def test_events_give_the_planes_back(ticks, groups, seed):
    planes_thw = random_planes(seed, (ticks, 3, 4))
    events = np.concatenate(list(spike_events(Source(planes_thw, groups=groups), time="tick")))
    again = np.zeros_like(planes_thw)
    again[events["t"], events["y"], events["x"]] = 1
    np.testing.assert_array_equal(again, planes_thw)
    assert (np.diff(events["t"]) >= 0).all()


def test_an_event_file_is_what_numpy_loads(tmp_path):
    source = Source(random_planes())
    assert write_events(tmp_path / "e.npy", source) == random_planes().sum()
    events = np.load(tmp_path / "e.npy")
    np.testing.assert_array_equal(events, np.concatenate(list(spike_events(source))))
    assert [file.name for file in tmp_path.iterdir()] == ["e.npy"]


def test_an_archive_is_read_by_numpy_and_as_a_recording(tmp_path):
    path = tmp_path / "clip.npz"
    write_npz(path, Source(random_planes(), groups=3), label=4, label_name="wave")
    loaded = np.load(path)
    np.testing.assert_array_equal(loaded["spk"], random_planes())
    assert loaded["spk"].dtype == np.uint8
    assert (int(loaded["label"]), str(loaded["label_name"])) == (4, "wave")
    recording = read_recording(path, "uhsr")
    np.testing.assert_array_equal(recording.read().unpack(), random_planes())
    assert recording.label == "wave"


def test_a_class_without_a_number_is_named_all_the_same(tmp_path):
    write_npz(tmp_path / "clip.npz", Source(random_planes()), label_name="wave")
    assert sorted(np.load(tmp_path / "clip.npz")) == ["label_name", "spk", "written_by"]
    assert read_recording(tmp_path / "clip.npz", "uhsr").label == "wave"
    write_npz(tmp_path / "number.npz", Source(random_planes()), label=4)
    assert read_recording(tmp_path / "number.npz", "uhsr").label == "4"


@pytest.mark.parametrize("write", [write_events, write_npz])
def test_what_is_there_is_not_replaced_unasked(tmp_path, write):
    path = tmp_path / "clip"
    path.write_text("precious")
    with pytest.raises(SpikeDataError, match="clip: exists already. Give --overwrite"):
        write(path, Source(random_planes()))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("clip", "precious")]
    write(path, Source(random_planes()), overwrite=True)
    assert path.stat().st_size > 100


def test_the_same_spikes_give_the_same_bytes(tmp_path):
    for name, groups in (("a", 1), ("b", 1), ("c", 19)):
        write_npz(tmp_path / name, Source(random_planes(), groups=groups))
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in tmp_path.iterdir()}
    assert len(digests) == 1


def test_what_fails_leaves_nothing_behind(tmp_path):
    source = Source(random_planes())
    source.ticks = 400
    with pytest.raises(ValueError, match="hold 152 ticks, expected 400"):
        write_npz(tmp_path / "x.npz", source)
    assert list(tmp_path.iterdir()) == []


def test_sides_that_do_not_fit_are_refused():
    source = Source(np.zeros((8, 1, 1 << 15), np.uint8))
    with pytest.raises(ValueError, match="sides up to 32767 pixels, got 1x32768"):
        next(spike_events(source))
    with pytest.raises(ValueError, match="xyt or xytp"):
        next(spike_events(source, fields="txy"))


def test_tonic_takes_the_events(tmp_path):
    pytest.importorskip("tonic", reason="Tonic is not installed")
    from tonic import transforms

    planes_thw = random_planes(1, (64, 6, 8))
    write_events(tmp_path / "e.npy", Source(planes_thw, 20_000.0))
    events = np.load(tmp_path / "e.npy")
    one, two = {"sensor_size": (8, 6, 1)}, {"sensor_size": (8, 6, 2)}
    image = transforms.ToImage(**one)(events.copy())
    np.testing.assert_array_equal(image[0], planes_thw.sum(axis=0))
    frames = transforms.ToFrame(**one, time_window=400)(events.copy())  # eight ticks of 50 us
    np.testing.assert_array_equal(frames[0, 0], planes_thw[:8].sum(axis=0))
    surfaces = transforms.ToTimesurface(**one, dt=1000, tau=500)(events.copy())
    assert surfaces.shape[1:] == (1, 6, 8)
    assert 0 < surfaces.max() <= 1
    grid = transforms.ToVoxelGrid(**two, n_time_bins=4)(events.copy())
    assert grid.shape == (4, 1, 6, 8)
    assert grid.min() >= 0
    assert 0 < grid.sum() <= planes_thw.sum()
