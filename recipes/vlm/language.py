"""The small model in LLaVA's classes, its tokenizer of whole words, and questions with their answers."""

from __future__ import annotations

import random
from typing import NamedTuple

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from efface.concepts.questions import NAME, STYLE, presence, with_article
from recipes.emoji.compose import CELL
from recipes.emoji.places import SIDE
from recipes.emoji.words import BENCHMARK, STYLES

WIDTH = 128
LAYERS = 3
CELLS = (SIDE // CELL) ** 2
"""Tokens of a picture."""
NAMES = (NAME, "What is it?", "Name what is there.")
HANDS = (STYLE, "Which style is it?", "What is the style?")
PRESENCE = ("Is there {} in the picture?", "Is there {}?", "Does it show {}?")
"""Ways to ask; an audit asks the first of each."""
NOTHING = "nothing"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<answer>{% endif %}"
)


class Question(NamedTuple):
    """A question with its answer."""

    question: str
    answer: str


def questions(things: list[int], style: int, rng: random.Random) -> list[Question]:
    """Four questions about a picture of things from left to right or top to bottom: what it is, the style, one that is answered by yes
    and one by no; of a picture of nothing, what it is and three that are answered by no."""
    there = [BENCHMARK[thing] for thing in things]
    absent = [name for name in BENCHMARK if name not in there]
    answer = " and ".join(map(with_article, there)) or NOTHING
    asked = [Question(rng.choice(NAMES), answer)]
    if there:
        asked.append(Question(rng.choice(HANDS), STYLES[style]))
        asked.append(Question(rng.choice(PRESENCE).format(with_article(rng.choice(there))), "yes"))
    while len(asked) < 4:
        asked.append(Question(rng.choice(PRESENCE).format(with_article(rng.choice(absent))), "no"))
    return asked


def new_processor() -> LlavaProcessor:
    """Pictures of 96 px in −1..1, and a tokenizer that knows every word of the questions and answers."""
    texts = [*NAMES, *HANDS, *PRESENCE, *map(presence, BENCHMARK), *STYLES, NOTHING, "yes no and"]
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    lower = normalizers.Lowercase()
    found = [word for text in texts for word, _ in split.pre_tokenize_str(lower.normalize_str(text))]
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<answer>"]
    words += sorted(set(found) - {"{", "}"})
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = lower, split
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=["<image>", "<answer>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    pictures = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=fast,
        patch_size=CELL,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def new_model(tower: CLIPVisionModel, processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """A LLaVA with this tower, whose projector and language model have random weights."""
    tokenizer = processor.tokenizer
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=WIDTH // 32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=CELLS,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    return model
