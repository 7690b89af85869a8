"""Text tower: tokens to one vector a text, from scratch or from a pretrained Hugging Face encoder.

Shapes: B texts, L tokens, E width of the encoder, D width of the shared space.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Siglip2TextModel,
    SiglipTextModel,
)
from transformers.utils.hub import cached_file

from spikedata import SpikeDataError
from spklip.model.config import SpklipConfig
from spklip.model.embedded import MINILM
from spklip.model.feature_norm import FeatureNorm

JOINT_TEXT: dict[str, Any] = {
    "clip_text_model": CLIPTextModelWithProjection,
    "siglip_text_model": SiglipTextModel,
    "siglip2_text_model": Siglip2TextModel,
}
"""The text halves of joint models, with their projection into the shared space."""
BYTE_VOCABULARY = 259
"""Padding, end, unknown, then the 256 bytes: the ids of ByT5."""
END_ID = 1


def build_tokenizer(config: SpklipConfig) -> PreTrainedTokenizerBase:
    """Tokenizer that fits the text tower of ``config``.

    Bytes (no files, every text in every script) for the tower from scratch, otherwise the
    tokenizer of the named encoder. Call it with ``padding=True, truncation=True``: it adds a
    real end token, also to a text it has to cut.

    Raises:
        OSError: the named encoder has no tokenizer there.
        SpikeDataError: the embedded encoder is not installed, or its file is another one.
    """
    place = text_place(config)
    if not place:
        return ByT5Tokenizer(extra_ids=0, model_max_length=config.max_text_tokens)
    return AutoTokenizer.from_pretrained(place, trust_remote_code=False)


def text_place(config: SpklipConfig) -> str:
    """Name or folder of the pretrained text encoder; empty where there is none.

    A joint image and text encoder brings its own texts.

    Raises:
        SpikeDataError: the embedded encoder is not installed, or its file is another one.
    """
    if config.text_encoder == "embedded":
        return str(MINILM.find().parent)
    joint = config.image_config is not None and config.image_config["vector"] == "joint"
    return config.text_encoder or (config.image_encoder if joint else "")


def text_encoder_config(config: SpklipConfig) -> PretrainedConfig:
    """Architecture of the text encoder: CLIP's over bytes, or the named encoder's own."""
    if config.text_config is not None:
        kept: dict[str, Any] = dict(config.text_config)
        architecture: PretrainedConfig = AutoConfig.for_model(kept.pop("model_type"), **kept)
        return architecture
    if place := text_place(config):
        whole: PretrainedConfig = AutoConfig.from_pretrained(place, trust_remote_code=False)
        own: PretrainedConfig = whole.get_text_config()
        if own is not whole and hasattr(whole, "projection_dim"):
            own.projection_dim = whole.projection_dim  # CLIP's halves share that of the whole
        return own
    return CLIPTextConfig(
        vocab_size=BYTE_VOCABULARY,
        hidden_size=config.text_width,
        intermediate_size=4 * config.text_width,
        projection_dim=config.embed_dim,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_heads,
        max_position_embeddings=config.max_text_tokens,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=END_ID,
        attention_dropout=config.dropout,
    )


def build_text_encoder(config: SpklipConfig, *, pretrained: bool) -> PreTrainedModel:
    """Text encoder of ``config``; a named one comes with its weights if ``pretrained``.

    Its architecture is noted in ``config.text_config``, and how it is pooled in
    ``config.text_pooling``, so that a saved model is loaded without asking for the named encoder
    again. CLIP and SigLIP come with the projection into the space they share with pictures.

    Raises:
        OSError: the named encoder cannot be loaded.
        SpikeDataError: the embedded one is not installed, or pools texts in a way unknown here.
    """
    place = text_place(config)
    note_text_encoder(config)
    architecture = text_encoder_config(config)
    joint = config.text_pooling == "joint"
    kind: Any = JOINT_TEXT[architecture.model_type] if joint else AutoModel
    encoder: PreTrainedModel
    if place and pretrained:
        encoder = kind.from_pretrained(place, config=architecture, dtype=torch.float32)
    elif kind is AutoModel:
        encoder = AutoModel.from_config(architecture)  # type: ignore[no-untyped-call]
    else:
        encoder = kind(architecture)
    if architecture.is_encoder_decoder:
        encoder = encoder.get_encoder()
    return encoder


def note_text_encoder(config: SpklipConfig) -> None:
    """Note in ``config`` how its text encoder is built and pooled, if that is not known.

    A joint encoder's shared space decides ``embed_dim``.

    Raises:
        OSError: the named encoder cannot be found.
        SpikeDataError: it is not installed, or pools texts in a way unknown here.
    """
    if config.text_pooling is None:
        config.text_pooling = _pooling_of(config, text_place(config))
    architecture = text_encoder_config(config)
    config.text_config = architecture.to_dict()
    if config.text_pooling == "joint":
        config.embed_dim = _joint_width(architecture)


def _joint_width(architecture: Any) -> int:
    """Width of the space that a joint text encoder shares with pictures."""
    if architecture.model_type == "clip_text_model":
        return int(architecture.projection_dim)
    return int(getattr(architecture, "projection_size", None) or architecture.hidden_size)


def _pooling_of(config: SpklipConfig, place: str) -> str:
    """How a text's states become its vector: ``end``, ``mean``, ``cls``, or ``joint``.

    Raises:
        SpikeDataError: a sentence encoder that pools otherwise, or has layers after pooling.
    """
    if not place:
        return "end"
    kind = AutoConfig.from_pretrained(place, trust_remote_code=False).model_type
    if kind in ("clip", "siglip", "siglip2") or kind in JOINT_TEXT:
        return "joint"
    if _read_json(place, "2_Dense/config.json"):
        raise SpikeDataError(
            f"text_encoder {config.text_encoder!r}: has a dense layer after pooling, which is not "
            "supported; name a sentence encoder without one"
        )
    told = _read_json(place, "1_Pooling/config.json")
    if told.get("pooling_mode") in ("mean", "cls"):  # as newer ones write it
        return str(told["pooling_mode"])
    modes = [key for key, value in told.items() if key.startswith("pooling_mode_") and value]
    if not modes or modes == ["pooling_mode_mean_tokens"]:
        return "mean"
    if modes == ["pooling_mode_cls_token"]:
        return "cls"
    raise SpikeDataError(
        f"text_encoder {config.text_encoder!r}: pools by {', '.join(modes)}; mean of tokens and "
        "the first token are supported"
    )


def _read_json(place: str, name: str) -> dict[str, Any]:
    """A small file of a folder or a Hub model; empty where there is none."""
    file = cached_file(
        place,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if file is None:
        return {}
    try:
        read = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SpikeDataError(f"{file}: is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise SpikeDataError(f"{file}: is no JSON object")
    return read


def end_token(hidden_ble: Tensor, attention_mask_bl: Tensor) -> Tensor:
    """State of each text's last real token, (B, E)."""
    place_l = torch.arange(1, hidden_ble.shape[1] + 1, device=hidden_ble.device)
    last_b = (attention_mask_bl.bool() * place_l).argmax(dim=1)
    return hidden_ble[torch.arange(len(hidden_ble), device=hidden_ble.device), last_b]


