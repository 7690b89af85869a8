"""Which set of clips lies at a path, and what every format gives through one interface."""

import json
import shutil

import numpy as np
import pytest
from tools import run_in_process

from spikedata import create_store, open_clips, pack_clips, validate
from spikedata.bits import pack_ticks
from spikedata.clip import Clip
from spikedata.clips import format_at


@pytest.mark.parametrize(
    ("files", "path", "found"),
    [
        (["s/zarr.json", "s/a.parquet"], "s", "zarr"),
        (["s.parquet/zarr.json"], "s.parquet", "zarr"),
        (["s/data/train-00000-of-00001.parquet"], "s", "parquet"),
        (["s/one.parquet"], "s", "parquet"),
        (["s/one.parquet"], "s/one.parquet", "parquet"),
        (["s/deep/er/one.parquet"], "s", None),
        (["s/rec.dat"], "s", None),
        (["s.h5"], "s.h5", "hdf5"),
        ([], "gone.h5", None),
        ([], "gone.zarr", None),
    ],
)
def test_names_tell_the_format(tmp_path, files, path, found):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert format_at(tmp_path / path) == format_at(str(tmp_path / path)) == found


FORMATS = {"zarr": "p.zarr", "parquet": "p.parquet", "hdf5": "p.h5", "dat": "p.dat"}
VERBS = {
    "info": ["info", "{set}", "--json"],
    "validate": ["validate", "{set}"],
    "report": ["report", "{set}", "--out", "{out}.html"],
    "view": ["view", "{set}", "jump__a", "--out", "{out}.png"],
    "export": ["export", "{set}", "{out}.npz", "--clip", "jump__a"],
    "compare": ["compare", "{set}", "{set}", "--clip", "jump__a", "--json"],
    "push-hub": ["push-hub", "{set}", "--repo", "me/set", "--dry-run", "--json"],
    "pack": ["pack", "{set}", "--out", "{out}.zarr", "--json"],
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """One set of clips in every format, with all that a clip can have."""
    root = tmp_path_factory.mktemp("sets")
    rng = np.random.default_rng(0)
    with create_store(
        root / "spikes.zarr", recipe={"made": "by hand"}, class_names=("wave", "jump"), name="two"
    ) as writer:
        for clip_id, label, split, ticks in (
            ("jump__a", "jump", "train", 300),
            ("wave__b", "wave", "test", 61),
            ("loose", None, None, 17),
        ):
            clip = Clip(
                id=clip_id,
                label=label,
                split=split,
                captions=("one", "two  words"),
                group=None if label is None else "g1",
                licence="cc-by-4.0",
                source={"name": f"{clip_id}.mp4", "sha256": "0" * 64},
            )
            size = {"height_px": 9, "width_px": 13, "tick_rate_hz": 20_000.5}
            with writer.clip(clip, **size) as target:
                target.append(pack_ticks(rng.random((ticks, 9, 13)) < 0.3))
                target.finish(ticks=ticks, attributes={"video": {"frames_held": 3, "frames": 30}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)  # where packing notes what it packed last
        for to, name in FORMATS.items():
            pack_clips([root / "spikes.zarr"], to=to, out=root / name)
    return root


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_gives_the_same_clips(sets, to):
    store, other = open_clips(sets / "spikes.zarr"), open_clips(sets / FORMATS[to])
    assert dict(other.clips) == dict(store.clips)
    assert (other.name, other.class_names, other.recipe) == ("two", ("wave", "jump"), store.recipe)
    assert (other.left_out, other.notes, other.losses()) == ((), (), {"frames held": 9})
    for clip_id, stored in store.clips.items():
        whole = store.read(clip_id)
        assert np.array_equal(np.concatenate(list(other.blocks(clip_id, 16))), whole.packed_ghw)
        for start, ticks in ((0, 8), (3, 11), (stored.ticks - 5, 5), (0, stored.ticks)):
            window = other.read(clip_id, start, ticks)
            assert np.array_equal(window.packed_ghw, whole.window(start, ticks).packed_ghw)
            planes = other.read_planes(clip_id, start, ticks)
            assert np.array_equal(planes, whole.unpack()[start : start + ticks])
        other.verify(clip_id)
    assert other.problems() == []


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_every_format(sets, tmp_path, verb, to, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word.format(set=sets / FORMATS[to], out=tmp_path / "out") for word in VERBS[verb]]
    status = run_in_process("spikedata", words)
    said = capsys.readouterr()
    assert status == 0, said.err
    if verb == "info":
        told = json.loads(said.out)
        assert (told["clips"], told["format"], told["losses"]) == (3, to, {"frames held": 9})
        assert told["firing_rate"] == pytest.approx(0.3, abs=0.02)
    if verb == "validate":
        assert "no problems" in said.out
        assert "9 frames held" in said.err
    if verb == "export":
        with np.load(tmp_path / "out.npz") as made:
            assert made["spk"].shape == (300, 9, 13)
            assert (int(made["label"]), str(made["label_name"])) == (1, "jump")
    if verb == "compare":
        assert json.loads(said.out)["statistics"]
    if verb == "push-hub":
        assert json.loads(said.out)["clips"] == 3
    if verb == "pack":
        assert dict(open_clips(tmp_path / "out.zarr").clips) == dict(
            open_clips(sets / "spikes.zarr").clips
        )


@pytest.mark.parametrize("to", FORMATS)
def test_a_changed_bit_is_found_in_every_format(sets, tmp_path, to):
    made = tmp_path / FORMATS[to]
    copy = shutil.copytree if (sets / FORMATS[to]).is_dir() else shutil.copy
    copy(sets / FORMATS[to], made)
    pattern = {"zarr": "clips/jump__a/c*", "dat": "jump/jump__a.dat"}.get(to)
    path = next(made.glob(pattern)) if pattern else made
    path = next(made.glob("data/train*.parquet")) if to == "parquet" else path
    data = bytearray(path.read_bytes())
    if to == "dat":
        data[100] ^= 1
    else:  # somewhere within the compressed bits
        coded = next(
            at for at in range(len(data)) if data[at : at + 2] in (b"\x28\xb5", b"\x78\x5e")
        )
        data[coded + 300] ^= 0xFF
    path.write_bytes(data)
    found = validate(made)
    assert [problem.clip for problem in found] == ["jump__a"]
