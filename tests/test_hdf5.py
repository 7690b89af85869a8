"""Clips in HDF5: the bits and all that is known of them; a hostile file is refused in one line."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spikedata.bits import BitsHasher, pack_ticks
from spikedata.clip import Clip
from spikedata.clips.hdf5 import CHUNK_GROUPS, Hdf5Store, write_hdf5
from spikedata.clips.store import create_store, open_store
from spikedata.errors import StoreError

SIZE = (3, 5)
CHUNK_BYTES = 3 * 5 * CHUNK_GROUPS


def planes_of(ticks):
    return np.random.default_rng(ticks).integers(0, 2, (ticks, *SIZE), np.uint8)


@pytest.fixture
def store(tmp_path):
    with create_store(tmp_path / "s.zarr", recipe={"a": 1}, class_names=["x"], name="t") as writer:
        for clip_id, ticks in (("a", 600), ("b", 11)):
            clip = Clip(id=clip_id, label="x", split="train")
            with writer.clip(clip, height_px=SIZE[0], width_px=SIZE[1], tick_rate_hz=250) as out:
                out.append(pack_ticks(planes_of(ticks)))
                out.finish(ticks=ticks, attributes={"n": ticks})
    return open_store(tmp_path / "s.zarr")


def write(source, path):
    """Write ``source`` to ``path``; what failed."""
    told = []
    write_hdf5(
        source, path, done=lambda _: None, failed=lambda stored, error: told.append(str(error))
    )
    return told


@pytest.fixture
def path(store, tmp_path):
    assert write(store, tmp_path / "s.h5") == []
    return tmp_path / "s.h5"


@pytest.mark.parametrize("block", [8, 64, 256, 1024])
def test_what_is_read_is_what_was_written(store, path, block):
    found = Hdf5Store(path)
    assert (found.name, found.class_names, found.recipe) == ("t", ("x",), {"a": 1})
    assert dict(found.clips) == dict(store.clips)
    for clip_id in found.clips:
        blocks = list(found.blocks(clip_id, block))
        assert {8 * len(block_ghw) for block_ghw in blocks[:-1]} <= {block}
        assert np.array_equal(np.concatenate(blocks), store.read(clip_id).packed_ghw)


def test_h5py_alone_reads_the_bits(path):
    with h5py.File(path) as file:
        bits_hwt = np.unpackbits(file["clips/a"][:], axis=2, count=600, bitorder="little")
    assert np.array_equal(bits_hwt.transpose(2, 0, 1), planes_of(600))


@pytest.fixture(scope="module")
def as_h5py_reads(tmp_path_factory):
    """The path of a file, and its clips' planes as h5py itself reads them."""
    root = tmp_path_factory.mktemp("h5py")
    with create_store(root / "s.zarr", recipe={}, class_names=[], name="t") as writer:
        for ticks in (1, 8, 255, 256, 257, 1500):
            clip = Clip(id=f"c{ticks}")
            with writer.clip(clip, height_px=3, width_px=5, tick_rate_hz=250) as out:
                out.append(pack_ticks(planes_of(ticks)))
                out.finish(ticks=ticks, attributes={})
    assert write(open_store(root / "s.zarr"), root / "s.h5") == []
    # The same once more as newer HDF5 lays it out: other indices of chunks and attributes.
    with h5py.File(root / "s.h5") as old, h5py.File(root / "new.h5", "w", libver="latest") as new:
        new.attrs.update(old.attrs)
        new.create_group("clips")
        for name, dataset in old["clips"].items():
            made = new["clips"].create_dataset(
                name, data=dataset[:], chunks=dataset.chunks, maxshape=(3, 5, None), compression=9
            )
            made.attrs.update(dataset.attrs)
            made.attrs["somebody's own"] = np.arange(3)
    planes = {}
    with h5py.File(root / "s.h5") as file:
        for name, dataset in file["clips"].items():
            ticks = int(dataset.attrs["ticks"])
            bits_hwt = np.unpackbits(dataset[:], axis=2, count=ticks, bitorder="little")
            planes[name] = bits_hwt.transpose(2, 0, 1)
    return {name: Hdf5Store(root / name) for name in ("s.h5", "new.h5")}, planes


@given(data=st.data())
def test_any_window_is_what_h5py_itself_reads(as_h5py_reads, data):
    stores, planes = as_h5py_reads
    name = data.draw(st.sampled_from(sorted(planes)))
    start = data.draw(st.integers(0, len(planes[name]) - 1))
    ticks = data.draw(st.integers(1, len(planes[name]) - start))
    for store in stores.values():
        found = store.read_planes(name, start, ticks)
        assert np.array_equal(found, planes[name][start : start + ticks])


