"""Publish a data set on the Hugging Face Hub, and fetch one back into a store.

Shards are made one at a time beside the source, sent, and removed; one commit at the end shows
them all at once. Their bytes depend on the clips alone, so a publication that was cut short sends
only what the Hub does not have yet. Nothing here ever shows the token.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spikedata.errors import HubError, SpikeDataError, StoreError
from spikedata.hub_card import card_text
from spikedata.parquet import (
    DEFAULT_LEVEL,
    ClipSource,
    ParquetStore,
    Shard,
    in_order,
    open_parquet,
    plan_shards,
    write_shard,
)
from spikedata.store import SpikeStore, StoredClip, StoreWriter, create_store, open_store

SIGN_IN = (
    "not signed in to the Hub, or the token is not valid: run `hf auth login`, or set HF_TOKEN"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """One file of a publication."""

    path: str
    """Path in the repository."""
    size_bytes: int
    """Size; before a shard is made, that of the same clips in the store."""


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
        licence: the data set's licence, an identifier of the Hub's; default that of the clips.
        dry_run: touch nothing and no network; say what would be published.
        recipe_only: publish hashes and recipe, but neither bits nor previews.
        level: zstd level of shards that are made for this.
        workers: clips encoded at once, one thread each.
        progress: called in this thread for each clip encoded and each file sent.

    Raises:
        HubError: not signed in, refused by the Hub, or not reachable.
        StoreError: the source cannot be read, or a clip's bits are not those noted.
    """
    clips = _open_source(Path(source))
    if not clips.clips:
        raise HubError(f"{source}: holds no clips; there is nothing to publish")
    shards = plan_shards(clips)
    _check_splits(shards)
    if dry_run:
        repo_id = _full_name(repo, clips, "<your account>")
        files = [_planned(Path(source), clips, shard, recipe_only) for shard in shards]
        revision = None
    else:
        repo_id, private = _create(repo, clips, private)
        upload = _Upload(repo_id, Path(source), clips, recipe_only, progress or (lambda _: None))
        files = upload.shards(shards, level, workers)
    card = card_text(
        clips,
        repo=repo_id,
        licence=licence,
        recipe_only=recipe_only,
        split_bytes=_bytes_by_split(shards, files),
    )
    if not dry_run:
        revision = upload.commit(card)
    readme = HubFile(path="README.md", size_bytes=len(card.encode()))
    return PublishReport(
        repo=repo_id,
        url=f"{_endpoint()}/datasets/{repo_id}",
        revision=revision,
        private=private,
        clips=len(clips.clips),
        files=(*files, readme),
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

    Shards are taken one at a time and removed; a download that was cut short goes on where it was.

    Args:
        repo: ``owner/name``.
        out: store to write; it appears whole or not at all.
        revision: branch, tag or commit; default the newest.
        overwrite: replace ``out``, once the new one is whole.
        workers: clips written at once, one thread each.
        progress: called in this thread for each shard and each clip.

    Returns:
        ``out``.

    Raises:
        HubError: not there, not reachable, not published by spikedata, or recipes only.
        StoreError: ``out`` exists, or bits are not those noted.
    """
    out = Path(out)
    if out.exists() and not overwrite:
        raise StoreError(f"{out}: exists already. Give --overwrite to replace it")
    download = _Download(repo, revision, out.with_name(out.name + ".pull"))
    partial = out.with_name(out.name + ".partial")
    step = progress or (lambda _: None)
    for number, name in enumerate(download.names, 1):
        if not download.has(name):
            shard = download.open(name)
            if not shard.has_bits:
                shutil.rmtree(download.folder)
                raise HubError(_how_to_regenerate(repo, shard))
            step(HubStep(stage="download", done=number, total=len(download.names), name=name))
            with _continue_store(partial, shard) as writer:
                for stored in _copy(shard, writer, workers):
                    step(HubStep(stage="write", done=number, total=0, name=stored.clip.id))
            download.drop(name)
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    shutil.rmtree(download.folder)
    return out


def check_regenerated(
    repo: str, store: Path | str, *, revision: str | None = None
) -> tuple[str, ...]:
    """Compare a store of your own making with the digests published; one line a difference.

    Raises:
        HubError: not there, not reachable, or not published by spikedata.
        StoreError: the store cannot be read.
    """
    ours = open_store(store)
    folder = ours.path.with_name(ours.path.name + ".pull")
    download = _Download(repo, revision, folder)
    lines: list[str] = []
    for name in download.names:
        theirs = download.open(name)
        lines += [line for stored in theirs.clips.values() if (line := _difference(stored, ours))]
    shutil.rmtree(folder)
    return tuple(lines)


# --- what to publish ----------------------------------------------------------------------------


def _open_source(path: Path) -> SpikeStore | ParquetStore:
    if (path / "zarr.json").exists():
        return open_store(path)
    if any(path.glob("data/*.parquet")):
        return open_parquet(path)
    what = "is no store and no packed Parquet folder" if path.exists() else "no such store"
    raise HubError(f"{path}: {what}. Run `spikedata pack --to zarr`")


def _check_splits(shards: tuple[Shard, ...]) -> None:
    for shard in shards:
        if not re.fullmatch(r"\w+(\.\w+)*", shard.split):
            raise HubError(f"split {shard.split!r} cannot be published: use letters and digits")


def _full_name(repo: str | None, clips: ClipSource, account: str) -> str:
    if repo is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", clips.name).strip("-.") or "spikes"
        repo = name if name.endswith("spikes") else f"{name[:80]}-spikes"
    return repo if "/" in repo else f"{account}/{repo}"


def _planned(source: Path, clips: ClipSource, shard: Shard, recipe_only: bool) -> HubFile:
    made = source / shard.name
    if recipe_only:
        size = 1024 * len(shard.clip_ids)
    elif made.is_file():
        size = made.stat().st_size
    else:
        folders = [source / "clips" / clip_id for clip_id in shard.clip_ids]
        size = sum(f.stat().st_size for folder in folders for f in folder.iterdir())
    return HubFile(path=shard.name, size_bytes=size)


def _bytes_by_split(shards: tuple[Shard, ...], files: list[HubFile]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for shard, file in zip(shards, files, strict=True):
        sizes[shard.split] = sizes.get(shard.split, 0) + file.size_bytes
    return sizes


# --- sending ------------------------------------------------------------------------------------


def _create(repo: str | None, clips: ClipSource, private: bool) -> tuple[str, bool]:
    """Sign in and make sure that the repository is there; its full name, and if it is private."""
    api = _api()
    with _one_line("the Hub"):
        account = api.whoami()["name"]
    repo_id = _full_name(repo, clips, account)
    with _one_line(repo_id):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        return repo_id, bool(api.dataset_info(repo_id).private)


class _Upload:
    """One publication under way."""

    def __init__(
        self, repo: str, source: Path, clips: ClipSource, recipe_only: bool, progress: Progress
    ) -> None:
        self._repo = repo
        self._source = source
        self._clips = clips
        self._recipe_only = recipe_only
        self._progress = progress
        self._operations: list[Any] = []
        self._encoded = 0

    def shards(self, shards: tuple[Shard, ...], level: int, workers: int) -> list[HubFile]:
        """Make each shard that is not there already, send it, remove it."""
        staging = self._source.with_name(self._source.name + ".push")
        files: list[HubFile] = []
        try:
            for number, shard in enumerate(shards, 1):
                path = self._source / shard.name
                if self._recipe_only or not path.is_file():
                    path = staging / shard.name
                    self._make(shard, path, level, workers)
                self._send(shard.name, path)
                files.append(HubFile(path=shard.name, size_bytes=path.stat().st_size))
                if path.is_relative_to(staging):
                    path.unlink()
                step = HubStep(stage="upload", done=number, total=len(shards), name=shard.name)
                self._progress(step)
        except OSError as error:
            raise HubError(f"{staging}: {error.strerror or error}; nothing was published") from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return files

    def commit(self, card: str) -> str:
        """Show everything at once, in place of the shards that were there; the new revision."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete  # noqa: PLC0415

        api = _api()
        names = {operation.path_in_repo for operation in self._operations}
        with _one_line(self._repo):
            there = api.list_repo_files(self._repo, repo_type="dataset")
            stale = [
                CommitOperationDelete(path_in_repo=name)
                for name in there
                if re.fullmatch(r"data/[^/]+\.parquet", name) and name not in names
            ]
            readme = CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card.encode())
            done = api.create_commit(
                self._repo,
                repo_type="dataset",
                operations=[readme, *self._operations, *stale],
                commit_message=f"Publish {len(self._clips.clips)} clips with spikedata",
            )
        return str(done.oid)

    def _make(self, shard: Shard, path: Path, level: int, workers: int) -> None:
        def told(stored: StoredClip) -> None:
            self._encoded += 1
            total = len(self._clips.clips)
            name = stored.clip.id
            self._progress(HubStep(stage="encode", done=self._encoded, total=total, name=name))

        with_bits = not self._recipe_only
        write_shard(
            self._clips, shard, path, level=level, workers=workers, with_bits=with_bits, done=told
        )

    def _send(self, name: str, path: Path) -> None:
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415

        with _one_line(self._repo, "What was sent is kept: run the same command again to go on"):
            operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
            _api().preupload_lfs_files(self._repo, additions=[operation], repo_type="dataset")
        self._operations.append(operation)


