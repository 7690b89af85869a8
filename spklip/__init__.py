"""SPKLIP: spike video aligned with language, and its trainer.

Names are resolved when first asked for, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "SpklipConfig": "spklip.model",
    "SpklipModel": "spklip.model",
    "SpklipOutput": "spklip.model",
    "build_tokenizer": "spklip.model",
    "contrastive_loss": "spklip.losses",
    "TrainRecipe": "spklip.train",
    "train": "spklip.train",
    "evaluate": "spklip.evaluate",
}
"""Public name -> module that defines it."""

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spklip' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
