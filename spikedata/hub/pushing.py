"""Publish a set of clips as a data set that plain ``datasets`` loads.

Shards are made one at a time beside the source, sent, and removed; one commit at the end shows
them all at once. Their bytes depend on the clips alone, so a publication that was cut short sends
only what the Hub does not have yet.
"""

import contextlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikedata.clips import (
    DEFAULT_LEVEL,
    ClipSource,
    ParquetStore,
    Shard,
    StoredClip,
    check_shard,
    format_at,
    in_order,
    open_clips,
    plan_shards,
    write_shard,
)
from spikedata.errors import HubError
from spikedata.hub.card import (
    RECIPE_FILE,
    card_text,
    clips_without_folders,
    named_maps,
    recipe_text,
)
from spikedata.hub.client import (
    SHARD_NAME,
    HubStep,
    Progress,
    api,
    endpoint,
    one_line,
    published_files,
    senseless,
)
from spikedata.outputs import file_sha256, locked, remove
from spikedata.remote import RemotePath, is_remote, place


@dataclass(frozen=True, kw_only=True, slots=True)
class HubFile:
    """One file of a publication."""

    path: str
    """Path in the repository."""
    size_bytes: int
    """Size; before a shard is made, that of the same clips in the source."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PushReport:
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


def push_hub(
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
) -> PushReport:
    """Publish a set of clips, of any format, as a data set that plain ``datasets`` loads.

    Args:
        source: the store, file or folder.
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
    plan = _plan(place(source).resolve(), licence, recipe_only)
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
    return PushReport(
        repo=repo_id,
        url=f"{endpoint()}/datasets/{repo_id}",
        revision=revision,
        private=private,
        clips=len(plan.clips.clips),
        files=(*files, *(HubFile(path=k, size_bytes=len(v)) for k, v in small.items())),
        card=card,
    )


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
        return is_whole and not is_remote(self.source) and (self.source / shard.name).is_file()

    def check_made(self, shard: Shard, path: Path, workers: int) -> None:
        """Refuse to publish a file that is damaged.

        Raises:
            StoreError: it is.
        """
        check_shard(path, self.clips.class_names)
        clips = [self.clips.clips[clip_id] for clip_id in shard.clip_ids]
        for _, outcome in in_order(lambda stored: self.clips.verify(stored.id), clips, workers):
            if isinstance(outcome, Exception):
                raise outcome

    def _size(self, shard: Shard) -> int:
        if self.recipe_only:
            return 1024 * len(shard.clip_ids)
        made = self.source / shard.name
        if made.is_file():
            return made.stat().st_size
        apart = [self.clips.stored_bytes(clip_id) for clip_id in shard.clip_ids]
        known = [size for size in apart if size is not None]
        return sum(known) if len(known) == len(apart) else shard.packed_bytes


def _plan(path: Path, licence: str | None, recipe_only: bool) -> _Plan:
    if format_at(path) is None:
        what = "is no set of clips" if path.exists() else "no such file or folder"
        raise HubError(f"{path}: {what}. Run `spikedata pack --to zarr`")
    clips = open_clips(path)
    _check_whole(clips)
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


def _check_whole(clips: ClipSource) -> None:
    """Refuse to publish nothing, or less than there was."""
    clips.check_finished()
    if clips.left_out:
        first = clips.left_out[0]
        raise HubError(
            f"{clips.path}: would be published without {len(clips.left_out)} clips or files, "
            f"{first.id} first: {first.error}. Run `spikedata repair`, or pack what is left"
        )
    if not clips.clips:
        raise HubError(f"{clips.path}: holds no clips; there is nothing to publish")


def _maps_file(path: Path, noted: str | None) -> Path | None:
    """The file of maps, if it is there and the one that the clips were made with."""
    return path if path.is_file() and noted in (None, file_sha256(path)) else None


def _full_name(repo: str | None, clips: ClipSource, account: str) -> str:
    if repo is None:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", clips.name).strip("-.") or "spikes"
        repo = name if name.endswith("spikes") else f"{name[:80]}-spikes"
    return repo if "/" in repo else f"{account}/{repo}"


