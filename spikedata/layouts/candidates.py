"""A layout that a file may have, and which layouts are worth a look."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spikedata.camera import CAMERAS, Camera, find_camera

Verdict = Literal["certain", "likely", "cannot tell", "behind"]

KNOWN_SIZES_HW = (
    (250, 400),
    (400, 250),
    (240, 320),
    (320, 240),
    (500, 800),
    (800, 500),
    (250, 250),
    (224, 224),
    (128, 128),
    (260, 346),
    (346, 260),
    (180, 240),
    (480, 640),
    (640, 480),
    (720, 1280),
    (1000, 1000),
    (1080, 1920),
)
"""Planes that cameras, simulators and data sets of the field have."""

Key = tuple[str, int | None, int | None, str, int | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class LayoutCandidate:
    """One way to read a file, and how much speaks for it."""

    camera: Camera
    """How it would be read; rows of the picture are turned as this camera's are."""
    ticks: int
    """Planes that the file would hold."""
    height_px: int
    width_px: int
    score: float
    """How alike neighbouring pixels are: of the best layout their correlation in the mean picture
    of the ticks looked at, of the others their covariance over the same variance. Halved where
    planes of this size contradict when pixels fire."""
    certainty: float
    """Share of 16 strips of the picture in which the best layout is ahead of the three that follow
    it, or another one is ahead of the best; 0.5 is a toss of a coin."""
    verdict: Verdict
    """What that means, together with the score."""
    note: str
    """What else a person should know; empty if nothing."""
    picture_hw: NDArray[np.uint8]
    """What it shows: mean of the ticks looked at, uint8 (H, W)."""

    @property
    def name(self) -> str:
        """What to call it; the name of the camera."""
        return self.camera.name

    def to_dict(self) -> dict[str, Any]:
        """Everything but the picture, as JSON takes it."""
        names = ("name", "ticks", "height_px", "width_px")
        judged = ("score", "certainty", "verdict", "note")
        return {name: getattr(self, name) for name in (*names, *judged)}


def key_of(camera: Camera) -> Key:
    """What decides which bit is which pixel, but for the order of rows."""
    row = camera.row_bytes
    if row is not None and row * 8 == camera.width_px:
        row = None
    return camera.layout, camera.height_px, camera.width_px, camera.bit_order, row


def plain_camera(height_px: int, width_px: int, bit_order: Literal["little", "big"]) -> Camera:
    """The camera with such planes, one with a name of its own if there is one."""
    name = f"{height_px}x{width_px}"
    plain = find_camera(name if bit_order == "little" else f"{name}-msb")
    known = [camera for camera in CAMERAS.values() if key_of(camera) == key_of(plain)]
    return known[0] if known else plain


def known_cameras() -> list[Camera]:
    """All cameras of ``.dat`` files known by name or by size, in both orders of bits."""
    sizes = [plain_camera(*size, order) for size in KNOWN_SIZES_HW for order in ("little", "big")]
    named = [camera for camera in CAMERAS.values() if camera.layout == "planes"]
    return list({key_of(camera): camera for camera in [*sizes, *named]}.values())
