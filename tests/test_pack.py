"""Packing: every kind of source to every format, bit for bit; failures leave all as it was."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tools import digest_of_folder, one_line_error, run_program, without_digests

from spikedata.bits import pack_ticks
from spikedata.clip import Clip
from spikedata.clips.opening import open_clips
from spikedata.clips.store import create_store
from spikedata.errors import CorpusError, SpikeDataError, StoreError
from spikedata.outputs import locked
from spikedata.pack import DEFAULT_OUT, PackStep, last_packed, pack_clips

FORMATS = ["zarr", "parquet", "hdf5", "dat"]


def planes_of(number: int) -> np.ndarray:
    """Clip ``number``: its own size, and a tick count that is no multiple of eight."""
    rng = np.random.default_rng(number)
    shape = (301 + 8 * number, 12 + number, 17)
    return (rng.random(shape) < 0.3).astype(np.uint8)


def make_store(path: Path, count: int = 3, name: str = "toy") -> dict[str, np.ndarray]:
    planes = {f"{name}_{i}": planes_of(i) for i in range(count)}
    with create_store(path, recipe={"k": 1}, class_names=["walk", "run"], name=name) as writer:
        for i, (clip_id, planes_thw) in enumerate(planes.items()):
            clip = Clip(
                id=clip_id,
                label=["run", "walk", None][i % 3],
                captions=("a person moves", "somebody"),
                split=["train", "test", None][i % 3],
                group=f"g{i}",
                licence="CC-BY-4.0",
                source={"name": f"{clip_id}.avi", "sha256": f"{i:064x}"},
            )
            _, height, width = planes_thw.shape
            with writer.clip(clip, height_px=height, width_px=width, tick_rate_hz=250.0) as out:
                out.append(pack_ticks(planes_thw))
                out.finish(ticks=len(planes_thw), attributes={"sensor": {"threshold": 2.0}})
    return planes


def planes_in(path: Path) -> dict[str, np.ndarray]:
    source = open_clips(path)
    return {
        key: np.unpackbits(
            np.concatenate(list(source.blocks(key, 64))),
            axis=0,
            count=stored.ticks,
            bitorder="little",
        )
        for key, stored in source.clips.items()
    }


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert sorted(found) == sorted(wanted)
    for key, planes_thw in wanted.items():
        assert np.array_equal(found[key], planes_thw), key


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("workers", [1, 3])
def test_the_working_store_packs_to_every_format_and_back(here, to, workers):
    planes = make_store(here / "spikes.zarr")
    steps = []

    report = pack_clips(to=to, workers=workers, progress=steps.append)

    assert (report.out, report.clips, report.failures) == (Path(DEFAULT_OUT[to]), 3, ())
    assert [step.stage for step in steps] == ["write"] * 3 + ["verify"] * 3
    assert (steps[-1].done, steps[-1].total) == (3, 3)
    assert last_packed(here) == here / DEFAULT_OUT[to]
    pack_clips([DEFAULT_OUT[to]], to="zarr", out="back.zarr")
    assert_same(planes_in(Path("back.zarr")), planes)


@pytest.mark.parametrize("to", ["zarr", "parquet", "hdf5"])
def test_all_that_is_known_of_a_clip_is_packed_too(here, to):
    make_store(here / "spikes.zarr")
    pack_clips(to=to)
    before, after = open_clips("spikes.zarr"), open_clips(DEFAULT_OUT[to])
    assert dict(after.clips) == dict(before.clips)
    assert after.class_names == before.class_names == ("walk", "run")
    assert (after.name, after.recipe) == ("toy", {"k": 1})


def test_a_dat_folder_keeps_labels_captions_splits_and_camera(here):
    make_store(here / "spikes.zarr")
    pack_clips(to="dat")
    assert sorted(p.as_posix() for p in Path("packed.dat").rglob("*.dat")) == [
        "packed.dat/run/toy_0.dat",
        "packed.dat/toy_2.dat",
        "packed.dat/walk/toy_1.dat",
    ]
    raw = np.fromfile("packed.dat/walk/toy_1.dat", np.uint8).reshape(309, -1)
    bits = np.unpackbits(raw, axis=1, count=13 * 17, bitorder="little")
    assert np.array_equal(bits.reshape(309, 13, 17), planes_of(1))
    pack_clips(["packed.dat"], out="back.zarr")
    before, after = open_clips("spikes.zarr"), open_clips("back.zarr")
    for key, stored in before.clips.items():
        told = after.clips[key]
        assert (told.clip.label, told.clip.captions) == (stored.clip.label, stored.clip.captions)
        assert (told.clip.split, told.clip.group) == (stored.clip.split, stored.clip.group)
        assert (told.bits_sha256, told.tick_rate_hz) == (stored.bits_sha256, 250.0)


def test_camera_folders_give_labels_and_one_bad_file_stops_nothing(here):
    planes = np.random.default_rng(0).integers(0, 2, (19, 250, 400), np.uint8)
    for name in ("wave/a.dat", "wave/b.dat", "clap/c.dat"):
        path = here / "rec" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.packbits(planes[:, ::-1], axis=2, bitorder="little").tobytes())
    (here / "rec" / "clap" / "bad.dat").write_bytes(bytes(24))

    report = pack_clips(["rec"], camera="vidar", to="zarr")

    assert report.clips == 3
    assert [failure.id for failure in report.failures] == ["clap__bad"]
    assert "24 bytes is not a whole number of 400x250 planes" in report.failures[0].error
    packed = open_clips("packed.zarr")
    assert packed.class_names == ("clap", "wave")
    assert packed.clips["wave__a"].clip.captions == ("a video of wave",)
    assert packed.clips["wave__a"].tick_rate_hz == 20_000
    assert np.array_equal(planes_in(Path("packed.zarr"))["wave__b"], planes)
    pack_clips(["rec"], camera="vidar", flip=False, to="zarr", overwrite=True)
    assert np.array_equal(planes_in(Path("packed.zarr"))["wave__b"], planes[:, ::-1])


def test_sources_of_all_kinds_mix(here):
    planes = make_store(here / "spikes.zarr")
    other = make_store(here / "other.zarr", name="other")
    pack_clips(["other.zarr"], to="hdf5", out="other.h5")
    np.savez(here / "uhsr.npz", spk=planes_of(5), label=3, label_name="kite.jpg")
    report = pack_clips(["spikes.zarr", "other.h5", "uhsr.npz"], camera="uhsr", to="parquet")
    assert report.clips == 7
    assert_same(planes_in(report.out), planes | other | {"uhsr": planes_of(5)})
    assert open_clips(report.out).clips["uhsr"].label == "3"
    assert open_clips(report.out).class_names == ("3", "run", "walk")


def damage(clip):
    shard = clip / "c.0.0.0"
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0xFF
    shard.write_bytes(data)


def test_a_damaged_clip_is_left_out_and_told(here):
    planes = make_store(here / "spikes.zarr")
    damage(here / "spikes.zarr" / "clips" / "toy_1")
    for to in FORMATS:
        report = pack_clips(to=to)
        assert [failure.id for failure in report.failures] == ["toy_1"], to
        assert report.clips == 2
        if to != "dat":
            found = planes_in(report.out)
            assert_same(found, {key: planes[key] for key in ("toy_0", "toy_2")})


def test_clips_of_one_name_are_not_mixed_up(here):
    planes = make_store(here / "spikes.zarr")
    make_store(here / "again.zarr", count=1)
    report = pack_clips(["spikes.zarr", "again.zarr"])
    assert [failure.error for failure in report.failures] == [
        "again.zarr: clip toy_0 cannot be added beside toy_0"
    ]
    assert_same(planes_in(report.out), planes)


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_there_needs_overwrite_and_survives_a_failure(here, to):
    make_store(here / "spikes.zarr", count=1)
    pack_clips(to=to)
    before = {p: p.read_bytes() for p in Path(DEFAULT_OUT[to]).rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match="exists already. Give --overwrite"):
        pack_clips(to=to)
    for shard in (here / "spikes.zarr").glob("clips/*/c.*"):
        shard.write_bytes(b"damaged")
    with pytest.raises(SpikeDataError, match="nothing could be packed"):
        pack_clips(to=to, overwrite=True)
    assert {p: p.read_bytes() for p in Path(DEFAULT_OUT[to]).rglob("*") if p.is_file()} == before
    assert not list(here.glob("*.partial"))


def test_overwrite_may_replace_the_source_itself(here):
    planes = make_store(here / "spikes.zarr")
    pack_clips(["spikes.zarr"], out="spikes.zarr", overwrite=True, to="zarr")
    assert_same(planes_in(here / "spikes.zarr"), planes)
    assert sorted(p.name for p in here.iterdir()) == [".spikedata.json", "spikes.zarr"]


def test_a_source_is_not_replaced_by_what_is_less(here):
    make_store(here / "spikes.zarr")
    damage(here / "spikes.zarr" / "clips" / "toy_1")
    before = digest_of_folder(here)
    with pytest.raises(StoreError, match=r"would lose what cannot be packed \(toy_1: "):
        pack_clips(["spikes.zarr"], out="spikes.zarr", overwrite=True)
    assert digest_of_folder(here) == before


def test_nothing_to_pack_says_what_to_run(here):
    with pytest.raises(CorpusError, match="Run `spikedata simulate VIDEOS` first"):
        pack_clips()
    with pytest.raises(CorpusError, match="nowhere: no such file or folder"):
        pack_clips(["nowhere"])
    (here / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no .dat or .npz file"):
        pack_clips(["empty"])
    (here / "a.dat").write_bytes(bytes(8))
    with pytest.raises(CorpusError, match="Give --camera NAME or HxW"):
        pack_clips(["a.dat"])
    with pytest.raises(StoreError, match="nothing was packed here yet"):
        last_packed(here)
    assert sorted(p.name for p in here.iterdir()) == ["a.dat", "empty"]


def test_last_packed_is_found_wherever_it_was_put(here, tmp_path_factory):
    make_store(here / "spikes.zarr", count=1)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "set.zarr"
    pack_clips(out=elsewhere)
    assert last_packed(here) == elsewhere
    assert json.loads((here / ".spikedata.json").read_text()) == {"packed": str(elsewhere)}
    elsewhere.rename(elsewhere.with_name("moved.zarr"))
    with pytest.raises(StoreError, match="was packed last but is gone"):
        last_packed(here)
    for text in ("[]", "[" * 100_000, json.dumps({"packed": "a" * 300})):
        (here / ".spikedata.json").write_text(text)
        with pytest.raises(StoreError, match="cannot be read"):
            last_packed(here)


def test_the_real_car_packs_and_comes_back(here, shared_data):
    pack_clips([shared_data / "recordings" / "car_250x400.dat"], camera="vidar", to="parquet")
    pack_clips(["packed.parquet"], to="dat")
    raw = np.fromfile(shared_data / "recordings" / "car_250x400.dat", np.uint8)
    back = np.fromfile("packed.dat/car_250x400.dat", np.uint8)
    assert np.array_equal(back.reshape(200, 250, 50), raw.reshape(200, 250, 50)[:, ::-1])


def write_recording(path: Path, seed: int = 0, ticks: int = 19) -> None:
    planes = np.random.default_rng(seed).integers(0, 256, (ticks, 250 * 50), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(planes.tobytes())


def test_overwrite_never_removes_what_is_not_ours(here):
    make_store(here / "spikes.zarr")
    write_recording(here / "rec" / "wave" / "a.dat")
    (here / "photos").mkdir()
    (here / "photos" / "cat.jpg").write_text("mine")
    (here / "notes.txt").write_text("mine")
    before = digest_of_folder(here)
    for sources, out in (((), "photos"), ((), "notes.txt"), ((), "rec"), (["rec"], "rec")):
        with pytest.raises(StoreError, match="was not written by spikedata, and --overwrite"):
            pack_clips(sources, out=out, camera="vidar", overwrite=True)
    assert digest_of_folder(here) == before


@pytest.mark.parametrize("to", FORMATS)
def test_overwrite_keeps_a_set_of_ours_to_which_something_was_added(here, to):
    make_store(here / "spikes.zarr", count=1)
    out = pack_clips(to=to).out
    (here / "empty").mkdir()
    pack_clips(to=to, out="empty", overwrite=True)
    pack_clips(to=to, overwrite=True)
    if to != "hdf5":
        (out / "notes.txt").write_text("mine")
        with pytest.raises(StoreError, match="notes.txt: was not written by spikedata"):
            pack_clips(to=to, overwrite=True)
        assert (out / "notes.txt").read_text() == "mine"


def test_overwrite_never_replaces_recordings_that_are_a_source(here):
    make_store(here / "spikes.zarr", count=1)
    pack_clips(to="dat")
    for source in ("packed.dat", "packed.dat/run", "packed.dat/run/toy_0.dat"):
        with pytest.raises(StoreError, match="holds the recordings packed.dat.*Choose another"):
            pack_clips([source], camera="12x17", out="packed.dat", overwrite=True)


@pytest.mark.parametrize("out", [".", "/", ".."])
def test_a_set_needs_a_name(here, out):
    make_store(here / "spikes.zarr", count=1)
    with pytest.raises(StoreError, match="a data set needs a name of its own. Give --out NAME"):
        pack_clips(out=out, overwrite=True)


def test_a_second_run_ends_and_leaves_the_first_alone(here):
    make_store(here / "spikes.zarr", count=1)
    with locked(here / "packed.zarr"):
        (here / "packed.zarr.partial").mkdir()
        with pytest.raises(StoreError, match="packed.zarr: another process is writing it"):
            pack_clips()
        assert (here / "packed.zarr.partial").is_dir()
    pack_clips()
    names = [".spikedata.json", "packed.zarr", "spikes.zarr"]
    assert sorted(path.name for path in here.iterdir()) == names


def encrypt(path: Path) -> None:
    """Set the flag that says that a zip's only member is encrypted, at both places."""
    with zipfile.ZipFile(path) as archive:
        central = archive.start_dir
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[central + 8] |= 1
    path.write_bytes(data)


