"""More video frames between two, by optical flow or by an interpolator of yours.

A simulator that draws a straight line from one frame's grey level to the next lets moving things
fade out here and in there. Frames made in between by following the motion make the steps small;
the simulator then draws lines between them, with ``ticks_per_frame`` divided accordingly:

    steps = steps_per_frame(sensor.ticks_per_frame)
    finer = replace(sensor, ticks_per_frame=sensor.ticks_per_frame // steps, interpolation="linear")
    blocks = simulate(more_frames(video.blocks(), steps), finer, clip_id=...)

Shapes: N frames, M frames between two, H rows, W columns.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spikedata.plugins import find_function

Frames = NDArray[np.uint8]
Field = NDArray[np.float32]
Interpolator = Callable[[Frames, Frames, int], Frames]
"""Takes two frames, uint8 (H, W), and M; gives M frames evenly spaced between them, uint8
(M, H, W). Frame i of M (from 0) shows the time (i + 1) / (M + 1) of the way."""

USUAL_STEPS = 8
MOST_STEPS = 32
LEAST_SIDE_PX = 16
"""Optical flow needs a picture of at least so many pixels each way."""


def steps_per_frame(ticks_per_frame: int) -> int:
    """In how many steps to go from one frame to the next: about 8, and a divisor of K.

    Every step gets the same whole number of ticks, so the clip's length and tick rate stay.

    Args:
        ticks_per_frame: K.

    Raises:
        ValueError: no number from 2 to 32 divides K.
    """
    if ticks_per_frame == 1:
        return 1
    fitting = [n for n in range(2, MOST_STEPS + 1) if ticks_per_frame % n == 0]
    if not fitting:
        raise ValueError(
            f"flow needs ticks_per_frame that a number from 2 to {MOST_STEPS} divides, got "
            f"{ticks_per_frame}; {ticks_per_frame + 1} would do"
        )
    return min(fitting, key=lambda n: abs(math.log(n / USUAL_STEPS)))


def more_frames(
    luma_blocks: Iterable[Frames], steps: int, *, interpolator: Interpolator | None = None
) -> Iterator[Frames]:
    """Make ``steps - 1`` frames between every two, streaming; two frames are held at a time.

    Args:
        luma_blocks: uint8 (n, H, W) each, any n, all of one size: the clip's frames in order.
        steps: into how many steps each interval is divided.
        interpolator: what makes the frames; :func:`flow_frames` if None.

    Yields:
        luma_nhw: uint8 (steps, H, W): a frame and those made between it and the next. The last
        frame is repeated, so N frames give N * ``steps`` and the light holds at the end.

    Raises:
        ValueError: ``steps`` is below 1, or the interpolator gave something else than it should.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    interpolator = interpolator or flow_frames
    first_hw: Frames | None = None
    for luma_nhw in luma_blocks:
        for second_hw in luma_nhw:
            if first_hw is not None:
                yield _with_between(first_hw, second_hw, steps, interpolator)
            first_hw = second_hw.copy()
    if first_hw is not None:
        yield np.repeat(first_hw[None], steps, axis=0)


def _with_between(
    first_hw: Frames, second_hw: Frames, steps: int, interpolator: Interpolator
) -> Frames:
    if first_hw.shape != second_hw.shape:
        raise ValueError(f"frames of {second_hw.shape} after frames of {first_hw.shape} (H, W)")
    if steps == 1:
        return first_hw[None]
    made: Any = interpolator(first_hw, second_hw, steps - 1)
    made_mhw = np.asarray(made)
    if made_mhw.dtype != np.uint8 or made_mhw.shape != (steps - 1, *first_hw.shape):
        raise ValueError(
            f"the interpolator must give uint8 {(steps - 1, *first_hw.shape)}, got "
            f"{made_mhw.dtype} {made_mhw.shape}"
        )
    return np.concatenate([first_hw[None], made_mhw])


def find_interpolator(name: str) -> Interpolator:
    """The function that ``package.module:function`` names; ``flow`` is :func:`flow_frames`.

    Args:
        name: as :func:`~spikedata.plugins.find_function` takes it.

    Raises:
        SpikeDataError: no such module or function, or the module cannot be imported.
    """
    if name == "flow":
        return flow_frames
    return find_function(name, "interpolator", "flow")


