"""A tiny LLaVA with random weights, in transformers' own classes, and pictures for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from efface.models.vlm import VisionLanguageModel

WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "<image>",
    "USER",
    ":",
    "ASSISTANT",
    "what",
    "is",
    "in",
    "the",
    "picture",
    "?",
    "which",
    "style",
    "it",
    "drawn",
    "there",
    "a",
    "an",
    "cat",
    "dog",
    "church",
    "red",
    "blue",
    "yes",
    "no",
]


def tiny_processor(template: str | None = None) -> LlavaProcessor:
    """A processor of 32 px pictures and whole words."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=["<image>"],
    )  # fmt: skip
    pictures = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def tiny_vlm(seed: int = 0, layer: int | list[int] = -2) -> VisionLanguageModel:
    """A LLaVA of four vision layers of width 32 that reads 16 cells of a picture."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=128, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=WORDS.index("<image>"), image_seq_length=16,
        vision_feature_layer=layer,
    )  # fmt: skip
    return VisionLanguageModel(LlavaForConditionalGeneration(config).eval(), tiny_processor(), "tiny")


def patches(name: str, count: int, seed: int = 0) -> list[Image.Image]:
    """Pictures of noise with a square in the colour that a name stands for."""
    colours = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0)}
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        pixels = generator.integers(90, 160, (32, 32, 3), dtype=np.uint8)
        row, column = generator.integers(0, 16, 2)
        pixels[row : row + 16, column : column + 16] = colours[name]
        made.append(Image.fromarray(pixels))
    return made


def write_pictures(folder: Path, counts: dict[str, int], seed: int = 0, style: str = "") -> Path:
    """FOLDER/red/0.png …, or with a style FOLDER/red/STYLE/0.png."""
    for name, count in counts.items():
        place = folder / name / style if style else folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(patches(name, count, seed)):
            picture.save(place / f"{number}.png")
    return folder


def logits(
    vlm: VisionLanguageModel, pictures: Sequence[Image.Image], question: str = "what is in the picture ?"
) -> Any:
    """The model's logits of the answer's first token (pictures vocabulary)."""
    given = vlm.processor(images=list(pictures), text=[vlm.prompt(question)] * len(pictures), return_tensors="pt")
    with torch.no_grad():
        return vlm.network(**given).logits[:, -1]
