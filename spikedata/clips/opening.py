"""Which set of clips lies at a path, how to open it, and if it may be replaced."""

import os
from collections.abc import Iterator
from pathlib import Path

from spikedata.camera import list_hdf5
from spikedata.clips.doubts import MOST_DOUBTS, tell_doubts
from spikedata.clips.formats import format_at
from spikedata.clips.naming import read_label_names
from spikedata.clips.recording_folders import (
    listed_recordings,
    one_recording,
    recordings_below,
    says_its_ours,
)
from spikedata.clips.recordings import ABOUT_FILE, METADATA_FILE, RECORDING_SUFFIXES, CameraOptions
from spikedata.clips.rules import Problem, RuleBrokenError
from spikedata.clips.source import ClipSource, ClipStream
from spikedata.clips.store import (
    CATALOG,
    CLIPS,
    LOCK,
    METADATA,
    PARTIAL,
    open_store,
    store_problems,
)
from spikedata.errors import CorpusError, SpikeDataError, StoreError
from spikedata.remote import RemotePath, place

_STORE_NAMES = frozenset([METADATA, CLIPS, CATALOG, LOCK, PARTIAL])
_AS_THE_FILES_SAY = CameraOptions()


def open_any(path: Path | str, options: CameraOptions = _AS_THE_FILES_SAY) -> ClipSource:
    """Open a set of clips, even one of which not a single clip can be opened; that tells why.

    Raises:
        SpikeDataError: there is no set of clips, or it is malformed.
    """
    path = place(path)
    if isinstance(path, RemotePath):
        return _open_remote(path)
    if not path.exists():
        raise CorpusError(f"{path}: no such file or folder")
    found = format_at(path)
    if found == "zarr":
        return open_store(path)
    if found == "parquet":
        from spikedata.clips.parquet import ParquetStore  # noqa: PLC0415  pyarrow loads when needed

        return ParquetStore(path)
    if found == "hdf5":
        return _open_hdf5(path, options)
    if path.is_dir():
        try:
            return recordings_below(path, options)
        except RuleBrokenError as error:
            raise error.at(path) from error
    if path.suffix.lower() in RECORDING_SUFFIXES:
        return one_recording(path, options)
    raise CorpusError(f"{path}: is no store, and no .dat, .npz, .npy or HDF5 file")


