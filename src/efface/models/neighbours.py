"""The nearest neighbours of a concept in a model's own text space: what an erasure is most likely to damage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from efface.concepts.concept import Concept, own_words
from efface.models.model import Model

SHORTLIST = 512
"""Words whose token embeddings are nearest, which are then encoded in full."""


def neighbours(model: Model, concept: Concept, count: int = 16) -> list[str]:
    """Up to `count` prompts that name the concept's nearest words, nearest first.

    Candidates are the whole words of the tokenizer's vocabulary; a shortlist by token embedding is encoded through the
    concept's first template and ranked by cosine similarity at the last subject token. The concept's own name and
    aliases, and words that share its stem, are left out.
    """
    span = model.token_spans()[0]
    own = own_words(concept)
    words = {i: word for i, word in span.words().items() if not any(same_stem(word, part) for part in own)}
    if not words:
        return []
    encoder: Any = span.encoder
    table = encoder.get_input_embeddings().weight.detach().float()
    ids = span.ids(concept.name)
    query = F.normalize(table[ids].mean(0), dim=0)
    candidates = torch.tensor(list(words), device=table.device)
    nearest = (F.normalize(table[candidates], dim=1) @ query).topk(min(SHORTLIST, len(candidates))).indices
    shortlist = [words[int(candidates[i])] for i in nearest]
    prompts = [concept.templates[0].replace("{}", word) for word in shortlist]
    prefix = concept.templates[0].split("{}")[0]
    own_prompt = concept.templates[0].replace("{}", concept.name)
    target = model.encode([own_prompt]).states[0, span.position(prefix + concept.name, own_prompt)]
    positions = [span.position(prefix + word, prompt) for word, prompt in zip(shortlist, prompts, strict=True)]
    states = model.encode(prompts).states[range(len(prompts)), positions]
    order = F.cosine_similarity(states.float(), target.float()[None]).argsort(descending=True)
    return [prompts[int(i)] for i in order[:count]]


def same_stem(word: str, name: str) -> bool:
    """Whether one begins with the other and is at most three letters longer."""
    shorter, longer = sorted((word, name), key=len)
    return longer.startswith(shorter) and len(longer) - len(shorter) <= 3


def retained_prompts(model: Model, concepts: Sequence[Concept]) -> list[str]:
    """What an erasure retains when its user names nothing: the presets' prompts, or the nearest neighbours."""
    proposed = [prompt for c in concepts for prompt in (c.keep or neighbours(model, c))]
    erased = {prompt for c in concepts for prompt in c.prompts()}
    return [prompt for prompt in dict.fromkeys(proposed) if prompt not in erased]
