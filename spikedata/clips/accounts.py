"""What happened to clips on their way from the source to the bits, in numbers and in words."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

VIDEO_LOSSES = {
    "frames_held": "frames held",
    "frames_scaled": "frames scaled",
    "frames_lost": "frames lost",
    "frames_bad": "frames damaged",
}
"""Key of a video's account, and how it is called."""


def losses_of(attributes: Mapping[str, Any]) -> dict[str, int]:
    """What was lost, or made good, by the attributes of a clip; empty if nothing was.

    ``frames held``: the last frame shown again where one is missing. ``frames scaled``: of another
    size than the clip. ``frames lost``: promised, and not there. ``frames damaged``: packets that
    failed and frames whose damage was concealed. ``bytes skipped``: of a recording, outside its
    whole frames.
    """
    video, camera = (attributes.get(key) for key in ("video", "camera"))
    found: dict[str, Any] = {}
    if isinstance(video, dict):
        found |= {name: video.get(key) for key, name in VIDEO_LOSSES.items()}
    if isinstance(camera, dict):
        found["bytes skipped"] = camera.get("skipped")
    return {name: n for name, n in found.items() if type(n) is int and n > 0}


def cautions_of(attributes: Mapping[str, Any]) -> list[str]:
    """What a user should know of how a clip's video was read, each a few words."""
    video = attributes.get("video")
    if not isinstance(video, dict):
        return []
    said = {
        "truncated": "cut off",
        "variable_rate": "of variable frame rate, resampled; --fps sets a rate",
        "interlaced": "interlaced: both fields of a frame are taken as one moment",
    }
    found = [words for key, words in said.items() if video.get(key)]
    if video.get("hdr"):
        found.append("HDR read as if it were not; --transfer auto gives its light")
    return found


class RunNotes:
    """Sums of what happened to the clips of a run, for its last lines."""

    def __init__(self) -> None:
        self._losses: Counter[str] = Counter()
        self._clips_with: Counter[str] = Counter()
        self._cautions: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()

    def add(self, size: str, attributes: Mapping[str, Any]) -> None:
        """Take one clip into account.

        Args:
            size: its picture's, ``240x320``.
            attributes: how it was made.
        """
        losses = losses_of(attributes)
        self._losses.update(losses)
        self._clips_with.update(losses.keys())
        self._cautions.update(cautions_of(attributes))
        self._sizes[size] += 1

    def losses(self) -> dict[str, int]:
        """What was lost, summed over the clips."""
        return dict(sorted(self._losses.items()))

    def notes(self) -> tuple[str, ...]:
        """What a user should know, a sentence each."""
        lost = [
            f"{number:,} {name} in {_clips(self._clips_with[name])}"
            for name, number in self.losses().items()
        ]
        told = [f"{_clips(n)} {words}" for words, n in sorted(self._cautions.items())]
        if len(self._sizes) > 1:
            sizes = ", ".join(f"{size} ({n})" for size, n in self._sizes.most_common(4))
            more = f" and {len(self._sizes) - 4} more" if len(self._sizes) > 4 else ""
            told.append(f"pictures of {len(self._sizes)} sizes: {sizes}{more}; see --resize")
        return (*lost, *told)


def _clips(number: int) -> str:
    return f"{number:,} clip" if number == 1 else f"{number:,} clips"
