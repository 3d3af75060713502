"""The prior: what a text encoder makes of the words it knows, as one second moment that erasures of many concepts retain.

It is generated from the tokenizer's own whole words, once a text encoder, and kept in the cache folder. Rows count as unit
vectors, so that begin tokens and other outliers weigh no more than words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from efface.closed_form.gram import cache_folder
from efface.closed_form.moment import Moment
from efface.closed_form.rows import text_width
from efface.concepts.concept import Concept, own_words
from efface.concepts.sample import evenly_spaced
from efface.concepts.words import bases
from efface.errors import EffaceError
from efface.io.checkpoint import State, read_state, write_state
from efface.io.progress import Progress, silent
from efface.models.fingerprint import fingerprint_of
from efface.models.model import Model

RECIPE = 1
"""Version of how it is made; another makes another file."""
PROMPTS = 3000
"""Prompts that it is made of."""
PADDED = 64
"""Of those, how many are also read with their padding, of which each position's mean counts once."""
BATCH = 64
SAVED = 8
"""Batches after which a build can resume."""


class Prior(NamedTuple):
    """Unit rows of many prompts, and their mean second moment."""

    prompts: tuple[str, ...]
    rows: Tensor
    """Unit rows (rows width) in float16."""
    norms: Tensor
    """What they were divided by (rows,)."""
    owner: Tensor
    """Index of each row's prompt, −1 for the mean of a padding position (rows,)."""
    moment: Moment
    """Mean of r rᵀ over all rows."""
    pooled: Tensor | None = None
    """Pooled text of the prompts of `pooled_owner` (prompts width) in float16; None where the model has none."""
    pooled_owner: Tensor | None = None
    """Index of each one's prompt (prompts,)."""

    def pooled_vectors(self, concepts: Sequence[Concept]) -> Tensor:
        """Pooled text (prompts width), in float32, of the prompts that name none of the concepts."""
        assert self.pooled is not None
        assert self.pooled_owner is not None
        return self.pooled[~self._naming(concepts)[self.pooled_owner]].float()

    def _named(self, concepts: Sequence[Concept]) -> Tensor:
        """Which rows are of prompts that name one of the concepts, by a word of its names (rows,)."""
        return self._naming(concepts)[self.owner]

    def _naming(self, concepts: Sequence[Concept]) -> Tensor:
        """Which prompts name one of the concepts; the last entry is of no prompt (prompts + 1,)."""
        own = frozenset(base for c in concepts for word in own_words(c) for base in bases(word))
        named = [any(bases(word.strip(",")) & own for word in prompt.split()) for prompt in self.prompts]
        return torch.tensor([*named, False])

    def gram(self, concepts: Sequence[Concept]) -> Tensor:
        """G (width width) of trace 1 in float64, without the prompts that name what is erased."""
        named = self._named(concepts)
        return self.moment.without(self.rows[named].double(), len(self.rows))

    def states(self, concepts: Sequence[Concept]) -> Tensor:
        """Text states (rows width) of the prompts that name none of the concepts, in float32."""
        kept = ~self._named(concepts)
        return self.rows[kept].float() * self.norms[kept, None]


