"""The neighbours of a concept in a model's own text space: what an erasure is most likely to damage, and what it retains."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.concepts.concept import Concept, own_words
from efface.concepts.retained import FEW, candidates, may_stay, naming, proposals
from efface.concepts.same import same
from efface.concepts.siblings import siblings
from efface.concepts.words import meaningful
from efface.errors import UsageError
from efface.families.storage import storage_of, values_of
from efface.families.text import TokenSpan
from efface.io import cache
from efface.io.digest import digest_of_weights
from efface.models.explained import explained
from efface.models.model import Model
from efface.models.precision import in_float32_where_it_fits

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

    Orders are kept in the cache folder, by the content of the text encoders and of what was asked.

    Args:
        words: each with its tokens.
        most: the shortlist: words whose token embeddings are nearest on average, which alone are encoded.
    """
    span = model.token_spans()[0]
    own = span.ids(concept.name)
    words = {word: ids for word, ids in words.items() if ids}
    if not words or not own:
        return []
    question = [concept.name, concept.templates[0], own, sorted(words.items()), most]
    name = _key(model, question)
    path = cache.cache_folder() / f"neighbours-{name}.json"
    if name and path.exists():
        with suppress(OSError, ValueError):  # a cache file that cannot be read is made again
            known = json.loads(path.read_text())
            if isinstance(known, list) and set(known) <= set(words):
                return known
    ranked = _ranked(model, concept, _shortlist(span, own, words, most))
    if name:
        cache.keep(path, json.dumps(ranked).encode())
    return ranked


def _key(model: Model, question: list[Any]) -> str:
    """What an order depends on, as a hash; "" where text encoders do more than their weights say."""
    encoders = model.family.text_encoders()
    modules = [part for encoder in encoders.values() for part in encoder.modules()]
    parameters = [(part, name) for part in modules for name, p in part._parameters.items() if p is not None]
    if any(hasattr(part, "base_layer") or part._forward_hooks or part._forward_pre_hooks for part in modules):
        return ""  # adapters and hooks
    if any(storage_of(part, name).coarse for part, name in parameters):
        return ""  # quantised
    hashed = hashlib.sha256(json.dumps([model.family.name, list(encoders), question]).encode())
    for tokenizer in model.family.tokenizers():
        fast = getattr(tokenizer, "backend_tokenizer", None)
        hashed.update((fast.to_str() if fast else json.dumps(tokenizer.get_vocab(), sort_keys=True)).encode())
    hashed.update(digest_of_weights(values_of(part, name) for part, name in parameters).encode())
    return hashed.hexdigest()[:32]


def _shortlist(span: TokenSpan, own: list[int], words: dict[str, list[int]], most: int) -> list[str]:
    """The words whose token embeddings are nearest, on average, to those of a concept's own tokens."""
    encoder: Any = span.encoder
    lookup = encoder.get_input_embeddings()
    weight = values_of(lookup, "weight", called="the table of token embeddings")
    table = weight[torch.tensor([i for ids in (own, *words.values()) for i in ids], device=weight.device)].float()
    means = torch.stack([part.mean(0) for part in table.split([len(own), *(len(ids) for ids in words.values())])])
    likeness = F.normalize(means[1:], dim=1) @ F.normalize(means[0], dim=0)
    names = list(words)
    return [names[int(i)] for i in likeness.topk(min(most, len(names))).indices]


def _ranked(model: Model, concept: Concept, words: Sequence[str]) -> list[str]:
    """Words by the likeness of their states to the concept's, at the last subject token of its first template."""
    span = model.token_spans()[0]
    prefix, ending = concept.templates[0].split("{}")
    words = [word for word in words if not span.truncated(prefix + word + ending)]
    names = [concept.name, *words]
    prompts = [prefix + name + ending for name in names]
    positions = [span.position(prefix + name, prompt) for name, prompt in zip(names, prompts, strict=True)]
    states = states_at(model, prompts, positions)
    order = F.cosine_similarity(states[1:], states[:1]).argsort(descending=True, stable=True)
    return [words[int(i)] for i in order]


@torch.no_grad()
def states_at(model: Model, prompts: Sequence[str], positions: Sequence[int], batch: int = 64) -> Tensor:
    """The text state of each prompt at one position of the first span (prompts width), in float32."""

    def encode() -> Tensor:
        # Prompts of about one length together: a causal encoder then reads few tokens in vain.
        order = sorted(range(len(prompts)), key=lambda i: positions[i])
        chunks = (order[i : i + batch] for i in range(0, len(order), batch))
        with explained(model.family.text_encoders):
            parts = [model.family.states_at([prompts[i] for i in c], [positions[i] for i in c]) for c in chunks]
        states = torch.cat(parts)
        return states[torch.tensor(order).argsort().to(states.device)]

    return in_float32_where_it_fits(model.family.text_encoders().values(), encode).float()


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
    """The prompts that a user retains, but for those that name what is erased, of which it warns; `keep` itself where none does.

    Raises:
        UsageError: a single text was given instead of several.
    """
    if isinstance(keep, str):
        raise UsageError(f"keep is the text {keep!r}; expected a list of prompts: write keep=[{keep!r}].")
    contrary = set(naming(keep, erased))
    if contrary:
        named = [concept for concept in erased if naming(contrary, [concept])]
        names = ", ".join(repr(concept.name) for concept in named[:SHOWN])
        warnings.warn(f"{_listed(contrary)} would retain what is to be erased ({names}): left out.", stacklevel=4)
    return [prompt for prompt in keep if prompt not in contrary] if contrary else keep


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
