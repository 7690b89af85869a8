"""A video's frames by decord, which runs in a process of its own: it ends the one it is in.

decord has had no release since 2021, and on some damaged files it calls ``abort``.
"""

import re
from collections.abc import Iterator

import numpy as np

from spikedata.apart import Message
from spikedata.errors import VideoError


def list_frames(path: str) -> Iterator[Message]:
    """Decode from the first frame to the last, to RGB, then to luma.

    Yields:
        An object with ``version``, ``promised`` and ``frame_rate``; when each promised frame is
        shown, ms, int64 (n,); then for each frame an object with ``shape_hw`` and ``time_ms``,
        followed by its luma, uint8 (H, W). At the end perhaps an object with the ``problem`` that
        stopped it.

    Raises:
        VideoError: decord cannot open it.
    """
    import cv2  # noqa: PLC0415 - heavy; only the child needs it
    import decord  # noqa: PLC0415 - an extra

    decord.logging.set_level(decord.logging.QUIET)
    try:
        video = decord.VideoReader(path, num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise VideoError(f"is not a video that decord can open: {_said(error)}") from error
    count = len(video)
    yield {
        "version": decord.__version__,
        "promised": count,
        "frame_rate": float(video.get_avg_fps()),
    }
    starts_s = video.get_frame_timestamp(range(count))[:, 0] if count else ()
    times_ms = np.rint(np.asarray(starts_s, np.float64) * 1000).astype(np.int64)
    yield times_ms.tobytes()
    for index in range(count):
        try:
            rgb_hwc = video.next().asnumpy()
        except StopIteration:
            return
        except (decord.DECORDError, RuntimeError) as error:
            yield {"problem": _said(error)}
            return
        if rgb_hwc.shape[2] != 3:  # below 32 px it takes line padding for channels
            yield {"problem": "too narrow for decord"}
            return
        luma_hw = cv2.cvtColor(rgb_hwc, cv2.COLOR_RGB2GRAY)
        yield {"shape_hw": luma_hw.shape, "time_ms": int(times_ms[index])}
        yield luma_hw.tobytes()


def _said(error: Exception) -> str:
    """The message of a decord error, without its source line and stack."""
    line = (str(error).strip().splitlines() or ["no reason given"])[0]
    return re.sub(r"^(?:\[[\d:]+\] )?(?:\S+\.cc:\d+: )?", "", line)[:200]
