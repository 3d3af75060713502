"""One generation of a genetic search over prompts: crossover, mutation, fitness of what is new."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Generator, Tensor


class Odds(NamedTuple):
    """Chances of the genetic step."""

    crossover: float
    mutation: float
    words: int
    """How many words there are to choose from."""


def children(parents: Tensor, count: int, odds: Odds, generator: Generator) -> Tensor:
    """Prompts (count length) bred from parents (parents length): one-point crossover, then one word may be replaced."""
    import torch

    length = parents.shape[1]

    def numbers(below: int) -> Tensor:
        return torch.randint(below, (count, 1), generator=generator)

    mothers, fathers = parents[numbers(len(parents))[:, 0]], parents[numbers(len(parents))[:, 0]]
    crossed = torch.rand(count, 1, generator=generator) < odds.crossover
    places = torch.arange(length)
    born = torch.where(crossed & (places > numbers(length)), fathers, mothers)
    mutated = torch.rand(count, 1, generator=generator) < odds.mutation
    return torch.where(mutated & (places == numbers(length)), numbers(odds.words), born)


def fitness_of(born: Tensor, parents: Tensor, known: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """Fitness of children (born,): a prompt that is a parent or was born twice is not measured again, which at the published
    odds is more than a third of them."""
    import torch

    every, place = torch.cat([parents, born]).unique(dim=0, return_inverse=True)
    values, new = known.new_empty(len(every)), torch.ones(len(every), dtype=torch.bool)
    values[place[: len(parents)]], new[place[: len(parents)]] = known, False
    if new.any():
        values[new] = measure(every[new])
    return values[place[len(parents) :]]
