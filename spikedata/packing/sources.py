"""What is packed: sets of clips and recordings, seen as one set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spikedata.clips import (
    CHUNK_TICKS,
    CameraOptions,
    ClipSource,
    Format,
    JoinedClips,
    StoredClip,
    check_chunk,
    open_any,
)
from spikedata.corpora import count
from spikedata.errors import CorpusError, SpikeDataError, StoreError
from spikedata.outputs import (
    Failure,
)
from spikedata.remote import place
from spikedata.wording import located

DEFAULT_SOURCE = "spikes.zarr"


@dataclass(frozen=True)
class Found:
    """Clips of all sources that fit a format, and where they are from."""

    clips: JoinedClips
    paths: tuple[Path, ...]
    recordings: tuple[Path, ...]
    """Sources of camera files."""

    def check_keeps_recordings(self, out: Path) -> None:
        """Refuse to replace what holds original recordings.

        Raises:
            StoreError: a source of camera files is ``out`` or lies in it.
        """
        for path in self.recordings:
            if path.resolve().is_relative_to(out.resolve()):
                raise StoreError(
                    f"{out}: holds the recordings {path}, which --overwrite would remove. Choose "
                    "another --out"
                )

    def check_keeps_all(self, out: Path, failures: Sequence[Failure]) -> None:
        """Refuse to replace a source by what is less.

        Raises:
            StoreError: ``out`` is one of the sources, and something was left out.
        """
        if failures and any(path.resolve() == out.resolve() for path in self.paths):
            failure = failures[0]
            raise StoreError(
                f"{out}: would lose what cannot be packed ({failure.id}: {failure.error}). Choose "
                "another --out"
            )


def find_sources(sources: Sequence[Path | str], to: Format, options: CameraOptions) -> Found:
    """Open all sources; what cannot be opened is left out of the one set that they become.

    Raises:
        CorpusError: nothing is left.
    """
    opened: list[ClipSource] = []
    left_out: list[Failure] = []
    for path in map(place, sources):
        try:
            source = open_any(path, options)
            source.check_finished()
            opened.append(source)
        except (SpikeDataError, OSError) as error:
            left_out.append(Failure(id=str(path), path=str(path), error=str(error)))
    clips = JoinedClips(opened, check=_CHECKS.get(to, _any_clip), left_out=tuple(left_out))
    if not clips.clips:
        if len(sources) == 1 and clips.left_out:
            raise CorpusError(located(place(sources[0]), clips.left_out[0].error))
        reasons = [located(lost.path, lost.error) for lost in clips.left_out[:3]]
        reasons = reasons or ["no clips in them"]
        raise CorpusError(f"{count(len(sources), 'source')}, nothing to pack: {'; '.join(reasons)}")
    recordings = tuple(source.path for source in opened if source.format == "dat")
    return Found(clips, tuple(map(place, sources)), recordings)


def _any_clip(stored: StoredClip) -> None:
    """Every clip fits."""


_CHECKS: dict[Format, Callable[[StoredClip], None]] = {
    "parquet": lambda stored: check_chunk(stored, CHUNK_TICKS)
}
"""What a clip must be for a format that cannot take every one."""


def default_source() -> Path:
    """The working store.

    Raises:
        CorpusError: it is not here.
    """
    if not Path(DEFAULT_SOURCE).exists():
        raise CorpusError(
            f"{DEFAULT_SOURCE}: not here. Run `spikedata simulate VIDEOS` first, or name what to "
            "pack: `spikedata pack RECORDINGS --camera vidar`"
        )
    return Path(DEFAULT_SOURCE)
