"""Fetch a published data set back into a store, and compare one's own with it."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from spikedata.clips import (
    ClipSource,
    ParquetStore,
    StoredClip,
    StoreWriter,
    check_replaceable,
    create_store,
    in_order,
    open_clips,
    open_parquet,
    open_store,
)
from spikedata.errors import HubError, StoreError
from spikedata.hub.card import RECIPE_FILE, without_folders
from spikedata.hub.client import SHARD_NAME, HubStep, Progress, api, endpoint, one_line
from spikedata.outputs import locked, put_into_place, remove

READ_AHEAD_BYTES = 1 << 18
"""Bytes asked for at once where only what is known of clips is read: about four clips' worth."""
_BITS_COLUMNS = frozenset(["preview", "chunk_ticks", "bits"])


def pull(
    repo: str,
    out: Path | str,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Download a data set that :func:`push_hub` made and rebuild the store, checking every digest.

    Shards are taken one at a time and removed. A download that was cut short goes on where it was,
    in ``<out>.pull``, unless the data set has changed meanwhile: it then begins anew.

    Args:
        repo: ``owner/name``.
        out: store to write; it appears whole or not at all.
        revision: branch, tag or commit; default the newest.
        overwrite: replace ``out``, if all in it was written by spikedata, once the new one is
            whole.
        workers: clips written at once, one thread each.
        progress: called in this thread for each shard and each clip.

    Returns:
        ``out``.

    Raises:
        HubError: not there, not reachable, not published by spikedata, or recipes only.
        StoreError: ``out`` exists or is not ours to replace, another process is writing it, or bits
            are not those noted.
    """
    out = Path(out)
    check_replaceable(out, overwrite=overwrite)
    published = _Published(repo, revision)
    folder = out.with_name(out.name + ".pull")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(out):
        # Named by its commit, so that a cut download never goes on with another one's clips.
        made = _rebuild(published, folder / published.commit, workers, progress or (lambda _: None))
        check_replaceable(out, overwrite=overwrite)  # another run may have made it meanwhile
        put_into_place(made, out)
        remove(folder)
    return out


def check_regenerated(
    repo: str, store: Path | str, *, revision: str | None = None
) -> tuple[str, ...]:
    """Compare your own clips, of any format, with the digests published; one line a difference.

    No bits are downloaded.

    Raises:
        HubError: not there, not reachable, or not published by spikedata.
        StoreError: the store cannot be read.
    """
    ours = open_clips(store)
    published = _Published(repo, revision)
    lines: list[str] = []
    for name in published.names:
        theirs = published.facts(name)
        lines += [line for stored in theirs.clips.values() if (line := _difference(stored, ours))]
    return tuple(lines)


class _Published:
    """One revision of a published data set, read a shard at a time."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self.repo = repo
        with one_line(repo):
            info = api().dataset_info(repo, revision=revision)
        self.commit = str(info.sha)
        names = [item.rfilename for item in info.siblings or ()]
        self.names = sorted(name for name in names if SHARD_NAME.fullmatch(name))
        if not self.names:
            raise HubError(f"{repo}: holds no data/*.parquet; it was not published by spikedata")

    def facts(self, name: str) -> ParquetStore:
        """All that is known of a shard's clips; their bits and previews stay where they are."""
        try:
            with one_line(self.repo), self._open(name) as remote, pq.ParquetFile(remote) as file:
                told = [key for key in file.schema_arrow.names if key not in _BITS_COLUMNS]
                table = file.read(columns=told)
        except pa.ArrowException as error:
            raise StoreError(f"{self.repo}: {name}: is damaged: {error}") from error
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            pq.write_table(table, path)
            return open_parquet(path)

    def _open(self, name: str) -> Any:
        from huggingface_hub import HfFileSystem  # noqa: PLC0415  see client.api

        files = HfFileSystem(endpoint=endpoint(), skip_instance_cache=True)
        path = f"datasets/{self.repo}@{self.commit}/{name}"
        return files.open(path, block_size=READ_AHEAD_BYTES)

    def shard(self, name: str, folder: Path) -> ParquetStore:
        """Download a shard into ``folder``; what was cut short goes on."""
        with one_line(self.repo, "Run the same command again to go on"):
            path = api().hf_hub_download(
                self.repo, name, repo_type="dataset", revision=self.commit, local_dir=folder
            )
        return open_parquet(path)


def _rebuild(published: _Published, folder: Path, workers: int, progress: Progress) -> Path:
    """Make the published store in ``folder``, or go on with it, and check that all of it is there.

    Other things beside ``folder`` are left from other revisions and go.
    """
    for other in folder.parent.glob("*"):
        if other != folder:
            remove(other)
    facts = {name: published.facts(name) for name in published.names}
    first, store = next(iter(facts.values())), folder / "store.zarr"
    with create_store(
        store, recipe=first.recipe, class_names=first.class_names, name=first.name, resume=True
    ) as writer:
        for number, (name, told) in enumerate(facts.items(), 1):
            if all(writer.has(clip_id) for clip_id in told.clips):
                continue
            shard = published.shard(name, folder)
            if not shard.has_bits:
                remove(folder.parent)
                raise HubError(_how_to_regenerate(published.repo))
            progress(HubStep(stage="download", done=number, total=len(facts), name=name))
            for clip_id in _copy(shard, writer, workers):
                progress(HubStep(stage="write", done=number, total=0, name=clip_id))
    _check_whole(store, facts.values())
    return store


def _copy(shard: ParquetStore, writer: StoreWriter, workers: int) -> Iterator[str]:
    """Write the shard's clips that the store does not have, and remove the shard.

    A damaged one goes too, so that the next run fetches it anew.
    """

    def copy(stored: StoredClip) -> StoredClip:
        return writer.copy(shard, stored)

    todo = [stored for stored in shard.clips.values() if not writer.has(stored.clip.id)]
    for stored, outcome in in_order(copy, todo, workers):
        if isinstance(outcome, StoreError):
            remove(shard.path)
        if isinstance(outcome, Exception):
            raise outcome
        yield stored.clip.id
    remove(shard.path)


def _check_whole(store: Path, published: Iterable[ParquetStore]) -> None:
    """Compare ids and digests with those published.

    Raises:
        StoreError: they differ. The store is removed, so that the next run begins anew.
    """
    wanted = {key: s.bits_sha256 for shard in published for key, s in shard.clips.items()}
    found = {key: stored.bits_sha256 for key, stored in open_store(store).clips.items()}
    wrong = sorted(key for key in wanted | found if wanted.get(key) != found.get(key))
    if wrong:
        remove(store)
        raise StoreError(
            f"{store}: {len(wrong)} clips are not as published, {wrong[0]} first. It was removed; "
            "run the same command again"
        )


def _how_to_regenerate(repo: str) -> str:
    return (
        f"{repo}: holds recipes only, for its licence forbids copies of the bits. With the source "
        f"videos and its {RECIPE_FILE} run `spikedata simulate VIDEOS --recipe {RECIPE_FILE} --out "
        f"spikes.zarr`, then `spikedata pull {repo} --check --out spikes.zarr`"
    )


def _difference(theirs: StoredClip, ours: ClipSource) -> str | None:
    """What is different about one clip, with a reason where the provenance shows one."""
    clip_id = theirs.clip.id
    if clip_id not in ours.clips:
        return f"{clip_id}: missing"
    mine = ours.clips[clip_id]
    if mine.bits_sha256 == theirs.bits_sha256:
        return None
    if mine.clip.source.get("sha256") != theirs.clip.source.get("sha256"):
        return f"{clip_id}: made from another video file"
    for key in ("sensor", "video", "versions"):
        there, here = (without_folders(s.attributes.get(key), None) for s in (theirs, mine))
        if there != here:
            return f"{clip_id}: bits differ; {key} there {there}, here {here}"
    return f"{clip_id}: bits differ, for no reason that the provenance shows"
