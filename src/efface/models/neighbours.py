"""The neighbours of a concept in a model's own text space: what an erasure is most likely to damage, and what it retains."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from efface.concepts.concept import Concept, own_words
from efface.concepts.retained import FEW, candidates, may_stay, naming, proposals
from efface.concepts.same import same
from efface.concepts.siblings import siblings
from efface.concepts.words import meaningful
from efface.errors import UsageError
from efface.models.model import Model

SHORTLIST = 512
"""Words whose token embeddings are nearest, which are then encoded in full."""
MOST = 256
"""Names of what stands beside a concept that are encoded in full."""
SHOWN = 3
"""Prompts that a warning lists."""


def neighbours(model: Model, concept: Concept, count: int = 16, erased: Sequence[Concept] = ()) -> list[str]:
    """Up to `count` prompts of what is nearest to a concept and is not it, nor anything erased with it, nearest first.

    Candidates are what stands beside the concept and, unless that is all of its kind (artists, persons), the known things
    among the whole words of the tokenizer's vocabulary; of a concept that brings prompts to retain, their words. Nothing that
    means the concept is among them: no synonym, inflection, kind of it or piece of its name. A shortlist by token embedding is
    encoded through the concept's first template and ranked by cosine similarity at the last subject token.
    """
    known = vocabulary(model)
    going = [same(one) for one in dict.fromkeys((concept, *erased))]
    names: Iterable[str] = siblings(concept)
    if concept.keep:
        words = dict.fromkeys(word for prompt in concept.keep for word in meaningful(prompt))
        names = [word for word in words if word in known]
    elif concept.kind not in ("style", "person") or len(siblings(concept)) < FEW:
        names = [*names, *(word for word in known if may_stay(word, going))]
    names = [name for name in names if not any(own.excludes(name) for own in going)]
    ranked = nearest(model, concept, tokens_of(model, names, known), SHORTLIST)
    return [concept.templates[0].replace("{}", name) for name in ranked[:count]]


def vocabulary(model: Model) -> dict[str, int]:
    """Whole words of the first tokenizer's vocabulary, each with its token."""
    return {word: number for number, word in model.token_spans()[0].words().items()}


def tokens_of(model: Model, names: Iterable[str], known: Mapping[str, int]) -> dict[str, list[int]]:
    """Each name with its tokens, those of the vocabulary without asking the tokenizer; names with unknown tokens are left out."""
    span = model.token_spans()[0]
    tokenized = {name: [known[name]] if name in known else span.ids(name) for name in dict.fromkeys(names)}
    unknown = span.tokenizer.unk_token_id
    return {name: ids for name, ids in tokenized.items() if ids and unknown not in ids}


def nearest_words(model: Model, concept: Concept, count: int) -> list[str]:
    """Up to `count` prompts of the nearest whole words of the vocabulary that are not the concept's own, nearest first.

    They may well mean the concept, as attacks want it: only its own words and what shares their stem are left out.
    """
    own = own_words(concept)
    words = {word: [i] for word, i in vocabulary(model).items() if not any(same_stem(word, part) for part in own)}
    return [concept.templates[0].replace("{}", word) for word in nearest(model, concept, words, SHORTLIST)[:count]]


def same_stem(word: str, name: str) -> bool:
    """Whether one begins with the other and is at most three letters longer."""
    shorter, longer = sorted((word, name), key=len)
    return longer.startswith(shorter) and len(longer) - len(shorter) <= 3


