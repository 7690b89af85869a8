"""Files that tell their own layout: arrays of NumPy and HDF5, and frames with markers."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spikedata.camera import CAMERAS, Camera, container_of, find_camera, list_hdf5, open_recording
from spikedata.errors import RecordingError
from spikedata.layouts.evidence import neighbours, size_of, stretch_of
from spikedata.layouts.judging import Looked

_MOST_TICKS = 64
"""Enough of a file that tells its layout."""
_MARKED_BYTES = 128 * 64
_MOST_ARRAYS = 4


def looked_as_told(path: Path, cameras: Sequence[Camera] | None) -> list[Looked]:
    """What a file shows that tells its layout, or all but the order of an array's axes.

    Args:
        path: any camera file.
        cameras: those asked for, all if None.

    Returns:
        Nothing if the file does not tell.

    Raises:
        RecordingError: it cannot be read, or as none of the cameras asked for.
        PackedSetError: it is a set of clips of ours.
    """
    if container_of(path) is not None:
        tried = _cameras_of_array(path)
    elif _has_markers(path):
        tried = [CAMERAS["sps100"]]
    else:
        return []
    if cameras is not None:
        asked = {camera.name for camera in cameras}
        tried = [camera for camera in tried if camera.name in asked]
    found, told = [], f"{path}: tells another layout than those asked for"
    for camera in tried:
        try:
            found.append(_look(path, camera))
        except RecordingError as error:
            told = str(error)
    if not found:
        raise RecordingError(told)
    return found


def _cameras_of_array(path: Path) -> list[Camera]:
    """The camera that the file names, else both orders of axes of its arrays."""
    try:
        return [open_recording(path).camera]
    except RecordingError:
        names = [""]
    if container_of(path) == "hdf5":
        names = [f":{name}" for name in list_hdf5(path)[1]][:_MOST_ARRAYS] or names
    return [find_camera(order + name) for name in names for order in ("thw", "hwt")]


def _has_markers(path: Path) -> bool:
    """Whether 64 bytes after another somewhere end in line numbers that go up or down by one."""
    size = size_of(path)
    return any(
        _counts_lines(stretch_of(path, start, _MARKED_BYTES).data_n.astype(np.int64))
        for start in (0, size // 2, size // 4 * 3)
    )


def _counts_lines(data_n: np.typing.NDArray[np.int64]) -> bool:
    words_n = data_n[:-1] | data_n[1:] << 8
    for phase in range(64):
        lines_n = words_n[phase::64] >> 4 & 0x3FF
        steps_n = np.abs(lines_n[2:] - lines_n[:-2]) == 1
        if len(steps_n) > 16 and steps_n.mean() > 0.75:
            return True
    return False


def _look(path: Path, camera: Camera) -> Looked:
    recording = open_recording(path, camera)
    stream = recording.read(0, min(_MOST_TICKS, recording.ticks))
    picture_hw = (stream.spike_count_hw() / stream.ticks).astype(np.float32)
    alike_s2 = neighbours(picture_hw)
    return Looked(camera, recording.ticks, picture_hw, alike_s2, 1.0, is_upright=True)
