"""How a video is read: the choices that decide its bits."""

from dataclasses import dataclass
from typing import Literal, get_args

from spikedata.video.fit import Fit
from spikedata.video.resample import as_rate

Decoder = Literal["auto", "pyav", "opencv", "decord"]
Damaged = Literal["keep", "refuse"]


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoConfig:
    """How a video is read; part of the simulation's recipe, since it decides the bits."""

    decoder: Decoder = "auto"
    """Which library decodes; ``auto`` is PyAV, or OpenCV where PyAV cannot open the file."""
    resize: tuple[int, int] | int | None = None
    """Height and width to resize luma to, px, by area when shrinking, else linear; or the short
    side alone, the long one then keeps the aspect, rounded to an even number."""
    fit: Fit = "stretch"
    """How a frame fills a ``resize`` of another aspect: stretched, scaled to cover it and its
    centre cut out, or scaled to fit inside with black around it."""
    fps: float | None = None
    """Constant frame rate to resample to by repeating or leaving out frames; None keeps it. Of a
    folder of pictures, the rate itself."""
    capture_fps: float | None = None
    """True frame rate at which the file's frames were filmed, if it is played at another."""
    damaged: Damaged = "keep"
    """Whether a damaged or cut-off video gives what can be read, or an error."""

    def __post_init__(self) -> None:
        for name, kinds in (("decoder", Decoder), ("damaged", Damaged), ("fit", Fit)):
            if getattr(self, name) not in get_args(kinds):
                known = ", ".join(get_args(kinds))
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        sides = (self.resize,) if isinstance(self.resize, int) else self.resize
        if sides is not None and (
            isinstance(self.resize, bool)
            or min(sides, default=0) < 1
            or not (isinstance(self.resize, int) or len(sides) == 2)
        ):
            raise ValueError(
                f"resize must be a positive height and width, or a short side, got {self.resize}"
            )
        for name in ("fps", "capture_fps"):
            if getattr(self, name) is not None and as_rate(getattr(self, name)) is None:
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}")


DEFAULT = VideoConfig()