def test_a_set_is_shared_between_threads_and_processes(path):
    found = pickle.loads(pickle.dumps(Hdf5Store(path)))
    wrong = []

    def read():
        for _ in range(50):
            if not np.array_equal(found.read_planes("a"), planes_of(600)):
                wrong.append("a")

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_reading_needs_no_hdf5_library(path):
    code = (
        "import sys; from spikedata.clips import open_clips;"
        "open_clips(sys.argv[1]).read('a'); print('h5py' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["False"], "")


def test_a_file_that_is_replaced_while_open_is_not_read_by_the_old_places(path):
    found = Hdf5Store(path)
    shutil.copy(path, path.with_name("other.h5"))
    os.utime(path.with_name("other.h5"), ns=(0, 0))
    os.replace(path.with_name("other.h5"), path)
    with pytest.raises(StoreError, match="was changed while it was open; open it again"):
        found.read("a")


@pytest.fixture
def old_path(path):
    """The file as it was before facts and the set of clips had digests."""
    with h5py.File(path, "a") as file:
        del file.attrs["set_sha256"]
        for dataset in file["clips"].values():
            del dataset.attrs["facts_sha256"]
    return path


def test_a_file_without_digests_of_facts_is_read(store, old_path):
    assert Hdf5Store(old_path).clips == store.clips


def test_a_fact_that_was_changed_is_noticed(path):
    with h5py.File(path, "a") as file:
        attrs = file["clips/a"].attrs
        attrs["clip"] = json.dumps(json.loads(attrs["clip"]) | {"split": "test"})
    with pytest.raises(StoreError, match="clip 'a': its label, split or other facts have SHA-256"):
        Hdf5Store(path)


def test_a_clip_that_is_gone_is_noticed(path):
    with h5py.File(path, "a") as file:
        del file["clips/a"]
        left = len(file["clips"])
    told = rf"not those that were written \({left} clips are there\). Pack it again"
    with pytest.raises(StoreError, match=told):
        Hdf5Store(path)


def without_end(path):
    """Give the unused rest of the heap of attributes no size: a walk over it never ends."""
    data = bytearray(path.read_bytes())
    at = data.index(b"GCOL") + 16
    while int.from_bytes(data[at : at + 2], "little"):  # number 0 is what is unused
        at += 16 + -(-int.from_bytes(data[at + 8 : at + 16], "little") // 8) * 8
    data[at + 8 : at + 16] = bytes(8)
    path.write_bytes(data)


def test_damage_that_the_library_never_ends_on_is_one_line(path, monkeypatch):
    without_end(path)
    monkeypatch.setattr("spikedata.apart.LONGEST_WORK_S", 1.0)
    with pytest.raises(StoreError) as caught:
        Hdf5Store(path)
    told = "cannot be read: nothing was found out in 1 s; it is damaged"
    assert str(caught.value) == f"{path}: {told}"


@pytest.mark.skipif(sys.platform == "win32", reason="no signal to one thread there")
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_wait_for_the_library(path):
    without_end(path)
    here = threading.get_ident()
    timer = threading.Timer(1, lambda: signal.pthread_kill(here, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        Hdf5Store(path)
    timer.join()


def test_a_file_whose_chunks_cannot_all_be_in_it_takes_no_memory(old_path):
    ticks = 1 << 40
    with h5py.File(old_path, "a") as file:
        file["clips/a"].resize(ticks // 8, axis=2)
        file["clips/a"].attrs["ticks"] = ticks
    size = old_path.stat().st_size
    with pytest.raises(StoreError, match=f"clip 'a': {size:,} bytes cannot hold its chunks"):
        Hdf5Store(old_path)


def test_a_label_that_is_no_class_is_told(store, tmp_path):
    store.class_names = ("y",)
    told = write(store, tmp_path / "s.h5")
    assert told == [f"clip {name}: label 'x' is not among the 1 class names" for name in "ab"]


def replaced(file, **options):
    """Clip ``a`` anew, with the same attributes, from what h5py makes of ``options``."""
    attributes = dict(file["clips/a"].attrs)
    del file["clips/a"]
    file["clips"].create_dataset("a", **options)
    file["clips/a"].attrs.update(attributes)


def outside(tmp_path):
    (tmp_path / "secret").write_bytes(b"root:x:0:0" * 200)
    return str(tmp_path / "secret")


def external(file, tmp_path):
    storage = [(outside(tmp_path), 0, 15 * 75)]
    replaced(file, shape=(*SIZE, 75), dtype="u1", external=storage)


def virtual(file, tmp_path):
    layout = h5py.VirtualLayout(shape=(*SIZE, 75), dtype="u1")
    layout[:] = h5py.VirtualSource(outside(tmp_path), "x", shape=(*SIZE, 75))
    attributes = dict(file["clips/a"].attrs)
    del file["clips/a"]
    file["clips"].create_virtual_dataset("a", layout)
    file["clips/a"].attrs.update(attributes)


def linked(name, link):
    def change(file, tmp_path):
        file.move(name, "elsewhere")
        file[name] = link

    return change


def attribute(key, value, node="clips/a"):
    def change(file, tmp_path):
        file[node].attrs[key] = value

    return change


def told_of_clip(**values):
    def change(file, tmp_path):
        attrs = file["clips/a"].attrs
        attrs["clip"] = json.dumps(json.loads(attrs["clip"]) | values)

    return change


def shape_of(*shape, **options):
    return lambda file, tmp_path: replaced(file, shape=shape, dtype="u1", **options)


def group_for_clip(file, tmp_path):
    del file["clips/a"]
    file["clips"].create_group("a")


def without(key):
    def change(file, tmp_path):
        del file["clips/a"].attrs[key]

    return change


HOSTILE = {
    "external storage": (external, "its bits lie in other files"),
    "virtual data set": (virtual, "its bits lie in other files"),
    "soft link": (linked("clips/a", h5py.SoftLink("/elsewhere")), "'a' is a link"),
    "external link": (linked("clips", h5py.ExternalLink("o.h5", "/c")), "'clips' is a link"),
    "group": (group_for_clip, "'a' is no dataset"),
    "digest": (attribute("bits_sha256", ""), "64 lower-case hexadecimal digits"),
    "ticks": (attribute("ticks", 599 - 8), "does not hold 591 ticks"),
    "ticks array": (attribute("ticks", [600, 600]), "'ticks' is array"),
    "no ticks": (without("ticks"), "attribute 'ticks' is missing"),
    "rate": (attribute("tick_rate_hz", -1.0), "'tick_rate_hz' is -1.0"),
    "clip list": (attribute("clip", "[]"), "'clip' is not a JSON object"),
    "clip number": (attribute("clip", 3), "'clip' is not a string"),
    "split": (told_of_clip(split="../x"), "'split' is '../x'"),
    "id": (told_of_clip(id="b"), "says its id is 'b'"),
    "reserved": (attribute("attributes", '{"ticks": 1}'), "'attributes' is"),
    "nan": (attribute("attributes", '{"a": NaN}'), "NaN is not a finite number"),
    "about": (attribute("about", "[]", "/"), "'about' is not a JSON object"),
    "classes": (
        attribute("about", '{"class_names": ["x", "x"], "recipe": {}}', "/"),
        "a list of distinct strings",
    ),
    "name": (attribute("name", 3, "/"), "'name' is not a string"),
    "64 GiB": (shape_of(65_535, 65_535, 75), "read at once"),
    "70,000 rows": (shape_of(70_000, 5, 75), "is past"),
    "one number": (shape_of(75), "'width_px' is 0"),
    "contiguous": (shape_of(*SIZE, 75), "is not in gzip chunks"),
    "another filter": (
        shape_of(*SIZE, 75, chunks=(*SIZE, CHUNK_GROUPS), compression="lzf"),
        "is not in gzip chunks",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_when_opened(old_path, tmp_path, name):
    change, message = HOSTILE[name]
    with h5py.File(old_path, "a") as file:
        change(file, tmp_path)
    with pytest.raises(StoreError, match=message) as caught:
        Hdf5Store(old_path)
    assert str(caught.value).startswith(f"{old_path}: ")
    assert "\n" not in str(caught.value)


BOMB = zlib.compress(bytes(1 << 19), 9)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (BOMB, "is not 480 bytes"),
        (zlib.compress(bytes(CHUNK_BYTES + 1)), "is not 480 bytes"),
        (zlib.compress(bytes(CHUNK_BYTES))[:-4], "is not 480 bytes"),
        (zlib.compress(bytes(CHUNK_BYTES))[:-4] + b"oops", "incorrect data check"),
        (zlib.compress(bytes(CHUNK_BYTES - 1)), "is not 480 bytes"),
        (b"junk", "the chunk at group 32"),
        (bytes(2000), "is missing or damaged"),
        (None, "is missing or damaged"),
    ],
)
def test_a_damaged_chunk_is_told_and_never_swells(path, chunk, message):
    with h5py.File(path, "a") as file:
        dataset = file["clips/a"]
        if chunk is None:
            dataset.resize(32, axis=2)  # gives up the chunks after it
            dataset.resize(75, axis=2)
        else:
            dataset.id.write_direct_chunk((0, 0, 32), chunk)
    found = Hdf5Store(path)
    with pytest.raises(StoreError, match=message):
        list(found.blocks("a"))
    assert len(list(found.blocks("b"))) == 1


def test_bits_past_the_last_tick_are_never_handed_on(old_path):
    with h5py.File(old_path, "a") as file:
        file["clips/b"].attrs["ticks"] = 10
        hasher = BitsHasher()
        hasher.update(pack_ticks(planes_of(11)))
        assert file["clips/b"].attrs["bits_sha256"] == hasher.hexdigest()
    with pytest.raises(StoreError, match=r"has bits past its last tick \(10\)"):
        list(Hdf5Store(old_path).blocks("b"))


def test_what_is_no_such_file_says_so(tmp_path):
    (tmp_path / "junk.h5").write_text("junk")
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    for name, message in (
        ("none.h5", "cannot be read"),
        ("junk.h5", "cannot be read"),
        ("other.h5", "is HDF5, but not spikedata-hdf5"),
    ):
        with pytest.raises(StoreError, match=message):
            Hdf5Store(tmp_path / name)
