"""What a video's account says in words: what was lost, and what to know before trusting it."""

from collections.abc import Mapping
from typing import Any

_LOSSES = {
    "frames held": "frames_held",
    "frames scaled": "frames_scaled",
    "frames lost": "frames_lost",
    "frames damaged": "frames_bad",
}


def losses(account: Mapping[str, Any]) -> dict[str, int]:
    """What a clip's frames are not, as counts by plain words; empty if it was read whole.

    ``frames held`` repeat the one before, since their own is missing; ``frames scaled`` had
    another size; ``frames lost`` were promised and are not in the clip; ``frames damaged`` are
    failed packets and concealed frames.

    Args:
        account: of :meth:`spikedata.video.Video.account`; keys that an older one lacks count 0.
    """
    counts = {words: int(account.get(key) or 0) for words, key in _LOSSES.items()}
    return {words: count for words, count in counts.items() if count}


def cautions(account: Mapping[str, Any], *, transfer: str = "identity") -> list[str]:
    """What a reader of the clip should know beside its losses, in plain words.

    Args:
        account: of :meth:`spikedata.video.Video.account`.
        transfer: curve that the sensor took the luma codes by.
    """
    curve = account.get("transfer")
    hdr = bool(account.get("hdr")) and transfer not in (curve, "auto")
    found = {
        "truncated": account.get("truncated"),
        "interlaced": account.get("interlaced"),
        f"HDR ({curve}) read as {transfer}": hdr,
        "variable frame rate": account.get("variable_rate"),
        "frames may repeat, untold": account.get("frames_may_repeat"),
    }
    return [words for words, holds in found.items() if holds]
