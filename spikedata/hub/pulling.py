"""Fetch a published data set back into a store, and compare one's own with it."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from spikedata.clips import (
    ClipSource,
    ParquetFacts,
    ParquetStore,
    StoredClip,
    StoreWriter,
    check_replaceable,
    create_store,
    facts_of_table,
    in_order,
    open_clips,
    open_parquet,
    open_store,
)
from spikedata.errors import HubError, StoreError
from spikedata.hub.card import RECIPE_FILE, without_folders
from spikedata.hub.client import (
    AGAIN,
    SHARD_NAME,
    HubStep,
    Progress,
    PublishedFile,
    api,
    endpoint,
    one_line,
    published_files,
)
from spikedata.outputs import file_sha256, locked, put_into_place, remove
from spikedata.remote import on_disk

READ_AHEAD_BYTES = 1 << 18
"""Bytes asked for at once where only what is known of clips is read: about four clips' worth."""
MOST_READ_BYTES = 512 << 20
"""Bytes of one answer where only that is read: columns of a file that is not downloaded."""
_BITS_COLUMNS = frozenset(["preview", "chunk_ticks", "bits"])


_STORE = "store.zarr"


class _MixedError(StoreError):
    """What was fetched does not go together with what is told of it."""


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

    Shards are taken one at a time, compared with the digest that the Hub tells, and removed; a
    wrong one is fetched once more. A download that was cut short goes on where it was, in
    ``<out>.pull``, unless the data set has changed meanwhile, or what is there is damaged: it then
    begins anew.

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
    out = on_disk(out)
    try:
        check_replaceable(out, overwrite=overwrite)
    except StoreError:
        if out.name:
            _remove_emptied(out)
        raise
    published = _Published(repo, revision)
    folder = _folder_of(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(out) as lock:
        made = _rebuild_sure(published, folder, workers, progress or (lambda _: None))
        check_replaceable(out, overwrite=overwrite)  # another run may have made it meanwhile
        lock.check()
        put_into_place(made, out)
        remove(folder)
    return out


def _folder_of(out: Path) -> Path:
    return out.with_name(out.name + ".pull")


def _remove_emptied(out: Path) -> None:
    """Remove what a run left that was killed after it had put its store into place."""
    folder = _folder_of(out)
    if folder.is_dir() and not any(folder.glob(f"*/{_STORE}")):
        with contextlib.suppress(OSError, StoreError), locked(out):
            remove(folder)


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
    for theirs in published.all_facts().values():
        lines += [line for stored in theirs.clips.values() if (line := _difference(stored, ours))]
    return tuple(lines)


class _Published:
    """One revision of a published data set, read a shard at a time."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self.repo = repo
        self.commit, _, files = published_files(repo, revision)
        self._files = {name: file for name, file in files.items() if SHARD_NAME.fullmatch(name)}
        self.names = sorted(self._files)
        if not self.names:
            raise HubError(f"{repo}: holds no data/*.parquet; it was not published by spikedata")

    def all_facts(self) -> dict[str, ParquetFacts]:
        """All that is known of the clips, by shard.

        Raises:
            HubError: a shard that the others name is not there, or they cannot be had.
            StoreError: one is damaged.
        """
        found = {name: self.facts(name) for name in self.names}
        there = {name.rpartition("/")[2] for name in self.names}
        gone = sorted({name for told in found.values() for name in told.shards} - there)
        if gone:
            raise HubError(
                f"{self.repo}: {gone[0]} is gone, {len(gone)} of the files that it was published "
                "with. It has to be published again"
            )
        return found

    def facts(self, name: str) -> ParquetFacts:
        """All that is known of a shard's clips; their bits and previews stay where they are.

        An answer that was spoilt on its way is asked for once more.
        """
        for last in (False, True):
            with one_line(f"{self.repo}: {name}", most_bytes=MOST_READ_BYTES):
                about, table = self._read(name)
            try:
                return facts_of_table(table, f"{self.repo}: {name}", has_bits="bits" in about)
            except StoreError as error:
                if last:
                    raise StoreError(f"{error}. {AGAIN}") from error
        raise AssertionError("the second time returns or raises")

    def _read(self, name: str) -> tuple[list[str], Any]:
        with self._open(name) as remote, pq.ParquetFile(remote) as file:
            names = file.schema_arrow.names
            return names, file.read(columns=[key for key in names if key not in _BITS_COLUMNS])

    def _open(self, name: str) -> Any:
        from huggingface_hub import HfFileSystem  # noqa: PLC0415  see client.api

        files = HfFileSystem(endpoint=endpoint(), skip_instance_cache=True)
        path = f"datasets/{self.repo}@{self.commit}/{name}"
        return files.open(path, block_size=READ_AHEAD_BYTES)

    def shard(self, name: str, folder: Path) -> ParquetStore:
        """Download a shard into ``folder``; a whole one that a cut run left there is taken.

        Nothing else is kept, neither half a file nor the client's own notes: they may be anything.

        Raises:
            HubError: it cannot be had.
            StoreError: twice it came as something else than was published.
        """
        told, path = self._files[name], folder / name
        for last in (False, True):
            if told.sha256 is None or not path.is_file() or _other_bytes(path, told):
                remove(folder)
                self._download(name, folder, anew=last)
            try:
                wrong = _other_bytes(path, told)
                if wrong is None:
                    return open_parquet(path)
                wrong += _first_damaged(path)
            except (StoreError, OSError) as error:
                wrong = str(error)
            remove(folder)
        raise StoreError(
            f"{self.repo}: {name}: was fetched twice and is not what was published: {wrong}. It "
            f"was removed. {AGAIN}; if it stays so, the published file is damaged"
        )

    def _download(self, name: str, folder: Path, *, anew: bool) -> None:
        """Have a file in ``folder``; with ``anew`` whatever the client has kept of it elsewhere."""
        size = self._files[name].size
        most = max(MOST_READ_BYTES, size or 0)
        asked = {"repo_type": "dataset", "revision": self.commit, "local_dir": folder}
        with one_line(self.repo, f"{AGAIN} to go on", most_bytes=most):
            api().hf_hub_download(self.repo, name, force_download=anew, **asked)


def _other_bytes(path: Path, told: PublishedFile) -> str | None:
    """How a file differs from the one published, as far as that is told."""
    size = path.stat().st_size
    if told.size is not None and size != told.size:
        return f"it has {size:,} bytes, not {told.size:,}"
    if told.sha256 is not None and file_sha256(path) != told.sha256:
        return "it has another digest"
    return None


def _first_damaged(path: Path) -> str:
    """What a wrong file's own digests tell of where it is damaged."""
    try:
        shard = open_parquet(path)
        for clip_id in shard.clips:
            shard.verify(clip_id)
    except (StoreError, OSError) as error:
        return f", {error}"
    return ""


def _rebuild_sure(published: _Published, folder: Path, workers: int, progress: Progress) -> Path:
    """The published store, in ``folder``; once more from the beginning if things do not fit.

    A cut run may have kept what was damaged meanwhile, or had its own answers spoilt.
    """
    # Named by its commit, so that a cut download never goes on with another one's clips.
    own = folder / published.commit
    for other in folder.glob("*"):
        if other != own:
            remove(other)
    try:
        return _rebuild(published, own, workers, progress)
    except _MixedError:
        remove(own)
    try:
        return _rebuild(published, own, workers, progress)
    except _MixedError:
        remove(own)
        raise


def _rebuild(published: _Published, folder: Path, workers: int, progress: Progress) -> Path:
    """Make the published store in ``folder``, or go on with it, and check that all of it is there.

    Raises:
        _MixedError: not all of it is as published.
    """
    facts: dict[str, ParquetFacts | ParquetStore] = {**published.all_facts()}
    if not all(told.has_bits for told in facts.values()):
        remove(folder.parent)
        raise HubError(_how_to_regenerate(published.repo))
    store, copied = folder / _STORE, set[str]()
    with _begun(store, facts[published.names[0]]) as writer:
        writer.discard_all(writer.lost)  # what a cut run left may be damaged
        for number, (name, told) in enumerate(list(facts.items()), 1):
            if all(writer.stored(key) == stored for key, stored in told.clips.items()):
                continue
            # What is told may have been spoilt on its way; the file has its digest.
            shard = facts[name] = published.shard(name, folder / "download")
            progress(HubStep(stage="download", done=number, total=len(facts), name=name))
            for clip_id in _copy(shard, writer, workers):
                copied.add(clip_id)
                progress(HubStep(stage="write", done=number, total=0, name=clip_id))
    _check_whole(store, list(facts.values()), copied)
    return store


def _begun(store: Path, told: ParquetFacts | ParquetStore) -> StoreWriter:
    try:
        return create_store(
            store, recipe=told.recipe, class_names=told.class_names, name=told.name, resume=True
        )
    except (StoreError, ValueError, TypeError) as error:
        raise _MixedError(f"{error}. {AGAIN}") from error


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


def _check_whole(
    store: Path, published: Collection[ParquetFacts | ParquetStore], copied: Collection[str]
) -> None:
    """Compare the store with all that was published, and read what a cut run had left of it.

    Raises:
        _MixedError: they differ.
    """
    try:
        made = open_store(store)
        for clip_id in made.clips:
            if clip_id not in copied:
                made.verify(clip_id)
    except StoreError as error:
        raise _MixedError(f"{error}. It was removed. {AGAIN}") from error
    wanted = {key: stored for part in published for key, stored in part.clips.items()}
    keys = sorted(wanted.keys() | made.clips.keys())
    wrong = [key for key in keys if wanted.get(key) != made.clips.get(key)]
    if wrong:
        raise _MixedError(
            f"{store}: {len(wrong)} clips are not as published, {wrong[0]} first. It was removed. "
            f"{AGAIN}"
        )
    for part in published:
        if _about(part) != _about(made):
            raise _MixedError(
                f"{store}: its name, classes or recipe are not as published. It was removed. "
                f"{AGAIN}"
            )


def _about(clips: ParquetFacts | ClipSource) -> tuple[str, tuple[str, ...], Mapping[str, Any]]:
    return clips.name, clips.class_names, clips.recipe


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
