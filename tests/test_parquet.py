"""Parquet shards: the bits and all that is known of them, deterministic, checked on reading."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from spikedata.bits import pack_ticks, unpack_ticks
from spikedata.clip import Clip
from spikedata.clips import ChangedClips
from spikedata.clips.parquet import (
    arrow_schema,
    open_parquet,
    plan_shards,
    write_shard,
)
from spikedata.clips.store import SpikeStore, create_store, open_store
from spikedata.errors import StoreError

HEIGHT, WIDTH = 5, 11


def planes_of(number: int, ticks: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    return rng.integers(0, 2, (ticks, HEIGHT, WIDTH), np.uint8)


def make_store(path: Path, lengths: list[int]) -> SpikeStore:
    with create_store(path, recipe={"a": 1}, class_names=["x", "y"], name="toy") as writer:
        for i, ticks in enumerate(lengths):
            clip = Clip(
                id=f"c{i:02d}",
                label=["y", None][i % 2],
                captions=("one", "two"),
                split=["train", "test", None][i % 3],
                source={"name": f"{i}.avi", "sha256": "ab" * 32, "bytes": 7},
            )
            with writer.clip(clip, height_px=HEIGHT, width_px=WIDTH, tick_rate_hz=300.5) as out:
                out.append(pack_ticks(planes_of(i, ticks)))
                out.finish(ticks=ticks, attributes={"sensor": {"threshold": 2.5}, "n": i})
    return open_store(path)


def write_all(store: SpikeStore, out: Path, workers: int = 1) -> Path:
    for shard in plan_shards(store):
        write_shard(store, shard, out / shard.name, workers=workers)
    return out


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> SpikeStore:
    lengths = [1, 8, 255, 256, 257, 600, 777, 64, 9]
    return make_store(tmp_path_factory.mktemp("store") / "s.zarr", lengths)


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory) -> Path:
    return write_all(store, tmp_path_factory.mktemp("parquet") / "p", workers=2)


def test_what_is_read_is_what_was_written(store, folder):
    found = open_parquet(folder)
    assert dict(found.clips) == dict(store.clips)
    assert (found.name, found.class_names, found.recipe) == ("toy", ("x", "y"), {"a": 1})
    for i, (clip_id, stored) in enumerate(store.clips.items()):
        found.verify(clip_id)
        assert np.array_equal(found.read(clip_id).unpack(), planes_of(i, stored.ticks))


@given(data=st.data(), block=st.sampled_from([8, 64, 256, 1024]))
def test_windows_and_blocks_are_cut_from_the_same_bits(folder, data, block):
    found = open_parquet(folder)
    clip_id = data.draw(st.sampled_from(sorted(found.clips)))
    ticks = found.clips[clip_id].ticks
    start = data.draw(st.integers(0, ticks - 1))
    length = data.draw(st.integers(1, ticks - start))
    want_thw = planes_of(int(clip_id[1:]), ticks)
    window = found.read(clip_id, start, length)
    assert np.array_equal(window.unpack(), want_thw[start : start + length])
    blocks_ghw = np.concatenate(list(found.blocks(clip_id, block)))
    assert np.array_equal(unpack_ticks(blocks_ghw, ticks), want_thw)


def test_one_row_decodes_by_hand(folder):
    """As the format's page says it: zstd, bytes (H, W, g), least significant bit first."""
    (row,) = [
        row
        for file in sorted(folder.glob("data/*.parquet"))
        for row in pq.read_table(file).to_pylist()
        if row["id"] == "c05"
    ]
    assert (row["ticks"], row["chunk_ticks"], len(row["bits"])) == (600, 256, 3)
    assert (row["height"], row["width"], row["tick_rate_hz"]) == (HEIGHT, WIDTH, 300.5)
    assert (row["label"], row["threshold"], row["split"]) == (None, 2.5, None)
    second = np.frombuffer(zstandard.decompress(row["bits"][1]), np.uint8)
    assert second.size == HEIGHT * WIDTH * 32
    want = planes_of(5, 600)
    for tick, y, x in ((256, 0, 0), (300, 4, 10), (511, 2, 7)):
        group, bit = divmod(tick - 256, 8)
        byte = second[(y * WIDTH + x) * 32 + group]
        assert byte >> bit & 1 == want[tick, y, x]
    assert json.loads(row["provenance"])["attributes"] == {"n": 5, "sensor": {"threshold": 2.5}}


