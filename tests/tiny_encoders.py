"""Small encoders of several kinds, of random weights, as folders that transformers reads."""

from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
WORDS = {"vocab_size": 99, "max_position_embeddings": 16}
PICTURES = {"image_size": 32, "patch_size": 8}


def write_encoders(folder: Path) -> Path:
    """Write ``clip``, ``siglip``, ``vit``, ``headless`` (no pooler), ``resnet`` and ``bert``."""
    torch.manual_seed(0)
    words = SMALL | WORDS
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    clip = CLIPModel(
        CLIPConfig(text_config=words | ends, vision_config=SMALL | PICTURES, projection_dim=24)
    )
    clip.logit_scale.data.fill_(3.3)
    made = {
        "clip": clip,
        "siglip": SiglipModel(SiglipConfig(text_config=words, vision_config=SMALL | PICTURES)),
        "vit": ViTModel(ViTConfig(**SMALL, **PICTURES)),
        "headless": ViTModel(ViTConfig(**SMALL, **PICTURES), add_pooling_layer=False),
        "resnet": ResNetModel(ResNetConfig(hidden_sizes=[16, 32], depths=[1, 1], embedding_size=8)),
        "bert": BertModel(BertConfig(**SMALL, vocab_size=99)),
    }
    for name, model in made.items():
        model.save_pretrained(folder / name)
    return folder