def test_what_another_run_made_meanwhile_is_not_replaced(here):
    make_store(here / "spikes.zarr", count=1)
    make_store(here / "other.zarr", name="other")

    def put_there(step: PackStep) -> None:
        if step.stage == "verify":
            (here / "other.zarr").rename(here / "packed.zarr")

    with pytest.raises(StoreError, match="packed.zarr: exists already"):
        pack_clips(progress=put_there)
    assert sorted(open_clips("packed.zarr").clips) == ["other_0", "other_1", "other_2"]


@pytest.mark.parametrize("to", FORMATS)
def test_whatever_is_wrong_with_one_clip_the_others_are_packed_and_it_is_listed(here, to):
    make_store(here / "spikes.zarr", count=2)
    without_digests(here / "spikes.zarr")
    for name in ("clips/toy_0/zarr.json", "catalog.jsonl"):
        file = here / "spikes.zarr" / name
        file.write_text(file.read_text().replace('"run"', '"swim"'))
    np.savez(here / "secret.npz", spk=planes_of(5))
    encrypt(here / "secret.npz")
    np.savez(here / "wide.npz", spk=np.zeros((1, 70_000, 8), np.uint8))

    report = pack_clips(["spikes.zarr", "secret.npz", "wide.npz"], camera="uhsr", to=to)

    left_out = {failure.id: failure.error for failure in report.failures}
    assert report.clips == 1
    assert sorted(left_out) == ["secret", "toy_0", "wide"]
    assert "encrypted" in left_out["secret"]
    assert "label 'swim' is not among the 2 class names" in left_out["toy_0"]
    assert "is past" in left_out["wide"]
    assert report.failure_file == Path("packed.failures.jsonl")
    listed = [json.loads(line) for line in report.failure_file.read_text().splitlines()]
    assert {entry["id"]: entry["error"] for entry in listed} == left_out


