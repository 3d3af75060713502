"""What a search is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.attacks.vocabulary import Which, Words, tokens_of, words
from efface.concepts.concept import Concept
from efface.concepts.sample import Try
from efface.erasures.switch import Target
from efface.io.checkpoint import State
from efface.models.model import Model, Settings, Text
from efface.models.sampling import generator


class Candidate(NamedTuple):
    """What an attack would have the erased model read, instead of a try's own prompt."""

    ids: tuple[int, ...]
    """Content tokens, without begin, end and padding."""
    soft: Tensor | None = None
    """Embeddings in place of the tokens' own (tokens width), where what was found is no word."""
    states: Tensor | None = None
    """Text states in place of what the text encoder makes of it (tokens width)."""
    pooled: Tensor | None = None
    """Its pooled text (width,), where the family has one."""

    def tensors(self) -> State:
        """What the tokens do not say."""
        return {
            k: v for k, v in (("soft", self.soft), ("states", self.states), ("pooled", self.pooled)) if v is not None
        }


class Round(NamedTuple):
    """What a search has after some of its budget."""

    candidates: Sequence[Candidate] | None
    """One for each try, to be judged; None only asks for the state to be kept."""
    state: State
    """With which the search goes on from here."""
    done: float
    """Share of the budget that is spent (0 to 1)."""
    during: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Active while the candidates are drawn, for attacks that change the model itself."""


@dataclass(frozen=True)
class Case:
    """Tries that are attacked side by side; the first axis of every tensor of a search is theirs."""

    original: Target
    erased: Target
    concept: Concept
    tries: tuple[Try, ...]
    latents: Tensor
    """Clean latents of the original model's pictures (tries channels height width)."""
    settings: Settings
    """How pictures are drawn."""
    seed: int
    """Of everything random."""

    @property
    def model(self) -> Model:
        """The erased model; look at it only while `erased.attached()`."""
        return self.erased.model

    def words(self, which: Which) -> Words:
        """Candidate tokens."""
        return words(self.original.model, self.concept, which)

    def contents(self) -> list[list[int]]:
        """Content tokens of each try's own prompt."""
        return [tokens_of(self.model, prompt) for prompt, _ in self.tries]

    def generators(self, *numbers: int) -> list[torch.Generator]:
        """One for each try, from what the try is and where the search stands: whatever runs beside it."""
        return [generator(self.seed, prompt, seed, *numbers) for prompt, seed in self.tries]

    def randn(self, *numbers: int) -> Tensor:
        """Noise like the tries' latents, at some point of the search."""
        shape = self.latents.shape[1:]
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators(*numbers)]).to(self.latents)

    def levels(self, count: int) -> Tensor:
        """So many timesteps (levels,), the middles of as many equal stretches, the least noisy first."""
        most = self.model.pipeline.scheduler.config.num_train_timesteps
        return ((torch.arange(count) + 0.5) * most / count).floor()

    def without_concept(self, prompt: str, instead: str = "") -> str:
        """A prompt with the concept's name taken out, or with something in its place."""
        return " ".join(prompt.replace(self.concept.name, instead).split())


def text_of(model: Model, candidates: Sequence[Candidate]) -> Text:
    """Candidates encoded, those with states of their own as they are."""
    soft = [c.soft for c in candidates]
    embeddings = torch.nn.utils.rnn.pad_sequence([s for s in soft if s is not None], batch_first=True) if any(
        s is not None for s in soft
    ) else None  # fmt: skip
    text = model.encode_tokens([c.ids for c in candidates], embeddings)
    if candidates[0].states is not None:
        text = text._replace(states=torch.stack([c.states for c in candidates if c.states is not None]).to(text.states))
    if candidates[0].pooled is not None:
        text = text._replace(pooled=torch.stack([c.pooled for c in candidates if c.pooled is not None]).to(text.states))
    return text