def mean_token(hidden_ble: Tensor, attention_mask_bl: Tensor) -> Tensor:
    """Mean state of each text's real tokens, (B, E)."""
    weight_bl1 = attention_mask_bl[:, :, None].to(hidden_ble.dtype)
    return (hidden_ble * weight_bl1).sum(dim=1) / weight_bl1.sum(dim=1)


def first_token(hidden_ble: Tensor, attention_mask_bl: Tensor) -> Tensor:
    """State of each text's first token, (B, E)."""
    return hidden_ble[:, 0]


POOLS = {"end": end_token, "mean": mean_token, "cls": first_token}
MOST_KEPT_TEXTS = 4096


class TextTower(nn.Module):
    """Text encoder, adapter and projection.

    Encoders are pooled as they were trained: the one from scratch at the end token, which alone
    has seen the whole text, sentence encoders as they say. Joint ones (CLIP, SigLIP) have a vector
    in the space they share with pictures, and it is kept: nothing stands between. The same holds
    for a frozen encoder whose vectors are as wide as the shared space: a sentence that no training
    saw then keeps its meaning. A frozen encoder never drops out; the adapter, a small residual
    bottleneck, and the projection learn.
    """

    def __init__(self, config: SpklipConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.encoder = build_text_encoder(config, pretrained=pretrained)
        self.pooling = str(config.text_pooling)
        joint = self.pooling == "joint"
        own: Any = self.encoder.config
        width = _joint_width(own) if joint else own.hidden_size
        self.frozen = config.text_frozen or (joint and not config.text_encoder)
        if self.frozen:
            self.encoder.requires_grad_(False)
        self.adapter: nn.Module | None = None
        if config.text_adapter_width:
            self.adapter = nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, config.text_adapter_width),
                nn.GELU(),
                nn.Linear(config.text_adapter_width, width),
            )
        self.leave: nn.Module = nn.Sequential(
            nn.Linear(width, config.embed_dim, bias=False),
            FeatureNorm(config.embed_dim, affine=False),
        )
        as_it_is = self.frozen and self.adapter is None and width == config.embed_dim
        if joint or (as_it_is and config.text_encoder):
            self.leave = nn.Identity()
        positions = own.max_position_embeddings if joint else 0
        self.pads_to = 0 if own.model_type == "clip_text_model" else positions
        self._known: dict[bytes, Tensor] = {}

    def train(self, mode: bool = True) -> "TextTower":
        """Switch training on or off; a frozen encoder stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.encoder.train(False)
        return self

    def forward(self, input_ids_bl: Tensor, attention_mask_bl: Tensor) -> Tensor:
        """Token ids and mask (B, L) to text vectors (B, embed_dim), not normalised."""
        if self.frozen:
            text_be = self._kept(input_ids_bl, attention_mask_bl)
        else:
            text_be = self._pooled(input_ids_bl, attention_mask_bl)
        if self.adapter is not None:
            text_be = text_be + self.adapter(text_be)
        text_bd: Tensor = self.leave(text_be)
        return text_bd

    def _pooled(self, input_ids_bl: Tensor, attention_mask_bl: Tensor) -> Tensor:
        if self.pads_to:  # SigLIP reads the last place, and was trained to read padding before it
            input_ids_bl = self._padded(input_ids_bl, attention_mask_bl)
            vector_be: Tensor = self.encoder(input_ids=input_ids_bl).pooler_output
            return vector_be
        output = self.encoder(input_ids=input_ids_bl, attention_mask=attention_mask_bl)
        if self.pooling == "joint":
            own_be: Tensor = output.text_embeds
            return own_be
        return POOLS[self.pooling](output.last_hidden_state, attention_mask_bl)

    def _padded(self, input_ids_bl: Tensor, attention_mask_bl: Tensor) -> Tensor:
        """Token ids as long as the encoder was trained on, (B, pads_to)."""
        ids_bl = input_ids_bl[:, : self.pads_to]
        real_bl = attention_mask_bl[:, : self.pads_to].bool()
        padding = self.encoder.config.pad_token_id
        ids_bl = torch.where(real_bl, ids_bl, padding)
        return F.pad(ids_bl, (0, self.pads_to - ids_bl.shape[1]), value=padding)

    @torch.no_grad()
    def _kept(self, input_ids_bl: Tensor, attention_mask_bl: Tensor) -> Tensor:
        """Vectors of a frozen encoder; each text is read once, alone, however often it comes."""
        keys = []
        for padded_l, real_l in zip(input_ids_bl, attention_mask_bl.bool(), strict=True):
            ids_l, mask_l = padded_l[real_l], torch.ones_like(padded_l[real_l])
            key = ids_l.cpu().numpy().tobytes()
            keys.append(key)
            if key not in self._known:
                if len(self._known) >= MOST_KEPT_TEXTS:
                    self._known.clear()
                self._known[key] = self._pooled(ids_l[None], mask_l[None])[0]
        return torch.stack([self._known[key] for key in keys]).to(input_ids_bl.device)
