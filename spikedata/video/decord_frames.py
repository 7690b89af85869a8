"""A video's frames by decord, which runs in a process of its own: it ends the one it is in.

decord has had no release since 2021, and on some damaged files it calls ``abort``.
"""

import re
from collections.abc import Iterator

import cv2
import decord
import numpy as np

from spikedata.apart import Message
from spikedata.errors import VideoError

_MOST_TIMES = 1 << 16
"""Times told at once."""


def list_frames(path: str) -> Iterator[Message]:
    """Decode from the first frame to the last, to RGB, then to luma.

    Yields:
        An object with ``version``, ``promised`` and ``frame_rate``; when the frames are shown, ms,
        int64, in one or more pieces; then for each frame an object followed by its luma, uint8 (H,
        W). The object has ``shape_hw``, ``time_ms``, ``missed``, the frames that were not given
        before it, and the ``problem`` with these; the last may have no shape, and no frame.

    Raises:
        VideoError: decord cannot open it.
    """
    decord.logging.set_level(decord.logging.QUIET)
    try:
        video = decord.VideoReader(path, num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"is not a video that decord can open: {_said(error)}") from error
    count = len(video)
    rate = float(video.get_avg_fps())
    yield {"version": decord.__version__, "promised": count, "frame_rate": rate}
    starts_s = video.get_frame_timestamp(range(count))[:, 0] if count else ()
    times_ms = np.rint(np.asarray(starts_s, np.float64) * 1000).astype(np.int64)
    for first in range(0, count, _MOST_TIMES):
        yield times_ms[first : first + _MOST_TIMES].tobytes()
    for time_ms in times_ms.tolist():
        try:
            rgb_hwc = video.next().asnumpy()
        except StopIteration:
            return
        except (decord.DECORDError, RuntimeError) as error:
            yield {"missed": 1, "problem": _said(error)}
            return
        if rgb_hwc.shape[2] != 3:  # below 32 px it takes line padding for channels
            yield {"missed": 1, "problem": "too narrow for decord"}
            return
        luma_hw = cv2.cvtColor(rgb_hwc, cv2.COLOR_RGB2GRAY)
        yield {"shape_hw": luma_hw.shape, "time_ms": time_ms, "missed": 0}
        yield luma_hw.tobytes()


def _said(error: Exception) -> str:
    """The message of a decord error, without its source line and stack."""
    line = (str(error).strip().splitlines() or ["no reason given"])[0]
    return re.sub(r"^(?:\[[\d:]+\] )?(?:\S+\.cc:\d+: )?", "", line)[:200]
