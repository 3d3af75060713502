"""Synonyms and paraphrases: the concept by other names, spellings and word orders; no search at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.attacks.base import Attack, AttackConfig
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.attacks.base import Problem, Proposal
    from efface.concepts.concept import Concept
    from efface.io.checkpoint import State
    from efface.models.model import Model


@dataclass(frozen=True)
class Config(AttackConfig):
    """Options."""

    neighbours: int = 16
    """How many of the nearest words in the model's own text space are tried as well."""
    most: int = 48
    """Prompts tried for each picture; aliases come first, then spellings, paraphrases, neighbours."""

    def __post_init__(self) -> None:
        if self.most < 1 or self.neighbours < 0:
            raise UsageError("most must be at least 1, neighbours at least 0.")


BUDGETS: dict[str, dict[str, Any]] = {"canvas": {"neighbours": 8, "most": 20}, "quick": {"neighbours": 4, "most": 8}}

PARAPHRASES = ("{prompt}, {name}", "picture of {name}, {prompt}", "{prompt} {prompt}", "{name}")
"""Ways of saying a prompt again."""


def search(problem: Problem, config: Config, saved: State | None) -> Iterator[Proposal]:
    """Try one prompt after the other, until one draws the concept."""
    import torch

    from efface.attacks.base import Candidate, Proposal
    from efface.attacks.vocabulary import tokens_of

    with problem.original.attached() as model:
        others = [variants(model, problem.concept, t.prompt, config) for t in problem.samples]
    count = max(map(len, others))
    for number in range(0 if saved is None else int(saved["number"]), count):
        now = [prompts[min(number, len(prompts) - 1)] for prompts in others]
        found = [Candidate(tuple(tokens_of(problem.model, prompt))) for prompt in now]
        yield Proposal(found, {"number": torch.tensor(number + 1)}, (number + 1) / count)


def variants(model: Model, concept: Concept, prompt: str, config: Config) -> list[str]:
    """Other prompts for the same picture, each once; none of them is the prompt itself."""
    from efface.models.neighbours import nearest_words

    name = concept.name

    def renamed(other: str) -> str:
        return prompt.replace(name, other) if name in prompt else f"{prompt} {other}"

    found = [renamed(alias) for alias in concept.aliases]
    found += [renamed(spelling) for spelling in spellings(name)]
    found += [way.format(prompt=prompt, name=name) for way in PARAPHRASES]
    if config.neighbours:
        head, tail = concept.templates[0].split("{}")
        near = nearest_words(model, concept, config.neighbours)
        found += [renamed(text.removeprefix(head).removesuffix(tail)) for text in near]
    return [text for text in dict.fromkeys(found) if text != prompt][: config.most]


def spellings(name: str) -> list[str]:
    """A name in the plural, twice, spelt apart, and with its two middle letters exchanged."""
    middle = len(name) // 2
    exchanged = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :] if middle else name
    return [f"{name}s", f"{name} {name}", f"{name[:middle]} {name[middle:]}", " ".join(name), exchanged]


ATTACK = Attack(
    about=__doc__ or "",
    config=Config,
    search=search,
    budgets=BUDGETS,
)