def prior_prompts(words: Mapping[int, str], count: int = PROMPTS) -> list[str]:
    """Prompts of a vocabulary's words, of which low numbers are the frequent ones: alone, in a sentence, and by threes."""
    ordered = list(dict.fromkeys(words[number] for number in sorted(words)))
    third = min(count // 3, len(ordered))
    frequent = ordered[:third]
    spaced = evenly_spaced(ordered, 3 * third, repeat=True)
    groups = zip(spaced[:third], spaced[third : 2 * third], spaced[2 * third :], strict=True)
    return [*frequent, *(f"a photo of a {w}" for w in frequent), *(f"{a} and {b}, {c}" for a, b, c in groups)]


def prior_path(model: Model) -> Path:
    """Where the prior of a model's text encoders is kept, which follows their weights."""
    # Modules of the denoiser whose output the projections read.
    readers = [entry.module for entry in model.networks()[0].text_inputs if entry.argument is None]
    parts = model.family.text_encoders() | {f"reader{i}": reader for i, reader in enumerate(readers)}
    known = fingerprint_of(model.family.name, text_width(model), parts, {}).to_json()
    key = hashlib.sha256(json.dumps([RECIPE, known]).encode()).hexdigest()[:32]
    return cache_folder() / f"prior-{key}.safetensors"


def cached_prior(model: Model) -> Prior | None:
    """The prior of a model where it was made before; None where it was not, or cannot be read."""
    path = prior_path(model)
    try:
        state, metadata = read_state(path)
        prompts = tuple(json.loads(metadata["prompts"]))
        moment = Moment.restore(state)
        fits = state["rows"].shape == (len(state["owner"]), text_width(model))
        found = Prior(prompts=prompts, moment=moment, **{n: state[n] for n in _parts(model)})
    except (SafetensorError, KeyError, ValueError, OSError):
        return None
    return found if fits and int(found.owner.max()) < len(prompts) else None


def build_prior(model: Model, progress: Progress = silent) -> Prior:
    """Make the prior of a model's text encoders and keep it; goes on where an earlier build was stopped.

    Raises:
        EffaceError: the tokenizer has no whole words, or the states are not finite.
    """
    prompts = prior_prompts(model.token_spans()[0].words())
    if not prompts:
        raise EffaceError("the tokenizer has no whole words to make a prior of: erase with prior=False.")
    path = prior_path(model)
    partial = path.with_suffix(".partial.safetensors")
    batches = _batches(model, prompts)
    state, done = _resumed(partial, len(batches), _parts(model))
    moment = Moment.restore(state) if state else Moment.empty(text_width(model))
    parts: dict[str, list[Tensor]] = {name: [state[name]] if state else [] for name in _parts(model)}
    for number, batch in enumerate(batches[done:], done):
        states, owners, vectors = _content(model, prompts, batch)
        if not states.isfinite().all():
            raise EffaceError(
                "the text encoder gives values that are not finite: no prior was made; check its weights."
            )
        length = states.norm(dim=1).clamp(min=torch.finfo(states.dtype).tiny)
        unit = states / length[:, None]
        moment = moment.add(unit)
        new = {"rows": unit.half(), "norms": length, "owner": owners}
        if vectors is not None and "pooled" in parts and not batch.padded:
            new |= {"pooled": vectors.half(), "pooled_owner": torch.tensor(batch.numbers)}
        for name, part in new.items():
            parts[name].append(part)
        if (number + 1) % SAVED == 0 or number + 1 == len(batches):
            parts = {name: [torch.cat(part)] for name, part in parts.items()}
            state = {name: part[0] for name, part in parts.items()} | moment.to_state()
            _write(partial, state, {"done": str(number + 1), "batches": str(len(batches))})
        progress((number + 1) / len(batches), f"{(number + 1) * BATCH} of {len(prompts)} prompts read")
    _write(path, state, {"prompts": json.dumps(prompts)})
    partial.unlink(missing_ok=True)
    return Prior(prompts=tuple(prompts), moment=moment, **{name: part[0] for name, part in parts.items()})


def _parts(model: Model) -> tuple[str, ...]:
    """Names of a prior's tensors; those of pooled text where maps reach it."""
    pooled = ("pooled", "pooled_owner") if any(network.pooled for network in model.networks()) else ()
    return ("rows", "norms", "owner", *pooled)


class Batch(NamedTuple):
    """Prompts that are read together."""

    numbers: list[int]
    """Their indices."""
    padded: bool
    """Whether it is their padding that is read."""


def _batches(model: Model, prompts: Sequence[str]) -> list[Batch]:
    """Prompts of a like length together, so that little padding is computed; last those whose padding is read."""
    span = model.token_spans()[0]
    order = sorted(range(len(prompts)), key=lambda i: len(span.ids(prompts[i])))
    order = [i for i in order if not model.truncated(prompts[i])]
    batches = [Batch(order[i : i + BATCH], padded=False) for i in range(0, len(order), BATCH)]
    return [*batches, Batch(evenly_spaced(order, PADDED), padded=True)] if model.family.reads_padding else batches


def _content(model: Model, prompts: Sequence[str], batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows (rows width) of a batch on the CPU in float32, the prompt of each (rows,), and pooled text (prompts width)."""
    chosen = [prompts[i] for i in batch.numbers]
    if model.family.takes_tokens and not batch.padded:
        span = model.token_spans()[0]
        with torch.no_grad():
            text = model.encode_tokens([span.ids(prompt) for prompt in chosen], padded=False)
    else:
        text = model.encode(chosen)
    states = model.projection_inputs(text).detach().float().cpu()
    mask = text.mask.cpu()
    if batch.padded:
        outside = (~mask).float()
        counts = outside.sum(0)
        means = torch.einsum("bt,btd->td", outside, states)[counts > 0] / counts[counts > 0, None]
        return means, torch.full((len(means),), -1), None
    owners = torch.tensor(batch.numbers)[:, None].expand_as(mask)
    return states[mask], owners[mask], None if text.pooled is None else text.pooled.detach().float().cpu()


def _resumed(partial: Path, batches: int, parts: Sequence[str]) -> tuple[State, int]:
    """The state of a build that was stopped and the batches it had done; nothing where there was none of this length and with
    these parts."""
    try:
        state, metadata = read_state(partial)
        if metadata["batches"] == str(batches) and set(parts) <= set(state):
            return state, int(metadata["done"])
    except (SafetensorError, KeyError, ValueError, OSError):
        pass
    return {}, 0


def _write(path: Path, state: State, metadata: dict[str, str]) -> None:
    """Write to the cache; one that cannot be written costs time, nothing else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_state(path, state, metadata)
    except (EffaceError, OSError):
        pass
