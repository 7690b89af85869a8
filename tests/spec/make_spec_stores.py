"""Make the example stores of the format: ``valid/``, and ``invalid/`` named after the rule broken.

Run ``python tests/spec/make_spec_stores.py`` after a change of the format, and say so in the
change log. Each invalid store is ``valid/two_clips_1_0.zarr`` with one thing wrong, and of rules
that came with version 1.1 ``valid/two_clips.zarr``.
"""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
import zstandard

from spikedata.bits import BitsHasher, pack_ticks
from spikedata.clip import Clip
from spikedata.clips.store import create_store

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from tools import without_digests  # noqa: E402

CLIP = Path("clips/wave_g01")
SHARD = CLIP / "c.0.0.0"

Break = Callable[[Path], None]


def spikes_thw(seed: int, ticks: int, height: int = 3, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random((ticks, height, width)) < 0.3


def make_two_clips(path: Path) -> None:
    """Two clips of different sizes, written by this package."""
    recipe = {"sensor": {"threshold": 2.0, "seed": 0}}
    with create_store(path, recipe=recipe, class_names=["clap", "wave"], name="two") as writer:
        for i, (clip_id, label, ticks, height) in enumerate(
            [("clap_g01", "clap", 150, 4), ("wave_g01", "wave", 13, 3)]
        ):
            clip = Clip(id=clip_id, label=label, captions=(f"a person {label}s",), split="train")
            with writer.clip(clip, height_px=height, width_px=5, tick_rate_hz=250.0) as out:
                out.append(pack_ticks(spikes_thw(i, ticks, height)))
                out.finish(ticks=ticks, attributes={"sensor": recipe["sensor"]})


def make_two_clips_1_0(path: Path) -> None:
    """The same as version 1.0 had them."""
    make_two_clips(path)
    without_digests(path)


def make_empty(path: Path) -> None:
    """A store without clips."""
    create_store(path, recipe={}, class_names=[]).close()


def make_by_zarr_python(path: Path) -> None:
    """The same format from zarr-python alone: other chunk lengths, keys and level; no catalogue."""
    write_by_zarr_python(path, spikes_thw(7, 203, 10, 9), chunks=(5, 4, 9), shards=(15, 12, 9))


def make_tall_chunks(path: Path) -> None:
    """Chunks taller than the picture, all sizes multiples of eight; by zarr-python."""
    write_by_zarr_python(path, spikes_thw(8, 256, 8, 8), chunks=(8, 16, 8), shards=(16, 16, 8))


def write_by_zarr_python(
    path: Path, spikes: np.ndarray, *, chunks: tuple[int, ...], shards: tuple[int, ...]
) -> None:
    root = zarr.create_group(path, zarr_format=3)
    root.attrs.update({"format": "spikedata", "version": "1.0", "class_names": [], "recipe": {}})
    packed = pack_ticks(spikes)
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = root.create_group("clips").create_array(
            "by_zarr",
            shape=packed.shape,
            dtype="uint8",
            chunks=chunks,
            shards=shards,
            filters=[zarr.codecs.TransposeCodec(order=(1, 2, 0))],
            compressors=[zarr.codecs.ZstdCodec(level=1, checksum=True)],
            dimension_names=["tick_group", "y", "x"],
            fill_value=0,
        )
        array[:] = packed
    hasher = BitsHasher()
    hasher.update(packed)
    measured = {"ticks": len(spikes), "tick_rate_hz": 20000, "spikes": int(spikes.sum())}
    known = dict.fromkeys(["label", "split", "group", "licence"])
    known |= {"id": "by_zarr", "captions": [], "source": {}, "bits_sha256": hasher.hexdigest()}
    array.attrs.update(known | measured)


def edit(file: str | Path, change: Callable[[dict[str, Any]], Any]) -> Break:
    def apply(store: Path) -> None:
        values = json.loads((store / file).read_text())
        change(values)
        (store / file).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")

    return apply


def root_attribute(key: str, value: Any) -> Break:
    return edit("zarr.json", lambda meta: meta["attributes"].update({key: value}))


def clip_attribute(key: str, value: Any) -> Break:
    return edit(CLIP / "zarr.json", lambda meta: meta["attributes"].update({key: value}))


def clip_metadata(key: str, value: Any) -> Break:
    return edit(CLIP / "zarr.json", lambda meta: meta.update({key: value}))


def inner_codecs(change: Callable[[dict[str, Any]], Any]) -> Break:
    return edit(CLIP / "zarr.json", lambda meta: change(meta["codecs"][0]["configuration"]))


def rename_clip(name: str, *, says: str | None = None) -> Break:
    def apply(store: Path) -> None:
        (store / CLIP).rename(store / "clips" / name)
        if says is not None:
            edit(
                Path("clips") / name / "zarr.json", lambda meta: meta["attributes"].update(id=says)
            )(store)

    return apply


def collide(store: Path) -> None:
    shutil.copytree(store / CLIP, store / "clips/WAVE_g01")
    edit("clips/WAVE_g01/zarr.json", lambda meta: meta["attributes"].update(id="WAVE_g01"))(store)


def shard_bytes(change: Callable[[bytes], bytes]) -> Break:
    def apply(store: Path) -> None:
        (store / SHARD).write_bytes(change((store / SHARD).read_bytes()))

    return apply


def index_entry(offset: int, length: int) -> Callable[[bytes], bytes]:
    """Put another first entry in the index, with a checksum that fits."""

    def change(data: bytes) -> bytes:
        chunks = (len(data) - 4) // 16
        while int.from_bytes(data[-4 - 16 * chunks :][:8], "little") != 0:
            chunks -= 1  # the first entry begins at byte 0
        index = bytearray(data[-4 - 16 * chunks : -4])
        index[:16] = offset.to_bytes(8, "little") + length.to_bytes(8, "little")
        crc = google_crc32c.value(bytes(index)).to_bytes(4, "little")
        return data[: -4 - 16 * chunks] + bytes(index) + crc

    return change


def rewrite_chunk(change: Callable[[bytearray], bytes | bytearray]) -> Break:
    """Decompress the only chunk of the clip, change it, and put it back properly."""

    def apply(store: Path) -> None:
        meta = json.loads((store / CLIP / "zarr.json").read_text())
        chunk_shape = meta["codecs"][0]["configuration"]["chunk_shape"]
        shard_shape = meta["chunk_grid"]["configuration"]["chunk_shape"]
        chunks = shard_shape[0] // chunk_shape[0]
        data = (store / SHARD).read_bytes()
        coded = data[: -4 - 16 * chunks]
        plain = bytearray(zstandard.ZstdDecompressor().decompress(coded))
        coded = zstandard.ZstdCompressor(level=3).compress(bytes(change(plain)))
        rest = data[-4 - 16 * chunks :]
        (store / SHARD).write_bytes(index_entry(0, len(coded))(coded + rest))

    return apply


def flip_first_bit(plain: bytearray) -> bytearray:
    plain[0] ^= 1
    return plain


def set_bit_past_end(plain: bytearray) -> bytearray:
    plain[1] |= 0x80  # pixel 0, group 1, bit 7: tick 15 of 13
    return plain


def shard_of_another(store: Path) -> None:
    """Swap the shard for that of a clip of the same size."""
    other = store.with_name("other.zarr")
    with (
        create_store(other, recipe={}, class_names=[]) as writer,
        writer.clip(Clip(id="other"), height_px=3, width_px=5, tick_rate_hz=250.0) as out,
    ):
        out.append(pack_ticks(spikes_thw(9, 13)))
        out.finish(ticks=13, attributes={})
    (other / "clips/other/c.0.0.0").replace(store / SHARD)
    shutil.rmtree(other)


def more_clips_noted(meta: dict[str, Any]) -> None:
    meta["attributes"]["clips"] = 3
    del meta["attributes"]["facts_sha256"]


def stale_catalog(store: Path) -> None:
    file = store / "catalog.jsonl"
    file.write_text(file.read_text().replace('"label":"wave"', '"label":"clap"'))


def drop_attribute(meta: dict[str, Any]) -> None:
    del meta["attributes"]["bits_sha256"]


INVALID: dict[str, Break] = {
    "not_a_store": root_attribute("format", "something else"),
    "version_newer": root_attribute("version", "2.0"),
    "version_malformed": root_attribute("version", "one"),
    "class_names": root_attribute("class_names", ["wave", "clap", "wave"]),
    "clips_missing": lambda store: shutil.rmtree(store / "clips"),
    "clip_id_unsafe": rename_clip("wave:g01", says="wave:g01"),
    "clip_ids_collide": collide,
    "metadata_missing": lambda store: (store / CLIP / "zarr.json").unlink(),
    "metadata_malformed": lambda store: (store / CLIP / "zarr.json").write_text("{"),
    "data_type": clip_metadata("data_type", "int16"),
    "dimension_names": clip_metadata("dimension_names", ["t", "y", "x"]),
    "codec_unknown": inner_codecs(lambda conf: conf["codecs"][2].update(name="blosc")),
    "shapes_disagree": inner_codecs(lambda conf: conf.update(chunk_shape=[16, 3, 4])),
    "size_limit": clip_metadata("shape", [2, 3_000_000, 5]),
    "attribute_missing": edit(CLIP / "zarr.json", drop_attribute),
    "attributes_malformed": clip_attribute("captions", "a person waves"),
    "id_disagrees": rename_clip("wave_g02"),
    "ticks_disagree": clip_attribute("ticks", 17),
    "label_unknown": clip_attribute("label", "punch"),
    "shard_missing": lambda store: (store / SHARD).unlink(),
    "shard_index": shard_bytes(lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "chunk_missing": shard_bytes(index_entry(2**64 - 1, 2**64 - 1)),
    "chunk_damaged": shard_bytes(lambda data: b"\0\0\0\0" + data[4:]),
    "bits_past_end": rewrite_chunk(set_bit_past_end),
    "bits_differ": rewrite_chunk(flip_first_bit),
    "spikes_differ": clip_attribute("spikes", 1),
    "facts_differ": clip_attribute("split", "test"),
    "shard_differs": shard_of_another,
    "clips_differ": edit("zarr.json", more_clips_noted),
    "catalog_malformed": lambda store: (store / "catalog.jsonl").write_text("nothing\n"),
    "catalog_differs": stale_catalog,
}
"""Name of the rule -> what is done to a valid store to break it."""

SINCE_1_1 = frozenset({"facts_differ", "shard_differs", "clips_differ"})
"""Rules of the digests, which would be broken as well by most of what breaks another rule."""

NOT_EVERYWHERE = frozenset({"clip_id_unsafe", "clip_ids_collide"})
"""Some file systems cannot hold these, so that they are made when tested, not committed."""

VALID: dict[str, Break] = {
    "two_clips": make_two_clips,
    "two_clips_1_0": make_two_clips_1_0,
    "empty": make_empty,
    "by_zarr_python": make_by_zarr_python,
    "tall_chunks": make_tall_chunks,
}


def break_rule(name: str, path: Path) -> None:
    """Write the invalid example ``name`` to ``path``."""
    make_two_clips(path)
    if name not in SINCE_1_1:
        without_digests(path)
        if not name.startswith("catalog"):
            (path / "catalog.jsonl").unlink()  # it would differ as well
    INVALID[name](path)


def main() -> None:
    """Write all examples anew."""
    for folder in ("valid", "invalid"):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        (HERE / folder).mkdir()
    for name, make in VALID.items():
        make(HERE / "valid" / f"{name}.zarr")
    for name in sorted(INVALID.keys() - NOT_EVERYWHERE):
        break_rule(name, HERE / "invalid" / f"{name}.zarr")


if __name__ == "__main__":
    main()