def test_a_run_without_failures_removes_the_list_of_the_one_before(here):
    make_store(here / "spikes.zarr", count=1)
    pack_clips(["spikes.zarr", "nowhere"])
    assert Path("packed.failures.jsonl").is_file()
    pack_clips(overwrite=True)
    assert not Path("packed.failures.jsonl").exists()


def test_a_file_is_a_recording_whatever_the_case_of_its_suffix(here):
    write_recording(here / "A.DAT")
    assert pack_clips(["A.DAT"], camera="vidar").clips == 1


def test_wrong_options_are_one_usage_line(here):
    make_store(here / "spikes.zarr", count=1)
    for level in ("50", "-100"):
        done = run_program("spikedata", "pack", "--level", level, cwd=here)
        assert f"level of zarr must be 1 to 19, got {level}" in one_line_error(done, 2)
    done = run_program("spikedata", "pack", "spikes.zarr", "nowhere", cwd=here)
    assert "were left out of packed.zarr; see packed.failures.jsonl" in one_line_error(done, 1)
    done = run_program("spikedata", "pack", "--out", ".", cwd=here)
    assert "a data set needs a name" in one_line_error(done, 1)


def being_written(path, *, count):
    """A writer at work on a store that already holds ``count`` clips."""
    writer = create_store(path, recipe={}, class_names=[])
    for number in range(count):
        with writer.clip(Clip(id=f"c{number}"), height_px=4, width_px=8, tick_rate_hz=250) as clip:
            clip.append(np.full((2, 4, 8), number, np.uint8))
            clip.finish(ticks=16, attributes={})
    return writer