def flow_frames(first_hw: Frames, second_hw: Frames, count: int) -> Frames:
    """``count`` frames evenly spaced between two, by optical flow in both directions.

    Both frames are drawn along the flow to the time wanted and blended by nearness in time. Where
    the flow there and back does not return, something is covered or uncovered: if one frame's
    flow alone fails, what it shows has no counterpart, and it counts twice; where both fail
    and the two pictures differ, the frames are blended in place.

    The bits are the same for any number of OpenCV's threads. They may differ between OpenCV's
    releases and between kinds of processor, whose vector units round differently.

    Args:
        first_hw: uint8 (H, W), at least 16 x 16.
        second_hw: uint8 (H, W).
        count: M.

    Returns:
        luma_mhw: uint8 (M, H, W).

    Raises:
        ValueError: the frames are smaller than 16 x 16.

    Source: flow: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016; flow
    at times between: Jiang et al., "Super SloMo", CVPR 2018, equation 4.
    """
    if min(first_hw.shape) < LEAST_SIDE_PX:
        raise ValueError(
            f"flow needs frames of at least {LEAST_SIDE_PX}x{LEAST_SIDE_PX}, got {first_hw.shape}"
        )
    first_hw, second_hw = np.ascontiguousarray(first_hw), np.ascontiguousarray(second_hw)
    cv2 = _opencv()
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    forth_hw2 = dis.calc(first_hw, second_hw, None)
    back_hw2 = dis.calc(second_hw, first_hw, None)
    pair = _Pair(first_hw, second_hw, forth_hw2, back_hw2)
    made = [pair.at((i + 1) / (count + 1)) for i in range(count)]
    return np.stack(made) if made else np.zeros((0, *first_hw.shape), np.uint8)


def _opencv() -> Any:
    import cv2  # noqa: PLC0415  # only this way of interpolating needs it

    return cv2


class _Pair:
    """Two frames and the flow between them, (H, W, 2), px in x and y."""

    def __init__(
        self, first_hw: Frames, second_hw: Frames, forth_hw2: Field, back_hw2: Field
    ) -> None:
        self.first_hw, self.second_hw = first_hw, second_hw
        self.forth_hw2, self.back_hw2 = forth_hw2, back_hw2
        y_hw, x_hw = np.mgrid[: first_hw.shape[0], : first_hw.shape[1]].astype(np.float32)
        self.place_hw2 = np.stack([x_hw, y_hw], axis=-1)
        self.lost_first_hw = self._no_way_back(forth_hw2, back_hw2)
        self.lost_second_hw = self._no_way_back(back_hw2, forth_hw2)

    def at(self, time: float) -> Frames:
        """The frame at ``time``, 0 to 1."""
        rest = 1 - time
        to_first_hw2 = -rest * time * self.forth_hw2 + time**2 * self.back_hw2
        to_second_hw2 = rest**2 * self.forth_hw2 - rest * time * self.back_hw2
        one_hw = self._draw(self.first_hw, to_first_hw2).astype(np.float32)
        other_hw = self._draw(self.second_hw, to_second_hw2).astype(np.float32)
        lost_one_hw = self._draw(self.lost_first_hw, to_first_hw2)
        lost_other_hw = self._draw(self.lost_second_hw, to_second_hw2)
        one_weight_hw = rest * (1 + lost_one_hw * (1 - lost_other_hw))
        other_weight_hw = time * (1 + lost_other_hw * (1 - lost_one_hw))
        drawn_hw = one_weight_hw * one_hw + other_weight_hw * other_hw
        drawn_hw /= one_weight_hw + other_weight_hw
        in_place_hw = rest * self.first_hw.astype(np.float32) + time * self.second_hw
        differ_hw = np.clip(np.abs(one_hw - other_hw) / 64 - 0.5, 0, 1)
        drawn_hw += (in_place_hw - drawn_hw) * lost_one_hw * lost_other_hw * differ_hw
        frame_hw: Frames = np.rint(drawn_hw).astype(np.uint8)
        return frame_hw

    def _draw(self, picture_hw: Any, offset_hw2: Field) -> Any:
        cv2 = _opencv()
        where_hw2 = self.place_hw2 + offset_hw2.astype(np.float32)
        return cv2.remap(
            picture_hw, where_hw2, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    def _no_way_back(self, there_hw2: Field, back_hw2: Field) -> Field:
        """1 where the flow there and back ends elsewhere, else 0: float32 (H, W).

        Source of the bound: Sundaram et al., "Dense Point Trajectories", ECCV 2010.
        """
        returned_hw2 = self._draw(back_hw2, there_hw2)
        missed_hw = ((there_hw2 + returned_hw2) ** 2).sum(axis=-1)
        length_hw = (there_hw2**2).sum(axis=-1) + (returned_hw2**2).sum(axis=-1)
        lost_hw: Field = (missed_hw > 0.01 * length_hw + 0.5).astype(np.float32)
        return lost_hw
