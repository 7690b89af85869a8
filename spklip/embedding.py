"""Embeddings of all clips of a store, batch by batch, and a Parquet file of them.

Memory is bounded by the recipe (``eval.batch_size``, ``eval.windows``, ``data.workers``) and by
what the store knows of its clips, not by the number of embeddings.

Shapes: B clips of a batch, W windows a clip, D features.
"""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from spikedata import (
    ClipSource,
    Failure,
    SpikeClips,
    SpikeDataError,
    StoredClip,
    collate,
    to_dict,
    worker_options,
    written_aside,
)
from spklip.batches import middle
from spklip.building import build_model, load_model_parts, of_checkpoint
from spklip.check import check_window
from spklip.embed import autocast
from spklip.recipe import Recipe
from spklip.run import package_versions
from spklip.splits import find_data, open_source, smallest_size, tell_notes

ROWS_PER_GROUP = 1024
"""Rows of the Parquet file that are held and written together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingReport:
    """What :func:`embed_store` wrote."""

    out: Path
    """The Parquet file."""
    clips: int
    """Rows of it."""
    features: int
    """Length of an embedding, D."""
    failures: tuple[Failure, ...]
    """Clips that could not be read."""


@dataclass(frozen=True, eq=False)
class EmbeddedBatch:
    """Some clips and their embeddings."""

    clips: tuple[StoredClip, ...]
    """Whose they are."""
    embedding_bd: Tensor
    """float32 (B, D) on the CPU, unit vectors."""


@dataclass(frozen=True, eq=False)
class ClipEmbedder:
    """A trained model, the clips it is to embed, and those that could not be read so far."""

    recipe: Recipe
    """How clips are fed to the model; its ``data.size`` is settled."""
    model: Any
    """SpklipModel, judging."""
    tokenizer: Any
    """That of its text tower."""
    source: ClipSource
    """Where the clips are."""
    windows: tuple[SpikeClips, ...]
    """The same clips once for each window that is averaged."""
    failures: list[Failure] = field(default_factory=list)
    """Grows while clips are read."""

    @classmethod
    def open(cls, checkpoint: Path | str, recipe: Recipe, *, split: str | None) -> Self:
        """Load a model and open the clips of a recipe.

        Args:
            checkpoint: a run's folder, a folder of ``save_pretrained``, or a Hub model.
            recipe: data and evaluation settings; see :func:`spklip.recipe_of_run`.
            split: clips of this split alone; None: all, also those without a split.

        Raises:
            SpikeDataError: no such checkpoint, no clips, or clips that the model cannot take.
        """
        recipe = of_checkpoint(recipe, checkpoint)
        config, tokenizer = load_model_parts(recipe.model)
        path = find_data(recipe.data.path, Path.cwd())
        clips = _all_clips(open_source(path, recipe.data.sensor), recipe, split)
        if not len(clips):
            raise SpikeDataError(f"{path}: no clips to embed{f' in split {split!r}' * bool(split)}")
        size = recipe.data.size or smallest_size(set(clips.sizes), path)
        recipe = replace(recipe, data=replace(recipe.data, path=path, size=size))
        check_window(recipe.data, config, path, size or clips.sizes[0])
        model: Any = build_model(recipe.model, config)
        model.eval()
        model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        windows = tuple(_all_clips(clips.opened, recipe, split) for _ in range(recipe.eval.windows))
        for number, window in enumerate(windows):
            window.set_epoch(number)
        tell_notes(path, clips.opened.notes)
        failures = list(clips.opened.left_out)
        return cls(recipe, model, tokenizer, clips.opened, windows, failures)

    def __len__(self) -> int:
        return len(self.windows[0])

    @torch.no_grad()
    def batches(self, *, progress: bool = True) -> Iterator[EmbeddedBatch]:
        """Embed all clips, in order of id; what cannot be read is added to ``failures``.

        An embedding is that of :class:`spklip.embed.Embedder`: the mean over ``eval.windows``
        windows, scaled to unit length.

        Args:
            progress: show a bar on standard error.

        Raises:
            SpikeDataError: an embedding is not finite, or no clip could be read.
        """
        loader = DataLoader(
            _WholeClips(self.windows),
            batch_size=self.recipe.eval.batch_size,
            **worker_options(self.source, self.recipe.data.workers),
            collate_fn=_split_failures,
        )
        read = 0
        with tqdm(
            total=len(self), desc="embed", unit="clip", file=sys.stderr, disable=not progress
        ) as bar:
            for batches, failed in loader:
                self.failures.extend(replace(f, path=str(self.source.path)) for f in failed)
                if batches:
                    stored = tuple(self.source.clips[clip_id] for clip_id in batches[0]["ids"])
                    yield EmbeddedBatch(stored, self._embed(batches))
                    read += len(stored)
                bar.update(len(failed) + (len(batches[0]["ids"]) if batches else 0))
        if not read:
            raise SpikeDataError(
                f"{self.source.path}: none of {len(self)} clips could be read: "
                f"{self.failures[-1].error}"
            )

    def _embed(self, batches: Sequence[Mapping[str, Any]]) -> Tensor:
        """Mean over windows, (B, D)."""
        total_bd = torch.tensor(0.0)
        for batch in batches:
            packed_bsghw = batch["packed_bsghw"].to(self.model.device)
            with autocast(self.model, self.recipe):
                video_bd = self.model.encode_packed(
                    middle(packed_bsghw, self.recipe.data.crop), batch["ticks"]
                )
            total_bd = total_bd + video_bd.float().cpu()
        if not bool(torch.isfinite(total_bd).all()):
            raise SpikeDataError("the model's embeddings are not finite; use train.precision=fp32")
        return torch.nn.functional.normalize(total_bd / len(batches), dim=1)


def _all_clips(source: Any, recipe: Recipe, split: str | None) -> SpikeClips:
    """Clips as :class:`spklip.embed.Embedder` reads them."""
    data = recipe.data
    return SpikeClips(
        source,
        split=split,
        classes=list(data.classes) or None,
        window_ticks=data.window_ticks,
        segments=data.segments,
        sampling="random" if recipe.eval.windows > 1 else "center",
        seed=recipe.eval.seed,
        size=data.size,
    )


class _WholeClips(Dataset[list[dict[str, Any]] | Failure]):
    """All windows of a clip as one item, or why it cannot be read.

    Each window has a :class:`SpikeClips` of its own: what ``set_epoch`` says is shared with the
    workers, which are at several clips at once.
    """

    def __init__(self, windows: Sequence[SpikeClips]) -> None:
        self._windows = windows
        self._ids = windows[0].ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> list[dict[str, Any]] | Failure:
        try:
            return [window[index] for window in self._windows]
        except (SpikeDataError, OSError) as error:
            return Failure(id=self._ids[index], path="", error=str(error))


def _split_failures(
    items: Sequence[list[dict[str, Any]] | Failure],
) -> tuple[list[dict[str, Any]], list[Failure]]:
    """A batch for each window, none if no clip could be read; and the clips that could not be."""
    read = [item for item in items if not isinstance(item, Failure)]
    failed = [item for item in items if isinstance(item, Failure)]
    return [collate(of_window) for of_window in zip(*read, strict=True)], failed


def embed_store(
    checkpoint: Path | str,
    recipe: Recipe,
    out: Path,
    *,
    split: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> EmbeddingReport:
    """Write the embeddings of a store's clips as Parquet, one row a clip, in order of id.

    Columns: ``id``, ``label``, ``split``, ``group``, ``captions``, ``ticks`` and ``embedding``, a
    list of fixed size of float32. The schema's metadata tells the model, how clips were fed to
    it, and the versions: ``spklip:checkpoint``, ``spklip:recipe``, ``spklip:versions``.

    Args:
        checkpoint: a run's folder, a folder of ``save_pretrained``, or a Hub model.
        recipe: data and evaluation settings; see :func:`recipe_of_run`.
        out: file to write; it appears whole or not at all.
        split: clips of this split alone; None: all, also those without a split or a label.
        overwrite: replace ``out``.
        progress: show a bar on standard error.

    Returns:
        What was written, and the clips that were left out.

    Raises:
        SpikeDataError: no such checkpoint, no clip that can be read, or ``out`` is there and
            ``overwrite`` is False.
    """
    check_new(out, overwrite=overwrite)
    embedder = ClipEmbedder.open(checkpoint, recipe, split=split)
    clips = 0
    with write_embeddings(embedder, out, overwrite=overwrite) as writer:
        for batch in embedder.batches(progress=progress):
            writer.add(batch)
            clips += len(batch.clips)
    features = int(embedder.model.config.embed_dim)
    return EmbeddingReport(
        out=out, clips=clips, features=features, failures=tuple(embedder.failures)
    )


def check_new(out: Path, *, overwrite: bool) -> None:
    """Check, before any work, that a file may be written.

    Raises:
        SpikeDataError: it is a folder, or is there and ``overwrite`` is False.
    """
    if out.is_dir():
        raise SpikeDataError(f"{out}: is a folder; give the name of a file")
    if out.exists() and not overwrite:
        raise SpikeDataError(f"{out}: exists already. Give --overwrite to replace it")


def check_apart(out: Path, source: ClipSource) -> None:
    """Check that a file is no part of the clips that are read.

    Raises:
        SpikeDataError: it is the file they are in, or lies in their store.
    """
    inside = source.format in ("zarr", "parquet") and source.path.resolve() in out.resolve().parents
    itself = out.exists() and source.path.exists() and out.samefile(source.path)
    if itself or (inside and source.path.is_dir()):
        raise SpikeDataError(
            f"{out}: would change {source.path}, which is read here. Choose another name"
        )


@contextlib.contextmanager
def write_embeddings(
    embedder: ClipEmbedder, out: Path, *, overwrite: bool
) -> Iterator["EmbeddingWriter"]:
    """A writer of the file ``out``, which is there once all went well.

    Raises:
        SpikeDataError: ``out`` is there, and ``overwrite`` is False; or it is part of the clips.
        OSError: the disk is full, or the like.
    """
    check_apart(out, embedder.source)
    out.parent.mkdir(parents=True, exist_ok=True)
    schema = _schema(embedder)
    with written_aside(out, overwrite=overwrite) as aside, pq.ParquetWriter(aside, schema) as file:
        writer = EmbeddingWriter(file, schema)
        yield writer
        writer.flush()


def _schema(embedder: ClipEmbedder) -> pa.Schema:
    recipe = to_dict(embedder.recipe)
    fed = {
        "data": recipe["data"],
        "eval": {key: recipe["eval"][key] for key in ("windows", "seed")},
        "train": {"precision": recipe["train"]["precision"]},
    }
    text = pa.string()
    return pa.schema(
        [
            pa.field("id", text, nullable=False),
            ("label", text),
            ("split", text),
            ("group", text),
            ("captions", pa.list_(text)),
            ("ticks", pa.int64()),
            ("embedding", pa.list_(pa.float32(), int(embedder.model.config.embed_dim))),
        ],
        metadata={
            "spklip:checkpoint": str(embedder.recipe.model.checkpoint),
            "spklip:recipe": json.dumps(fed),
            "spklip:versions": json.dumps(package_versions()),
        },
    )


class EmbeddingWriter:
    """Rows on their way to a Parquet file, of which one row group at most is held."""

    def __init__(self, file: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._file, self._schema = file, schema
        self._rows: list[dict[str, Any]] = []

    def add(self, batch: EmbeddedBatch) -> None:
        """Take a batch."""
        for stored, embedding_d in zip(batch.clips, batch.embedding_bd.numpy(), strict=True):
            clip = stored.clip
            self._rows.append(
                {
                    "id": clip.id,
                    "label": clip.label,
                    "split": clip.split,
                    "group": clip.group,
                    "captions": list(clip.captions),
                    "ticks": stored.ticks,
                    "embedding": embedding_d,
                }
            )
        if len(self._rows) >= ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what is held as a row group."""
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []
