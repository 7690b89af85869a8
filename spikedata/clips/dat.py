"""Clips as ``.dat`` files in class folders, for programs that read a camera's own files.

Planes are upright, little-endian, without padding: the camera ``HxW``; or as another camera writes
them, so that its own programs read them. ``metadata.jsonl`` tells all
that is known of each clip, ``spikedata.json`` what is known of the set; so it opens as it was. Both
have digests (``facts_sha256``), so that what is changed or missing is told.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spikedata.camera import Camera, write_recording
from spikedata.clips.encoding import Done, Failed, encode_all
from spikedata.clips.recordings import ABOUT_FILE, DAT_FORMAT, METADATA_FILE, file_name_of
from spikedata.clips.rules import FACTS_DIGEST, check_label, digest_of, pretty_json
from spikedata.clips.source import ClipSource
from spikedata.clips.stored import BitsMeter, StoredClip
from spikedata.outputs import write_whole

VERSION = "1.1"


def write_dat(
    source: ClipSource,
    path: Path,
    *,
    level: int,
    workers: int,
    done: Done,
    failed: Failed,
    camera_of: Callable[[StoredClip], Camera],
) -> None:
    """Write every clip of ``source`` to a folder of ``.dat`` files; ``level`` is not used.

    ``camera_of`` says in which layout; an error of it is that clip's.
    """
    path.mkdir()

    def write(stored: StoredClip) -> StoredClip:
        check_label(stored.clip, source.class_names)
        file = path / file_name_of(stored)
        file.parent.mkdir(exist_ok=True)
        meter = BitsMeter()
        blocks = source.checked_blocks(stored, meter=meter)
        write_recording(file, blocks, camera_of(stored), ticks=stored.ticks)
        return meter.measured(stored)

    entries: dict[str, dict[str, Any]] = {}
    for stored in encode_all(write, source.clips.values(), workers, failed):
        entries[stored.id] = _entry(stored, camera_of(stored).name)
        done(stored)
    lines = [json.dumps(entries[key], ensure_ascii=False) + "\n" for key in sorted(entries)]
    write_whole(path / METADATA_FILE, "".join(lines))
    about = {
        "format": DAT_FORMAT,
        "version": VERSION,
        "name": source.name,
        "class_names": list(source.class_names),
        "recipe": source.recipe,
        "clips": len(entries),
    }
    write_whole(path / ABOUT_FILE, pretty_json(about | {FACTS_DIGEST: digest_of(about)}))


def _entry(stored: StoredClip, camera: str) -> dict[str, Any]:
    about = stored.clip.to_dict()
    first = {"file_name": file_name_of(stored), "id": about.pop("id"), "label": about.pop("label")}
    return (
        first
        | about
        | {
            "camera": camera,
            "ticks": stored.ticks,
            "tick_rate_hz": stored.tick_rate_hz,
            "bits_sha256": stored.bits_sha256,
            "spikes": stored.spikes,
            "attributes": stored.attributes,
            FACTS_DIGEST: stored.facts_sha256(),
        }
    )