def test_bytes_do_not_depend_on_the_run_or_the_workers(store, folder, tmp_path):
    again = write_all(store, tmp_path / "again", workers=3)
    files = sorted(file.relative_to(folder) for file in folder.rglob("*.parquet"))
    assert len(files) == 2
    for name in files:
        assert (folder / name).read_bytes() == (again / name).read_bytes()


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "own"))


def test_row_groups_hold_four_clips_and_are_not_compressed_again(folder):
    file = pq.ParquetFile(folder / "data" / "train-00000-of-00001.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [4, 2]
    group = file.metadata.row_group(0)
    compressions = {group.column(i).compression for i in range(group.num_columns)}
    assert compressions == {"UNCOMPRESSED"}


def test_shards_are_cut_by_packed_size_within_a_split(store, monkeypatch):
    """Groups of eight ticks: test 1 + 33 + 8; train 1 + 32, 32, 75, 98, 2; 60 fit in a shard."""
    monkeypatch.setattr("spikedata.clips.shards.SHARD_PACKED_BYTES", 60 * HEIGHT * WIDTH)
    assert [(shard.name, shard.clip_ids) for shard in plan_shards(store)] == [
        ("data/test-00000-of-00001.parquet", ("c01", "c04", "c07")),
        ("data/train-00000-of-00005.parquet", ("c00", "c02")),
        ("data/train-00001-of-00005.parquet", ("c03",)),
        ("data/train-00002-of-00005.parquet", ("c05",)),
        ("data/train-00003-of-00005.parquet", ("c06",)),
        ("data/train-00004-of-00005.parquet", ("c08",)),
    ]


def test_datasets_reads_labels_and_previews_by_itself(store, folder, tmp_path):
    schema = arrow_schema(store)
    features = datasets.Features.from_arrow_schema(schema)
    assert features["label"] == datasets.ClassLabel(names=["x", "y"])
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path), split="train")
    assert loaded.features == features
    assert loaded[0]["preview"].size == (WIDTH, HEIGHT)
    assert loaded.features["label"].int2str(loaded[0]["label"]) == "y"


def test_recipes_alone_have_no_bits(store, tmp_path):
    (shard, *_) = plan_shards(store)
    write_shard(store, shard, tmp_path / "r.parquet", with_bits=False)
    found = open_parquet(tmp_path / "r.parquet")
    assert not found.has_bits
    assert found.clips["c01"] == store.clips["c01"]
    with pytest.raises(StoreError, match="holds recipes only"):
        found.read("c01")


def rewritten(folder: Path, out: Path, change) -> Path:
    """The train shard with its one table changed; as in version 1.0 facts have no digest."""
    table = pq.read_table(folder / "data" / "train-00000-of-00001.parquet")
    table = change(table.drop_columns(["facts_sha256"]))
    pq.write_table(table, out, compression="NONE", use_dictionary=False)
    return out


