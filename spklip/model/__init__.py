"""The SPKLIP model: towers, configuration, tokenizer."""

from spklip.model.spklip import PRESETS, SpklipConfig, SpklipModel, SpklipOutput
from spklip.model.text_tower import build_tokenizer

__all__ = ["PRESETS", "SpklipConfig", "SpklipModel", "SpklipOutput", "build_tokenizer"]
