"""What happened to clips on their way from the source to the bits, in numbers and in words."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from spikedata.corpora import count, some
from spikedata.video import cautions, losses


def losses_of(attributes: Mapping[str, Any]) -> dict[str, int]:
    """What was lost, or made good, by the attributes of a clip; empty if nothing was.

    See :func:`spikedata.video.losses`; and of a recording ``bytes skipped`` outside its whole
    frames, ``lost spans`` between them and the ``ticks lost`` in those, which are estimated.
    """
    video, camera = (attributes.get(key) for key in ("video", "camera"))
    found: dict[str, int] = losses(video) if isinstance(video, dict) else {}
    skipped = camera.get("skipped") if isinstance(camera, dict) else None
    if type(skipped) is int and skipped > 0:
        found["bytes skipped"] = skipped
    if spans := lost_spans(attributes):
        found["lost spans"] = len(spans)
        if ticks := sum(ticks for _, ticks, _ in spans):
            found["ticks lost"] = ticks
    return found


Lost = tuple[int, int, int]
"""A span that was lost: the tick before which, how many ticks (estimated), in how many bytes."""


def lost_spans(attributes: Mapping[str, Any]) -> tuple[Lost, ...]:
    """What a recording lost between its whole frames, by the attributes of a clip, in order.

    Attributes are anybody's: what is no span of three whole numbers is passed over.
    """
    camera = attributes.get("camera")
    told = camera.get("lost") if isinstance(camera, dict) else None
    spans = told if isinstance(told, list | tuple) else ()
    return tuple(sorted(tuple(span) for span in spans if _is_lost(span)))


def tell_lost(attributes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What recordings lost, in one sentence; nothing if they lost nothing.

    Args:
        attributes: of each clip, by id.
    """
    lost = {clip_id: spans for clip_id, of in attributes.items() if (spans := lost_spans(of))}
    if not lost:
        return []
    ticks = [ticks for spans in lost.values() for _, ticks, _ in spans]
    many = f"{count(sum(ticks), 'tick')} lost in {count(len(ticks), 'span')}"
    return [f"{many} of {count(len(lost), 'clip')}: {some(sorted(lost))}"]


def _is_lost(span: Any) -> bool:
    """Whether it is one of :data:`Lost`, of sizes that can be."""
    return (
        isinstance(span, list | tuple)
        and len(span) == 3
        and all(type(number) is int and 0 <= number <= 1 << 62 for number in span)
    )


def camera_of(attributes: Mapping[str, Any]) -> str | None:
    """Name of the camera whose file a clip was, by its attributes; None for a simulated one."""
    camera = attributes.get("camera")
    name = camera.get("name") if isinstance(camera, dict) else None
    return name if isinstance(name, str) else None


def cautions_of(attributes: Mapping[str, Any]) -> list[str]:
    """What a user should know of how a clip's video was read, each a few words."""
    video, sensor = (attributes.get(key) for key in ("video", "sensor"))
    if not isinstance(video, dict):
        return []
    transfer = sensor.get("transfer", "identity") if isinstance(sensor, dict) else "identity"
    return [_ADVICE.get(words, words) for words in cautions(video, transfer=transfer)]


_ADVICE = {
    "truncated": "cut off at the end",
    "interlaced": "interlaced; both fields of a frame are taken as one moment",
    "variable frame rate": "of variable frame rate, resampled; --fps sets a rate",
}


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
            f"{number:,} {name} in {count(self._clips_with[name], 'clip')}"
            for name, number in self.losses().items()
        ]
        told = [f"{count(n, 'clip')} {words}" for words, n in sorted(self._cautions.items())]
        if len(self._sizes) > 1:
            usual = sorted(self._sizes.items(), key=lambda found: (-found[1], found[0]))[:4]
            sizes = ", ".join(f"{size} ({n})" for size, n in usual)
            more = f" and {len(self._sizes) - 4} more" if len(self._sizes) > 4 else ""
            told.append(f"pictures of {len(self._sizes)} sizes: {sizes}{more}; see --resize")
        return (*lost, *told)