def nearest(model: Model, concept: Concept, words: dict[str, list[int]], most: int) -> list[str]:
    """Words by their nearness to a concept in the model's text space, nearest first.

    Args:
        words: each with its tokens.
        most: the shortlist: words whose token embeddings are nearest on average, which alone are encoded.
    """
    span = model.token_spans()[0]
    own = span.ids(concept.name)
    if not words or not own:
        return []
    encoder: Any = span.encoder
    weight = encoder.get_input_embeddings().weight.detach()
    table = weight[torch.tensor([i for ids in (own, *words.values()) for i in ids], device=weight.device)].float()
    means = torch.stack([part.mean(0) for part in table.split([len(own), *(len(ids) for ids in words.values())])])
    likeness = F.normalize(means[1:], dim=1) @ F.normalize(means[0], dim=0)
    names = list(words)
    shortlist = [names[int(i)] for i in likeness.topk(min(most, len(names))).indices]
    prefix, ending = concept.templates[0].split("{}")
    shortlist = [word for word in shortlist if not span.truncated(prefix + word + ending)]
    prompts = [prefix + word + ending for word in shortlist]
    own_prompt = prefix + concept.name + ending
    target = model.encode([own_prompt]).states[0, span.position(prefix + concept.name, own_prompt)]
    positions = [span.position(prefix + word, prompt) for word, prompt in zip(shortlist, prompts, strict=True)]
    states = model.encode(prompts).states[range(len(prompts)), positions]
    order = F.cosine_similarity(states.float(), target.float()[None]).argsort(descending=True)
    return [shortlist[int(i)] for i in order]


BLANK = " "
"""The prompt that says nothing, as the papers' presets have it."""


def retained_prompts(model: Model, concepts: Sequence[Concept], *, blank: bool = False) -> list[str]:
    """What an erasure retains when its user names nothing: the presets' prompts, or what stands beside the concept.

    Siblings of objects, styles and persons are ordered by the model's text space; explicit and abstract concepts retain
    neutral prompts and, with `blank`, the blank one first. Nothing that means one of the concepts is among them, whatever the
    model puts nearest.
    """
    unseen = [c for c in concepts if c.kind in ("explicit", "abstract") and not c.keep]
    proposed = [BLANK] if blank and unseen else []
    proposed += [prompt for c in concepts for prompt in (c.keep or beside(model, c, concepts))]
    erased = {prompt for c in concepts for prompt in c.prompts()}
    return [prompt for prompt in dict.fromkeys(proposed) if prompt not in erased]


def checked_keep(model: Model, keep: Sequence[str], erased: Sequence[Concept]) -> Sequence[str]:
    """The prompts that a user retains, but for those that name what is erased; `keep` itself where none does.

    Warns of every prompt that is left out, and of those of which the model reads only the beginning.

    Raises:
        UsageError: a single text was given instead of several.
    """
    if isinstance(keep, str):
        raise UsageError(f"keep is the text {keep!r}; expected a list of prompts: write keep=[{keep!r}].")
    contrary = set(naming(keep, erased))
    if contrary:
        names = ", ".join(repr(concept.name) for concept in erased[:SHOWN])
        warnings.warn(f"{_listed(contrary)} would retain what is to be erased ({names}): left out.", stacklevel=3)
    kept = [prompt for prompt in keep if prompt not in contrary] if contrary else keep
    cut = [prompt for prompt in kept if model.truncated(prompt)]
    if cut:
        warnings.warn(
            f"{_listed(cut)} is longer than the {model.max_tokens} tokens the model reads: only the beginning is retained.",
            stacklevel=3,
        )
    return kept


def _listed(prompts: Collection[str]) -> str:
    """The first few of some prompts, as the subject of a sentence."""
    first = ", ".join(repr(prompt[:60]) for prompt in sorted(prompts)[:SHOWN])
    return first + (f" and {len(prompts) - SHOWN} more" if len(prompts) > SHOWN else "")


def beside(model: Model, concept: Concept, erased: Sequence[Concept] = (), count: int = 16) -> list[str]:
    """Up to `count` prompts of what may be retained beside a concept, the nearest in the model's text space first."""
    if concept.kind in ("explicit", "abstract"):
        return proposals(concept, (), count, erased)
    known = vocabulary(model)
    ranked = nearest(model, concept, tokens_of(model, candidates(concept, known, erased), known), MOST)
    chosen = [name for name in proposals(concept, ranked, count, erased) if name in ranked]
    return [concept.templates[0].replace("{}", name) for name in chosen]
