"""Find clips by a sentence: rank a store's clips by cosine, and show the best ones moving.

Shapes: B clips of a batch, M sentences, D features.
"""

import contextlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from spikedata import ClipSource, Failure, Page, SpikeDataError, animate_clip, write_whole
from spklip.embedding import ClipEmbedder, EmbeddedBatch, check_apart, check_new, write_embeddings
from spklip.judge import embed_texts
from spklip.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A clip that a sentence found."""

    rank: int
    """Place among all clips, from 1."""
    score: float
    """Cosine of the clip's embedding and the sentence's, -1 to 1."""
    id: str
    """The clip."""
    label: str | None
    """Its class."""
    split: str | None
    """Its split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchReport:
    """What :func:`search_store` found."""

    hits: dict[str, tuple[Hit, ...]]
    """For each sentence its best clips, best first."""
    clips: int
    """How many were compared."""
    failures: tuple[Failure, ...]
    """Clips that could not be read, or whose pictures could not."""


def search_store(
    checkpoint: Path | str,
    recipe: Recipe,
    sentences: Sequence[str],
    *,
    split: str | None = None,
    top: int = 24,
    page: Path | None = None,
    embeddings: Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> SearchReport:
    """Rank a store's clips by how near each is to a sentence; clips of one score, by id.

    Args:
        checkpoint: a run's folder, a folder of ``save_pretrained``, or a Hub model.
        recipe: data and evaluation settings; see :func:`recipe_of_run`.
        sentences: what to look for; each is asked once.
        split: clips of this split alone; None: all, also those without a split or a label.
        top: clips kept of each sentence.
        page: HTML file to write, with a section a sentence and the clips moving in it.
        embeddings: Parquet file to write, as :func:`embed_store` does, from the same pass.
        overwrite: replace these files.
        progress: show a bar on standard error.

    Returns:
        The best clips of each sentence, and the clips that were left out.

    Raises:
        ValueError: no sentence, an empty one, or ``top`` is not positive.
        SpikeDataError: no such checkpoint, no clip that can be read, or a file is there and
            ``overwrite`` is False.
    """
    asked = _check_sentences(sentences, top)
    _check_files(page, embeddings, overwrite)
    embedder = ClipEmbedder.open(checkpoint, recipe, split=split)
    if page is not None:
        check_apart(page, embedder.source)
    best = _Best(embed_texts(embedder.model, embedder.tokenizer, asked), top)
    with contextlib.ExitStack() as stack:
        takers = [best.add]
        if embeddings is not None:
            writing = write_embeddings(embedder, embeddings, overwrite=overwrite)
            takers.append(stack.enter_context(writing).add)
        for batch in embedder.batches(progress=progress):
            for take in takers:
                take(batch)
    found = dict(zip(asked, best.hits(), strict=True))
    report = SearchReport(hits=found, clips=best.clips, failures=tuple(embedder.failures))
    return report if page is None else _write_page(page, embedder, split, report, overwrite)


def _check_sentences(sentences: Sequence[str], top: int) -> list[str]:
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    asked = list(dict.fromkeys(sentence.strip() for sentence in sentences))
    if not asked or "" in asked:
        raise ValueError("a search needs a sentence, for example 'a person waving'")
    return asked


def _check_files(page: Path | None, embeddings: Path | None, overwrite: bool) -> None:
    files = [path for path in (page, embeddings) if path is not None]
    for path in files:
        check_new(path, overwrite=overwrite)
    if len({path.resolve() for path in files}) < len(files):
        raise SpikeDataError(f"{page}: cannot be the page and the file of embeddings in one")


class _Best:
    """The best clips of each sentence so far."""

    def __init__(self, text_md: Tensor, top: int) -> None:
        self._text_md, self._top = text_md, top
        self._best: list[list[Hit]] = [[] for _ in text_md]
        self.clips = 0

    def add(self, batch: EmbeddedBatch) -> None:
        """Compare a batch with all sentences."""
        self.clips += len(batch.clips)
        for m, score_b in enumerate((self._text_md @ batch.embedding_bd.T).tolist()):
            new = [
                Hit(rank=0, score=score, id=of.id, label=of.label, split=of.clip.split)
                for of, score in zip(batch.clips, score_b, strict=True)
            ]
            self._best[m] = heapq.nsmallest(
                self._top, [*self._best[m], *new], key=lambda hit: (-hit.score, hit.id)
            )

    def hits(self) -> list[tuple[Hit, ...]]:
        """For each sentence, with ranks."""
        return [
            tuple(replace(hit, rank=rank) for rank, hit in enumerate(best, 1))
            for best in self._best
        ]


def _animations(
    source: ClipSource, found: dict[str, tuple[Hit, ...]]
) -> tuple[dict[str, bytes], tuple[Failure, ...]]:
    """A moving picture of each clip that was found, by id; and those that cannot be drawn."""
    drawn, failures = {}, []
    for clip_id in dict.fromkeys(hit.id for hits in found.values() for hit in hits):
        try:
            drawn[clip_id] = animate_clip(source, clip_id)
        except (SpikeDataError, OSError) as error:
            failures.append(
                Failure(id=clip_id, path=str(source.path), error=f"no picture: {error}")
            )
    return drawn, tuple(failures)


def _write_page(
    out: Path, embedder: ClipEmbedder, split: str | None, report: SearchReport, overwrite: bool
) -> SearchReport:
    """A section a sentence, its best clips moving in a grid; what cannot be drawn is added."""
    drawn, undrawn = _animations(embedder.source, report.hits)
    report = replace(report, failures=report.failures + undrawn)
    page = Page(f"Search of {embedder.recipe.data.path}")
    where = f"split {split}" if split else "all splits"
    page.text(
        f"{report.clips} clips ({where}), ranked by the cosine of the clip's and the sentence's "
        f"embedding by {embedder.recipe.model.checkpoint}. Scores of one sentence compare with "
        "each other, not with another sentence's. Each picture counts the spikes of some ticks "
        "(TFP); together they span the clip.",
        small=True,
    )
    for sentence, hits in report.hits.items():
        page.heading(sentence)
        page.animations((drawn.get(hit.id), _lines(hit)) for hit in hits)
    if report.failures:
        page.heading("Could not be read")
        page.items(f"{failure.id}: {failure.error}" for failure in report.failures)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, page.render(), overwrite=overwrite)
    return report


def _lines(hit: Hit) -> list[str]:
    return [
        f"{hit.rank}. {hit.score:.3f}",
        hit.id,
        f"label: {hit.label if hit.label is not None else '-'}",
        f"split: {hit.split or '-'}",
    ]
