"""Text tower: tokens to one vector a text, from scratch or from a pretrained Hugging Face encoder.

Shapes: B texts, L tokens, E width of the encoder, D width of the shared space.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    ByT5Tokenizer,
    CLIPTextConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from spklip.model.config import SpklipConfig
from spklip.model.feature_norm import FeatureNorm

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
    """
    if not config.text_encoder:
        return ByT5Tokenizer(extra_ids=0, model_max_length=config.max_text_tokens)
    return AutoTokenizer.from_pretrained(config.text_encoder)


def text_encoder_config(config: SpklipConfig) -> PretrainedConfig:
    """Architecture of the text encoder: CLIP's over bytes, or the named encoder's own."""
    if config.text_config is not None:
        kept: dict[str, Any] = dict(config.text_config)
        architecture: PretrainedConfig = AutoConfig.for_model(kept.pop("model_type"), **kept)
        return architecture
    if config.text_encoder:
        whole: PretrainedConfig = AutoConfig.from_pretrained(config.text_encoder)
        return whole.get_text_config()
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

    Its architecture is noted in ``config.text_config``, so that a saved model is loaded without
    asking for the named encoder again.
    """
    architecture = text_encoder_config(config)
    config.text_config = architecture.to_dict()
    encoder: PreTrainedModel
    if config.text_encoder and pretrained:
        encoder = AutoModel.from_pretrained(config.text_encoder, config=architecture)
    else:
        encoder = AutoModel.from_config(architecture)  # type: ignore[no-untyped-call]
    if architecture.is_encoder_decoder:
        encoder = encoder.get_encoder()
    return encoder


def end_token(hidden_ble: Tensor, attention_mask_bl: Tensor) -> Tensor:
    """State of each text's last real token, (B, E)."""
    place_l = torch.arange(1, hidden_ble.shape[1] + 1, device=hidden_ble.device)
    last_b = (attention_mask_bl.bool() * place_l).argmax(dim=1)
    return hidden_ble[torch.arange(len(hidden_ble), device=hidden_ble.device), last_b]


def mean_token(hidden_ble: Tensor, attention_mask_bl: Tensor) -> Tensor:
    """Mean state of each text's real tokens, (B, E)."""
    weight_bl1 = attention_mask_bl[:, :, None].to(hidden_ble.dtype)
    return (hidden_ble * weight_bl1).sum(dim=1) / weight_bl1.sum(dim=1)


class TextTower(nn.Module):
    """Text encoder, adapter and projection.

    CLIP encoders are causal and are pooled at the end token, which alone has seen the whole
    text; others at the mean of the real tokens. A frozen encoder keeps its weights and never
    drops out; the adapter, a small residual bottleneck, and the projection learn.
    """

    def __init__(self, config: SpklipConfig, *, pretrained: bool) -> None:
        super().__init__()
        self.encoder = build_text_encoder(config, pretrained=pretrained)
        width = self.encoder.config.hidden_size
        self.pool = end_token if "clip" in self.encoder.config.model_type else mean_token
        self.frozen = config.text_frozen
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
        self.leave = nn.Sequential(
            nn.Linear(width, config.embed_dim, bias=False),
            FeatureNorm(config.embed_dim, affine=False),
        )

    def train(self, mode: bool = True) -> "TextTower":
        """Switch training on or off; a frozen encoder stays in evaluation."""
        super().train(mode)
        if self.frozen:
            self.encoder.train(False)
        return self

    def forward(self, input_ids_bl: Tensor, attention_mask_bl: Tensor) -> Tensor:
        """Token ids and mask (B, L) to text vectors (B, embed_dim), not normalised."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            output = self.encoder(input_ids=input_ids_bl, attention_mask=attention_mask_bl)
        text_be = self.pool(output.last_hidden_state, attention_mask_bl)
        if self.adapter is not None:
            text_be = text_be + self.adapter(text_be)
        text_bd: Tensor = self.leave(text_be)
        return text_bd
