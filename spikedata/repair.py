"""A store that lost something, made whole: clips made again from their videos, the rest named.

A clip that is damaged or gone is simulated anew, beside the store and with the store's own recipe.
It takes its place only if its bits have the digest that was noted; so a repaired store is the
store that it was. The catalogue is written anew.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spikedata.clips import (
    CLIPS,
    StoredClip,
    StoreWriter,
    change_store,
    check_clip,
    format_at,
    in_order,
    open_store,
)
from spikedata.corpora import Corpus
from spikedata.errors import StoreError
from spikedata.outputs import Failure, failure_file, remove
from spikedata.recipe import from_dict
from spikedata.remote import on_disk
from spikedata.simulation import SimulationRecipe, check_names_no_function, simulate_corpus
from spikedata.simulator import Device

Progress = Callable[[int, int], None]
"""Told how many clips were checked, and of how many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RepairReport:
    """What :func:`repair_store` found and did."""

    store: Path
    clips: int
    """Whole clips in the end."""
    found: tuple[Failure, ...]
    """Clips that were damaged or gone."""
    made_again: tuple[str, ...]
    """Those of them that are whole now."""
    given_up: tuple[str, ...]
    """Those of them that were taken out of the store."""
    left: tuple[Failure, ...]
    """Those of them that are as they were, and why."""


def repair_store(
    path: Path | str,
    corpus: Corpus | None = None,
    *,
    give_up: bool = False,
    dry_run: bool = False,
    workers: int = 1,
    device: Device = "cpu",
    progress: Progress | None = None,
) -> RepairReport:
    """Check every bit of a store, make damaged and lost clips again, and write its catalogue anew.

    Args:
        path: a Zarr store.
        corpus: the videos that it was simulated from; without them nothing is made again.
        give_up: take out what cannot be made again, so that the rest is a whole store.
        dry_run: only say what is damaged or gone.
        workers: clips checked and simulated at once, one thread each.
        device: where the sensor is simulated; the bits are the same.
        progress: called in this thread for each clip checked.

    Raises:
        StoreError: there is no such store, its root is damaged, or another process is writing it.
        RecipeError: there is a corpus, and the store was not simulated from one, or by a function
            of somebody's: simulate those clips again yourself.
    """
    path = on_disk(path)
    if format_at(path) not in (None, "zarr"):
        raise StoreError(
            f"{path}: only a Zarr store is repaired in its place. `spikedata validate` names what "
            "is damaged; pack or pull it again"
        )
    progress = progress or (lambda _done, _total: None)
    if dry_run:
        store = open_store(path)
        store.check_finished()
        whole, found = _checked(path, store.clips, store.class_names, workers, progress)
        found = (*store.left_out, *found)
        return RepairReport(
            store=path, clips=len(whole), found=found, made_again=(), given_up=(), left=found
        )
    with change_store(path) as writer:
        whole, found = _checked(path, writer.ids, writer.root.class_names, workers, progress)
        found = (*writer.lost, *found)
        for stored in whole:
            writer.note(stored)
        left = {failure.id: failure for failure in found}
        made = tuple(_made_again(writer, left, corpus, workers, device))
        given_up = tuple(writer.discard_all(left.values())) if give_up else ()
    return RepairReport(
        store=path,
        clips=len(whole) + len(made),
        found=found,
        made_again=made,
        given_up=given_up,
        left=() if give_up else tuple(left.values()),
    )


def _checked(
    path: Path, ids: Iterable[str], class_names: Sequence[str], workers: int, progress: Progress
) -> tuple[list[StoredClip], tuple[Failure, ...]]:
    """Clips that are whole, every bit of them, and those that are not."""
    whole: list[StoredClip] = []
    damaged: list[Failure] = []
    ids = sorted(ids)

    def check(clip_id: str) -> StoredClip:
        return check_clip(path, clip_id, class_names)

    for number, (clip_id, outcome) in enumerate(in_order(check, ids, workers), 1):
        if isinstance(outcome, StoreError):
            told = f"{path}: clip {clip_id}: {outcome}"
            damaged.append(Failure(id=clip_id, path=str(path / CLIPS / clip_id), error=told))
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            whole.append(outcome)
        progress(number, len(ids))
    return whole, tuple(damaged)


def _made_again(
    writer: StoreWriter,
    left: dict[str, Failure],
    corpus: Corpus | None,
    workers: int,
    device: Device,
) -> Iterator[str]:
    """Simulate clips beside the store and put them in; takes them off what is left."""
    items = tuple(item for item in corpus.clips if item.clip.id in left) if corpus else ()
    if corpus is None or not items:
        return
    recipe = from_dict(SimulationRecipe, writer.root.recipe, where=f"{writer.path}: recipe")
    check_names_no_function(recipe, str(writer.path))
    beside = writer.path.with_name(writer.path.name + ".repair")
    remove(beside)
    try:
        some = replace(corpus, clips=items, left_out=())
        report = simulate_corpus(some, beside, recipe, workers=workers, device=device)
        for failure in report.failures:
            left[failure.id] = failure
        made = open_store(beside)
        for clip_id, stored in made.clips.items():
            noted = writer.noted(clip_id) or stored
            if noted.bits_sha256 != stored.bits_sha256:
                told = f"made again it has other bits ({stored.attributes.get('versions')})"
                left[clip_id] = replace(left[clip_id], error=f"{left[clip_id].error}; {told}")
                continue
            writer.discard(clip_id)
            writer.copy(made, noted)
            del left[clip_id]
            yield clip_id
    finally:
        remove(beside)
        remove(failure_file(beside))