def test_a_store_that_is_being_written_is_neither_packed_nor_replaced(here):
    make_store(here / "other.zarr", count=1)
    store = here / "spikes.zarr"
    told = "another process is writing it, 2 clips so far"
    with being_written(store, count=2):
        with pytest.raises(CorpusError, match=f"spikes.zarr: {told}. Wait until it has ended"):
            pack_clips()
        report = pack_clips([store, here / "other.zarr"])
        errors = [failure.error for failure in report.failures]
        assert errors == [f"{store}: {told}. Wait until it has ended"]
        (here / "link.zarr").symlink_to(store)
        for out in ("spikes.zarr", "link.zarr"):
            with pytest.raises(StoreError, match=f"{out}: another process is writing it"):
                pack_clips(["other.zarr"], out=out, overwrite=True)
        assert open_clips(store).notes == (told,)
        assert list(open_clips(store).clips) == ["c0", "c1"]
    assert pack_clips(out="later.zarr").clips == 2
    assert open_clips(store).notes == ()
    assert not list(here.glob("*.lock"))


def test_a_writer_whose_store_was_replaced_stops_and_leaves_the_new_one_alone(here):
    make_store(here / "other.zarr", count=1)
    was = digest_of_folder(here / "other.zarr")
    writer = being_written(here / "spikes.zarr", count=1)
    shape = {"height_px": 4, "width_px": 8, "tick_rate_hz": 250}
    with writer.clip(Clip(id="late"), **shape) as late:
        late.append(np.ones((2, 4, 8), np.uint8))
        (here / "spikes.zarr").rename(here / "moved.zarr")
        (here / "other.zarr").rename(here / "spikes.zarr")
        with pytest.raises(FileNotFoundError):
            late.finish(ticks=16, attributes={})
    with pytest.raises(StoreError, match="left as it is. Run the same command again, with another"):
        writer.clip(Clip(id="later"), **shape)
    with pytest.raises(StoreError, match="spikes.zarr: was replaced or removed while it was being"):
        writer.close()
    assert digest_of_folder(here / "spikes.zarr") == was
    assert not list(here.glob("*.lock"))


