"""Publish a data set on the Hugging Face Hub, and fetch one back into a store.

Shards are made one at a time beside the source, sent, and removed; one commit at the end shows
them all at once. Their bytes depend on the clips alone, so a publication that was cut short sends
only what the Hub does not have yet. Nothing here ever shows the token.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from spikedata.clips import (
    DEFAULT_LEVEL,
    ClipSource,
    ParquetStore,
    Shard,
    SpikeStore,
    StoredClip,
    StoreWriter,
    check_replaceable,
    create_store,
    format_at,
    in_order,
    open_clips,
    open_parquet,
    open_store,
    plan_shards,
    write_shard,
)
from spikedata.errors import HubError, SpikeDataError, StoreError
from spikedata.hub.card import (
    RECIPE_FILE,
    card_text,
    clips_without_folders,
    named_maps,
    recipe_text,
    without_folders,
)
from spikedata.outputs import file_sha256, locked, put_into_place, remove

SIGN_IN = (
    "not signed in to the Hub, or the token is not valid: run `hf auth login`, or set HF_TOKEN"
)
READ_AHEAD_BYTES = 1 << 18
"""Bytes asked for at once where only what is known of clips is read: about four clips' worth."""
_SHARD_NAME = re.compile(r"data/[\w.-]+\.parquet")
_BITS_COLUMNS = frozenset(["preview", "chunk_ticks", "bits"])


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """One file of a publication."""

    path: str
    """Path in the repository."""
    size_bytes: int
    """Size; before a shard is made, that of the same clips in the source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubStep:
    """How far a publication or a download is."""

    stage: Literal["encode", "upload", "download", "write"]
    done: int
    total: int
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishReport:
    """What was, or in a dry run would be, published."""

    repo: str
    url: str
    revision: str | None
    """The commit; None in a dry run."""
    private: bool
    clips: int
    files: tuple[HubFile, ...]
    card: str
    """The README, metadata included."""


Progress = Callable[[HubStep], None]


def publish(
    source: Path | str,
    *,
    repo: str | None = None,
    private: bool = True,
    licence: str | None = None,
    dry_run: bool = False,
    recipe_only: bool = False,
    level: int = DEFAULT_LEVEL,
    workers: int = 1,
    progress: Progress | None = None,
) -> PublishReport:
    """Publish a store or a packed Parquet folder as a data set that plain ``datasets`` loads.

    Args:
        source: the store or folder.
        repo: ``owner/name`` or ``name``; default the data set's name under the signed-in account.
        private: whether a repository that is created is private.
        licence: the data set's licence, by any usual name; default that of the clips. One that
            the Hub has no identifier for is published as ``other``, with its name.
        dry_run: touch nothing and no network; say what would be published.
        recipe_only: publish hashes and recipe, but neither bits nor previews.
        level: zstd level of shards that are made for this.
        workers: clips encoded at once, one thread each.
        progress: called in this thread for each clip encoded and each file sent.

    Raises:
        HubError: not signed in, refused by the Hub, or not reachable; or ``recipe_only`` for clips
            that nobody could make again.
        StoreError: the source cannot be read, a clip's bits are not those noted, or another run
            publishes it.
    """
    plan = _plan(Path(source), licence, recipe_only)
    files, revision = plan.files(), None
    repo_id = _full_name(repo, plan.clips, "<your account>" if dry_run else _account())
    card = plan.card(repo_id, files)
    if not dry_run:
        _check_card(card)
        private = _create(repo_id, private)
        upload = _Upload(repo_id, plan, progress or (lambda _: None))
        files = upload.shards(level, workers)
        card = plan.card(repo_id, files)
        revision = upload.commit(card)
    small = {**plan.side_files, "README.md": card.encode()}
    return PublishReport(
        repo=repo_id,
        url=f"{_endpoint()}/datasets/{repo_id}",
        revision=revision,
        private=private,
        clips=len(plan.clips.clips),
        files=(*files, *(HubFile(path=k, size_bytes=len(v)) for k, v in small.items())),
        card=card,
    )


def fetch(
    repo: str,
    out: Path | str,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Path:
    """Download a data set that :func:`publish` made and rebuild the store, checking every digest.

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
    with locked(folder):
        # Named by its commit, so that a cut download never goes on with another one's clips.
        made = _rebuild(published, folder / published.commit, workers, progress or (lambda _: None))
        check_replaceable(out, overwrite=overwrite)  # another run may have made it meanwhile
        put_into_place(made, out)
        remove(folder)
    return out


