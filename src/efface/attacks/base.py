"""The contract between attacks and what runs them: what a search is given, and what it gives back; free of torch at the top."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from efface.attacks.vocabulary import Which, Words
    from efface.concepts.concept import Concept
    from efface.concepts.sample import Finding, Sample
    from efface.erasures.switch import ModelVariant
    from efface.io.checkpoint import State
    from efface.judges.criterion import Verdict
    from efface.models.model import Model, Settings, Text


@dataclass(frozen=True)
class AttackConfig:
    """Options that every attack has."""

    seed: int = 0
    """Seed of everything random in the search."""


def in_words(config: Any) -> Finding:
    """`words` of every configuration."""
    return "words"


def in_embeddings(config: Any) -> Finding:
    """`embeddings` of every configuration."""
    return "embeddings"


def in_nothing(config: Any) -> Finding:
    """`nothing` of every configuration."""
    return "nothing"


def always(config: Any) -> bool:
    """True of every configuration: a sample's search ends at its first success."""
    return True


def never(config: Any) -> bool:
    """False of every configuration: only the last candidate of a search counts."""
    return False


@dataclass(frozen=True, kw_only=True)
class Attack:
    """A way of bringing an erased concept back."""

    about: str
    """What it is, who published it: the docstring of its file."""
    config: type[Any]
    """A frozen dataclass derived from `AttackConfig`, with a docstring under each field; its defaults are as published."""
    search: Callable[[Problem, Any, State | None], Iterator[Proposal]]
    """Proposes prompts step by step; the last argument is the state of an unfinished search."""
    budgets: Mapping[str, Mapping[str, Any]]
    """Fields of the Config at smaller budgets: `canvas` and `quick`."""
    per: Literal["sample", "concept"] = "sample"
    """One search for each sample, or one for all of them."""
    sanity: tuple[str, ...] = ("unerased", "weak")
    """Where any attack must succeed, or it is broken itself: on the unerased model, on a weak erasure."""
    adaptive: Callable[[Any], bool] = always
    """Whether a sample's search ends at its first success; where it does not, only the last of its candidates counts: of
    attacks that, by their published threat model, do not see the erased model's pictures."""
    finds: Callable[[Any], Finding] = in_words
    """What it finds, of which hardening learns."""
    every: bool = False
    """Attack also samples whose own prompt still draws the concept: of leaks, which do not go through the prompt."""
    success: Callable[[Verdict, Image.Image, Image.Image, Any], Verdict] | None = None
    """Takes the judge's verdict, the original picture, the attacked one and the Config, where the verdict alone does not
    decide."""


class Candidate(NamedTuple):
    """What an attack would have the erased model read, instead of a sample's own prompt."""

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


class PictureProcess(NamedTuple):
    """How a leak draws pictures, by whichever model it is given."""

    draw: Callable[[Model, Sequence[int]], list[Image.Image]]
    """Pictures of some of the problem's samples, by their numbers in it."""
    without: Sequence[Image.Image] | None
    """One for each sample: what it starts from, without any model; None where that is the erased model's own picture."""


class Proposal(NamedTuple):
    """What a search has after some of its budget."""

    candidates: Sequence[Candidate] | None
    """One for each sample, to be judged; None only asks for the state to be kept."""
    state: State
    """State from which the search can be resumed."""
    done: float
    """Share of the budget that is spent (0 to 1)."""
    during: Callable[[], AbstractContextManager[Any]] = nullcontext
    """Active while the candidates are drawn, for attacks that change the model itself."""
    pictures: PictureProcess | None = None
    """Draws the pictures, of leaks; the candidates only say what the model reads beside them."""


@dataclass(frozen=True)
class Problem:
    """Samples that are attacked in one batch, which is the first axis of every tensor of a search."""

    original: ModelVariant
    erased: ModelVariant
    concept: Concept
    samples: tuple[Sample, ...]
    latents: Tensor
    """Clean latents of the original model's pictures (samples channels height width)."""
    settings: Settings
    """How pictures are drawn."""
    seed: int
    """Seed of everything random in the search."""
    pictures: Tensor | None = None
    """Given pictures of the concept, −1 to 1 (samples 3 height width), where they are not the original model's own."""

    @property
    def model(self) -> Model:
        """The erased model; look at it only while `erased.attached()`."""
        return self.erased.model

    def words(self, which: Which) -> Words:
        """Candidate tokens."""
        from efface.attacks.vocabulary import words

        return words(self.original.model, self.concept, which)

    def contents(self) -> list[list[int]]:
        """Content tokens of each sample's own prompt."""
        from efface.attacks.vocabulary import tokens_of

        return [tokens_of(self.model, sample.prompt) for sample in self.samples]

    def generators(self, *numbers: int) -> list[torch.Generator]:
        """One generator for each sample, seeded by the sample and by where the search stands: whatever runs beside it."""
        from efface.models.sampling import generator

        return [generator(self.seed, sample.prompt, sample.seed, *numbers) for sample in self.samples]

    def randn(self, *numbers: int) -> Tensor:
        """Noise like the samples' latents, at some point of the search."""
        import torch

        shape = self.latents.shape[1:]
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators(*numbers)]).to(self.latents)

    def timesteps(self, count: int) -> Tensor:
        """`count` timesteps (timesteps,), the middles of as many equal stretches, the least noisy first."""
        import torch

        most = self.model.num_train_timesteps
        return ((torch.arange(count) + 0.5) * most / count).floor()

    def without_concept(self, prompt: str, instead: str = "") -> str:
        """A prompt with the concept's name taken out, or with something in its place."""
        return " ".join(prompt.replace(self.concept.name, instead).split())


def text_of(model: Model, candidates: Sequence[Candidate]) -> Text:
    """Candidates encoded, those with states of their own as they are."""
    import torch

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