def _account() -> str:
    with one_line("the Hub"):
        name = api().whoami()["name"]
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise senseless("the Hub", "tells no name of this account")
    return name


def _check_card(card: str) -> None:
    """Have the Hub read the card before anything is made for it."""
    from huggingface_hub import get_session  # noqa: PLC0415  see client.api

    told = None
    with one_line("README.md"):
        asked = {"repoType": "dataset", "content": card}
        answer = get_session().post(f"{endpoint()}/api/validate-yaml", json=asked)
        if answer.status_code == 400:
            told = "; ".join(str(error["message"]) for error in answer.json()["errors"])
        else:
            answer.raise_for_status()
    if told is not None:
        raise senseless("README.md", f"refuses the card: {told}", "")


def _create(repo_id: str, private: bool) -> bool:
    """Make sure that the repository is there; whether it is private."""
    with one_line(repo_id):
        api().create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    _, private, _ = published_files(repo_id)
    return private


def _is_old(name: str, names: Collection[str]) -> bool:
    """Whether a file is of an earlier publication, and none of this one."""
    ours = SHARD_NAME.fullmatch(name) is not None or name == RECIPE_FILE
    return ours and name not in names


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
        beside = plan.source
        if isinstance(beside, RemotePath):  # files are sent from a disk
            beside = Path.cwd() / beside.name
        staging = beside.with_name(beside.name + ".push")
        # What is published as it is may lie where nothing can be written.
        alone = contextlib.nullcontext() if all(map(plan.is_made, plan.shards)) else locked(staging)
        files: list[HubFile] = []
        try:
            with alone, contextlib.ExitStack() as at_end:
                at_end.callback(remove, staging)
                for number, shard in enumerate(plan.shards, 1):
                    path = (plan.source if plan.is_made(shard) else staging) / shard.name
                    if plan.is_made(shard):
                        plan.check_made(shard, path, workers)
                    else:
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

        for name, data in {**self._plan.side_files, "README.md": card.encode()}.items():
            self._operations.append(CommitOperationAdd(path_in_repo=name, path_or_fileobj=data))
        names = {operation.path_in_repo for operation in self._operations}
        _, _, there = published_files(self._repo)
        stale = [CommitOperationDelete(path_in_repo=name) for name in there if _is_old(name, names)]
        client = api()
        with one_line(self._repo, self._when_committed()):
            done = client.create_commit(
                self._repo,
                repo_type="dataset",
                operations=[*self._operations, *stale],
                commit_message=f"Publish {len(self._plan.clips.clips)} clips with spikedata",
            )
        return self._check(str(done.oid), names)

    def _check(self, revision: str, names: set[str]) -> str:
        """Check that a commit shows what was sent and nothing old; the commit."""
        commit, _, there = published_files(self._repo, revision, self._when_committed())
        sent = {operation.path_in_repo: operation.upload_info for operation in self._operations}
        wrong = [name for name in there if _is_old(name, names)]
        for name, info in sent.items():
            told = there.get(name)
            same = told is not None and told.size in (None, info.size)
            if told is None or not same or told.sha256 not in (None, info.sha256.hex()):
                wrong.append(name)
        if wrong:
            raise senseless(
                self._repo, f"shows {wrong[0]} not as it was sent", self._when_committed()
            )
        return commit

    def _when_committed(self) -> str:
        """Advice once a commit was asked for: its answer may be lost, and the commit made."""
        return (
            f"The publication may well be there: see {endpoint()}/datasets/{self._repo}, or run "
            f"`spikedata pull {self._repo} --check --out {self._plan.source.name}`. To run the "
            "same command again does no harm"
        )

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

        with one_line(self._repo, "What was sent is kept: run the same command again to go on"):
            operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(path))
            api().preupload_lfs_files(self._repo, additions=[operation], repo_type="dataset")
        self._operations.append(operation)