def check_regenerated(
    repo: str, store: Path | str, *, revision: str | None = None
) -> tuple[str, ...]:
    """Compare a store of your own making with the digests published; one line a difference.

    No bits are downloaded.

    Raises:
        HubError: not there, not reachable, or not published by spikedata.
        StoreError: the store cannot be read.
    """
    ours = open_store(store)
    published = _Published(repo, revision)
    lines: list[str] = []
    for name in published.names:
        theirs = published.facts(name)
        lines += [line for stored in theirs.clips.values() if (line := _difference(stored, ours))]
    return tuple(lines)


# --- what to publish ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What is published: clips shared out over shards, and what lies beside these."""

    source: Path
    clips: ClipSource
    shards: tuple[Shard, ...]
    side_files: Mapping[str, bytes]
    """Recipe and maps by name; the card is not among them."""
    licence: str | None
    recipe_only: bool

    def card(self, repo: str, files: list[HubFile]) -> str:
        sizes: dict[str, int] = {}
        for shard, file in zip(self.shards, files, strict=True):
            sizes[shard.split] = sizes.get(shard.split, 0) + file.size_bytes
        return card_text(
            self.clips,
            repo=repo,
            licence=self.licence,
            recipe_only=self.recipe_only,
            split_bytes=sizes,
            side_files=self.side_files,
        )

    def files(self) -> list[HubFile]:
        """The shards, before they are made."""
        return [HubFile(path=shard.name, size_bytes=self._size(shard)) for shard in self.shards]

    def is_made(self, shard: Shard) -> bool:
        """Whether the source holds the very file that is to be published."""
        is_whole = isinstance(self.clips, ParquetStore) and not self.recipe_only
        return is_whole and (self.source / shard.name).is_file()

    def _size(self, shard: Shard) -> int:
        if self.recipe_only:
            return 1024 * len(shard.clip_ids)
        made = self.source / shard.name
        if made.is_file():
            return made.stat().st_size
        apart = [self.clips.stored_bytes(clip_id) for clip_id in shard.clip_ids]
        return sum(size for size in apart if size is not None) or shard.packed_bytes


def _plan(path: Path, licence: str | None, recipe_only: bool) -> _Plan:
    if format_at(path) is None:
        what = "is no set of clips" if path.exists() else "no such file or folder"
        raise HubError(f"{path}: {what}. Run `spikedata pack --to zarr`")
    clips = open_clips(path)
    if not clips.clips:
        raise HubError(f"{path}: holds no clips; there is nothing to publish")
    named = named_maps(clips.recipe)
    maps = _maps_file(*named) if named else None
    clips = clips_without_folders(clips, file_sha256(maps) if maps else None)
    recipe = recipe_text(clips.recipe)
    if recipe_only and (recipe is None or (named and not maps)):
        lacks = f"its maps {named[0]} are not here" if named else "they have no one recipe"
        raise HubError(f"{path}: nobody could make these clips again, for {lacks}")
    side_files = {} if recipe is None else {RECIPE_FILE: recipe.encode()}
    if recipe and maps:
        side_files[maps.name] = maps.read_bytes()
    return _Plan(path, clips, plan_shards(clips), side_files, licence, recipe_only)


def _maps_file(path: Path, noted: str | None) -> Path | None:
    """The file of maps, if it is there and the one that the clips were made with."""
    return path if path.is_file() and noted in (None, file_sha256(path)) else None


