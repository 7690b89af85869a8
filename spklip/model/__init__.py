"""The SPKLIP model: towers, configuration, tokenizer, and pictures for an image tower."""

from spklip.model.config import PRESETS, SpklipConfig
from spklip.model.pictures import exposures, interval_picture
from spklip.model.spklip import SpklipModel, SpklipOutput
from spklip.model.text_tower import build_tokenizer, text_encoder_config

__all__ = [
    "PRESETS",
    "SpklipConfig",
    "SpklipModel",
    "SpklipOutput",
    "build_tokenizer",
    "exposures",
    "interval_picture",
    "text_encoder_config",
]
