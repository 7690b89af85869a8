"""What lets a test see what was trained on: groups in two splits, and clips of the same bits."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from spikedata.clip import torn_groups
from spikedata.clips.stored import StoredClip
from spikedata.corpora import count, some

_MOST_TWINS = 10
"""Sets of identical clips that are named."""


def leaks_of(clips: Iterable[StoredClip]) -> list[str]:
    """Notes on what lets a test see what was trained on: torn groups, and clips of the same bits.

    Clips that nobody has read yet are compared by the digest of their file.
    """
    clips = list(clips)
    alike: dict[tuple[Any, ...], list[StoredClip]] = defaultdict(list)
    for stored in clips:
        digest = stored.bits_sha256 or stored.clip.source.get("sha256")
        if isinstance(digest, str):
            alike[digest, stored.ticks, stored.size].append(stored)
    torn = list(torn_groups(stored.clip for stored in clips))
    notes = (
        [f"{count(len(torn), 'group')} on both sides of the split: {some(torn)}"] if torn else []
    )
    twins = [found for found in alike.values() if len(found) > 1]
    for same in sorted(twins, key=lambda found: found[0].id)[:_MOST_TWINS]:
        leak = " (on both sides of the split)" if len({s.clip.split for s in same}) > 1 else ""
        notes.append(f"identical clips{leak}: {some(sorted(s.id for s in same))}")
    if len(twins) > _MOST_TWINS:
        notes.append(f"identical clips: {len(twins) - _MOST_TWINS} more sets")
    return notes
