"""Captions for pictures: what a training prompt says of an object, a style and a background."""

from __future__ import annotations

import random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from efface.profiles.emoji.words import BACKGROUNDS, OBJECTS, STYLES, caption

COLOURS = tuple(BACKGROUNDS)
LENGTH = 24
"""Tokens a prompt may have, begin and end included."""
MERGES = 700
"""Size of the learnt part of the vocabulary."""


def sample_caption(thing: int, style: int, colour: int, rng: random.Random, empty: float = 0.1) -> str:
    """A caption of the picture (indices into OBJECTS, STYLES, COLOURS).

    Three quarters name the object, the rest use an alias, its superclass or "picture", so that every anchor an
    eraser may choose is a word the model has seen. A background is named unless it is white.
    """
    if rng.random() < empty:
        return ""
    entry, draw = OBJECTS[thing], rng.random()
    noun = entry.name
    if draw < 0.15 and entry.aliases:
        noun = rng.choice(entry.aliases)
    elif draw > 0.97:
        noun = "picture"
    elif draw > 0.9:
        noun = entry.kind
    named_style = STYLES[style] if rng.random() < 0.87 else None
    named_colour = COLOURS[colour] if colour or rng.random() < 0.05 else None
    return caption(noun, named_style, named_colour)


def train_tokenizer(seed: int = 0) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE) whose merges are learnt from the captions."""
    rng = random.Random(seed)
    corpus = [
        sample_caption(o, s, rng.randrange(len(COLOURS)), rng, empty=0)
        for o in range(len(OBJECTS))
        for s in range(len(STYLES))
        for _ in range(20)
    ]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = CLIPTokenizer().backend_tokenizer.normalizer
    learner.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) * 2 + MERGES, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    learner.train_from_iterator(corpus, trainer)
    merges = [tuple(pair) for pair in _merges(learner)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(a + "</w>" for a in alphabet)]
    tokens += [a + b for a, b in merges]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def _merges(learner: Tokenizer) -> list[list[str]]:
    import json

    return json.loads(learner.to_str())["model"]["merges"]