def test_what_killed_runs_left_goes_while_the_next_run_writes(here):
    make_store(here / "spikes.zarr", count=1)
    for left in ("packed.zarr.partial", "packed.zarr.partial.left/of-a-run-before"):
        (here / left / "clips").mkdir(parents=True)
    assert pack_clips().clips == 1
    names = [".spikedata.json", "packed.zarr", "spikes.zarr"]
    assert sorted(path.name for path in here.iterdir()) == names


@pytest.mark.parametrize("at", ["between", "after"])
def test_what_was_being_replaced_when_a_run_was_killed_is_not_lost(here, at):
    make_store(here / "spikes.zarr", count=1)
    if at == "after":
        make_store(here / "packed.zarr", count=3, name="new")
    make_store(here / "made.zarr", count=2, name="old")
    (here / "made.zarr").rename(here / "packed.zarr.replaced")
    if at == "between":
        with pytest.raises(StoreError, match="packed.zarr: exists already. Give --overwrite"):
            pack_clips()
    with locked(here / "packed.zarr"):
        assert len(open_clips("packed.zarr").clips) == (2 if at == "between" else 3)
    assert sorted(path.name for path in here.iterdir()) == ["packed.zarr", "spikes.zarr"]
    assert pack_clips(overwrite=True).clips == 1


def test_a_note_of_what_was_packed_that_says_anything_is_one_line(tmp_path):
    for text in ("[" * 100_000, "[]", "null", '{"packed": 9' + "9" * 5_000 + "}"):
        (tmp_path / ".spikedata.json").write_text(text)
        with pytest.raises(StoreError, match=r"\.spikedata\.json: cannot be read"):
            last_packed(tmp_path)
