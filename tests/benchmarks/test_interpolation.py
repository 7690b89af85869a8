"""Optical flow against a straight line, on the truth: every second frame of real clips left out.

``python tests/benchmarks/test_interpolation.py FOLDER`` prints one JSON line over ten clips of
UCF101 in FOLDER, and so does pytest with ``SPIKEDATA_BENCH=full`` and ``-s`` on the shared data;
otherwise pytest takes a little of three clips. Peak signal-to-noise ratio (PSNR) is of the frame
left out, dB, from the mean square error of a clip's frames. Many clips repeat frames; the
frame left out is then no frame between, so ``between`` counts only those whose change from
the frame before and to the frame after differ by less than a factor of two. ``all`` counts all.
"""

import itertools
import json
import os
import platform
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from spikedata.video import open_video
from spikedata.video.interpolate import flow_frames

CLIPS = (
    "Basketball/v_Basketball_g01_c01.avi",
    "Biking/v_Biking_g02_c05.avi",
    "BodyWeightSquats/v_BodyWeightSquats_g01_c04.avi",
    "Fencing/v_Fencing_g01_c01.avi",
    "JumpingJack/v_JumpingJack_g01_c04.avi",
    "PullUps/v_PullUps_g01_c02.avi",
    "PushUps/v_PushUps_g01_c01.avi",
    "SoccerJuggling/v_SoccerJuggling_g23_c01.avi",
    "TrampolineJumping/v_TrampolineJumping_g01_c02.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
)
QUICK = ("BodyWeightSquats", "Fencing", "JumpingJack")


def line(first_hw: NDArray[np.uint8], second_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame half way on a straight line."""
    return np.rint((first_hw.astype(np.float32) + second_hw) / 2).astype(np.uint8)


def flow(first_hw: NDArray[np.uint8], second_hw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame half way along the motion."""
    return flow_frames(first_hw, second_hw, 1)[0]


WAYS = {"linear": line, "flow": flow}


def square_error(one_hw: NDArray[np.uint8], other_hw: NDArray[np.uint8]) -> float:
    return float(((one_hw.astype(np.float32) - other_hw) ** 2).mean())


def errors_of(path: Path, frames: int) -> dict[str, dict[str, list[float]]]:
    """Square errors of each way, of all frames left out and of those truly between."""
    with open_video(path) as video:
        luma_nhw = np.concatenate(list(itertools.islice(video.blocks(16), -(-frames // 16))))
    errors = {which: {way: [] for way in WAYS} for which in ("all", "between")}
    for n in range(0, min(frames, len(luma_nhw)) - 2, 2):
        first, true, second = luma_nhw[n : n + 3]
        before, after = square_error(first, true), square_error(true, second)
        for way, make in WAYS.items():
            error = square_error(make(first, second), true)
            errors["all"][way].append(error)
            if max(before, after) < 4 * min(before, after):
                errors["between"][way].append(error)
    return errors


def psnr(errors: list[float]) -> float:
    return round(float(10 * np.log10(255**2 / max(np.mean(errors), 1e-6))), 2)


def measure(root: Path, clips: tuple[str, ...], frames: int) -> dict[str, object]:
    found = {clip: errors_of(root / clip, frames) for clip in clips}
    result: dict[str, object] = {"benchmark": "frame between: optical flow against a line, PSNR dB"}
    for which in ("between", "all"):
        per_clip = {
            Path(clip).stem: {way: psnr(e) for way, e in errors[which].items()}
            | {"frames": len(errors[which]["flow"])}
            for clip, errors in found.items()
            if errors[which]["flow"]
        }
        result[which] = per_clip
        result[f"{which}_mean"] = {
            way: round(float(np.mean([row[way] for row in per_clip.values()])), 2) for way in WAYS
        }
    return result | {
        "device": f"{platform.machine()}, {os.cpu_count()} cores",
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def test_flow_is_nearer_the_truth_than_a_line(shared_data):
    full = os.environ.get("SPIKEDATA_BENCH") == "full"
    clips = CLIPS if full else tuple(clip for clip in CLIPS if clip.startswith(QUICK))
    result = measure(shared_data / "ucf101", clips, 96 if full else 16)
    print(json.dumps(result))
    assert len(result["between"]) >= (8 if full else 3)
    assert result["between_mean"]["flow"] > result["between_mean"]["linear"] + 1
    assert result["all_mean"]["flow"] > result["all_mean"]["linear"]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), CLIPS, 96)))
