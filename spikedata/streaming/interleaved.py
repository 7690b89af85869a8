"""Windows of several sources as one stream, drawn by weight."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from spikedata.clips import joined_class_names
from spikedata.errors import StoreError
from spikedata.loader import UNLABELLED
from spikedata.streaming.states import check_kinds, check_same
from spikedata.streaming.windows import SpikeWindows


class InterleavedWindows(IterableDataset[dict[str, Any]]):
    """Windows of several sources as one stream, each drawn from one of them by weight.

    An item's ``label`` is a place in ``class_names``: the sources' own, if all have the same, else
    all of theirs, sorted. ``state_dict`` and ``load_state_dict`` hold those of the sources.

    An epoch ends when a source is drawn that has no more windows; with ``until="all"`` such a
    source begins its next epoch at once, and the whole ends when the last has come to its end.
    Either way every source begins another epoch of its own when the next one is iterated.

    With several ranks all draw the same sources in turn, so that ranks get equally many windows if
    every source is ``even``.

    Args:
        sources: where windows come from.
        weights: how often each is drawn, in any unit; default the windows of an epoch of each.
        seed: of the draws.
        until: which source's end is the end of an epoch: the ``first`` one's, or that of ``all``.

    Raises:
        ValueError: no sources, one twice, windows of several lengths, or an argument that does not
            fit.
    """

    def __init__(
        self,
        sources: Sequence[SpikeWindows],
        *,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        until: Literal["first", "all"] = "first",
    ) -> None:
        given = [len(source) for source in sources] if weights is None else weights
        _check_interleaved(sources, given, until)
        self.sources, self.seed, self.until = tuple(sources), seed, until
        self.weights = tuple(map(float, given))
        self.class_names = joined_class_names(source.class_names for source in sources)
        """Labels in order; an item's ``label`` is a place in it."""
        self._numbers = [
            [self.class_names.index(name) for name in source.class_names] for source in sources
        ]
        self._place: _MixedPlace | None = None
        self._resumed: _MixedPlace | None = None

    def set_epoch(self, epoch: int) -> None:
        """Make this the next epoch of every source."""
        for source in self.sources:
            source.set_epoch(epoch)
        self._place = self._resumed = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if get_worker_info() is not None:
            return self._begun()
        for source in self.sources:
            iter(source)  # which tells where it will begin
        self._place = self._coming()
        return self._when_asked()

    def _begun(self) -> Iterator[dict[str, Any]]:
        # All sources begin together, also one of which no window is drawn before the end.
        iterators = [source.begun() for source in self.sources]
        self._place, self._resumed = self._coming(), None
        return self._items(iterators, self._place)

    def _when_asked(self) -> Iterator[dict[str, Any]]:
        yield from self._begun()

    def state_dict(self) -> dict[str, Any]:
        """The place of the iteration that was begun last, in plain JSON values.

        Raises:
            ValueError: a loader's workers read, and only they know where they are.
        """
        place = self._place or self._coming()
        return {
            "drawn": place.drawn,
            "key": place.key,
            "over": list(place.over),
            "ended": place.ended,
            "settings": self._settings,
            "sources": [source.state_dict() for source in self.sources],
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Have the next iteration go on where the one was that told the state.

        Raises:
            StoreError: the state is malformed, or of other sources, settings, ranks or workers.
        """
        place = _MixedPlace.from_state(state_dict, len(self.sources))
        check_same(state_dict["settings"], self._settings)
        for source, state in zip(self.sources, state_dict["sources"], strict=True):
            # What an ended epoch left of a source does not come any more.
            source.load_state_dict({**state, "ended": True} if place.ended else state)
        self._place = self._resumed = place

    @property
    def _settings(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "seed": self.seed, "until": self.until}

    def _coming(self) -> "_MixedPlace":
        """Where the next iteration begins, the sources having been told to begin theirs."""
        resumed = self._resumed
        if resumed is not None and (get_worker_info() is not None or not resumed.ended):
            return resumed
        return _MixedPlace(self.sources[0].epoch, (False,) * len(self.sources))

    def _items(
        self, iterators: list[Iterator[dict[str, Any]]], place: "_MixedPlace"
    ) -> Iterator[dict[str, Any]]:
        """The items from a place on."""
        worker = get_worker_info()
        choosing = np.random.PCG64([self.seed, place.key, 0 if worker is None else worker.id])
        rng = np.random.Generator(choosing.advance(place.drawn))  # each draw takes one step
        bounds = np.cumsum(self.weights) / sum(self.weights)
        while not place.ended:
            at = min(int(np.searchsorted(bounds, rng.random(), "right")), len(bounds) - 1)
            place = replace(place, drawn=place.drawn + 1)
            item = next(iterators[at], None)
            if item is None:
                over = tuple(o or n == at for n, o in enumerate(place.over))
                place = replace(place, over=over, ended=self.until == "first" or all(over))
                if not place.ended:
                    iterators[at] = self.sources[at].begun()
                    item = next(iterators[at], None)
            self._place = place
            if item is not None and not place.ended:
                yield self._renumbered(item, at)

    def _renumbered(self, item: dict[str, Any], at: int) -> dict[str, Any]:
        label = item["label"]
        return item if label == UNLABELLED else item | {"label": self._numbers[at][label]}


@dataclass(frozen=True, slots=True)
class _MixedPlace:
    """How far an interleaved epoch has come."""

    key: int
    """What its draws depend on besides the seed: the first source's epoch at its beginning."""
    over: tuple[bool, ...]
    """Which sources have come to an end."""
    drawn: int = 0
    ended: bool = False

    @classmethod
    def from_state(cls, state: Any, sources: int) -> "_MixedPlace":
        """What a state tells, once its values are what they must be.

        Raises:
            StoreError: they are not.
        """
        kinds = {"drawn": int, "key": int, "over": list, "ended": bool, "settings": dict}
        check_kinds(state, kinds | {"sources": list})
        if len(state["sources"]) != sources or len(state["over"]) != sources:
            raise StoreError(f"the state is of {len(state['sources'])} sources, not of {sources}")
        if min(state["drawn"], state["key"]) < 0:
            raise StoreError("the state is damaged: a count is negative")
        over = tuple(value is True for value in state["over"])
        return cls(state["key"], over, state["drawn"], state["ended"])


def _check_interleaved(
    sources: Sequence[SpikeWindows], weights: Sequence[float], until: str
) -> None:
    if not sources or len({id(source) for source in sources}) < len(sources):
        raise ValueError(f"needs one or more sources, each of them once, got {len(sources)}")
    if len(weights) != len(sources) or not all(0 < w < math.inf for w in weights):
        raise ValueError(f"needs a positive weight for each of {len(sources)} sources: {weights}")
    if until not in ("first", "all"):
        raise ValueError(f"until must be first or all, got {until!r}")
    shapes = {(source.clips.segments, source.clips.segment_ticks) for source in sources}
    if len(shapes) > 1:
        told = ", ".join(f"{s} x {ticks} ticks" for s, ticks in sorted(shapes))
        raise ValueError(f"windows of all sources must be alike, got {told}")
