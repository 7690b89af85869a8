"""Any mix of stores, camera files and folders of them -> one Zarr, Parquet, HDF5 or .dat set.

What is written is read back and compared bit for bit by digest before it takes its place, and
what it replaces stays until then. One bad source never stops the others.
"""

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from spikedata.clips import (
    CameraOptions,
    Format,
    Layout,
    check_replaceable,
    plan_shards,
    read_label_names,
)
from spikedata.engines import Engine, ray_workers
from spikedata.errors import StoreError
from spikedata.outputs import (
    is_being_written,
    locked,
    put_into_place,
    remove,
)
from spikedata.packing import (
    DatLayouts,
    Found,
    PackReport,
    PackRun,
    PackStep,
    RemotePackRun,
    Writing,
    check_engine,
    default_source,
    find_sources,
    last_packed,
    remember,
)
from spikedata.remote import RemotePath, place

DEFAULT_OUT: dict[Format, str] = {
    "zarr": "packed.zarr",
    "parquet": "packed.parquet",
    "hdf5": "packed.h5",
    "dat": "packed.dat",
}

__all__ = ["DEFAULT_OUT", "PackReport", "PackStep", "last_packed", "pack_clips"]


def pack_clips(
    sources: Sequence[Path | str] = (),
    *,
    to: Format = "zarr",
    out: Path | str | None = None,
    camera: str | None = None,
    flip: bool | None = None,
    tick_rate_hz: float | None = None,
    layout: Layout = "auto",
    to_camera: str | None = None,
    label_names: Path | str | None = None,
    level: int | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    engine: Engine = "local",
    address: str | None = None,
    progress: Callable[[PackStep], None] | None = None,
) -> PackReport:
    """Pack clips into one data set and note its path in ``.spikedata.json`` of this directory.

    Args:
        sources: sets of clips, recordings, or folders of these (class folders give labels,
            ``metadata.jsonl`` gives more); default ``spikes.zarr``.
        to: what to write.
        out: where; default ``packed.zarr``, ``packed.parquet``, ``packed.h5`` or ``packed.dat``.
        camera: of recordings; see :func:`spikedata.camera.find_camera`.
        flip: turn their rows upside down; default what the camera needs.
        tick_rate_hz: their ticks a second; default the camera's.
        layout: whether a folder of numbered ``.dat`` files is one clip, see ``CameraOptions``.
        to_camera: layout of ``.dat`` files written, see :func:`spikedata.camera.camera_to_write`.
        label_names: names of classes that are only numbered, see ``read_label_names``.
        level: effort of compression; see :data:`LEVELS`, :data:`DEFAULT_LEVEL`.
        overwrite: replace ``out``, if spikedata wrote all of it, once the new one is whole.
        workers: clips, or chunks of one, packed at once; default 1, of ``ray`` all its cores.
        engine: ``local``, or for zarr and parquet ``ray``; see :func:`simulate_corpus`.
        address: of its cluster, see :func:`spikedata.engines.ray_workers`.
        progress: called in this thread for each clip written and for each verified.

    Returns:
        Counts, and failures: what was left out, also written to ``<out stem>.failures.jsonl``.

    Raises:
        SpikeDataError: nothing could be packed, ``out`` is not ours to replace, or the like.
        ValueError: no such level, or ``to`` does not go with ``to_camera`` or ``engine``.
    """
    out = place(out or DEFAULT_OUT[to])
    writing = Writing(to, level, DatLayouts(asked=to_camera, source=camera))
    _check_out(out, to, overwrite)
    check_engine(engine, to)
    names = None if label_names is None else read_label_names(label_names)
    how = CameraOptions(
        camera=camera, flip=flip, tick_rate_hz=tick_rate_hz, layout=layout, label_names=names
    )
    found = find_sources(sources or [default_source()], to, how)
    found.check_keeps_recordings(out)
    told = progress or (lambda _: None)
    if engine == "local":
        return _written(PackRun(found.clips, told, workers or 1, writing), found, out, overwrite)
    with ray_workers(address=address, workers=workers, device="cpu") as ray:
        return _written(RemotePackRun(found, told, writing, ray, how), found, out, overwrite)


def _check_out(out: Path, to: Format, overwrite: bool) -> None:
    if isinstance(out, RemotePath):
        if to not in ("zarr", "parquet"):
            raise StoreError(f"{out}: {to} is written to a disk. Pack there, then copy")
        if overwrite:
            raise StoreError(
                f"{out}: nothing is replaced in object storage, where the old set would be gone "
                "before the new one is whole. Choose another --out"
            )
        return
    try:
        check_replaceable(out, overwrite=overwrite)
    except StoreError:
        if out.name:
            is_being_written(out)  # removes the lock file of a run killed at its very end
        raise


def _written(run: "PackRun", found: "Found", out: Path, overwrite: bool) -> PackReport:
    """Write into object storage, or aside on a disk."""
    if isinstance(out, RemotePath):
        _write_there(run, out)
    else:
        _write_aside(run, found, out, overwrite)
    return run.report(out)


def _write_aside(run: "PackRun", found: "Found", out: Path, overwrite: bool) -> None:
    """Write, verify, and only then put into place."""
    partial = out.with_name(out.name + ".partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out) as lock, contextlib.ExitStack() as at_end:
            at_end.callback(_remove_if_possible, partial)
            at_end.enter_context(_cleared(partial))
            run.write(partial)
            run.verify(partial)
            found.check_keeps_all(out, run.failures)
            check_replaceable(out, overwrite=overwrite)  # another run may have made it meanwhile
            lock.check()
            remember(out)  # first: who is killed after it can run the same command again
            put_into_place(partial, out)
    except OSError as error:
        raise StoreError(f"{out}: {error.strerror or error}; nothing was changed") from error


def _write_there(run: "PackRun", out: RemotePath) -> None:
    """Write into object storage, where nothing can be moved, and verify.

    Each clip, or each Parquet file, is there whole or not at all; a run that was cut off is gone
    on with.
    """
    try:
        is_store = run.writing.to == "zarr"  # whose writer has the lock
        with contextlib.nullcontext() if is_store else locked(out):
            if not is_store:
                _refuse_other_files(out, [shard.name for shard in plan_shards(run.clips)])
            run.write(out)
        run.verify(out)
        remember(out)
    except OSError as error:
        told = f"{out}: {error.strerror or error}; what is finished stays"
        raise StoreError(f"{told}. Run the same command again") from error


def _refuse_other_files(out: RemotePath, names: Sequence[str]) -> None:
    """Refuse to write Parquet files beside others than a run before has left of them."""
    others = sorted(set(out.names_below()) - set(names))
    if others:
        raise StoreError(f"{out / others[0]}: is there already. Choose another --out")


@contextlib.contextmanager
def _cleared(partial: Path) -> Iterator[None]:
    """Take away what a killed run left; thousands of files go while the next are written.

    They lie within ``<partial>.left`` until then, and go in the next run if this is killed too.
    """
    left = partial.with_name(partial.name + ".left")
    if partial.exists() or partial.is_symlink():
        left.mkdir(exist_ok=True)
        partial.rename(left / secrets.token_hex(8))
    removing = threading.Thread(target=_remove_if_possible, args=(left,), name="remove")
    removing.start()
    try:
        yield
    finally:
        removing.join()


def _remove_if_possible(partial: Path) -> None:
    """The next run removes it else; what went wrong first is told."""
    with contextlib.suppress(OSError):
        remove(partial)
