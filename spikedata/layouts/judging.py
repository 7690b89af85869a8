"""What is made of the evidence: which layout is ahead, by how much, and if that is certain."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikedata.camera import CAMERAS, Camera
from spikedata.layouts.candidates import KNOWN_SIZES_HW, LayoutCandidate, Verdict, key_of

_MOST_CANDIDATES = 12
_CERTAIN, _LIKELY = 0.9, 0.7
"""Shares of the strips in which the best layout must be ahead of the next."""
_LEAST_SIDE_PX = 64
"""Of smaller pictures of a size that nobody is known to have, others look nearly as good."""
_LEAST_SCORE, _CERTAIN_SCORE = 0.02, 0.3
_LEAST_LEAD = 0.001
"""Of the score over that of the next, for a certain one."""
_NEARLY = 0.8
"""Of the best score, by which a size known in the field makes an unknown one uncertain."""


@dataclass(frozen=True, eq=False)
class Looked:
    """A layout and what it makes of the stretch."""

    camera: Camera
    ticks: int
    picture_hw: NDArray[np.float32]
    """Spikes a tick; rows in the order of the file, unless ``is_upright``."""
    alike_s2: NDArray[np.float64]
    """Covariance of neighbours to the right and below, by strips."""
    factor: float
    note: str = ""
    is_upright: bool = False

    @property
    def weighed_s(self) -> NDArray[np.float64]:
        """Covariance of neighbours by strips, less where the factor says so."""
        alike_s = self.alike_s2.mean(axis=1)
        weighed_s: NDArray[np.float64] = np.where(
            alike_s > 0, alike_s * self.factor, alike_s / self.factor
        )
        return weighed_s

    @property
    def value(self) -> float:
        """What it is ranked by."""
        return float(self.weighed_s.mean())

    @property
    def plane_bytes(self) -> int:
        """Of a plane in the file; 0 where the file tells."""
        return 0 if self.is_upright else self.camera.plane_bytes

    def ahead_of(self, other: "Looked") -> float:
        """Share of the strips in which it is better."""
        return _wins(self.weighed_s, other.weighed_s)

    def is_contradicted_by(self, other: "Looked", least: float) -> bool:
        """Whether the other one is clearly better in one of the two directions."""
        if (other.factor, other.plane_bytes) != (self.factor, self.plane_bytes):
            return False
        return any(
            _wins(other.alike_s2[:, axis], self.alike_s2[:, axis]) >= _CERTAIN
            and (other.alike_s2[:, axis].mean() - self.alike_s2[:, axis].mean()) > least
            for axis in (0, 1)
        )

    def picture(self) -> NDArray[np.uint8]:
        """Grey levels, turned as the camera's rows are."""
        turned = self.camera.bottom_up and not self.is_upright
        rate_hw = self.picture_hw[::-1] if turned else self.picture_hw
        white = float(np.percentile(rate_hw, 99.5)) or 1.0
        grey_hw: NDArray[np.uint8] = np.rint(np.clip(rate_hw / white, 0, 1) * 255).astype(np.uint8)
        return grey_hw


def _wins(mine_s: NDArray[np.float64], other_s: NDArray[np.float64]) -> float:
    count = min(len(mine_s), len(other_s))
    wins_s = mine_s[:count] - other_s[:count]
    return float(((wins_s > 0) + 0.5 * (wins_s == 0)).mean())


class Ranking:
    """Layouts, best first, and what is certain.

    Args:
        found: in any order, at least one.
        plane_bytes: the size of a plane, if it is known whatever the pictures show; 0 where the
            file tells all.
    """

    def __init__(self, found: Sequence[Looked], plane_bytes: int | None) -> None:
        self.plane_bytes = plane_bytes
        self._ranked = _best_first(found)
        best, others = self._ranked[0], self._ranked[1:]
        self._variance = float(best.picture_hw.var()) or 1.0
        self.certainty = min((best.ahead_of(other) for other in others[:3]), default=1.0)
        """Share of the strips in which the best is ahead of those that follow it."""
        self.verdict = self._verdict()
        """On the best one."""

    def _verdict(self) -> Verdict:
        best, others = self._ranked[0], self._ranked[1:]
        if best.is_upright and not others:
            return "certain"
        if self.score(0) < _LEAST_SCORE or self.certainty < _LIKELY:
            return "cannot tell"
        least = _LEAST_LEAD * self._variance
        if any(best.is_contradicted_by(other, least) for other in others):
            return "cannot tell"
        is_close = bool(others) and best.value - others[0].value < least
        if not _is_known(best.camera):
            is_close |= any(
                _is_known(other.camera) and other.value > _NEARLY * best.value for other in others
            )
        is_clear = self.certainty >= _CERTAIN and self.score(0) >= _CERTAIN_SCORE
        is_large = _is_known(best.camera) or min(best.picture_hw.shape) >= _LEAST_SIDE_PX
        is_sure = is_clear and not is_close and is_large and self.plane_bytes is not None
        return "certain" if is_sure else "likely"

    @property
    def worth(self) -> float:
        """Of two stretches of a file the one with more of it tells more."""
        return self.certainty * self.score(0)

    def score(self, place: int) -> float:
        """Of the layout at a place, 0 the best: see :attr:`LayoutCandidate.score`."""
        return self._ranked[place].value / self._variance

    def place_of(self, camera: Camera) -> int | None:
        """Where a layout is; None if it was not looked at."""
        keys = [key_of(looked.camera) for looked in self._ranked]
        return keys.index(key_of(camera)) if key_of(camera) in keys else None

    def candidates(self) -> tuple[LayoutCandidate, ...]:
        """All of them, but for the last of many, with their pictures."""
        return tuple(map(self.candidate, range(min(len(self._ranked), _MOST_CANDIDATES))))

    def candidate(self, place: int) -> LayoutCandidate:
        """The one at a place, with its picture."""
        looked = self._ranked[place]
        picture_hw = looked.picture()
        behind = self._ranked[0].ahead_of(looked) >= _LIKELY
        return LayoutCandidate(
            camera=looked.camera,
            ticks=looked.ticks,
            height_px=picture_hw.shape[0],
            width_px=picture_hw.shape[1],
            score=self.score(place),
            certainty=looked.ahead_of(self._ranked[0]) if place else self.certainty,
            verdict=self.verdict if not place else "behind" if behind else "cannot tell",
            note=looked.note,
            picture_hw=picture_hw,
        )


def _best_first(found: Sequence[Looked]) -> list[Looked]:
    """A size known in the field goes before one that is not clearly better."""
    ranked = sorted(found, key=lambda looked: -looked.value)
    factor = ranked[0].factor
    known = next((x for x in ranked if _is_known(x.camera) and x.factor == factor), None)
    if known is None or known is ranked[0] or ranked[0].ahead_of(known) >= _LIKELY:
        return ranked
    return [known, *(looked for looked in ranked if looked is not known)]


def _is_known(camera: Camera) -> bool:
    return camera.name in CAMERAS or (camera.height_px, camera.width_px) in KNOWN_SIZES_HW
