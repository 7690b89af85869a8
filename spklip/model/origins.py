"""Whose weights a model carries: names, licences and sources of pretrained encoders."""

from typing import Any

from spklip.model.config import SpklipConfig
from spklip.model.embedded import EFFICIENTNET_LITE0, MINILM

EMBEDDED = {"image encoder": EFFICIENTNET_LITE0, "text encoder": MINILM}


def encoders_of(config: SpklipConfig) -> list[dict[str, Any]]:
    """Each pretrained encoder: part, name, licence, source and digest, as far as they are known."""
    named = {"image encoder": config.image_encoder, "text encoder": config.text_encoder}
    return [_origin(part, name) for part, name in named.items() if name]


def _origin(part: str, name: str) -> dict[str, Any]:
    if name != "embedded":
        return {"part": part, "name": name, "licence": "see its own card"}
    weights = EMBEDDED[part]
    return {
        "part": part,
        "name": weights.name,
        "licence": weights.licence,
        "source": weights.source,
        "sha256": weights.sha256,
    }