# --- fetching -----------------------------------------------------------------------------------


class _Download:
    """The shards of one revision, taken one at a time into ``folder``."""

    def __init__(self, repo: str, revision: str | None, folder: Path) -> None:
        self.folder = folder
        self._repo = repo
        with _one_line(repo):
            info = _api().dataset_info(repo, revision=revision)
        self._commit = info.sha
        names = [item.rfilename for item in info.siblings or ()]
        self.names = sorted(n for n in names if re.fullmatch(r"data/[\w.-]+\.parquet", n))
        if not self.names:
            raise HubError(f"{repo}: holds no data/*.parquet; it was not published by spikedata")

    def _mark(self, name: str) -> Path:
        return self.folder / f"{self._commit}-{Path(name).name}.done"

    def has(self, name: str) -> bool:
        """Whether the shard's clips were written before a cut."""
        return self._mark(name).exists()

    def open(self, name: str) -> ParquetStore:
        """Download a shard and check every bit; a damaged one is removed, to be fetched anew."""
        with _one_line(self._repo, "Run the same command again to go on"):
            path = _api().hf_hub_download(
                self._repo,
                name,
                repo_type="dataset",
                revision=self._commit,
                local_dir=self.folder,
            )
        try:
            shard = open_parquet(path)
            for clip_id in shard.clips if shard.has_bits else ():
                shard.verify(clip_id)
        except StoreError:
            Path(path).unlink()
            raise
        return shard

    def drop(self, name: str) -> None:
        """Remove the shard; its clips are written."""
        (self.folder / name).unlink()
        self._mark(name).touch()