def with_column(name: str, value, kind: pa.DataType | None = None):
    def change(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index(name)
        field = table.schema.field(at)
        column = pa.array([value(cell) for cell in table[name].to_pylist()], kind or field.type)
        return table.set_column(at, field.with_type(column.type), column)

    return change


def with_provenance(**values):
    return with_column("provenance", lambda text: json.dumps(json.loads(text) | values))


def with_about(**values):
    """Other values under the key ``spikedata``; one that is None is left out."""

    def change(table: pa.Table) -> pa.Table:
        about = json.loads(table.schema.metadata[b"spikedata"]) | {"facts_sha256": None} | values
        about = {key: value for key, value in about.items() if value is not None}
        return table.replace_schema_metadata({b"spikedata": json.dumps(about)})

    return change


def frame_that_states(size: int) -> bytes:
    """A whole frame of one byte whose header states ``size`` bytes (RFC 8878, section 3.1.1)."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + b"\x09\x00\x00x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_column("bits", lambda bits: bits[:-1]), "chunks do not fit its ticks"),
        (with_column("bits", lambda bits: [b"junk" for _ in bits]), "chunk 0"),
        (with_column("chunk_ticks", lambda _: 7), "chunk_ticks is not usable"),
        (with_column("chunk_ticks", lambda _: None), "chunk_ticks is not usable"),
        (with_column("chunk_ticks", lambda _: 1 << 50), "that are read at once"),
        (
            with_column("bits", lambda bits: [frame_that_states(1 << 40) for _ in bits]),
            "chunk 0 holds 1,099,511,627,776 bytes, expected 1,760",
        ),
        (with_column("bits", lambda bits: [None for _ in bits]), "chunk 0 is damaged"),
        (with_column("bits", lambda _: None), "0 chunks do not fit its ticks"),
        (
            with_column("ticks", lambda ticks: max(1, ticks - 1)),
            r"has bits past its last tick \(254\)",
        ),
        (with_column("bits_sha256", lambda _: "0" * 64), "noted was 0000"),
    ],
)
def test_a_damaged_row_is_an_error(folder, tmp_path, change, message):
    path = rewritten(folder, tmp_path / "bad.parquet", change)
    with pytest.raises(StoreError, match=message):
        open_parquet(path).verify("c02")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_column("id", lambda _: "../out"), "holds '/'|starts with a dot"),
        (with_column("id", lambda _: "same"), "is there twice"),
        (with_column("id", lambda _: None), "clip id is empty"),
        (with_column("label", lambda _: 2), "label 2 is not a place among 2 class names"),
        (with_column("label", lambda _: -1), "label -1 is not a place among 2 class names"),
        (with_column("height", lambda _: 0), "'height_px' is 0, expected a whole number"),
        (with_column("width", lambda _: 70_000), "is past"),
        (with_column("ticks", lambda _: None), "'ticks' is None, expected a whole number"),
        (with_column("tick_rate_hz", lambda _: -250.0), "'tick_rate_hz' is -250.0, expected"),
        (with_column("tick_rate_hz", lambda _: float("nan")), "'tick_rate_hz' is nan, expected"),
        (with_column("split", lambda _: "../x"), "'split' is '../x', expected"),
        (with_column("bits_sha256", lambda _: ""), "64 lower-case hexadecimal digits"),
        (with_column("captions", lambda _: None), "'captions' is None, expected"),
        (with_column("provenance", lambda _: "{"), "row 0 of group 0"),
        (with_column("provenance", lambda _: None), "row 0 of group 0"),
        (with_column("provenance", lambda _: "[]"), "row 0 of group 0"),
        (with_provenance(attributes={"spikes": 3}), "'attributes' is .'spikes': 3., expected"),
        (with_provenance(attributes=[]), "'attributes' is .., expected an object"),
        (with_provenance(attributes={"a": float("nan")}), "NaN is not a finite number"),
        (with_provenance(source=None), "'source' is None, expected an object"),
        (lambda table: table.drop_columns(["ticks"]), "column 'ticks' is not there"),
        (with_column("height", str, pa.string()), "column 'height' is string, expected int64"),
        (with_column("bits", len, pa.int64()), "column 'bits' is int64, expected list"),
        (with_about(name=None), "'name' is not a string"),
        (with_about(recipe=[]), "'recipe' is not an object"),
        (with_about(class_names=["x", "x"]), "a list of distinct strings"),
        (lambda table: table.replace_schema_metadata({b"spikedata": b"[]"}), "is not a JSON obj"),
        (lambda table: table.replace_schema_metadata({}), "not written by spikedata"),
        (
            lambda table: table.replace_schema_metadata(
                {b"spikedata": b'{"format": "spikedata-parquet", "version": "2.0"}'}
            ),
            "version 2.0 is newer than this spikedata can read",
        ),
    ],
)
def test_a_malformed_file_is_refused_when_opened(folder, tmp_path, change, message):
    path = rewritten(folder, tmp_path / "bad.parquet", change)
    with pytest.raises(StoreError, match=message) as caught:
        open_parquet(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_shards_of_two_data_sets_are_not_one(folder, tmp_path):
    rewritten(folder, tmp_path / "a.parquet", lambda table: table.slice(0, 1))
    other = with_about(class_names=["y", "x"])
    rewritten(folder, tmp_path / "b.parquet", lambda table: other(table.slice(1)))
    with pytest.raises(StoreError, match="b.parquet: has other class names than a.parquet"):
        open_parquet(tmp_path)


def test_shards_of_two_data_sets_of_the_same_classes_are_not_one(folder, tmp_path):
    rewritten(folder, tmp_path / "a.parquet", lambda table: table.slice(0, 1))
    other = with_about(set_sha256="0" * 64)
    rewritten(folder, tmp_path / "b.parquet", lambda table: other(table.slice(1)))
    with pytest.raises(StoreError, match="b.parquet: is not of one data set with a.parquet beside"):
        open_parquet(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("label", 0),
        ("captions", ["another sentence"]),
        ("split", "validation"),
        ("group", "another"),
        ("licence", "MIT"),
        ("ticks", 8),
        ("tick_rate_hz", 40_000.0),
        ("spikes", 1),
        ("provenance", '{"attributes": {}, "source": {}}'),
    ],
)
def test_a_fact_that_was_changed_is_noticed(own_folder, column, value):
    path = own_folder / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    pq.write_table(with_column(column, lambda _: value)(table), path)
    with pytest.raises(StoreError, match="row 0 of group 0: its label, split or other facts have"):
        open_parquet(own_folder)


def test_what_a_file_says_of_its_set_is_noticed_when_changed(own_folder):
    path = own_folder / "data" / "train-00000-of-00001.parquet"
    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"spikedata"]) | {"name": "another"}
    changed = {**table.schema.metadata, b"spikedata": json.dumps(about).encode()}
    pq.write_table(table.replace_schema_metadata(changed), path)
    with pytest.raises(StoreError, match="its recipe, class names or other facts are not those"):
        open_parquet(own_folder)


@pytest.mark.parametrize("key", [b'{"class_names"', b"huggingface"])
def test_metadata_is_noticed_when_one_of_its_two_copies_is_changed(own_folder, key):
    """Arrow's readers take the one, others take the other."""
    path = own_folder / "data" / "train-00000-of-00001.parquet"
    data = path.read_bytes()
    first = data.rindex(key) + len(key) + 4
    for at in range(first, first + 100, 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(StoreError, match=path.name):
            open_parquet(own_folder)


def test_a_shard_that_is_gone_is_told_and_the_others_are_read(own_folder):
    path = own_folder / "data" / "train-00000-of-00001.parquet"
    path.unlink()
    source = open_parquet(own_folder)
    assert list(source.clips) == ["c01", "c04", "c07"]
    told = f"{path}: is gone, with all of its clips"
    assert [(lost.id, lost.error) for lost in source.left_out] == [(path.name, told)]
    assert [problem.message for problem in source.problems()] == [told]


def test_every_flipped_bit_of_a_frame_is_noticed_by_a_window(own_folder):
    """The frames lie as they are in the file, since it is not compressed again."""
    path = own_folder / "data" / "train-00000-of-00001.parquet"
    frame = pq.read_table(path)["bits"][0].as_py()[0]
    data = path.read_bytes()
    first = data.index(frame)
    for at in range(first, first + len(frame), 3):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        path.write_bytes(changed)
        with pytest.raises(StoreError, match="c00"):
            open_parquet(own_folder).read("c00", 0, 8)


def test_opening_a_clip_reads_no_footer_anew(folder, monkeypatch):
    source = open_parquet(folder)
    wanted = source.read_planes("c08")
    monkeypatch.setattr(pq, "read_metadata", None)
    assert np.array_equal(source.read_planes("c08"), wanted)


def changed(store: SpikeStore, stored) -> ChangedClips:
    """The store with one clip that says something else."""
    return ChangedClips(store, clips={**store.clips, stored.clip.id: stored}, recipe=store.recipe)


def test_a_split_that_would_leave_the_folder_becomes_no_path(store):
    stored = store.clips["c00"]
    clip = SimpleNamespace(id="c00", split="../../../x/here")
    with pytest.raises(StoreError, match="clip c00: split '../../../x/here' is none of"):
        plan_shards(changed(store, replace(stored, clip=clip)))


def test_a_clip_too_large_for_a_row_is_told_as_soon_as_that_is_known(store, tmp_path, monkeypatch):
    huge = replace(store.clips["c00"], height_px=60_000, width_px=60_000)
    read = []

    def blocks(clip_id, ticks):
        for block_ghw in store.blocks(clip_id, ticks):
            read.append(clip_id)
            yield block_ghw

    source = changed(store, huge)
    source.blocks = blocks
    monkeypatch.setattr("spikedata.clips.parquet.MAX_CLIP_BYTES", 1000)
    told = []
    for shard in plan_shards(source)[1:]:
        path = tmp_path / shard.name
        write_shard(source, shard, path, failed=lambda _, error: told.append(str(error)))
    large = ["clip c00", "clip c02", "clip c03", "clip c05", "clip c06"]
    assert sorted(line.split(":")[0] for line in told) == large
    assert any("256 ticks of 60000x60000" in line for line in told)
    assert sum("past 1,000 bytes compressed" in line for line in told) == 4
    assert (read.count("c00"), read.count("c06")) == (0, 1)
    assert list(open_parquet(tmp_path).clips) == ["c08"]


@pytest.mark.parametrize("with_bits", [True, False])
def test_a_label_that_is_no_class_is_told(store, tmp_path, with_bits):
    stored = store.clips["c01"]
    source = changed(store, replace(stored, clip=replace(stored.clip, label="z")))
    (shard, _) = plan_shards(source)
    told = []
    write_shard(
        source,
        shard,
        tmp_path / "a.parquet",
        with_bits=with_bits,
        failed=lambda stored, error: told.append(str(error)),
    )
    assert told == ["clip c01: label 'z' is not among the 2 class names"]


def test_what_is_no_parquet_folder_says_so(tmp_path, store, folder):
    with pytest.raises(StoreError, match="no such file or folder"):
        open_parquet(tmp_path / "none")
    with pytest.raises(StoreError, match="no Parquet files in it"):
        open_parquet(tmp_path)
    (tmp_path / "a.parquet").write_text("junk")
    with pytest.raises(StoreError, match="cannot be read"):
        open_parquet(tmp_path)
    found = open_parquet(folder)
    with pytest.raises(StoreError, match="no clip 'x'"):
        found.read("x")
    with pytest.raises(StoreError, match="ticks 0 to 2 are not inside its 1 ticks"):
        found.read("c00", 0, 2)


def test_a_shard_that_fails_leaves_nothing_behind(tmp_path):
    store = make_store(tmp_path / "s.zarr", [9])
    (tmp_path / "s.zarr" / "clips" / "c00" / "c.0.0.0").unlink()
    (shard,) = plan_shards(store)
    with pytest.raises(StoreError):
        write_shard(store, shard, tmp_path / "out" / "a.parquet")
    assert list((tmp_path / "out").iterdir()) == []