def _open_remote(path: RemotePath) -> ClipSource:
    """A store or Parquet files of object storage or the Hub.

    Raises:
        SpikeDataError: there is none, or it cannot be read.
    """
    try:
        found = format_at(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    if found == "zarr":
        return open_store(path)
    if found == "parquet":
        from spikedata.clips.parquet import ParquetStore  # noqa: PLC0415  pyarrow loads when needed

        return ParquetStore(path)
    raise CorpusError(
        f"{path}: no store and no Parquet files there. HDF5 files and recordings are read from "
        "disks: copy them first"
    )


def _open_hdf5(path: Path, options: CameraOptions) -> ClipSource:
    """A set of ours; or the array of another program's file as one recording."""
    from spikedata.clips.hdf5 import Hdf5Store  # noqa: PLC0415  h5py loads when needed

    try:
        return Hdf5Store(path)
    except StoreError:
        try:
            told, arrays = list_hdf5(path)
        except SpikeDataError:
            arrays = {}
        if arrays and told is None:
            return one_recording(path, options)
        raise


def open_clips(
    path: Path | str,
    *,
    camera: str | None = None,
    flip: bool | None = None,
    tick_rate_hz: float | None = None,
    label_names: Path | str | None = None,
) -> ClipSource:
    """Open a set of clips, whatever its format.

    Args:
        path: a store, a Parquet folder or file, an HDF5 file, or camera files: a folder that
            ``pack --to dat`` wrote, any other folder of recordings, or one of them.
        camera: whose files recordings are; default what their folder's metadata says.
        flip: turn their rows upside down; default what the camera needs to be upright.
        tick_rate_hz: their ticks a second; default the metadata's or the camera's.
        label_names: file with the names of classes that they only number, as UHSR's do; see
            :func:`spikedata.clips.naming.read_label_names`.

    Raises:
        SpikeDataError: it is none of these, it is malformed, or not one recording can be read.
        ValueError: ``tick_rate_hz`` is not positive.
    """
    names = None if label_names is None else read_label_names(label_names)
    options = CameraOptions(camera=camera, flip=flip, tick_rate_hz=tick_rate_hz, label_names=names)
    source = open_any(path, options)
    if not source.clips and source.left_out:
        raise CorpusError(source.left_out[0].error)
    some = list(source.clips)[:: max(1, -(-len(source.clips) // MOST_DOUBTS))]
    doubts = (source.layout_doubt(clip_id) for clip_id in some)
    source.notes = (*source.notes, *tell_doubts(found for found in doubts if found is not None))
    return source


def open_spikes(
    path: Path | str,
    *,
    camera: str | None = None,
    clip: str | None = None,
    flip: bool | None = None,
    tick_rate_hz: float | None = None,
) -> ClipStream:
    """Open one clip of a set, or one recording, to read its spikes block by block.

    Args:
        path: as for :func:`open_clips`.
        camera: likewise.
        clip: which clip; it may be left out where there is but one.
        flip: as for :func:`open_clips`.
        tick_rate_hz: likewise.

    Raises:
        SpikeDataError: no such file, nothing tells the camera or the clip, or the file does not
            fit.
    """
    source = open_clips(path, camera=camera, flip=flip, tick_rate_hz=tick_rate_hz)
    if clip is None and len(source.clips) != 1:
        raise StoreError(f"{path}: holds {len(source.clips)} clips; give --clip ID")
    return source.stream(source.only(clip))


def validate(
    path: Path | str,
    *,
    deep: bool = True,
    camera: str | None = None,
    flip: bool | None = None,
    tick_rate_hz: float | None = None,
) -> list[Problem]:
    """List the rules that a set of clips breaks; an empty list is a good set.

    Args:
        path: as for :func:`open_clips`.
        deep: also decode every bit and compare digests and spike counts.
        camera: as for :func:`open_clips`.
        flip: likewise.
        tick_rate_hz: likewise.

    Raises:
        SpikeDataError: a file cannot be read at all, or is no set of clips.
    """
    path = place(path)
    if format_at(path) in (None, "zarr") and not _holds_recordings(path, camera):
        return store_problems(path, deep=deep)
    try:
        options = CameraOptions(camera=camera, flip=flip, tick_rate_hz=tick_rate_hz)
        return open_any(path, options).problems(deep=deep)
    except RuleBrokenError as error:
        return [Problem(error.code, None, error.message)]
    except StoreError as error:
        return [Problem("cannot_be_read", None, str(error))]


def _holds_recordings(path: Path, camera: str | None) -> bool:
    is_recording = path.is_file() and path.suffix.lower() in RECORDING_SUFFIXES
    return is_recording or (camera is not None and format_at(path) is None)


def check_replaceable(out: Path, *, overwrite: bool) -> None:
    """Refuse to write ``out`` if something is there that is not ours to replace.

    Raises:
        StoreError: its name is no name for a data set; or it is there, and ``overwrite`` is False
            or it holds something that spikedata did not write.
    """
    if out.name in ("", ".."):
        raise StoreError(f"{out}: a data set needs a name of its own. Give --out NAME")
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise StoreError(f"{out}: exists already. Give --overwrite to replace it")
    other = _not_ours(out)
    if other is not None:
        raise StoreError(
            f"{other}: was not written by spikedata, and --overwrite would remove it. Move it "
            "away, or choose another --out"
        )


def _not_ours(out: Path) -> Path | None:
    """What at or in ``out`` spikedata did not write; None if it wrote all of it."""
    found = format_at(out)
    if found == "dat":
        ours = listed_recordings(out)
        ours |= {out / METADATA_FILE} if ours else set()
        ours |= {out / ABOUT_FILE} if says_its_ours(out) else set()
        return next((path for path in _files(out) if path not in ours), None)
    if found is None:
        # An empty folder is nobody's loss.
        return None if out.is_dir() and not os.listdir(out) else next(_files(out), out)
    try:
        open_any(out)
    except SpikeDataError:
        return out
    if found == "zarr":
        return next((p for p in sorted(out.iterdir()) if p.name not in _STORE_NAMES), None)
    foreign = (file for file in _files(out) if file.suffix.lower() != ".parquet")
    return next(foreign, None) if found == "parquet" else None


def _files(path: Path) -> Iterator[Path]:
    return (file for file in sorted(path.rglob("*")) if not file.is_dir())