def _continue_store(path: Path, shard: ParquetStore) -> StoreWriter:
    return create_store(
        path, recipe=shard.recipe, class_names=shard.class_names, name=shard.name, resume=True
    )


def _copy(shard: ParquetStore, writer: StoreWriter, workers: int) -> Iterator[StoredClip]:
    """Write the shard's clips that the store does not have; their bits are checked already."""

    def copy(stored: StoredClip) -> StoredClip:
        with writer.clip(
            stored.clip,
            height_px=stored.height_px,
            width_px=stored.width_px,
            tick_rate_hz=stored.tick_rate_hz,
        ) as target:
            for block_ghw in shard.blocks(stored.clip.id):
                target.append(block_ghw)
            return target.finish(ticks=stored.ticks, attributes=stored.attributes)

    todo = [stored for stored in shard.clips.values() if not writer.has(stored.clip.id)]
    for stored, outcome in in_order(copy, todo, workers):
        if isinstance(outcome, Exception):
            raise outcome
        yield stored


def _how_to_regenerate(repo: str, shard: ParquetStore) -> str:
    return (
        f"{repo}: holds recipes only, for its licence forbids copies of the bits. With the source "
        "videos run `spikedata simulate VIDEOS` with the recipe on its card, then "
        f"`spikedata pull {repo} --check spikes.zarr`"
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
        there, here = theirs.attributes.get(key), mine.attributes.get(key)
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