def _full_name(repo: str | None, clips: ClipSource, account: str) -> str:
    if repo is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", clips.name).strip("-.") or "spikes"
        repo = name if name.endswith("spikes") else f"{name[:80]}-spikes"
    return repo if "/" in repo else f"{account}/{repo}"


# --- sending ------------------------------------------------------------------------------------


def _account() -> str:
    with _one_line("the Hub"):
        return str(_api().whoami()["name"])


def _check_card(card: str) -> None:
    """Have the Hub read the card before anything is made for it."""
    from huggingface_hub import get_session  # noqa: PLC0415  see _api

    with _one_line("README.md"):
        asked = {"repoType": "dataset", "content": card}
        answer = get_session().post(f"{_endpoint()}/api/validate-yaml", json=asked)
        if answer.status_code == 400:
            told = "; ".join(str(error["message"]) for error in answer.json()["errors"])
            raise HubError(f"README.md: {_endpoint()} refuses the card: {told}")
        answer.raise_for_status()


def _create(repo_id: str, private: bool) -> bool:
    """Make sure that the repository is there; whether it is private."""
    api = _api()
    with _one_line(repo_id):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        return bool(api.dataset_info(repo_id).private)


class _Upload:
    """One publication under way."""

    def __init__(self, repo: str, plan: _Plan, progress: Progress) -> None:
        self._repo = repo
        self._plan = plan
        self._progress = progress
        self._operations: list[Any] = []
        self._encoded = 0

    def shards(self, level: int, workers: int) -> list[HubFile]:
        """Make each shard that is not there already, send it, remove it."""
        plan = self._plan
        staging = plan.source.with_name(plan.source.name + ".push")
        # What is published as it is may lie where nothing can be written.
        alone = contextlib.nullcontext() if all(map(plan.is_made, plan.shards)) else locked(staging)
        files: list[HubFile] = []
        try:
            with alone, contextlib.ExitStack() as at_end:
                at_end.callback(remove, staging)
                for number, shard in enumerate(plan.shards, 1):
                    path = (plan.source if plan.is_made(shard) else staging) / shard.name
                    if not plan.is_made(shard):
                        self._make(shard, path, level, workers)
                    self._send(shard.name, path)
                    files.append(HubFile(path=shard.name, size_bytes=path.stat().st_size))
                    remove(staging)
                    total, name = len(plan.shards), shard.name
                    self._progress(HubStep(stage="upload", done=number, total=total, name=name))
        except OSError as error:
            raise HubError(f"{staging}: {error.strerror or error}; nothing was published") from None
        return files

    def commit(self, card: str) -> str:
        """Show everything at once, in place of what was there; the new revision."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete  # noqa: PLC0415

        api = _api()
        for name, data in {**self._plan.side_files, "README.md": card.encode()}.items():
            self._operations.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=data))
        names = {operation.path_in_repo for operation in self._operations}
        with _one_line(self._repo):
            there = api.list_repo_files(self._repo, repo_type="dataset")
            stale = [
                CommitOperationDelete(path_in_repo=name)
                for name in there
                if name not in names and (_SHARD_NAME.fullmatch(name) or name == RECIPE_FILE)
            ]
            done = api.create_commit(
                self._repo,
                repo_type="dataset",
                operations=[*self._operations, *stale],
                commit_message=f"Publish {len(self._plan.clips.clips)} clips with spikedata",
            )
        return str(done.oid)

    def _make(self, shard: Shard, path: Path, level: int, workers: int) -> None:
        def told(stored: StoredClip) -> None:
            self._encoded += 1
            total = len(self._plan.clips.clips)
            name = stored.clip.id
            self._progress(HubStep(stage="encode", done=self._encoded, total=total, name=name))

        write_shard(
            self._plan.clips,
            shard,
            path,
            level=level,
            workers=workers,
            with_bits=not self._plan.recipe_only,
            done=told,
        )

    def _send(self, name: str, path: Path) -> None:
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415

        with _one_line(self._repo, "What was sent is kept: run the same command again to go on"):
            operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
            _api().preupload_lfs_files(self._repo, additions=[operation], repo_type="dataset")
        self._operations.append(operation)


# --- fetching -----------------------------------------------------------------------------------


class _Published:
    """One revision of a published data set, read a shard at a time."""

    def __init__(self, repo: str, revision: str | None) -> None:
        self.repo = repo
        with _one_line(repo):
            info = _api().dataset_info(repo, revision=revision)
        self.commit = str(info.sha)
        names = [item.rfilename for item in info.siblings or ()]
        self.names = sorted(name for name in names if _SHARD_NAME.fullmatch(name))
        if not self.names:
            raise HubError(f"{repo}: holds no data/*.parquet; it was not published by spikedata")

    def facts(self, name: str) -> ParquetStore:
        """All that is known of a shard's clips; their bits and previews stay where they are."""
        try:
            with _one_line(self.repo), self._open(name) as remote, pq.ParquetFile(remote) as file:
                told = [key for key in file.schema_arrow.names if key not in _BITS_COLUMNS]
                table = file.read(columns=told)
        except pa.ArrowException as error:
            raise StoreError(f"{self.repo}: {name}: is damaged: {error}") from error
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            pq.write_table(table, path)
            return open_parquet(path)

    def _open(self, name: str) -> Any:
        from huggingface_hub import HfFileSystem  # noqa: PLC0415  see _api

        files = HfFileSystem(endpoint=_endpoint(), skip_instance_cache=True)
        path = f"datasets/{self.repo}@{self.commit}/{name}"
        return files.open(path, block_size=READ_AHEAD_BYTES)

    def shard(self, name: str, folder: Path) -> ParquetStore:
        """Download a shard into ``folder``; what was cut short goes on."""
        with _one_line(self.repo, "Run the same command again to go on"):
            path = _api().hf_hub_download(
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


def _difference(theirs: StoredClip, ours: SpikeStore) -> str | None:
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


# --- the client ---------------------------------------------------------------------------------


def _api() -> Any:
    from huggingface_hub import HfApi  # noqa: PLC0415  a third of a second; --help need not wait

    return HfApi(endpoint=_endpoint(), library_name="spikedata")


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@contextlib.contextmanager
def _one_line(what: str, advice: str = "") -> Iterator[None]:
    """Tell any failure of the client in one line that holds no token."""
    from huggingface_hub import errors  # noqa: PLC0415

    try:
        yield
    except SpikeDataError:
        raise
    except Exception as error:
        told = _of_the_client(error)
        if told is None:
            raise
        if isinstance(told, errors.LocalTokenNotFoundError):
            raise HubError(SIGN_IN) from None
        if isinstance(told, errors.HfHubHTTPError):
            raise HubError(_plain(_answer(what, told), advice)) from None
        text = f"{what}: {_endpoint()} cannot be used: {type(told).__name__}: {told}"
        raise HubError(_plain(text, advice)) from None


def _of_the_client(error: BaseException | None) -> BaseException | None:
    """The first error in the chain that the client or its HTTP library raised, or the system."""
    while error is not None:
        package = type(error).__module__.split(".")[0]
        if isinstance(error, OSError) or package in ("huggingface_hub", "httpx", "httpx2"):
            return error
        error = error.__cause__  # an upload's own error hides in a RuntimeError
    return None


def _answer(what: str, error: Any) -> str:
    status = getattr(error.response, "status_code", None)
    if status == 401:
        return SIGN_IN
    if status == 404:
        return f"{what}: not on {_endpoint()}, or not for this account's eyes"
    said = error.server_message or type(error).__name__
    return f"{what}: {_endpoint()} answered {status}: {said}"


def _plain(text: str, advice: str) -> str:
    """One line, without the token should a message ever hold it."""
    from huggingface_hub import get_token  # noqa: PLC0415

    line = " ".join(text.split())
    for secret in (get_token(), os.environ.get("HF_TOKEN")):
        if secret:
            line = line.replace(secret, "***")
    return f"{line}. {advice}" if advice else line
