"""The SPKLIP model: towers, configuration, tokenizer, and pictures for an image tower."""

from spklip.model.config import PRESETS, SpklipConfig
from spklip.model.image_encoder import ImageEncoder, build_image_encoder, note_image_encoder
from spklip.model.image_towers import check_function, stages_of, trained_tower
from spklip.model.origins import encoders_of
from spklip.model.picture_tower import PictureTower, full_range
from spklip.model.pictures import exposures, interval_picture
from spklip.model.pooling import pack_planes, reverse_packed
from spklip.model.spiking import binary_steps, spike_layers
from spklip.model.spklip import SpklipModel, SpklipOutput
from spklip.model.text_tower import (
    build_tokenizer,
    note_text_encoder,
    text_place,
)
from spklip.model.video_tower import cut_windows, window_starts

__all__ = [
    "PRESETS",
    "ImageEncoder",
    "PictureTower",
    "SpklipConfig",
    "SpklipModel",
    "SpklipOutput",
    "binary_steps",
    "build_image_encoder",
    "build_tokenizer",
    "check_function",
    "cut_windows",
    "encoders_of",
    "exposures",
    "full_range",
    "interval_picture",
    "note_image_encoder",
    "note_text_encoder",
    "pack_planes",
    "reverse_packed",
    "spike_layers",
    "stages_of",
    "text_place",
    "trained_tower",
    "window_starts",
]
